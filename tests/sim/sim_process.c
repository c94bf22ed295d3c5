#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "tests/sim/sim_parts.h"

static struct process processes[SIM_PROCESS];

const char *process_name(const struct process *p)
{
    return p->name;
}

uint32_t process_number(const struct process *p)
{
    return p->number;
}

uint32_t process_life(const struct process *p)
{
    return p->life;
}

uint64_t process_frozen_until(const struct process *p)
{
    return p->frozen_until_us;
}

struct process *process_by_name(const char *name)
{
    for (uint32_t i = 0; i < sim.process_count; i++)
        if (strcmp(processes[i].name, name) == 0)
            return &processes[i];
    return NULL;
}

static void start_event(void *context)
{
    struct process *p = context;
    if (!p->is_up)
        process_start(p);
}

static void add(bool is_server, uint32_t number)
{
    CHECK(sim.process_count < SIM_PROCESS);
    struct process *p = &processes[sim.process_count];
    *p = (struct process){.number = sim.process_count++, .is_server = is_server, .life = 1};
    snprintf(p->name, sizeof p->name, "%s-%u", is_server ? "server" : "worker", number);
    sim_after(NULL, sim_between(0, 300) * SIM_MS, "start", start_event, NULL, p);
}

void processes_begin(void)
{
    sim.processes = processes;
    for (uint32_t i = 0; i < sim.plan.servers + sim.plan.spare_servers; i++)
        add(true, i);
    for (uint32_t i = 0; i < sim.plan.workers + sim.plan.spare_workers; i++)
        add(false, i);
}

void process_start(struct process *p)
{
    CHECK(!p->is_up);
    if (p->life > 1)
        sim.count.restarts++;
    p->life++;
    p->is_up = true;
    p->is_leaving = p->wants_to_leave = false;
    p->wanted_us = p->frozen_until_us = 0;
    sim.here = p;
    registry_join_process(p);
    if (p->is_server) {
        p->server = server_begin(p);
        p->leader = leader_begin(p);
    } else {
        p->worker = worker_begin(p);
    }
    p->member = member_begin(p);
    TRACE("starts as %s", registry_id(p));
    sim.here = NULL;
}

/* Frees what the process was; nothing that this does reaches the world any more. */
static void take_down(struct process *p)
{
    struct process *here = sim.here;
    rpc_break(p);
    p->life++;
    p->is_up = false;
    p->frozen_until_us = 0;
    sim.here = p;
    storage_is_dead = true;
    stub_threads_crash(p);
    struct sim_member *member = p->member;
    p->member = NULL; /* nobody pokes it any more */
    member_end(member);
    if (p->is_server) {
        leader_end(p->leader);
        server_end(p->server);
    } else {
        worker_end(p->worker);
    }
    p->leader = NULL;
    p->server = NULL;
    p->worker = NULL;
    storage_is_dead = false;
    sim.here = here;
}

void process_crash(struct process *p)
{
    if (!p->is_up)
        return;
    TRACE("%s crashes", p->name);
    sim.count.crashes++;
    take_down(p);
    registry_dropped(p);
}

static void crash_event(void *context)
{
    struct process *p = context;
    process_crash(p);
    if (!p->is_up && p->wanted_us == 0)
        process_want(p, sim_between(50, 5000) * SIM_MS);
}

void process_crash_soon(struct process *p)
{
    sim_after(NULL, 0, "crash", crash_event, NULL, p);
}

void process_want(struct process *p, uint64_t delay_us)
{
    p->wanted_us = sim.now_us + delay_us;
    sim_after(NULL, delay_us, "start", start_event, NULL, p);
}

static void leave_event(void *context)
{
    struct process *p = context;
    if (!p->is_up)
        return;
    take_down(p);
    registry_leave_process(p);
    process_want(p, sim_between(100, 3000) * SIM_MS);
}

void process_leave(struct process *p)
{
    if (p->is_leaving)
        return;
    TRACE("leaves");
    p->is_leaving = true;
    sim_after(NULL, sim_between(1, 20) * SIM_MS, "leave", leave_event, NULL, p);
}

void process_freeze(struct process *p, uint64_t for_us)
{
    if (!p->is_up || p->frozen_until_us > sim.now_us)
        return;
    TRACE("%s is paused for %.0f ms", p->name, (double)for_us / 1000);
    sim.count.pauses++;
    if (for_us > sim.plan.session_timeout_ms * SIM_MS)
        sim.count.zombies++;
    p->frozen_until_us = sim.now_us + for_us;
}

void processes_end(void)
{
    for (uint32_t i = 0; i < sim.process_count; i++)
        if (processes[i].is_up)
            take_down(&processes[i]);
}

void rpc_serve(struct process *p, const char *method, struct rpc_call *call)
{
    if (strncmp(method, "/paramd.Shard/", 14) == 0 && p->server != NULL)
        server_call(p->server, method, call);
    else if (p->leader != NULL)
        leader_call(p->leader, method, call);
    else
        rpc_call_fail(call, RPC_UNIMPLEMENTED, method);
}
