#include <string.h>

#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * A formation has a slot for each of its workers, and each slot has the ranks of rank_range() at
 * home. A slot whose worker is lost is vacant until a free worker takes it; after a while without
 * one, the ranks of vacant slots are spread over the others, and go home when a worker comes.
 *
 * Whoever gets a rank gets a new lease, and what the old one still sends is refused by it. Hosts
 * and leases are recorded before they are ordered, so two leaders never give the same lease to two
 * workers.
 */

void slots_init(struct job_run *j)
{
    uint32_t ranks = j->job->train.ranks;
    j->workers = must_alloc(j->workers_wanted * sizeof *j->workers);
    j->next_workers = must_alloc(j->workers_wanted * sizeof *j->next_workers);
    j->vacant_ms = must_alloc(j->workers_wanted * sizeof *j->vacant_ms);
    j->shares_of = must_alloc(j->workers_wanted * sizeof *j->shares_of);
    j->lease = must_alloc(ranks * sizeof *j->lease);
    j->next_lease = must_alloc(ranks * sizeof *j->next_lease);
    j->host = must_alloc(ranks * sizeof *j->host);
    j->next_host = must_alloc(ranks * sizeof *j->next_host);
    for (uint32_t r = 0; r < ranks; r++)
        j->lease[r] = 1;
}

static bool needs_workers(const struct job_run *j)
{
    bool trains = j->state == JOB_RESTORING || j->state == JOB_RUNNING;
    return trains || (j->state == JOB_FINISHING && j->hold != HOLD_NONE);
}

bool slots_lack(const struct job_run *j)
{
    for (uint32_t r = 0; r < j->job->train.ranks; r++)
        if (j->host[r] == NO_SLOT || j->workers[j->host[r]] == NULL)
            return true;
    return false;
}

static uint32_t home_of(const struct job_run *j, uint32_t rank)
{
    return (uint32_t)((uint64_t)rank * j->worker_count / j->job->train.ranks);
}

static struct fellow *find_replacement(const struct coordinator *c, const struct job_run *j)
{
    for (struct fellow *f = c->fellows; f != NULL; f = f->next) {
        bool alike = f->state != NULL && (j->device_class == NULL ||
                                          strcmp(f->state->device_class, j->device_class) == 0);
        bool chosen = false; /* for another slot */
        for (uint32_t w = 0; w < j->worker_count; w++)
            chosen |= j->next_workers[w] == f;
        if (!chosen && alike && is_free(j, f, false, c->now_ms))
            return f;
    }
    return NULL;
}

/* The nth slot, in a circle, that has a worker; NO_SLOT: none has. */
static uint32_t nth_live(const struct job_run *j, uint32_t n)
{
    uint32_t live = 0;
    for (uint32_t w = 0; w < j->worker_count; w++)
        live += j->next_workers[w] != NULL;
    for (uint32_t w = 0; live > 0 && w < j->worker_count; w++) {
        if (j->next_workers[w] != NULL && n % live == 0)
            return w;
        if (j->next_workers[w] != NULL)
            n = n % live - 1;
    }
    return NO_SLOT;
}

/* Who should host what, now; true: that differs from what is. */
static bool plan(struct coordinator *c, struct job_run *j, uint64_t now)
{
    bool differs = false;
    for (uint32_t w = 0; w < j->worker_count; w++)
        j->next_workers[w] = j->workers[w];
    for (uint32_t w = 0; w < j->worker_count; w++) {
        if (j->next_workers[w] == NULL)
            j->next_workers[w] = find_replacement(c, j);
        differs |= j->next_workers[w] != j->workers[w];
    }
    uint32_t spread = 0;
    for (uint32_t r = 0; r < j->job->train.ranks; r++) {
        uint32_t home = home_of(j, r), host = j->host[r];
        if (j->next_workers[home] != NULL)
            host = home;
        else if (host != NO_SLOT && j->next_workers[host] == NULL)
            host = NO_SLOT;
        if (host == NO_SLOT && now - j->vacant_ms[home] >= c->options.replace_wait_ms)
            host = nth_live(j, spread++);
        bool moves =
            host != j->host[r] || (host != NO_SLOT && j->next_workers[host] != j->workers[host]);
        j->next_host[r] = host;
        j->next_lease[r] = j->lease[r] + moves;
        differs |= moves;
    }
    return differs;
}

void slots_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (!needs_workers(j) || j->recording != RECORD_NONE || !plan(c, j, now))
        return;
    for (uint32_t w = 0; w < j->worker_count; w++)
        if (j->next_workers[w] != NULL && j->next_workers[w] != j->workers[w])
            j->next_workers[w]->reserved = j;
    if (PLANT(move_before_record))
        slots_moved(c, j, now);
    record_begin(c, j, RECORD_MOVE, now);
}

void slots_moved(struct coordinator *c, struct job_run *j, uint64_t now)
{
    for (uint32_t w = 0; w < j->worker_count; w++) {
        struct fellow *f = j->next_workers[w];
        if (f == j->workers[w])
            continue;
        j->workers[w] = f;
        if (f == NULL)
            continue;
        f->reserved = NULL;
        f->job = j;
        f->index = w;
        job_note(c, j, COORDINATOR_INFO, "worker '%s' takes slot=%u vacant_ms=%llu", f->id, w,
                 (unsigned long long)(now - j->vacant_ms[w]));
    }
    for (uint32_t r = 0; r < j->job->train.ranks; r++) {
        if (j->next_lease[r] == j->lease[r])
            continue;
        j->host[r] = j->next_host[r];
        j->lease[r] = j->next_lease[r];
        bool hosted = j->host[r] != NO_SLOT && j->workers[j->host[r]] != NULL;
        j->moves += hosted;
        if (hosted)
            job_note(c, j, COORDINATOR_INFO, "rank=%u moves to worker '%s' lease=%llu", r,
                     j->workers[j->host[r]]->id, (unsigned long long)j->lease[r]);
    }
    if (!slots_lack(j))
        job_why_take(j, NULL);
}

/* ---- shares of the evaluation set: each slot's, whoever is there ---- */

void shares_clear(struct job_run *j)
{
    for (uint32_t w = 0; w < j->workers_wanted; w++) {
        str_clear(&j->shares_of[w].encoded);
        j->shares_of[w].is_done = false;
    }
}

/* The nth slot that is done or not, with a worker or without; NO_SLOT: there are fewer. */
static uint32_t nth_share(const struct job_run *j, uint32_t n, bool done, bool staffed)
{
    for (uint32_t w = 0; w < j->worker_count; w++)
        if (j->shares_of[w].is_done == done && (j->workers[w] != NULL) == staffed && n-- == 0)
            return w;
    return NO_SLOT;
}

uint32_t slots_share(const struct job_run *j, uint32_t slot)
{
    if (!j->shares_of[slot].is_done)
        return slot;
    uint32_t place = 0;
    while (nth_share(j, place, true, true) != slot)
        place++;
    uint32_t orphan = nth_share(j, place, false, false);
    return orphan != NO_SLOT ? orphan : slot;
}

uint32_t shares_take(struct job_run *j)
{
    uint32_t missing = 0;
    for (uint32_t w = 0; w < j->worker_count; w++) {
        const Paramd__Control__MemberState *s = state_of(j, j->workers[w]);
        if (s == NULL || s->worker == NULL ||
            (s->worker->evaluated_step != j->hold_step + 1 && !PLANT(share_of_another_step)))
            continue;
        for (uint32_t slot = 0; slot < j->worker_count; slot++) {
            uint32_t first, end;
            rank_range(j, slot, &first, &end);
            struct share *share = &j->shares_of[slot];
            bool done = share->is_done && !PLANT(share_counted_twice);
            if (done || s->worker->evaluated_part != first ||
                s->worker->evaluated_part_count != end - first)
                continue;
            share->is_done = true;
            str_append_span(&share->encoded, span_make((const char *)s->worker->evaluation.data,
                                                       s->worker->evaluation.len));
        }
    }
    for (uint32_t w = 0; w < j->worker_count; w++)
        missing += !j->shares_of[w].is_done;
    return missing;
}
