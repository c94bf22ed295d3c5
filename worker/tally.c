#include "worker/tally.h"

#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mem.h"

#define FIXED_POINT   0x1p20
#define HISTORY_MAX   (PIPELINE_DEPTH_MAX + 2)
#define STATE_VERSION 2u
#define SCALE_FIRST   16u /* loss scales, as powers of two */
#define SCALE_MOST    24u
#define SCALE_STEPS   2000u /* without a skipped one, before the scale is doubled */

struct sums { /* after a step; also how they are written */
    uint64_t step;
    uint64_t examples;
    int64_t loss, weight;
    uint64_t skipped;            /* steps in a row */
    uint32_t scale, scale_steps; /* log2 of the loss scale, and steps that it has held */
};

struct tally {
    struct steps steps;
    struct evaluation *progressive; /* NULL: not asked for */
    bool has_scale;
    struct sums history[HISTORY_MAX];
    uint32_t history_count; /* the newest is the last */
    uint32_t history_keep;
    uint64_t evaluated; /* steps up to here are in `progressive` */
    Paramd__Report report;
    struct str state, metrics;
};

enum err tally_create(const struct job *job, const struct steps *steps, uint32_t output_width,
                      struct tally **out)
{
    struct tally *p = must_alloc(sizeof *p);
    p->steps = *steps;
    p->history_keep = steps->pipeline_depth + 2;
    CHECK(p->history_keep <= HISTORY_MAX);
    p->history_count = 1;
    p->has_scale = job->train.precision == PRECISION_FP16;
    p->history[0].scale = p->has_scale ? SCALE_FIRST : 0;
    if (job->eval.progressive) {
        /* Per group every example would have to be kept and sent. */
        uint32_t metrics = job->eval.metrics & ~(1u << METRIC_GAUC);
        enum err e = evaluation_create(job->model.loss, output_width, metrics, &p->progressive);
        if (e != ERR_NONE) {
            mem_free(p);
            return e;
        }
    }
    *out = p;
    return ERR_NONE;
}

void tally_destroy(struct tally *p)
{
    if (p == NULL)
        return;
    evaluation_destroy(p->progressive);
    str_deinit(&p->state);
    str_deinit(&p->metrics);
    mem_free(p);
}

static struct sums *newest(struct tally *p)
{
    return &p->history[p->history_count - 1];
}

/* ---- as bytes: version, count, sums oldest first; little-endian ---- */

static void encode(const struct tally *p, struct str *out)
{
    uint32_t head[2] = {STATE_VERSION, p->history_count};
    str_clear(out);
    str_append_span(out, span_make((const char *)head, sizeof head));
    str_append_span(out,
                    span_make((const char *)p->history, p->history_count * sizeof p->history[0]));
}

/* The sums after step `acked`, and the step that was reported; false: these bytes do not have them.
 */
static bool decode(const ProtobufCBinaryData *bytes, uint64_t acked, struct sums *out,
                   uint64_t *reported)
{
    uint32_t head[2];
    struct sums sums;
    bool found = false;
    if (bytes->len < sizeof head)
        return false;
    memcpy(head, bytes->data, sizeof head);
    if (head[0] != STATE_VERSION || head[1] > HISTORY_MAX ||
        bytes->len != sizeof head + head[1] * sizeof sums)
        return false;
    for (uint32_t i = 0; i < head[1]; i++) {
        memcpy(&sums, bytes->data + sizeof head + i * sizeof sums, sizeof sums);
        *reported = sums.step;
        if (sums.step == acked && sums.scale <= SCALE_MOST) {
            *out = sums;
            found = true;
        }
    }
    return found;
}

/* The progressive evaluation as of a drain point; steps up to it are not counted again. */
static void restore_evaluation(struct tally *p, const Paramd__Report *report, uint64_t reported)
{
    if (p->progressive == NULL || report->metrics.len == 0)
        return;
    if (steps_is_drain(&p->steps, reported) && reported > p->evaluated)
        p->evaluated = reported;
    if (evaluation_decode(p->progressive, report->metrics.data, report->metrics.len) != ERR_NONE) {
        log_warn("tally", "progressive evaluation begins anew: %s", err_text());
        evaluation_clear(p->progressive);
    }
}

/* Of a report from a checkpoint, which keeps no state but this; SCALE_FIRST: nothing is said. */
static uint32_t scale_of(const struct tally *p, const Paramd__Report *report)
{
    uint64_t scale = report->loss_scale >> 32;
    if (!p->has_scale)
        return 0;
    return scale > 0 && scale <= SCALE_MOST + 1 ? (uint32_t)scale - 1 : SCALE_FIRST;
}

void tally_restore(struct tally *p, uint64_t acked, const Paramd__Report *report)
{
    struct sums sums = {.step = acked, .scale = p->has_scale ? SCALE_FIRST : 0};
    uint64_t reported = acked;
    p->history_count = 1;
    p->evaluated = acked;
    if (p->progressive != NULL)
        evaluation_clear(p->progressive);
    if (report != NULL && !decode(&report->rank_state, acked, &sums, &reported))
        sums = (struct sums){.step = acked,
                             .examples = report->examples,
                             .loss = report->loss_sum,
                             .weight = report->weight_sum,
                             .skipped = report->skipped,
                             .scale = scale_of(p, report),
                             .scale_steps = p->has_scale ? (uint32_t)report->loss_scale : 0};
    *newest(p) = sums;
    if (report != NULL)
        restore_evaluation(p, report, reported);
}

/* ---- counting ---- */

/* Saturates: a loss that has run away stays large, and nothing overflows. */
static int64_t fixed(double value)
{
    double scaled = value * FIXED_POINT;
    if (!(scaled > -0x1p60))
        return isnan(scaled) ? 0 : -(INT64_C(1) << 60);
    return scaled < 0x1p60 ? llrint(scaled) : INT64_C(1) << 60;
}

static int64_t add_saturating(int64_t a, int64_t b)
{
    int64_t sum;
    if (!__builtin_add_overflow(a, b, &sum))
        return sum;
    return b > 0 ? INT64_MAX : INT64_MIN;
}

static enum err evaluate(struct tally *p, const struct tally_step *s)
{
    const struct batch *b = s->batch;
    if (p->progressive == NULL || s->step <= p->evaluated)
        return ERR_NONE;
    p->evaluated = s->step;
    if (s->step == 1 || steps_is_epoch_end(&p->steps, s->step - 1))
        evaluation_clear(p->progressive);
    if (s->skipped || b->example_count == 0)
        return ERR_NONE;
    return evaluation_add(p->progressive, s->logits, s->labels != NULL ? s->labels : b->labels,
                          b->weights, b->groups, b->example_count);
}

static void change_scale(struct sums *now, bool skipped)
{
    now->scale_steps = skipped ? 0 : now->scale_steps + 1;
    if (skipped && now->scale > 0)
        now->scale--;
    if (now->scale_steps < SCALE_STEPS)
        return;
    now->scale_steps = 0;
    now->scale += now->scale < SCALE_MOST;
}

enum err tally_count(struct tally *p, const struct tally_step *s)
{
    struct sums now = *newest(p);
    if (s->step <= now.step)
        return ERR_NONE;
    now.step = s->step;
    now.examples += s->batch->example_count;
    now.skipped = s->skipped ? now.skipped + 1 : 0;
    if (p->has_scale && s->batch->example_count > 0)
        change_scale(&now, s->skipped);
    if (!s->skipped && s->batch->example_count > 0) {
        now.loss = add_saturating(now.loss, fixed(s->loss));
        now.weight = add_saturating(now.weight, fixed(s->batch->weight_sum));
    }
    if (p->history_count == p->history_keep)
        memmove(&p->history[0], &p->history[1], --p->history_count * sizeof p->history[0]);
    p->history[p->history_count++] = now;
    return evaluate(p, s);
}

float tally_loss_scale(const struct tally *p)
{
    return (float)(1u << p->history[p->history_count - 1].scale);
}

uint64_t tally_skipped(const struct tally *p)
{
    return p->history[p->history_count - 1].skipped;
}

const Paramd__Report *tally_report(struct tally *p)
{
    const struct sums *now = newest(p);
    encode(p, &p->state);
    str_clear(&p->metrics);
    if (p->progressive != NULL && steps_is_drain(&p->steps, now->step))
        evaluation_encode(p->progressive, &p->metrics);
    paramd__report__init(&p->report);
    p->report.examples = now->examples;
    p->report.loss_sum = now->loss;
    p->report.weight_sum = now->weight;
    p->report.skipped = now->skipped;
    if (p->has_scale)
        p->report.loss_scale = (uint64_t)(now->scale + 1) << 32 | now->scale_steps;
    p->report.rank_state = (ProtobufCBinaryData){p->state.size, (uint8_t *)p->state.data};
    p->report.metrics = (ProtobufCBinaryData){p->metrics.size, (uint8_t *)p->metrics.data};
    return &p->report;
}
