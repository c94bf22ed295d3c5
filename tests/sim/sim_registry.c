#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/str.h"
#include "tests/sim/sim_parts.h"

/*
 * Members, sessions, the leader and records, as the registry itself sees them. A session is renewed
 * while its process runs and reaches the registry; one that was not renewed for its time-out has
 * expired, and the process learns of it when it next reaches the registry.
 */

struct session {
    bool is_open; /* the process believes in it */
    bool lives;   /* the registry does */
    uint64_t renewed_us;
    char id[32];
    uint32_t life;
};

struct record {
    char *path, *text;
};

static struct {
    struct session sessions[SIM_PROCESS];
    bool away;
    uint64_t term;
    struct process *leader; /* NULL: none */
    char led_by[16];        /* in this term, and in the one before; "": none has */
    char before[16];
    uint64_t term_before;
    struct record *records;
    size_t record_count;
    uint32_t nonce;
} registry;

static struct session *session_of(const struct process *p)
{
    return &registry.sessions[p->number];
}

static uint64_t timeout_us(void)
{
    return sim.plan.session_timeout_ms * SIM_MS;
}

/* ---- sessions ---- */

static void expire(struct process *p)
{
    struct session *s = session_of(p);
    if (!s->lives)
        return;
    TRACE("the session of %s (%s) has expired", p->name, s->id);
    sim.count.expired_sessions += p->is_up;
    s->lives = false;
    if (registry.leader == p)
        registry.leader = NULL;
}

static void heartbeat(void *context);

static void open_session(struct process *p)
{
    struct session *s = session_of(p);
    s->is_open = s->lives = true;
    s->renewed_us = sim.now_us;
    s->life = p->life;
    sim_after(p, timeout_us() / 4, "heartbeat", heartbeat, NULL, p);
}

/* Its session is gone: it leads no more, and is registered anew under the id that it has. */
static void learn(void *context)
{
    struct process *p = context;
    TRACE("learns that its session is gone");
    if (p->leader != NULL)
        leader_expired(p->leader);
    open_session(p);
    member_poked(p->member);
}

/* Each process's own heartbeat; it also learns there that its session is gone. */
static void heartbeat(void *context)
{
    struct process *p = context;
    struct session *s = session_of(p);
    uint64_t next_us = timeout_us() / 4;
    if (!s->is_open || s->life != p->life)
        return;
    if (registry_reaches(p)) {
        if (s->lives) {
            s->renewed_us = sim.now_us;
        } else { /* what came before it knows that is done by a zombie */
            sim_after(p, sim_between(0, 300) * SIM_MS, "expired", learn, NULL, p);
            return;
        }
    }
    sim_after(p, next_us, "heartbeat", heartbeat, NULL, p);
}

static void look_at_sessions(void *context)
{
    (void)context;
    for (uint32_t i = 0; i < sim.process_count; i++) {
        struct session *s = &registry.sessions[i];
        if (s->lives && !registry.away && sim.now_us - s->renewed_us > timeout_us())
            expire(&sim.processes[i]);
    }
    sim_after(NULL, 50 * SIM_MS, "sessions", look_at_sessions, NULL, NULL);
}

void registry_join_process(struct process *p)
{
    struct session *s = session_of(p);
    snprintf(s->id, sizeof s->id, "%s.%u", p->name, ++registry.nonce);
    open_session(p);
}

void registry_leave_process(struct process *p)
{
    struct session *s = session_of(p);
    s->is_open = s->lives = false;
    if (registry.leader == p)
        registry.leader = NULL;
}

void registry_dropped(struct process *p)
{
    session_of(p)->is_open = false;
}

const char *registry_id(const struct process *p)
{
    return session_of(p)->id;
}

bool registry_reaches(const struct process *p)
{
    return !registry.away && !p->cut_registry;
}

void registry_set_away(bool away)
{
    registry.away = away;
    /* Sessions do not expire while it is away: its own clock stood still. */
    for (uint32_t i = 0; !away && i < sim.process_count; i++)
        registry.sessions[i].renewed_us = sim.now_us;
}

bool registry_shows(const char *id)
{
    for (uint32_t i = 0; i < sim.process_count; i++)
        if (registry.sessions[i].lives && strcmp(registry.sessions[i].id, id) == 0)
            return true;
    return false;
}

size_t registry_member_count(void)
{
    return sim.process_count;
}

const char *registry_member_at(size_t i)
{
    return registry.sessions[i].lives ? registry.sessions[i].id : NULL;
}

/* ---- the election ---- */

bool registry_try_lead(struct process *p, uint64_t *term)
{
    if (!registry_reaches(p) || !session_of(p)->lives)
        return false;
    if (registry.leader != NULL && registry.leader != p)
        return false;
    /* Our own, whose reply was lost, is ours; it gets a term of its own all the same. */
    snprintf(registry.before, sizeof registry.before, "%s", registry.led_by);
    registry.term_before = registry.term;
    snprintf(registry.led_by, sizeof registry.led_by, "%s", p->name);
    registry.leader = p;
    *term = ++registry.term;
    if (sim_fault(sim.plan.registry_fails)) {
        sim.count.registry_lost_replies++;
        return false;
    }
    sim.count.elections++;
    return true;
}

void registry_step_down(struct process *p)
{
    if (registry.leader == p)
        registry.leader = NULL;
}

bool registry_find_leader(const struct process *p, char *address, size_t size, uint64_t *term)
{
    if (p != NULL && !registry_reaches(p))
        return false;
    /* Members may read from a replica that is behind. */
    if (p != NULL && registry.before[0] != '\0' && sim_fault(100)) {
        snprintf(address, size, "%s", registry.before);
        *term = registry.term_before;
        sim.count.stale_reads++;
        return true;
    }
    if (registry.leader == NULL)
        return false;
    snprintf(address, size, "%s", registry.leader->name);
    *term = registry.term;
    return true;
}

/* ---- records ---- */

static struct record *find(const char *path)
{
    for (size_t i = 0; i < registry.record_count; i++)
        if (strcmp(registry.records[i].path, path) == 0)
            return &registry.records[i];
    return NULL;
}

enum err registry_put_fenced(struct process *p, uint64_t term, const char *path, const char *text)
{
    if (!registry_reaches(p))
        return err_set(ERR_UNAVAILABLE, "the registry is away");
    bool is_leader = registry.leader == p && registry.term == term;
    if (!is_leader && !PLANT(term_not_fenced)) {
        sim.count.fenced++;
        return err_set(ERR_REFUSED, "term %llu is not the leader's any more",
                       (unsigned long long)term);
    }
    if (sim_fault(sim.plan.registry_fails))
        return err_set(ERR_UNAVAILABLE, "the connection to the registry was lost");
    struct record *r = find(path);
    if (r == NULL) {
        registry.records =
            must_realloc(registry.records, registry.record_count + 1, sizeof *registry.records);
        r = &registry.records[registry.record_count++];
        *r = (struct record){.path = must_strdup(path)};
    }
    mem_free(r->text);
    r->text = must_strdup(text);
    sim.count.records++;
    oracle_record(path, text, term);
    if (!sim_fault(sim.plan.registry_fails))
        return ERR_NONE;
    sim.count.registry_lost_replies++;
    return err_set(ERR_UNAVAILABLE, "the reply of the registry was lost");
}

char *registry_get_text(const char *path)
{
    const struct record *r = find(path);
    return r != NULL ? must_strdup(r->text) : NULL;
}

void registry_for_each(const char *prefix,
                       void (*see)(void *context, const char *path, const char *text),
                       void *context)
{
    for (size_t i = 0; i < registry.record_count; i++)
        if (strncmp(registry.records[i].path, prefix, strlen(prefix)) == 0)
            see(context, registry.records[i].path, registry.records[i].text);
}

void registry_begin(void)
{
    memset(&registry, 0, sizeof registry);
    sim_after(NULL, 50 * SIM_MS, "sessions", look_at_sessions, NULL, NULL);
}

void registry_end(void)
{
    for (size_t i = 0; i < registry.record_count; i++) {
        mem_free(registry.records[i].path);
        mem_free(registry.records[i].text);
    }
    mem_free(registry.records);
}
