#include "tests/sim/sim_parts.h"

/*
 * What befalls the cluster, until it heals: crashes of one process or of all, pauses, links cut one
 * way or both, the registry or the store away, daemons asked to leave, checkpoints damaged.
 */

static struct process *any(bool (*fits)(const struct process *p))
{
    struct process *chosen = NULL;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < sim.process_count; i++)
        if (fits(&sim.processes[i]) && sim_below(++seen) == 0)
            chosen = &sim.processes[i];
    return chosen;
}

static bool is_up(const struct process *p)
{
    return p->is_up;
}

static bool is_server_up(const struct process *p)
{
    return p->is_up && p->is_server;
}

static void crash(struct process *p)
{
    if (p == NULL || !p->is_up)
        return;
    process_crash(p);
    process_want(p,
                 sim_chance(300) ? sim_between(1, 100) * SIM_MS : sim_between(100, 6000) * SIM_MS);
}

static void crash_all(void)
{
    sim.count.whole_cluster++;
    for (uint32_t i = 0; i < sim.process_count; i++)
        crash(&sim.processes[i]);
}

static void thaw_links(void *context)
{
    struct process *p = context;
    p->cut = 0;
    p->cut_registry = false;
}

static void cut(struct process *p)
{
    uint32_t all = (1u << sim.process_count) - 1;
    sim.count.partitions++;
    p->cut_registry = sim_chance(400);
    p->cut = sim_chance(500) ? all : (uint32_t)sim_random() & all;
    TRACE("%s is cut off: links %x%s", p->name, p->cut, p->cut_registry ? ", registry" : "");
    if (sim_chance(500)) /* both ways */
        for (uint32_t i = 0; i < sim.process_count; i++)
            if ((p->cut >> i & 1) != 0) {
                sim.processes[i].cut |= 1u << p->number;
                sim_after(NULL, sim_between(100, 5000) * SIM_MS, "heal link", thaw_links, NULL,
                          &sim.processes[i]);
            }
    sim_after(NULL, sim_between(100, 6000) * SIM_MS, "heal link", thaw_links, NULL, p);
}

static void registry_back(void *context)
{
    (void)context;
    TRACE("the registry is back");
    registry_set_away(false);
}

static void store_back(void *context)
{
    (void)context;
    TRACE("the store is back");
    storage_set_away(false);
}

static void sees_again(void *context)
{
    (void)context;
    TRACE("the store lists again");
    storage_set_blind(false);
}

static void outage(void)
{
    if (sim_chance(200)) {
        TRACE("the store lists nothing");
        sim.count.blind++;
        storage_set_blind(true);
        sim_after(NULL, sim_between(500, 5000) * SIM_MS, "store", sees_again, NULL, NULL);
        if (sim_chance(700))
            crash(any(is_server_up));
    } else if (sim_chance(500)) {
        TRACE("the registry is away");
        sim.count.registry_outages++;
        registry_set_away(true);
        sim_after(NULL, sim_between(100, sim_chance(200) ? 15000 : 3000) * SIM_MS, "registry",
                  registry_back, NULL, NULL);
    } else {
        TRACE("the store is away");
        sim.count.store_outages++;
        storage_set_away(true);
        sim_after(NULL, sim_between(100, 5000) * SIM_MS, "store", store_back, NULL, NULL);
    }
}

static void freeze(struct process *p)
{
    uint64_t for_ms = sim_chance(500) ? sim_between(10, 400) : sim_between(400, 8000);
    process_freeze(p, for_ms * SIM_MS);
}

/* A daemon that was asked to leave leaves at last, whatever the leader says. */
static void drain_over(void *context)
{
    struct process *p = context;
    if (p->wants_to_leave)
        process_leave(p);
}

static void ask_to_leave(struct process *p)
{
    if (p->wants_to_leave)
        return;
    TRACE("%s is asked to leave", p->name);
    sim.count.drains++;
    p->wants_to_leave = true;
    sim_after(p, sim_between(1000, 40000) * SIM_MS, "drain over", drain_over, NULL, p);
    sim.here = p;
    member_poked(p->member);
    sim.here = NULL;
}

/* As soon as there is one to fall back on; nobody looks at a checkpoint unless it is needed. */
static void damage(void *context)
{
    (void)context;
    if (sim.healed)
        return;
    if (!oracle_damage())
        sim_after(NULL, sim_between(100, 800) * SIM_MS, "damage", damage, NULL, NULL);
    else if (sim_chance(500))
        crash_all();
    else
        crash(any(is_server_up));
}

static void strike(void)
{
    const struct plan *plan = &sim.plan;
    struct process *p = any(is_up);
    uint64_t what = sim_below(100);
    if (p == NULL)
        return;
    if (what < 35 && plan->crashes)
        crash(p);
    else if (what < 39 && plan->crashes)
        crash_all();
    else if (what < 55 && plan->pauses)
        freeze(p);
    else if (what < 70 && plan->partitions)
        cut(p);
    else if (what < 80 && plan->outages)
        outage();
    else if (what < 90 && plan->drains)
        ask_to_leave(p);
}

static void next(void *context)
{
    (void)context;
    if (sim.healed)
        return;
    strike();
    sim_after(NULL, sim_between(20, 3000) * SIM_MS, "fault", next, NULL, NULL);
}

/* Nothing fails any more, and everybody comes back. */
static void heal(void *context)
{
    (void)context;
    sim.healed = true;
    TRACE("the faults are over");
    storage_set_away(false);
    storage_set_blind(false);
    registry_set_away(false);
    for (uint32_t i = 0; i < sim.process_count; i++) {
        struct process *p = &sim.processes[i];
        p->cut = 0;
        p->cut_registry = false;
        if (!p->is_up)
            process_want(p, sim_between(1, 500) * SIM_MS);
    }
}

void faults_begin(void)
{
    sim_after(NULL, sim_between(50, 2500) * SIM_MS, "fault", next, NULL, NULL);
    if (sim.plan.damage)
        sim_after(NULL, sim_between(500, 5000) * SIM_MS, "damage", damage, NULL, NULL);
    sim_after(NULL, sim.plan.heal_us - sim.now_us, "heal", heal, NULL, NULL);
}
