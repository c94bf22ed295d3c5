#include "worker/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "worker/lanes.h"
#include "worker/network.h"
#include "worker/tally.h"

/* Batches kept ready by a stream beyond those that wait for values. */
#define READ_AHEAD 4u

/* One rank that is trained here. */
struct replica {
    uint32_t rank;
    uint32_t index;         /* in the exchange */
    uint64_t first_example; /* of the rank in a step, for dropout masks */
    struct batch_stream *stream;
    struct batch **batches; /* those given to the exchange and not yet pushed: step % batch_count */
    uint32_t batch_count;
    uint64_t read_to; /* the last batch that was read */
    struct tally *tally;
    bool is_over;
    bool has_stepped;
};

struct trainer {
    struct trainer_options options;
    struct steps steps;
    atomic_bool cancel;
    atomic_uint_least64_t computing_ns; /* since when; 0: it is not */
    atomic_uint computing_rank;         /* at this place of options.ranks */
    pthread_t thread;
    pthread_mutex_t lock; /* of status and ranks */
    struct trainer_status status;
    struct trainer_rank_status *ranks;
    uint32_t rank_count;
    /* of the thread alone */
    struct exchange *exchange;
    struct replica *replicas;
    struct pool *pool;
    struct lanes *lanes;
    float *logits;
    float *metric_logits, *metric_labels; /* room for network_metric() */
    uint64_t start_ns;
    struct trainer_shares shares; /* wait and exchange are filled in by publish() */
    uint64_t in_exchange_ns;      /* in calls of the exchange, waiting included */
    enum trainer_end end;
};

static void *run(void *context);

enum err trainer_start(const struct trainer_options *options, struct trainer **out)
{
    struct trainer *t = must_alloc(sizeof *t);
    t->options = *options;
    t->steps = options->exchange.steps;
    t->rank_count = options->rank_count;
    t->ranks = must_alloc((t->rank_count + 1) * sizeof *t->ranks);
    t->replicas = must_alloc((t->rank_count + 1) * sizeof *t->replicas);
    for (uint32_t i = 0; i < t->rank_count; i++)
        t->ranks[i] = (struct trainer_rank_status){.rank = options->ranks[i].rank,
                                                   .lease = options->ranks[i].lease,
                                                   .step = options->start_step};
    t->options.exchange.rank_max = t->rank_count;
    t->options.exchange.cancel = &t->cancel;
    CHECK(pthread_mutex_init(&t->lock, NULL) == 0);
    int failed = pthread_create(&t->thread, NULL, run, t);
    if (failed != 0) {
        pthread_mutex_destroy(&t->lock);
        mem_free(t->ranks);
        mem_free(t->replicas);
        mem_free(t);
        return err_set_errno(ERR_MEMORY, failed, "cannot start the trainer's thread");
    }
    *out = t;
    return ERR_NONE;
}

void trainer_status(struct trainer *t, struct trainer_status *out)
{
    pthread_mutex_lock(&t->lock);
    *out = t->status;
    pthread_mutex_unlock(&t->lock);
}

struct trainer_rank_status trainer_rank_status(struct trainer *t, uint32_t index)
{
    pthread_mutex_lock(&t->lock);
    struct trainer_rank_status s = t->ranks[index];
    pthread_mutex_unlock(&t->lock);
    uint64_t since = atomic_load(&t->computing_ns), now = clock_ns();
    if (since != 0 && now > since && atomic_load(&t->computing_rank) == index)
        s.busy_ms = (now - since) / 1000000;
    return s;
}

uint32_t trainer_rank_count(const struct trainer *t)
{
    return t->rank_count;
}

void trainer_cancel(struct trainer *t)
{
    atomic_store(&t->cancel, true);
}

void trainer_stop(struct trainer *t)
{
    if (t == NULL)
        return;
    trainer_cancel(t);
    pthread_join(t->thread, NULL);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->ranks);
    mem_free(t->replicas);
    mem_free(t);
}

/* ---- ends ---- */

static void publish(struct trainer *t, const char *why)
{
    pthread_mutex_lock(&t->lock);
    t->shares.total = clock_ns() - t->start_ns;
    if (t->exchange != NULL) {
        t->shares.wait = exchange_wait_ns(t->exchange);
        t->shares.exchange = t->in_exchange_ns - t->shares.wait;
    }
    t->status.shares = t->shares;
    t->status.end = t->end;
    if (why != NULL) {
        size_t n = strlen(why);
        n = n < sizeof t->status.why - 1 ? n : sizeof t->status.why - 1;
        memcpy(t->status.why, why, n);
        t->status.why[n] = '\0';
    }
    for (uint32_t i = 0; i < t->rank_count && t->exchange != NULL; i++) {
        if (exchange_state(t->exchange, i) == SESSION_RESUMING)
            continue;
        t->ranks[i].step = exchange_acked(t->exchange, i);
        t->ranks[i].finished = exchange_state(t->exchange, i) == SESSION_FINISHED;
    }
    pthread_mutex_unlock(&t->lock);
}

/* What an error of reading, computing or opening means for the job. */
static enum trainer_end end_of_error(enum err e)
{
    switch (e) {
    case ERR_CANCELLED:
        return TRAINER_CANCELLED;
    case ERR_INPUT:
    case ERR_REFUSED:
    case ERR_CORRUPT:
    case ERR_NOT_FOUND:
    case ERR_UNSUPPORTED:
        return TRAINER_FAILED_INPUT;
    case ERR_LIMIT:
        return TRAINER_FAILED_BUG;
    default:
        return TRAINER_FAILED_RESOURCE;
    }
}

/* An exchange call failed for a rank. ERR_NONE: only this rank is over. */
static enum err rank_over(struct trainer *t, struct replica *r, enum err e)
{
    if (e != ERR_REFUSED) {
        t->end = end_of_error(e);
        return e;
    }
    r->is_over = true;
    exchange_let_go(t->exchange, r->index);
    switch (exchange_state(t->exchange, r->index)) {
    case SESSION_FINISHED:
        return ERR_NONE;
    case SESSION_REPLACED:
        log_info("trainer", "rank is another worker's now rank=%" PRIu32, r->rank);
        return ERR_NONE;
    case SESSION_NOT_FORMED:
        t->end = TRAINER_NOT_FORMED;
        return e;
    case SESSION_OVERTAKEN:
        t->end = TRAINER_OVERTAKEN;
        return e;
    case SESSION_UNREACHABLE:
        t->end = TRAINER_FAILED_RESOURCE;
        return e;
    default:
        t->end = TRAINER_FAILED_BUG;
        return e;
    }
}

/* ---- opening ---- */

static enum err open_exchange(struct trainer *t)
{
    uint64_t start_ns = clock_ns();
    enum err e = exchange_open(&t->options.exchange, &t->exchange);
    for (uint32_t i = 0; i < t->rank_count && e == ERR_NONE; i++) {
        struct exchange_rank_options o = {.rank = t->options.ranks[i].rank,
                                          .lease = t->options.ranks[i].lease,
                                          .start = t->options.start_step};
        t->replicas[i].rank = o.rank;
        e = exchange_add_rank(t->exchange, &o, &t->replicas[i].index);
    }
    if (e == ERR_NONE)
        e = exchange_resume(t->exchange);
    t->in_exchange_ns += clock_ns() - start_ns;
    return e;
}

static enum err open_network(struct trainer *t)
{
    uint64_t batch = t->options.job->train.batch_size, ranks = t->options.job->train.ranks;
    uint32_t most = (uint32_t)((batch + ranks - 1) / ranks);
    t->pool = pool_create(t->options.threads);
    struct lanes_options o = {.devices = t->options.devices,
                              .job = t->options.job,
                              .model = t->options.model,
                              .pool = t->pool,
                              .rank_count = t->rank_count,
                              .max_examples = most};
    enum err e = lanes_open(&o, &t->lanes);
    if (e != ERR_NONE)
        return e;
    t->logits = mem_alloc_array((size_t)most * t->options.model->output_width, sizeof(float));
    t->metric_logits = mem_alloc_array(most, sizeof(float));
    t->metric_labels = mem_alloc_array(most, sizeof(float));
    bool complete = t->logits != NULL && t->metric_logits != NULL && t->metric_labels != NULL;
    return complete ? ERR_NONE : ERR_MEMORY;
}

static enum err open_replica(struct trainer *t, struct replica *r)
{
    struct exchange_resumed at;
    enum err e = ERR_NONE;
    if (exchange_state(t->exchange, r->index) != SESSION_RUNNING) {
        err_set(ERR_REFUSED, "%s", exchange_why(t->exchange, r->index));
        return rank_over(t, r, ERR_REFUSED);
    }
    uint64_t batch = t->options.job->train.batch_size, ranks = t->options.job->train.ranks;
    r->first_example = batch * r->rank / ranks;
    r->batch_count = 2 * t->steps.pipeline_depth + 4;
    r->batches = must_alloc(r->batch_count * sizeof(struct batch *));
    exchange_resumed(t->exchange, r->index, &at);
    e = tally_create(t->options.job, &t->steps, t->options.model->metric_width, &r->tally);
    if (e != ERR_NONE)
        return e;
    tally_restore(r->tally, at.acked, at.report);
    r->read_to = at.first_batch - 1;
    log_info("trainer", "rank begins rank=%" PRIu32 " after_step=%" PRIu64, r->rank, at.acked);
    if (at.first_batch > t->steps.last_step)
        return ERR_NONE;
    return dataset_train_stream(t->options.dataset, r->rank, at.first_batch, t->steps.last_step,
                                t->steps.pipeline_depth + READ_AHEAD, &r->stream);
}

static void close_replica(struct replica *r)
{
    for (uint32_t i = 0; r->batches != NULL && i < r->batch_count; i++)
        batch_release(r->batches[i]);
    batch_stream_close(r->stream);
    tally_destroy(r->tally);
    mem_free(r->batches);
}

/* ---- the loop ---- */

/* Reads as far ahead as the next push-pull pulls values for. */
static enum err read_batches(struct trainer *t, struct replica *r)
{
    uint64_t needed = exchange_batches_needed(t->exchange, r->index);
    while (r->read_to < needed) {
        struct batch *b = NULL;
        uint64_t start_ns = clock_ns();
        enum err e = batch_stream_next(r->stream, &b);
        t->shares.read += clock_ns() - start_ns;
        if (e != ERR_NONE)
            return e;
        CHECK(b != NULL && b->step == r->read_to + 1);
        struct batch **place = &r->batches[b->step % r->batch_count];
        batch_release(*place); /* one of before this session, read for its keys only */
        *place = b;
        r->read_to++;
        start_ns = clock_ns();
        e = exchange_give(t->exchange, r->index, b);
        t->in_exchange_ns += clock_ns() - start_ns;
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

/* The first gradient that is not finite, by name: for the text of a failure. */
static const char *name_of_bad(const struct trainer *t, const struct batch *b,
                               const struct exchange_work *w)
{
    const struct schema *s = t->options.model->schema;
    for (uint32_t i = 0; i < s->table_count; i++) {
        size_t count = (size_t)b->tables[i].key_count * s->tables[i].dim;
        for (size_t k = 0; k < count; k++) {
            if (!isfinite(w->row_gradients[i][k]))
                return s->tables[i].name;
        }
    }
    for (uint32_t i = 0; i < s->dense_count; i++) {
        for (size_t k = 0; k < s->dense[i].count; k++) {
            if (!isfinite(w->dense_gradients[i][k]))
                return s->dense[i].name;
        }
    }
    return "the loss";
}

/* Begins to upload the batch that its device will most likely compute next, if it is here. */
static enum err send_next(struct trainer *t, struct replica *r, uint64_t step)
{
    uint32_t place;
    uint64_t wanted = step + lanes_next(t->lanes, (uint32_t)(r - t->replicas), &place);
    struct replica *next = &t->replicas[place];
    struct batch *b = next->batches != NULL ? next->batches[wanted % next->batch_count] : NULL;
    if (next->is_over || b == NULL || b->step != wanted)
        return ERR_NONE;
    return network_send(lanes_network(t->lanes, place), b);
}

/*
 * While a GPU computes: reads what comes next, and begins to upload it. The processor has no time
 * for that before it is done. Who waits for data is not stuck at computing.
 */
static enum err prepare_next(struct trainer *t, struct replica *r, uint64_t step)
{
    if (!lanes_overlap(t->lanes))
        return ERR_NONE;
    uint64_t since_ns = atomic_exchange(&t->computing_ns, 0);
    enum err e = read_batches(t, r);
    atomic_store(&t->computing_ns, since_ns > 0 ? clock_ns() : 0);
    return e == ERR_NONE ? send_next(t, r, step) : e;
}

static uint64_t time_elsewhere(const struct trainer *t)
{
    return t->shares.read + t->in_exchange_ns;
}

/* Forward, backward, clip. *skipped: a gradient is not finite, so none of this step may leave. */
static enum err compute(struct trainer *t, struct replica *r, const struct batch *b,
                        const struct exchange_work *w, bool *skipped)
{
    struct network_values values = {.rows = w->rows, .dense = w->dense};
    struct network_gradients gradients = {.rows = w->row_gradients, .dense = w->dense_gradients};
    double loss = 0;
    bool finite = true;
    uint64_t start_ns = clock_ns(), elsewhere_ns = time_elsewhere(t);
    enum err e = ERR_NONE;
    struct network *n = lanes_network(t->lanes, (uint32_t)(r - t->replicas));
    uint64_t sent_ns = network_upload_ns(n);
    network_set_loss_scale(n, tally_loss_scale(r->tally));
    if (b->example_count > 0) {
        e = network_start(n, b, r->first_example, &values, &gradients, t->logits);
        if (e == ERR_NONE)
            e = prepare_next(t, r, w->step);
        if (e == ERR_NONE)
            e = network_finish(n, &loss, &finite);
    }
    sent_ns = network_upload_ns(n) - sent_ns;
    elsewhere_ns = time_elsewhere(t) - elsewhere_ns;
    if (e != ERR_NONE)
        return e;
    finite = finite && isfinite(loss);
    if (finite && b->example_count > 0 && t->options.job->train.clip_norm > 0)
        finite = isfinite(
            network_clip(t->options.model, b, &gradients, t->options.job->train.clip_norm));
    struct network_metric metric =
        network_metric(t->options.model, b, t->logits, t->metric_logits, t->metric_labels);
    struct tally_step counted = {.step = w->step,
                                 .batch = b,
                                 .skipped = !finite,
                                 .loss = loss,
                                 .logits = metric.logits,
                                 .labels = metric.labels};
    e = tally_count(r->tally, &counted);
    t->shares.compute += clock_ns() - start_ns - sent_ns - elsewhere_ns;
    t->shares.upload += sent_ns;
    *skipped = !finite;
    if (e != ERR_NONE || finite)
        return e;
    log_warn("trainer",
             "step skipped: a gradient is not finite rank=%" PRIu32 " step=%" PRIu64 " of='%s'",
             r->rank, w->step, name_of_bad(t, b, w));
    if (tally_skipped(r->tally) > t->options.job->train.max_skipped)
        return err_set(ERR_INPUT,
                       "rank %" PRIu32 ", step %" PRIu64 ": the gradient of '%s' is not finite, "
                       "for %" PRIu64 " steps in a row (train.max_skipped is %" PRIu32
                       "); a smaller learning rate or train.clip_norm may help",
                       r->rank, w->step, name_of_bad(t, b, w), tally_skipped(r->tally),
                       t->options.job->train.max_skipped);
    return ERR_NONE;
}

static enum err push(struct trainer *t, struct replica *r, const struct batch *b, bool skipped)
{
    bool is_empty = skipped || b->example_count == 0;
    struct exchange_push p = {
        .is_empty = is_empty,
        .skipped = skipped,
        .weight = is_empty ? 0 : b->weight_sum,
        .report = tally_report(r->tally),
    };
    return exchange_push(t->exchange, r->index, &p);
}

/* One step of one rank. ERR_REFUSED: the rank's session has ended. */
static enum err train_step(struct trainer *t, struct replica *r)
{
    struct exchange_work work;
    bool skipped;
    uint64_t start_ns = clock_ns();
    enum err e = exchange_wait(t->exchange, r->index, &work);
    t->in_exchange_ns += clock_ns() - start_ns;
    if (e != ERR_NONE)
        return rank_over(t, r, e);
    struct batch **place = &r->batches[work.step % r->batch_count];
    atomic_store(&t->computing_rank, (unsigned)(r - t->replicas));
    atomic_store(&t->computing_ns, clock_ns());
    e = compute(t, r, *place, &work, &skipped);
    atomic_store(&t->computing_ns, 0);
    if (e == ERR_NONE)
        e = read_batches(t, r);
    if (e != ERR_NONE) {
        t->end = end_of_error(e);
        return e;
    }
    start_ns = clock_ns();
    e = push(t, r, *place, skipped);
    t->in_exchange_ns += clock_ns() - start_ns;
    batch_release(*place);
    *place = NULL;
    if (e == ERR_NONE && !r->has_stepped)
        log_info("trainer", "first step rank=%" PRIu32 " step=%" PRIu64, r->rank, work.step);
    r->has_stepped = true;
    return e == ERR_NONE ? ERR_NONE : rank_over(t, r, e);
}

/* The rank that is behind, or NULL when all are over. */
static struct replica *pick(struct trainer *t)
{
    uint32_t index;
    return exchange_behind(t->exchange, &index) ? &t->replicas[index] : NULL;
}

/* Gives every rank its first batches, and asks for their values. */
static enum err begin(struct trainer *t)
{
    for (uint32_t i = 0; i < t->rank_count; i++) {
        struct replica *r = &t->replicas[i];
        if (r->is_over)
            continue;
        enum err e = read_batches(t, r);
        if (e != ERR_NONE) {
            t->end = end_of_error(e);
            return e;
        }
        uint64_t start_ns = clock_ns();
        e = exchange_begin(t->exchange, r->index);
        t->in_exchange_ns += clock_ns() - start_ns;
        if (e != ERR_NONE && (e = rank_over(t, r, e)) != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

/* Waits for the last answers. */
static enum err finish(struct trainer *t)
{
    for (uint32_t i = 0; i < t->rank_count; i++) {
        struct replica *r = &t->replicas[i];
        if (r->is_over)
            continue;
        uint64_t start_ns = clock_ns();
        enum err e = exchange_finish(t->exchange, r->index);
        t->in_exchange_ns += clock_ns() - start_ns;
        if (e != ERR_NONE && (e = rank_over(t, r, e)) != ERR_NONE)
            return e;
        publish(t, NULL);
    }
    return ERR_NONE;
}

static enum err train(struct trainer *t)
{
    struct replica *r;
    enum err e = begin(t);
    while (e == ERR_NONE && (r = pick(t)) != NULL) {
        e = train_step(t, r);
        lanes_look(t->lanes);
        publish(t, NULL);
    }
    if (e == ERR_NONE)
        e = finish(t);
    if (e == ERR_NONE)
        t->end = TRAINER_FINISHED;
    return e;
}

static enum err open_all(struct trainer *t)
{
    enum err e = open_exchange(t);
    if (e == ERR_NONE)
        e = open_network(t);
    for (uint32_t i = 0; i < t->rank_count && e == ERR_NONE; i++)
        e = open_replica(t, &t->replicas[i]);
    if (e != ERR_NONE && t->end == TRAINER_RUNS)
        t->end = end_of_error(e);
    return e;
}

static void *run(void *context)
{
    struct trainer *t = context;
    t->start_ns = clock_ns();
    enum err e = open_all(t);
    if (e == ERR_NONE)
        e = train(t);
    lanes_tell(t->lanes);
    publish(t, e != ERR_NONE ? err_text() : NULL);
    if (t->end >= TRAINER_NOT_FORMED)
        log_warn("trainer", "training ended early: %s", err_text());
    if (t->options.changed != NULL)
        t->options.changed(t->options.context);
    exchange_close(t->exchange);
    for (uint32_t i = 0; i < t->rank_count; i++)
        close_replica(&t->replicas[i]);
    lanes_close(t->lanes);
    pool_destroy(t->pool);
    mem_free(t->logits);
    mem_free(t->metric_logits);
    mem_free(t->metric_labels);
    return NULL;
}
