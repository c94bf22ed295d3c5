#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/queue.h"
#include "worker/dataset_internal.h"

#define NO_EPOCH    UINT64_MAX
#define NO_GROUP    UINT64_MAX
#define WAIT_MS     100
#define READY_LIMIT 1024

struct batch_stream {
    struct dataset *d;
    struct sampler_options sampler_options;
    uint32_t *counts; /* evaluation: [block_count] what this part reads of each block */
    uint32_t *starts; /* evaluation: from which example on */
    bool evaluation;
    uint32_t rank;
    uint64_t next, last; /* steps from 0 over all epochs; `last` is not made any more */

    /* Of the reading thread. */
    struct sampler *sampler;
    uint64_t epoch, group_number;
    struct group group;
    struct batch_maker maker;
    struct sampler_pick *picks;

    struct arena_list arenas;
    struct queue *ready; /* NULL: no read-ahead */
    pthread_t thread;
    atomic_bool cancel;
    enum err error; /* of the thread; read after the queue is closed and empty */
    char *error_text;
};

/* ---- making batches -------------------------------------------------------------------------- */

static enum err enter_epoch(struct batch_stream *s, uint64_t epoch)
{
    if (s->epoch == epoch)
        return ERR_NONE;
    sampler_destroy(s->sampler);
    s->sampler = NULL;
    s->group_number = NO_GROUP;
    enum err e = sampler_create(&s->sampler_options, epoch, &s->sampler);
    s->epoch = e == ERR_NONE ? epoch : NO_EPOCH;
    return e;
}

static enum err enter_group(struct batch_stream *s, uint64_t step)
{
    uint64_t number = sampler_group_of(s->sampler, s->rank, step);
    if (s->group_number == number)
        return ERR_NONE;
    struct sampler_range *ranges;
    uint32_t count;
    s->group_number = NO_GROUP;
    enum err e = sampler_group(s->sampler, s->rank, number, &ranges, &count);
    if (e == ERR_NONE)
        e = group_load(&s->group, s->d, ranges, count, &s->cancel);
    if (e == ERR_NONE)
        s->group_number = number;
    return e;
}

/* *out = NULL behind the last one. */
static enum err make_next(struct batch_stream *s, struct batch **out)
{
    *out = NULL;
    if (s->next >= s->last)
        return ERR_NONE;
    uint64_t start = clock_ns();
    /* All epochs have as many steps. */
    enum err e = s->sampler == NULL ? enter_epoch(s, 0) : ERR_NONE;
    if (e != ERR_NONE)
        return e;
    uint64_t steps = sampler_steps(s->sampler);
    if (steps == 0)
        return ERR_NONE;
    e = enter_epoch(s, s->next / steps);
    uint64_t step = s->next % steps;
    if (e == ERR_NONE)
        e = enter_group(s, step);
    if (e != ERR_NONE)
        return e;
    uint32_t n =
        sampler_batch(s->sampler, s->rank, step, s->group.ranges, s->group.range_count, s->picks);
    struct batch_arena *a = arena_take(&s->arenas);
    if (a == NULL)
        return ERR_MEMORY;
    e = batch_make(&s->maker, &s->group, s->picks, n, a);
    if (e != ERR_NONE) {
        batch_release(&a->batch);
        return e;
    }
    a->batch.step = s->evaluation ? 0 : s->next + 1;
    a->batch.rank = s->rank;
    s->next++;
    a->batch.read_ns = clock_ns() - start;
    *out = &a->batch;
    return ERR_NONE;
}

/* ---- read-ahead ------------------------------------------------------------------------------ */

static enum err push(struct batch_stream *s, struct batch *b)
{
    for (;;) {
        enum err e = queue_push(s->ready, b, WAIT_MS);
        if (e != ERR_LIMIT)
            return e;
        if (atomic_load(&s->cancel))
            return ERR_CANCELLED;
    }
}

static void *read_ahead(void *context)
{
    struct batch_stream *s = context;
    pthread_setname_np(pthread_self(), "read-ahead");
    for (;;) {
        struct batch *b;
        enum err e = atomic_load(&s->cancel) ? ERR_CANCELLED : make_next(s, &b);
        if (e == ERR_NONE && b == NULL)
            break;
        if (e == ERR_NONE && push(s, b) != ERR_NONE) {
            batch_release(b);
            break;
        }
        if (e != ERR_NONE) {
            s->error = e;
            s->error_text = must_strdup(e == ERR_CANCELLED ? "cancelled" : err_text());
            break;
        }
    }
    queue_close(s->ready);
    return NULL;
}

enum err batch_stream_next(struct batch_stream *s, struct batch **out)
{
    if (s->ready == NULL)
        return make_next(s, out);
    for (;;) {
        void *item;
        enum err e = queue_pop(s->ready, &item, WAIT_MS);
        if (e == ERR_TIMEOUT)
            continue; /* the thread closes the queue, whatever happens to it */
        if (e == ERR_NONE) {
            *out = item;
            return ERR_NONE;
        }
        if (s->error != ERR_NONE)
            return err_set(s->error, "%s", s->error_text);
        *out = NULL;
        return ERR_NONE;
    }
}

/* ---- opening and closing --------------------------------------------------------------------- */

static enum err start(struct batch_stream *s, uint32_t ahead)
{
    uint32_t share = s->sampler_options.batch_size / s->sampler_options.rank_count + 1;
    arena_list_init(&s->arenas, s->d->o.features);
    s->epoch = NO_EPOCH;
    s->group_number = NO_GROUP;
    s->group.starts = s->starts;
    s->group.evaluation = s->evaluation;
    s->picks = mem_alloc_array(share, sizeof *s->picks);
    if (s->picks == NULL)
        return ERR_MEMORY;
    if (ahead == 0)
        return ERR_NONE;
    s->ready = queue_create(ahead < READY_LIMIT ? ahead : READY_LIMIT);
    if (s->ready == NULL)
        return ERR_MEMORY;
    int failure = pthread_create(&s->thread, NULL, read_ahead, s);
    if (failure == 0)
        return ERR_NONE;
    queue_close(s->ready);
    queue_destroy(s->ready);
    s->ready = NULL;
    return err_set_errno(ERR_LIMIT, failure, "cannot start the read-ahead");
}

void batch_stream_close(struct batch_stream *s)
{
    if (s == NULL)
        return;
    atomic_store(&s->cancel, true);
    if (s->ready != NULL) {
        void *item;
        queue_close(s->ready);
        pthread_join(s->thread, NULL);
        while (queue_pop(s->ready, &item, 0) == ERR_NONE)
            batch_release(item);
        queue_destroy(s->ready);
    }
    sampler_destroy(s->sampler);
    group_deinit(&s->group);
    batch_maker_deinit(&s->maker);
    arena_list_deinit(&s->arenas);
    mem_free(s->picks);
    mem_free(s->counts);
    mem_free(s->starts);
    mem_free(s->error_text);
    mem_free(s);
}

enum err dataset_train_stream(struct dataset *d, uint32_t rank, uint64_t first_step,
                              uint64_t last_step, uint32_t ahead, struct batch_stream **out)
{
    const struct job *j = d->o.job;
    CHECK(rank < j->train.ranks && first_step > 0);
    struct batch_stream *s = must_alloc(sizeof *s);
    s->d = d;
    s->rank = rank;
    s->next = first_step - 1;
    s->last = last_step;
    s->sampler_options = (struct sampler_options){.seed = j->seed,
                                                  .shuffle = j->data.shuffle.kind,
                                                  .window = j->data.shuffle.window,
                                                  .batch_size = j->train.batch_size,
                                                  .rank_count = j->train.ranks,
                                                  .counts = d->train_counts,
                                                  .block_count = d->o.index->block_count};
    enum err e = start(s, ahead);
    if (e != ERR_NONE) {
        batch_stream_close(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}

/* Which evaluation examples of each block belong to the part. Returns how many in all. */
static uint64_t deal_part(struct batch_stream *s, uint32_t part, uint32_t parts)
{
    const struct dataindex *d = s->d->o.index;
    uint64_t total = d->eval_examples, limit = s->d->o.job->eval.examples;
    if (limit > 0 && limit < total)
        total = limit;
    uint64_t from = (uint64_t)((unsigned __int128)total * part / parts);
    uint64_t to = (uint64_t)((unsigned __int128)total * (part + 1) / parts), at = 0;
    s->counts = must_alloc(d->block_count * sizeof *s->counts);
    s->starts = must_alloc(d->block_count * sizeof *s->starts);
    for (uint32_t b = 0; b < d->block_count; b++) {
        uint64_t end = at + d->blocks[b].eval_count;
        uint64_t first = at > from ? at : from, last = end < to ? end : to;
        if (first < last) {
            s->starts[b] = (uint32_t)(first - at);
            s->counts[b] = (uint32_t)(last - first);
        }
        at = end;
    }
    return to - from;
}

enum err dataset_eval_stream(struct dataset *d, uint32_t part, uint32_t parts, uint32_t batch_size,
                             struct batch_stream **out)
{
    CHECK(part < parts && batch_size > 0);
    struct batch_stream *s = must_alloc(sizeof *s);
    s->d = d;
    s->evaluation = true;
    uint64_t total = deal_part(s, part, parts);
    s->last = total / batch_size + (total % batch_size > 0);
    s->sampler_options = (struct sampler_options){.shuffle = SHUFFLE_NONE,
                                                  .batch_size = batch_size,
                                                  .rank_count = 1,
                                                  .counts = s->counts,
                                                  .block_count = d->o.index->block_count};
    enum err e = start(s, 2);
    if (e != ERR_NONE) {
        batch_stream_close(s);
        return e;
    }
    *out = s;
    return ERR_NONE;
}
