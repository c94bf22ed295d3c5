#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/storage.h"
#include "server/shard_internal.h"
#include "server/snapshot.h"
#include "tests/sim/sim_parts.h"

#define PUBLISHED_MAX 256u
#define RANKS         4u
#define HEAD_FIELDS   9u
#define HELD_MAX      (1u << 20) /* bytes of a shard's waiting pushes and kept values */

struct published {
    char directory[64];
    uint64_t generation, step;
    bool acknowledged, damaged, removed;
};

/* A job's record, as the registry has it. */
struct recorded {
    uint64_t term, generation, verdict_step;
    bool verdict_stop;
    uint64_t lease[RANKS];
    char worker[RANKS][32];
};

/* Whose orders each process follows. */
static struct {
    uint32_t life;
    uint64_t term;
} followed[SIM_PROCESS];

/* Who was told the largest lease of each rank. */
static struct holder {
    uint64_t generation, lease;
    uint32_t process, life;
} holders[RANKS];

static struct published published[PUBLISHED_MAX];
static uint32_t published_count;
static struct recorded recorded;
static bool has_damaged;
static uint64_t restored_generation;
static char restored[64];

void oracle_begin(void)
{
    published_count = 0;
    recorded = (struct recorded){0};
    has_damaged = false;
    memset(followed, 0, sizeof followed);
    memset(holders, 0, sizeof holders);
    restored[0] = '\0';
    restored_generation = 0;
}

void oracle_end(void)
{
    published_count = 0;
}

static uint64_t number_of(const struct json *o, const char *name)
{
    return (uint64_t)json_as_int(json_get(o, name));
}

/* ---- checkpoints ---- */

static struct published *find(const char *directory)
{
    for (uint32_t i = 0; i < published_count; i++)
        if (strcmp(published[i].directory, directory) == 0)
            return &published[i];
    return NULL;
}

static struct published *find_name(const char *name)
{
    char directory[64];
    snprintf(directory, sizeof directory, "file:c/sim/%s", name);
    return find(directory);
}

static bool is_newer(const struct published *a, const struct published *b)
{
    return a->generation != b->generation ? a->generation > b->generation : a->step > b->step;
}

static bool is_good(const struct published *p)
{
    return !p->damaged && !p->removed;
}

static struct published *newest_good(const struct published *but)
{
    struct published *newest = NULL;
    for (uint32_t i = 0; i < published_count; i++)
        if (is_good(&published[i]) && &published[i] != but &&
            (newest == NULL || is_newer(&published[i], newest)))
            newest = &published[i];
    return newest;
}

static void check_evaluation(const struct json *o)
{
    uint64_t step = number_of(o, "step"), examples = number_of(o, "examples");
    const struct json *metrics = json_get(o, "metrics");
    double value = json_as_number(json_get(metrics, "log_loss"));
    double expected = reference_log_loss(step);
    if (examples != sim.plan.ranks)
        sim_violation("the evaluation of step %llu counts %llu examples, not %u",
                      (unsigned long long)step, (unsigned long long)examples, sim.plan.ranks);
    else if (value - expected > 1e-9 || expected - value > 1e-9)
        sim_violation("the evaluation of step %llu says %.9f, not %.9f", (unsigned long long)step,
                      value, expected);
}

/* Each evaluation up to the step is in the manifest, once, and says what it should. */
static void check_evaluations(const struct checkpoint_manifest *m)
{
    uint32_t expected = 0;
    for (uint64_t step = 1; step <= m->step; step++)
        expected += steps_is_eval(reference_steps(), step);
    uint32_t found = 0;
    struct json *list;
    CHECK(json_parse("evaluations", m->evals_json, strlen(m->evals_json), &list) == ERR_NONE);
    for (size_t i = 0; i < json_count(list); i++) {
        const struct json *o = json_at(list, i);
        if (json_as_bool(json_get(o, "progressive")))
            continue;
        check_evaluation(o);
        found++;
    }
    json_destroy(list);
    if (found != expected)
        sim_violation("checkpoint %llu-%llu has %u evaluations, not %u",
                      (unsigned long long)m->generation, (unsigned long long)m->step, found,
                      expected);
}

/* A deposed leader may commit what retention has removed: a reader finds files missing. */
void oracle_tree_removed(const char *directory)
{
    if (find(directory) != NULL || published_count == PUBLISHED_MAX)
        return;
    struct published *q = &published[published_count++];
    *q = (struct published){.removed = true, .damaged = true};
    snprintf(q->directory, sizeof q->directory, "%s", directory);
}

/* A manifest is there: that is the commit, whether or not anybody hears of it. */
void oracle_committed(const char *uri)
{
    char directory[64];
    struct checkpoint_manifest *m = NULL;
    const char *slash = strrchr(uri, '/');
    if (slash == NULL || strcmp(slash + 1, CHECKPOINT_MANIFEST) != 0)
        return;
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - uri), uri);
    if (find(directory) != NULL)
        return; /* the same bytes, or it would have been refused and the job had failed */
    bool was = storage_quiet(true);
    if (checkpoint_read_manifest(directory, &m, NULL) != ERR_NONE) {
        sim_violation("checkpoint %s is committed and cannot be read: %s", directory, err_text());
    } else {
        CHECK(published_count < PUBLISHED_MAX);
        struct published *q = &published[published_count++];
        *q = (struct published){.generation = m->generation, .step = m->step};
        snprintf(q->directory, sizeof q->directory, "%s", directory);
        const char *wrong = reference_compare(directory, m);
        if (wrong != NULL)
            sim_violation("checkpoint %s is not the model of its step: %s", directory, wrong);
        check_evaluations(m);
    }
    storage_quiet(was);
    checkpoint_manifest_destroy(m);
}

void oracle_removed(const char *uri)
{
    char directory[64];
    const char *slash = strrchr(uri, '/');
    if (slash == NULL || strcmp(slash + 1, CHECKPOINT_MANIFEST) != 0)
        return;
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - uri), uri);
    struct published *p = find(directory);
    if (p == NULL)
        return;
    if (is_good(p) && newest_good(p) != NULL && !is_newer(newest_good(p), p))
        sim_violation("%s was removed, the newest good checkpoint", directory);
    if (is_good(p) && newest_good(p) == NULL)
        sim_violation("%s was removed, the only good checkpoint", directory);
    p->removed = true;
}

bool oracle_damage(void)
{
    struct published *newest = newest_good(NULL);
    if (has_damaged || newest == NULL || newest_good(newest) == NULL)
        return has_damaged;
    has_damaged = storage_damage(newest->directory);
    newest->damaged = has_damaged;
    sim.count.damaged += has_damaged;
    return has_damaged;
}

/* A shard has begun with this checkpoint. */
void oracle_restored(struct process *p, uint64_t generation, const char *restore)
{
    (void)p;
    if (generation > restored_generation) {
        restored_generation = generation;
        snprintf(restored, sizeof restored, "%s", restore);
    }
    struct published from = {0};
    if (restore[0] != '\0') {
        const struct published *q = find_name(restore);
        if (q != NULL)
            from = *q;
        else if (checkpoint_name_parse(restore, &from.generation, &from.step) != ERR_NONE)
            sim_violation("generation %llu begins from '%s'", (unsigned long long)generation,
                          restore);
    }
    for (uint32_t i = 0; i < published_count; i++) {
        const struct published *q = &published[i];
        if (q->acknowledged && is_good(q) && q->generation < generation && is_newer(q, &from))
            sim_violation("generation %llu begins from '%s', although %s was acknowledged",
                          (unsigned long long)generation, restore, q->directory);
    }
    sim.count.damaged_refused += has_damaged && restore[0] != '\0';
}

/* ---- records ---- */

static void check_hosts(const struct json *o, bool same_generation)
{
    struct json *f;
    if (json_get_object((struct json *)(uintptr_t)o, "formation", &f) != ERR_NONE)
        return;
    const struct json *hosts = json_get(f, "hosts"), *leases = json_get(f, "leases");
    const struct json *workers = json_get(f, "workers");
    for (uint32_t r = 0; r < sim.plan.ranks && r < json_count(leases); r++) {
        uint64_t lease = (uint64_t)json_as_int(json_at(leases, r));
        int64_t host = json_as_int(json_at(hosts, r));
        const char *id = host >= 0 ? json_as_text(json_at(workers, (size_t)host)) : NULL;
        id = id != NULL ? id : "";
        if (same_generation && lease < recorded.lease[r])
            sim_violation("the lease of rank %u went from %llu to %llu", r,
                          (unsigned long long)recorded.lease[r], (unsigned long long)lease);
        bool same = same_generation && lease == recorded.lease[r];
        if (same && id[0] != '\0' && recorded.worker[r][0] != '\0' &&
            strcmp(id, recorded.worker[r]) != 0)
            sim_violation("lease %llu of rank %u was given to '%s' and to '%s'",
                          (unsigned long long)lease, r, recorded.worker[r], id);
        sim.count.moved_ranks += same_generation && lease > recorded.lease[r];
        if (!same || id[0] != '\0')
            snprintf(recorded.worker[r], sizeof recorded.worker[r], "%s", id);
        recorded.lease[r] = lease;
    }
}

void oracle_record(const char *path, const char *text, uint64_t term)
{
    struct json *o;
    if (strcmp(path, "jobs/sim") != 0)
        return;
    CHECK(json_parse("record", text, strlen(text), &o) == ERR_NONE);
    uint64_t generation = number_of(o, "generation"), verdict = number_of(o, "verdict_step");
    TRACE("record: %s generation=%llu verdict=%llu checkpoint=%s best=%s",
          json_as_text(json_get(o, "state")), (unsigned long long)generation,
          (unsigned long long)verdict, json_as_text(json_get(o, "checkpoint")),
          json_as_text(json_get(o, "best")));
    if (term < recorded.term)
        sim_violation("a leader of term %llu has written after one of term %llu",
                      (unsigned long long)term, (unsigned long long)recorded.term);
    if (generation < recorded.generation)
        sim_violation("the record's generation went from %llu to %llu",
                      (unsigned long long)recorded.generation, (unsigned long long)generation);
    bool same = generation == recorded.generation;
    const char *state = json_as_text(json_get(o, "state"));
    /* The end of a job says nothing of verdicts and leases: what was under way then is given to
     * nobody. */
    bool is_over = strcmp(state, "STOPPED") == 0 || strcmp(state, "FAILED") == 0;
    if (same && verdict < recorded.verdict_step && !is_over)
        sim_violation("the recorded verdict went from step %llu to %llu",
                      (unsigned long long)recorded.verdict_step, (unsigned long long)verdict);
    sim.count.recoveries += recorded.generation > 0 && !same;
    if (!same) {
        memset(recorded.lease, 0, sizeof recorded.lease);
        memset(recorded.worker, 0, sizeof recorded.worker);
    }
    if (!is_over)
        check_hosts(o, same);
    recorded.term = term;
    recorded.generation = generation;
    if (!same || verdict > recorded.verdict_step)
        recorded.verdict_step = verdict;
    const char *checkpoint = json_as_text(json_get(o, "checkpoint"));
    struct published *p =
        checkpoint != NULL && checkpoint[0] != '\0' ? find_name(checkpoint) : NULL;
    if (p != NULL)
        p->acknowledged = true;
    json_destroy(o);
}

/* ---- orders ---- */

static void check_term(const struct process *p, uint64_t term)
{
    if (followed[p->number].life == p->life && term < followed[p->number].term)
        sim_violation("%s follows orders of term %llu after those of term %llu", p->name,
                      (unsigned long long)term, (unsigned long long)followed[p->number].term);
    followed[p->number].life = p->life;
    followed[p->number].term = term;
}

/* A lease is one worker's: pushes of two could not be told apart. */
static void check_holders(const struct process *p, uint64_t generation,
                          Paramd__Control__Lease *const *leases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct holder *h = &holders[leases[i]->rank < RANKS ? leases[i]->rank : 0];
        bool newer =
            generation != h->generation ? generation > h->generation : leases[i]->lease > h->lease;
        bool same = generation == h->generation && leases[i]->lease == h->lease;
        if (newer)
            *h = (struct holder){generation, leases[i]->lease, p->number, p->life};
        else if (same && (p->number != h->process || p->life != h->life))
            sim_violation("%s is told lease %llu of rank %u, which another worker was given",
                          p->name, (unsigned long long)leases[i]->lease, leases[i]->rank);
    }
}

void oracle_orders(struct process *p, const Paramd__Control__MemberOrders *o)
{
    check_term(p, o->term);
    if (o->job[0] == '\0' || o->generation < recorded.generation || o->term < recorded.term)
        return;
    if (o->generation > recorded.generation) {
        sim_violation("%s is ordered into generation %llu, the record has %llu", p->name,
                      (unsigned long long)o->generation, (unsigned long long)recorded.generation);
        return;
    }
    const Paramd__Control__ServerOrders *s = o->server;
    if (s != NULL && s->form && s->verdict_step > recorded.verdict_step &&
        s->verdict_step > s->restore_step)
        sim_violation("%s is given a verdict on step %llu, the record has %llu", p->name,
                      (unsigned long long)s->verdict_step,
                      (unsigned long long)recorded.verdict_step);
    Paramd__Control__Lease **leases = s != NULL ? s->leases : o->worker ? o->worker->ranks : NULL;
    size_t count = s != NULL ? s->n_leases : o->worker ? o->worker->n_ranks : 0;
    if (s == NULL)
        check_holders(p, o->generation, leases, count);
    for (size_t i = 0; i < count; i++)
        if (leases[i]->rank < RANKS && leases[i]->lease > recorded.lease[leases[i]->rank])
            sim_violation("%s is told lease %llu of rank %u, the record has %llu", p->name,
                          (unsigned long long)leases[i]->lease, leases[i]->rank,
                          (unsigned long long)recorded.lease[leases[i]->rank]);
}

/* ---- shards ---- */

static struct {
    uint64_t generation, lease, version, held;
    uint32_t rank;
    bool is_push;
    struct consistency_rank ranks[RANKS];
} before;

/* The numbers of a PushPullRequest, which stand before its blocks: to unpack these as well takes as
 * long as the shard does. */
struct head {
    uint64_t numbers[HEAD_FIELDS]; /* by field */
};
enum {
    HEAD_JOB = 1,
    HEAD_GENERATION,
    HEAD_LEASE,
    HEAD_RANK,
    HEAD_SHARD,
    HEAD_SEQ,
    HEAD_ACKED,
    HEAD_ONLY
};

static uint64_t take_varint(const uint8_t **at, const uint8_t *end)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            break;
    }
    return value;
}

static struct head read_head(const struct chain *request)
{
    struct head h = {{0}};
    uint8_t bytes[128];
    size_t size = request->size < sizeof bytes ? request->size : sizeof bytes;
    chain_copy_out(request, 0, bytes, size);
    const uint8_t *at = bytes, *end = bytes + size;
    while (at < end && *at >> 3 < HEAD_FIELDS) {
        uint32_t field = *at++ >> 3;
        h.numbers[field] = take_varint(&at, end);
        if (field == HEAD_JOB)
            at += h.numbers[field] < (size_t)(end - at) ? h.numbers[field] : (size_t)(end - at);
    }
    return h;
}

void oracle_before_request(struct shard *s, const struct chain *request, bool is_push)
{
    before.is_push = is_push && s->begun;
    if (!before.is_push)
        return;
    struct head h = read_head(request);
    before.generation = h.numbers[HEAD_GENERATION];
    before.lease = h.numbers[HEAD_LEASE];
    before.rank = (uint32_t)h.numbers[HEAD_RANK];
    before.version = s->consistency.version;
    before.held = s->held_bytes;
    CHECK(before.rank < s->consistency.rank_count);
    memcpy(before.ranks, s->consistency.ranks, s->consistency.rank_count * sizeof before.ranks[0]);
    sim.count.duplicates += h.numbers[HEAD_ONLY] == 0 &&
                            h.numbers[HEAD_SEQ] <= before.ranks[before.rank].received &&
                            h.numbers[HEAD_SEQ] > s->consistency.begun_at;
}

void oracle_after_request(struct shard *s)
{
    const struct consistency_state *c = &s->consistency;
    if (!before.is_push)
        return;
    bool stale = before.generation != s->options.generation ||
                 before.lease < before.ranks[before.rank].lease;
    bool changed = memcmp(before.ranks, c->ranks, c->rank_count * sizeof before.ranks[0]) != 0 ||
                   c->version != before.version || s->held_bytes != before.held;
    if (stale && changed)
        sim_violation("shard %u of generation %llu was changed by generation %llu, lease %llu",
                      s->options.index, (unsigned long long)s->options.generation,
                      (unsigned long long)before.generation, (unsigned long long)before.lease);
    for (uint32_t r = 0; r < c->rank_count; r++)
        if (c->ranks[r].received < before.ranks[r].received ||
            c->ranks[r].applied < before.ranks[r].applied ||
            c->ranks[r].acked < before.ranks[r].acked ||
            c->ranks[r].lease < before.ranks[r].lease || c->ranks[r].applied > c->ranks[r].received)
            sim_violation("shard %u: what it knows of rank %u went back", s->options.index, r);
    if (c->version < before.version)
        sim_violation("shard %u: its version went back", s->options.index);
    if (c->steps.consistency == CONSISTENCY_SSP)
        for (uint32_t r = 0; r < c->rank_count; r++)
            if (c->ranks[r].applied > c->version + c->staleness + 1)
                sim_violation("shard %u: rank %u is at step %llu, another at %llu: staleness is %u",
                              s->options.index, r, (unsigned long long)c->ranks[r].applied,
                              (unsigned long long)c->version, c->staleness);
    if (s->held_bytes > HELD_MAX)
        sim_violation("shard %u holds %llu bytes", s->options.index,
                      (unsigned long long)s->held_bytes);
}

/* ---- the end ---- */

void oracle_done(const Paramd__Control__StatusReply *status)
{
    struct published *p = find(status->checkpoint);
    if (p == NULL || p->removed) {
        sim_violation("the job is DONE, and its checkpoint '%s' is not there", status->checkpoint);
        return;
    }
    if (p->step != reference_result_step())
        sim_violation("the job is DONE with the model of step %llu, not %llu",
                      (unsigned long long)p->step, (unsigned long long)reference_result_step());
    else if (sim.plan.bad_step != 0 && sim.plan.bad_step <= reference_last_step())
        sim_violation("the job is DONE, although a record of step %llu does not parse",
                      (unsigned long long)sim.plan.bad_step);
    else if (!p->damaged && !storage_verifies(p->directory))
        sim_violation("the job is DONE, and its checkpoint %s does not verify", p->directory);
    sim.count.stopped_early += status->stopped_early;
    sim.done = true;
}
