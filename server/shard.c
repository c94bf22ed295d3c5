#include "server/shard.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/shard_internal.h"

#define PROGRESS_MS 100 /* between two notices away from drain points */

bool shard_is_bsp(const struct shard *s)
{
    return s->options.steps.consistency == CONSISTENCY_BSP;
}

/* ---- life ---- */

/* shard_create() in the order of what can fail. */
static enum err create_parts(struct shard *s)
{
    const struct shard_options *o = &s->options;
    s->tables = mem_calloc(o->schema->table_count, sizeof *s->tables);
    s->dense = mem_calloc(o->schema->dense_count, sizeof *s->dense);
    s->ranks = mem_calloc(o->rank_count, sizeof *s->ranks);
    s->reports = mem_calloc(o->rank_count, sizeof *s->reports);
    if (s->tables == NULL || s->dense == NULL || s->ranks == NULL || s->reports == NULL)
        return ERR_MEMORY;
    for (uint32_t r = 0; r < o->rank_count; r++) {
        s->ranks[r].pushes = mem_calloc(s->ring, sizeof *s->ranks[r].pushes);
        if (s->ranks[r].pushes == NULL)
            return ERR_MEMORY;
    }
    enum err e = apply_scratch_create(o, &s->scratch);
    for (uint32_t i = 0; e == ERR_NONE && i < o->schema->table_count; i++)
        e = table_create(&o->schema->tables[i], o->first_partition, o->end_partition,
                         &s->tables[i]);
    for (uint32_t i = 0; e == ERR_NONE && i < o->schema->dense_count; i++)
        e = dense_create(&o->schema->dense[i], o->first_partition, o->end_partition, &s->dense[i]);
    return e;
}

enum err shard_create(const struct shard_options *options, struct shard **out)
{
    if (options->rank_count == 0 || options->rank_count > RANK_MAX)
        return err_set(ERR_LIMIT, "%u ranks; a job has 1 to %u", options->rank_count, RANK_MAX);
    if (options->steps.pipeline_depth > PIPELINE_DEPTH_MAX)
        return err_set(ERR_LIMIT, "pipeline depth %u; the most is %u",
                       options->steps.pipeline_depth, PIPELINE_DEPTH_MAX);
    if (options->first_partition >= options->end_partition ||
        options->end_partition > PARTITION_COUNT)
        return err_set(ERR_INPUT, "shard %u of partitions %u to %u", options->index,
                       options->first_partition, options->end_partition);
    struct shard *s = mem_calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_MEMORY;
    s->options = *options;
    s->job = must_strdup(options->job);
    s->options.job = s->job;
    s->ring = kept_ring_size(&options->steps);
    enum err e = create_parts(s);
    if (e != ERR_NONE) {
        shard_destroy(s);
        return err_prefix(e, "shard %u", options->index);
    }
    *out = s;
    return ERR_NONE;
}

/* Every call that waits is answered. */
static void answer_all(struct shard *s, Paramd__PushPullReply__Status status, const char *message)
{
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        for (uint32_t i = 0; i < s->ring; i++)
            answer_waiting(s, r, &s->ranks[r].pushes[i], status, message);
    }
}

void shard_destroy(struct shard *s)
{
    if (s == NULL)
        return;
    if (s->begun)
        answer_all(s, PARAMD__PUSH_PULL_REPLY__STATUS__NOT_FORMED, "this shard has ended");
    kept_deinit(s);
    consistency_deinit(&s->consistency);
    for (uint32_t i = 0; s->tables != NULL && i < s->options.schema->table_count; i++)
        table_destroy(s->tables[i]);
    for (uint32_t i = 0; s->dense != NULL && i < s->options.schema->dense_count; i++)
        dense_destroy(s->dense[i]);
    apply_scratch_destroy(s->scratch);
    mem_free(s->tables);
    mem_free(s->dense);
    mem_free(s->reports);
    mem_free(s->failed);
    mem_free(s->job);
    mem_free(s);
}

/* ---- telling ---- */

static void notify(struct shard *s, enum shard_notice_kind kind, const char *text)
{
    struct shard_notice notice = {
        .kind = kind,
        .shard = s->options.index,
        .step = s->consistency.version,
        .text = text,
        .reports = s->options.index == 0 && s->begun ? shard_reports(s) : NULL,
    };
    if (s->options.notify != NULL)
        s->options.notify(s->options.context, &notice);
}

static void tell_progress(struct shard *s)
{
    s->told_ms = s->now_ms;
    s->told_step = s->consistency.version;
    notify(s, SHARD_PROGRESS, "");
}

static void take_verdict(struct shard *s, uint64_t step, bool stop)
{
    if (step <= s->consistency.verdict_step)
        return;
    s->consistency.verdict_step = step;
    s->consistency.verdict_stop = stop;
}

void shard_advanced(struct shard *s)
{
    uint64_t version = s->consistency.version;
    if (s->early_verdict_step != 0 && s->early_verdict_step <= version) {
        take_verdict(s, s->early_verdict_step, s->early_verdict_stop);
        s->early_verdict_step = 0;
    }
    bool moved = version > s->told_step;
    bool drained = steps_is_drain(&s->consistency.steps, version) || PLANT(checkpoint_anywhere);
    if (moved && drained) {
        tell_progress(s);
        notify(s, SHARD_AT_DRAIN, "");
    } else if (moved && s->now_ms - s->told_ms >= PROGRESS_MS) {
        tell_progress(s);
    }
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        for (uint32_t i = 0; i < s->ring; i++)
            answer_try(s, r, &s->ranks[r].pushes[i]);
    }
}

void shard_begin(struct shard *s, uint64_t version)
{
    CHECK(!s->begun);
    struct steps steps = s->options.steps;
    if (s->options.read_only)
        steps.last_step = version; /* nothing comes after it, so it is a drain point */
    enum err e = consistency_init(&s->consistency, &steps, s->options.rank_count,
                                  s->options.staleness, version);
    if (e != ERR_NONE) {
        shard_fail(s, err_text());
        return;
    }
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        s->consistency.ranks[r].lease = s->ranks[r].lease;
        s->ranks[r].report_seq = version;
    }
    s->begun = true;
    s->told_step = version;
    shard_advanced(s);
    /* Whoever loads an evaluation step may not know yet whether the job goes on from there. */
    if (consistency_needs_verdict(&s->consistency, version) &&
        s->consistency.verdict_step < version && !s->options.read_only)
        notify(s, SHARD_AT_DRAIN, "");
}

void shard_verdict(struct shard *s, uint64_t step, bool stop)
{
    if (!s->begun || step > s->consistency.version) {
        s->early_verdict_step = step;
        s->early_verdict_stop = stop;
        return;
    }
    take_verdict(s, step, stop);
    shard_advanced(s);
}

void shard_set_paused(struct shard *s, bool paused)
{
    if (!s->begun || s->consistency.paused == paused)
        return;
    s->consistency.paused = paused;
    if (!paused)
        shard_advanced(s);
}

void shard_tick(struct shard *s, uint64_t now_ms)
{
    s->now_ms = now_ms;
    if (!s->begun || s->failed != NULL)
        return;
    if (s->consistency.version > s->told_step && now_ms - s->told_ms >= PROGRESS_MS)
        tell_progress(s);
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        for (uint32_t i = 0; i < s->ring; i++) {
            struct shard_push *p = &s->ranks[r].pushes[i];
            if (p->reply != NULL && now_ms - p->since_ms >= s->options.wait_ms)
                answer_waiting(s, r, p, PARAMD__PUSH_PULL_REPLY__STATUS__WAITING,
                               "taken; ask again with the header only");
        }
    }
}

void shard_fail(struct shard *s, const char *text)
{
    if (s->failed != NULL)
        return;
    s->failed = must_strdup(text);
    answer_all(s, PARAMD__PUSH_PULL_REPLY__STATUS__FAILED, s->failed);
    notify(s, SHARD_FAILED, s->failed);
}

/* ---- looking ---- */

uint64_t shard_version(const struct shard *s)
{
    return s->consistency.version;
}

bool shard_rests(const struct shard *s)
{
    return s->begun && consistency_rests(&s->consistency, s->consistency.version);
}

uint64_t shard_memory(const struct shard *s)
{
    uint64_t bytes = s->held_bytes;
    for (uint32_t i = 0; i < s->options.schema->table_count; i++)
        bytes += table_memory(s->tables[i]);
    for (uint32_t i = 0; i < s->options.schema->dense_count; i++)
        bytes += dense_memory(s->dense[i]);
    return bytes;
}

uint64_t shard_rows(const struct shard *s)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < s->options.schema->table_count; i++)
        rows += table_rows(s->tables[i]);
    return rows;
}

struct table *shard_table(struct shard *s, uint32_t index)
{
    CHECK(index < s->options.schema->table_count);
    return s->tables[index];
}

struct dense *shard_dense(struct shard *s, uint32_t index)
{
    CHECK(index < s->options.schema->dense_count);
    return s->dense[index];
}

const struct shard_options *shard_options_of(const struct shard *s)
{
    return &s->options;
}

const Paramd__Report *const *shard_reports(const struct shard *s)
{
    for (uint32_t r = 0; r < s->options.rank_count; r++) {
        uint64_t applied = s->begun ? s->consistency.ranks[r].applied : 0;
        s->reports[r] = kept_report(s, r, applied);
    }
    return s->reports;
}

void shard_set_report(struct shard *s, uint32_t rank, const Paramd__Report *report)
{
    CHECK(rank < s->options.rank_count);
    kept_set_report(s, rank, s->begun ? s->consistency.begun_at : 0, report);
}
