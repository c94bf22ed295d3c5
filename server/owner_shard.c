#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/plant.h"
#include "common/storage.h"
#include "server/owner_internal.h"

#define RETRY_MS 2000u

void holding_init(struct holding *h, struct formation *f, uint32_t position, struct board *board)
{
    *h = (struct holding){
        .place = {board, f->serial, f->shards[position]},
        .formation = formation_ref(f),
        .position = position,
    };
}

void holding_deinit(struct holding *h)
{
    snapshot_destroy(h->snapshot);
    shard_destroy(h->shard);
    formation_unref(h->formation);
}

static struct board_reports reports_of(const struct holding *h, const Paramd__Report *const *list)
{
    bool first = h->place.shard == 0 && list != NULL;
    return (struct board_reports){list, first ? h->formation->job->train.ranks : 0};
}

static void take_notice(void *context, const struct shard_notice *n)
{
    struct holding *h = context;
    switch (n->kind) {
    case SHARD_PROGRESS:
        board_applied(&h->place, n->step);
        break;
    case SHARD_AT_DRAIN:
        h->drained = n->step;
        if (h->armed == n->step && h->snapshot == NULL)
            h->due = true;
        board_drained(&h->place, n->step, reports_of(h, n->reports));
        break;
    case SHARD_FAILED:
        log_error("owner", "shard=%u failed at step=%" PRIu64 ": %s", h->place.shard, n->step,
                  n->text);
        board_fail(&h->place, PARAMD__CONTROL__FAILURE__KIND__BUG, n->text);
        break;
    }
}

/* ---- forming ---- */

static enum err restore(struct holding *h, struct shard *s)
{
    const struct formation *f = h->formation;
    if (f->restore[0] == '\0') {
        shard_begin(s, 0);
        return ERR_NONE;
    }
    char *directory = storage_join(f->storage_uri, f->restore);
    struct checkpoint_manifest *m = NULL;
    char sha256[SHA256_HEX_SIZE];
    enum err e = checkpoint_read_manifest(directory, &m, sha256);
    if (e == ERR_NONE && strcmp(sha256, f->restore_checksum) != 0)
        e = err_set(ERR_CORRUPT, "%s/%s has SHA-256 %s; the coordinator read %s", directory,
                    CHECKPOINT_MANIFEST, sha256, f->restore_checksum);
    if (e == ERR_NONE)
        e = snapshot_restore(s, directory, m);
    checkpoint_manifest_destroy(m);
    mem_free(directory);
    return e;
}

static void take_form_failure(struct holding *h, enum err e, uint64_t now)
{
    bool passing = e == ERR_UNAVAILABLE || e == ERR_TIMEOUT || e == ERR_IO;
    bool resource = e == ERR_MEMORY || e == ERR_LIMIT;
    log_write(passing ? LOG_WARN : LOG_ERROR, "owner", "shard=%u cannot be formed (%s): %s",
              h->place.shard, err_name(e), err_text());
    if (passing) {
        h->retry_ms = now + RETRY_MS;
        return;
    }
    h->refused = true;
    board_fail(&h->place,
               resource ? PARAMD__CONTROL__FAILURE__KIND__RESOURCE
                        : PARAMD__CONTROL__FAILURE__KIND__RESTORE_REFUSED,
               err_text());
}

void holding_form(struct holding *h, uint64_t now_ms)
{
    if (h->shard != NULL || h->refused || now_ms < h->retry_ms)
        return;
    const struct formation *f = h->formation;
    struct shard_options options = {
        .job = f->job->name,
        .generation = f->generation,
        .index = h->place.shard,
        .first_partition = f->first_partition[h->position],
        .end_partition = f->end_partition[h->position],
        .rank_count = f->job->train.ranks,
        .schema = f->model->schema,
        .steps = f->steps,
        .staleness = f->job->train.staleness,
        .memory_bytes = f->shard_memory,
        .wait_ms = f->wait_ms,
        .read_only = f->read_only,
        .notify = take_notice,
        .context = h,
    };
    uint64_t began = clock_ns();
    struct shard *s;
    enum err e = shard_create(&options, &s);
    if (e == ERR_NONE) {
        e = restore(h, s);
        if (e != ERR_NONE)
            shard_destroy(s);
    }
    if (e != ERR_NONE) {
        take_form_failure(h, e, now_ms);
        return;
    }
    h->shard = s;
    h->drained = shard_version(s);
    log_info("owner",
             "formed shard=%u partitions=%u-%u restored=%s step=%" PRIu64 " rows=%" PRIu64
             " seconds=%.3f",
             h->place.shard, options.first_partition, options.end_partition,
             f->restore[0] != '\0' ? f->restore : "initial", h->drained, shard_rows(s),
             clock_seconds_since(began));
}

/* ---- orders ---- */

static bool is_held(const struct holding *h, uint64_t step)
{
    const struct steps *s = &h->formation->steps;
    bool needs_verdict = step > 0 && (step == s->last_step || steps_is_eval(s, step));
    return h->drained == step && needs_verdict && h->verdict_step < step;
}

static void follow_arm(struct holding *h, uint64_t step)
{
    if (step == h->arm_seen)
        return;
    h->arm_seen = step;
    if (step == 0)
        return;
    uint64_t version = shard_version(h->shard);
    bool rests = h->drained == step && shard_rests(h->shard);
    bool held = step == version && (is_held(h, step) || rests);
    bool past = step <= version && !held && !PLANT(armed_in_the_past);
    if (h->snapshot != NULL || h->armed != 0 || past) {
        board_arm_refused(&h->place, step);
        return;
    }
    h->armed = step;
    h->due = held;
    board_armed(&h->place, step);
}

static void follow_disarm(struct holding *h, uint64_t step)
{
    if (step == 0 || h->armed != step || PLANT(disarm_ignored))
        return;
    snapshot_destroy(h->snapshot);
    h->snapshot = NULL;
    h->armed = 0;
    h->due = h->streaming = false;
    board_armed(&h->place, 0);
}

void holding_follow(struct holding *h, const Paramd__Control__ServerOrders *orders, uint64_t now_ms)
{
    if (h->shard == NULL)
        return;
    for (size_t i = 0; i < orders->n_leases; i++)
        shard_set_lease(h->shard, orders->leases[i]->rank, orders->leases[i]->lease);
    follow_disarm(h, orders->disarm);
    follow_arm(h, orders->arm);
    bool said = orders->verdict_step == h->verdict_step && orders->verdict_stop == h->verdict_stop;
    if (orders->verdict_step != 0 && !said && orders->verdict_step >= h->verdict_step) {
        h->verdict_step = orders->verdict_step;
        h->verdict_stop = orders->verdict_stop;
        shard_verdict(h->shard, h->verdict_step, h->verdict_stop);
    }
    if (orders->fail[0] != '\0' && !h->failed) {
        h->failed = true;
        shard_fail(h->shard, orders->fail);
    }
    holding_begin_due(h, now_ms);
    /* Last, so that nobody starts before leases and verdict are in place. */
    if (!h->told) {
        h->told = true;
        board_restored(&h->place, h->drained, reports_of(h, shard_reports(h->shard)));
    }
}

/* ---- snapshots ---- */

static void give_up(struct holding *h, const char *why)
{
    log_warn("owner", "shard=%u gave up the snapshot of step=%" PRIu64 ": %s", h->place.shard,
             h->armed, why);
    board_abandoned(&h->place, h->armed, why);
    snapshot_destroy(h->snapshot);
    h->snapshot = NULL;
    h->armed = 0;
    h->streaming = false;
}

void holding_begin_due(struct holding *h, uint64_t now_ms)
{
    if (!h->due)
        return;
    h->due = false;
    const struct formation *f = h->formation;
    char *name = checkpoint_name(f->generation, h->armed);
    char *directory = storage_join(f->storage_uri, name);
    struct snapshot_options options = {
        .shard = h->shard,
        .directory = directory,
        .step = h->armed,
        .memory_bytes = f->job->checkpoint.memory_bytes / f->shard_count,
        .deadline_ms = now_ms + f->job->checkpoint.timeout_ms,
    };
    enum err e = snapshot_begin(&options, &h->snapshot);
    mem_free(name);
    mem_free(directory);
    if (e != ERR_NONE) {
        h->snapshot = NULL;
        give_up(h, err_text());
        return;
    }
    h->streaming = true;
    board_snapshot_begun(&h->place);
}

enum snapshot_work holding_work(struct holding *h, uint64_t budget_ns, uint64_t now_ms)
{
    if (h->snapshot == NULL)
        return SNAPSHOT_NONE;
    if (h->streaming)
        h->streaming = snapshot_step(h->snapshot, budget_ns);
    const struct checkpoint_file *files;
    uint32_t file_count;
    const char *why;
    switch (snapshot_poll(h->snapshot, now_ms, &files, &file_count, &why)) {
    case SNAPSHOT_RUNNING:
        if (!h->streaming)
            return SNAPSHOT_WRITING;
        return snapshot_is_held_up(h->snapshot) ? SNAPSHOT_HELD_UP : SNAPSHOT_MORE;
    case SNAPSHOT_DURABLE:
        board_durable(&h->place, h->armed, files, file_count);
        snapshot_destroy(h->snapshot);
        h->snapshot = NULL;
        h->armed = 0;
        h->streaming = false;
        break;
    case SNAPSHOT_ABANDONED:
        give_up(h, why);
        break;
    }
    return SNAPSHOT_NONE;
}
