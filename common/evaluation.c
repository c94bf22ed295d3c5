#include "common/evaluation.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/evaluation_internal.h"
#include "common/fmath.h"
#include "common/mem.h"

#define SUM_UNIT     0x1p48
#define SUM_TERM_MAX 0x1p40 /* what one example can add; 2^39 of them fit in 128 bits */
#define WEIGHT_UNIT  0x1p24
#define WEIGHT_MAX   0x1p38

#define JUDGED_AT_ONCE 64u

static bool asks(const struct evaluation *e, uint32_t kinds)
{
    return (e->metrics & kinds) != 0;
}

/* ---- lifetime ------------------------------------------------------------------------------- */

enum err evaluation_create(enum loss_type loss, uint32_t output_width, uint32_t metrics,
                           struct evaluation **out)
{
    CHECK(output_width >= 1 && (loss == LOSS_SOFTMAX || output_width == 1));
    struct evaluation *e = mem_calloc(1, sizeof *e);
    if (e == NULL)
        return ERR_MEMORY;
    e->loss = loss;
    e->output_width = output_width;
    e->metrics = metrics;
    bool failed = false;
    if (loss == LOSS_LOGISTIC && asks(e, 1u << METRIC_AUC))
        failed = (e->bins = mem_calloc(BIN_COUNT, sizeof *e->bins)) == NULL;
    if (!failed && loss == LOSS_LOGISTIC && asks(e, 1u << METRIC_GAUC))
        failed = (e->gauc = mem_calloc(1, sizeof *e->gauc)) == NULL;
    if (failed) {
        evaluation_destroy(e);
        return ERR_MEMORY;
    }
    *out = e;
    return ERR_NONE;
}

void evaluation_destroy(struct evaluation *e)
{
    if (e == NULL)
        return;
    mem_free(e->bins);
    if (e->gauc != NULL)
        mem_free(e->gauc->entries);
    mem_free(e->gauc);
    mem_free(e);
}

void evaluation_clear(struct evaluation *e)
{
    e->examples = 0;
    e->invalid = false;
    memset(e->sums, 0, sizeof e->sums);
    if (e->bins != NULL)
        memset(e->bins, 0, BIN_COUNT * sizeof *e->bins);
    if (e->gauc != NULL)
        e->gauc->count = e->gauc->sorted = 0;
}

/* ---- adding --------------------------------------------------------------------------------- */

uint64_t saturating_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* Only sums that no examples can make reach the ends. */
static void sum_add(__int128 *sum, __int128 term)
{
    __int128 total;
    if (__builtin_add_overflow(*sum, term, &total))
        total = term < 0 ? (__int128)1 << 127 : ~((__int128)1 << 127);
    *sum = total;
}

static __int128 to_fixed(double term)
{
    if (term > SUM_TERM_MAX)
        term = SUM_TERM_MAX;
    if (term < -SUM_TERM_MAX)
        term = -SUM_TERM_MAX;
    double scaled = term * SUM_UNIT;
    scaled = scaled < 0 ? scaled - 0.5 : scaled + 0.5;
    /* Nearly all fit into 64 bits, and that conversion is an instruction, not a call. */
    return scaled > -0x1p62 && scaled < 0x1p62 ? (int64_t)scaled : (__int128)scaled;
}

static uint64_t to_weight(float weight)
{
    double w = (double)weight < WEIGHT_MAX ? (double)weight : WEIGHT_MAX;
    return (uint64_t)(w * WEIGHT_UNIT + 0.5);
}

/* Exponent and first bits of the mantissa stand side by side in a float, so its bits are the bin.
 */
static uint32_t bin_of(float logit)
{
    uint32_t bits = fmath_bits(logit);
    uint32_t magnitude = (bits & 0x7fffffffu) >> (23 - BIN_MANTISSA_BITS);
    uint32_t smallest = (127u - 12u) << BIN_MANTISSA_BITS;
    uint32_t distance = magnitude < smallest ? 0 : magnitude - smallest + 1;
    if (distance > BIN_SIDE)
        distance = BIN_SIDE;
    return bits >> 31 ? BIN_SIDE - distance : BIN_SIDE + distance;
}

enum err gauc_reserve(struct gauc *g, size_t count)
{
    if (count > GAUC_ENTRY_MAX - g->count)
        gauc_compact(g);
    if (count > GAUC_ENTRY_MAX - g->count)
        return err_set(ERR_LIMIT,
                       "gauc keeps every example of the evaluation, %u at most; set eval.examples "
                       "or leave gauc out",
                       GAUC_ENTRY_MAX);
    return mem_grow(g->entries, g->capacity, g->count + count) ? ERR_NONE : ERR_MEMORY;
}

void gauc_append(struct gauc *g, const struct gauc_entry *entry)
{
    CHECK(g->count < g->capacity);
    g->entries[g->count++] = *entry;
}

static int compare_entries(const void *a, const void *b)
{
    const struct gauc_entry *x = a, *y = b;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->key < y->key ? -1 : x->key > y->key;
}

void gauc_compact(struct gauc *g)
{
    if (g->sorted == g->count)
        return;
    qsort(g->entries, g->count, sizeof *g->entries, compare_entries);
    size_t kept = 0;
    for (size_t i = 0; i < g->count; i++) {
        struct gauc_entry *last = kept > 0 ? &g->entries[kept - 1] : NULL;
        const struct gauc_entry *next = &g->entries[i];
        if (last != NULL && compare_entries(last, next) == 0) {
            uint64_t count = (uint64_t)last->count + next->count;
            last->count = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
            last->weight = saturating_add(last->weight, next->weight);
        } else {
            g->entries[kept++] = *next;
        }
    }
    g->count = g->sorted = kept;
}

static enum err check_examples(const struct evaluation *e, const float *labels,
                               const float *weights, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float y = labels[i], w = weights[i];
        if (!(w >= 0 && w <= 0x1.fffffep127f))
            return err_set(ERR_INPUT, "example %u has weight %g; a weight is a number from 0", i,
                           (double)w);
        if (e->loss == LOSS_LOGISTIC && !(y >= 0 && y <= 1))
            return err_set(ERR_INPUT, "example %u has label %g; loss logistic needs one in [0, 1]",
                           i, (double)y);
        if (e->loss == LOSS_SOFTMAX &&
            !(y >= 0 && y < (float)e->output_width && y == (float)(uint32_t)y))
            return err_set(ERR_INPUT,
                           "example %u has label %g; loss softmax needs a class from 0 "
                           "to %u",
                           i, (double)y, e->output_width - 1);
        if (y != y || y - y != 0)
            return err_set(ERR_INPUT, "example %u has label %g; a label is a finite number", i,
                           (double)y);
    }
    return ERR_NONE;
}

/* Of so many examples at a time: loss, and prediction and whether it is right where that has a
 * meaning. */
struct outcomes {
    double loss[JUDGED_AT_ONCE], prediction[JUDGED_AT_ONCE];
    bool correct[JUDGED_AT_ONCE];
};

/* Loops that become vector instructions; an example's result does not depend on its neighbours. */
static void judge_logistic(const struct evaluation *e, const float *restrict logits,
                           const float *restrict labels, uint32_t n, struct outcomes *restrict o)
{
    bool with_loss = asks(e, 1u << METRIC_LOG_LOSS | 1u << METRIC_NE | 1u << METRIC_OBJECTIVE);
    for (uint32_t i = 0; i < n; i++)
        o->prediction[i] = 1.0 / (1.0 + fmath_exp64(-(double)logits[i]));
    for (uint32_t i = 0; i < n; i++)
        o->correct[i] = (logits[i] > 0) == (labels[i] > 0.5f);
    for (uint32_t i = 0; i < n; i++)
        o->loss[i] = with_loss ? fmath_logistic_loss(logits[i], labels[i]) : 0;
}

static void judge_squared(const float *logits, const float *labels, uint32_t n, struct outcomes *o)
{
    for (uint32_t i = 0; i < n; i++) {
        o->loss[i] = fmath_squared_loss(logits[i], labels[i]);
        o->prediction[i] = (double)logits[i];
        o->correct[i] = false;
    }
}

static void judge_softmax(const float *logits, uint32_t width, const float *labels, uint32_t n,
                          struct outcomes *o)
{
    for (uint32_t i = 0; i < n; i++, logits += width) {
        uint32_t class_index = (uint32_t)labels[i], best = 0;
        for (uint32_t j = 1; j < width; j++)
            best = logits[j] > logits[best] ? j : best;
        o->loss[i] = fmath_softmax_loss(logits, width, class_index);
        o->prediction[i] = 0;
        o->correct[i] = best == class_index;
    }
}

static void judge(const struct evaluation *e, const float *logits, const float *labels, uint32_t n,
                  struct outcomes *out)
{
    if (e->loss == LOSS_LOGISTIC)
        judge_logistic(e, logits, labels, n, out);
    else if (e->loss == LOSS_SQUARED)
        judge_squared(logits, labels, n, out);
    else
        judge_softmax(logits, e->output_width, labels, n, out);
}

static void add_sums(struct evaluation *e, const struct outcomes *o, uint32_t i, float label,
                     float weight)
{
    double w = (double)weight, y = (double)label;
    double error = o->prediction[i] - y;
    sum_add(&e->sums[SUM_WEIGHT], to_fixed(w));
    sum_add(&e->sums[SUM_LOSS], to_fixed(w * o->loss[i]));
    if (o->correct[i])
        sum_add(&e->sums[SUM_CORRECT], to_fixed(w));
    if (e->loss == LOSS_SOFTMAX)
        return;
    sum_add(&e->sums[SUM_SQUARE], to_fixed(w * (error * error)));
    sum_add(&e->sums[SUM_ABSOLUTE], to_fixed(w * (error < 0 ? -error : error)));
    sum_add(&e->sums[SUM_PREDICTION], to_fixed(w * o->prediction[i]));
    sum_add(&e->sums[SUM_LABEL], to_fixed(w * y));
}

static bool are_numbers(const float *logits, uint32_t width)
{
    bool good = true;
    for (uint32_t j = 0; j < width; j++)
        good = good && logits[j] == logits[j];
    return good;
}

/* The example's place in the histograms. */
static void add_bin(struct evaluation *e, float logit, float label, float weight,
                    const uint64_t *group)
{
    uint32_t bin = bin_of(logit);
    bool positive = label > 0.5f;
    uint64_t units = to_weight(weight);
    if (e->bins != NULL) {
        uint64_t *sum = positive ? &e->bins[bin].positive : &e->bins[bin].negative;
        *sum = saturating_add(*sum, units);
    }
    if (e->gauc != NULL && group != NULL) {
        struct gauc_entry entry = {*group, bin * 2 + positive, 1, units};
        gauc_append(e->gauc, &entry);
    }
}

static void add_some(struct evaluation *e, const float *logits, const float *labels,
                     const float *weights, const uint64_t *groups, uint32_t n)
{
    struct outcomes o;
    for (uint32_t i = 0; e->bins != NULL && i < n; i++) /* there is one logit an example then */
        __builtin_prefetch(&e->bins[bin_of(logits[i])], 1);
    judge(e, logits, labels, n, &o);
    for (uint32_t i = 0; i < n; i++) {
        const float *z = logits + (size_t)i * e->output_width;
        e->examples++;
        if (weights[i] == 0)
            continue;
        if (!are_numbers(z, e->output_width)) {
            e->invalid = true;
            continue;
        }
        add_sums(e, &o, i, labels[i], weights[i]);
        if (e->bins != NULL || e->gauc != NULL)
            add_bin(e, *z, labels[i], weights[i], groups != NULL ? &groups[i] : NULL);
    }
}

enum err evaluation_add(struct evaluation *e, const float *logits, const float *labels,
                        const float *weights, const uint64_t *groups, uint32_t n)
{
    enum err err = check_examples(e, labels, weights, n);
    if (err == ERR_NONE && e->gauc != NULL && groups != NULL)
        err = gauc_reserve(e->gauc, n);
    if (err != ERR_NONE)
        return err;
    for (uint32_t at = 0; at < n; at += JUDGED_AT_ONCE)
        add_some(e, logits + (size_t)at * e->output_width, labels + at, weights + at,
                 groups != NULL ? groups + at : NULL,
                 n - at < JUDGED_AT_ONCE ? n - at : JUDGED_AT_ONCE);
    return ERR_NONE;
}

enum err evaluation_merge(struct evaluation *into, const struct evaluation *from)
{
    CHECK(into != from);
    if (into->loss != from->loss || into->output_width != from->output_width ||
        into->metrics != from->metrics)
        return err_set(ERR_INPUT,
                       "evaluation of loss %d, %u outputs, metrics %#x cannot be added to "
                       "one of loss %d, %u outputs, metrics %#x",
                       (int)from->loss, from->output_width, from->metrics, (int)into->loss,
                       into->output_width, into->metrics);
    if (from->gauc != NULL) {
        enum err err = gauc_reserve(into->gauc, from->gauc->count);
        if (err != ERR_NONE)
            return err;
        for (size_t i = 0; i < from->gauc->count; i++)
            gauc_append(into->gauc, &from->gauc->entries[i]);
    }
    into->examples = saturating_add(into->examples, from->examples);
    into->invalid = into->invalid || from->invalid;
    for (uint32_t i = 0; i < SUM_COUNT; i++)
        sum_add(&into->sums[i], from->sums[i]);
    for (uint32_t i = 0; into->bins != NULL && i < BIN_COUNT; i++) {
        into->bins[i].negative = saturating_add(into->bins[i].negative, from->bins[i].negative);
        into->bins[i].positive = saturating_add(into->bins[i].positive, from->bins[i].positive);
    }
    return ERR_NONE;
}

/* ---- metrics -------------------------------------------------------------------------------- */

uint64_t evaluation_examples(const struct evaluation *e)
{
    return e->examples;
}

/* Twice the area under the curve times P N, exactly: pairs in order count 2, ties 1. */
struct area {
    unsigned __int128 doubled;
    unsigned __int128 negative, positive;
};

static void area_add(struct area *a, uint64_t negative, uint64_t positive)
{
    a->doubled += positive * (2 * a->negative + negative);
    a->negative += negative;
    a->positive += positive;
}

static bool area_value(const struct area *a, double *out)
{
    if (a->negative == 0 || a->positive == 0)
        return false;
    *out = (double)a->doubled / (double)(2 * a->negative * a->positive);
    return true;
}

/* Weights are halved until their products fit. */
static uint32_t area_shift(unsigned __int128 total)
{
    uint32_t shift = 0;
    while (total >> shift >= (unsigned __int128)1 << 62)
        shift++;
    return shift;
}

static bool metric_auc(const struct evaluation *e, double *out)
{
    if (e->bins == NULL)
        return false;
    unsigned __int128 total = 0;
    for (uint32_t i = 0; i < BIN_COUNT; i++)
        total += (unsigned __int128)e->bins[i].negative + e->bins[i].positive;
    uint32_t shift = area_shift(total);
    struct area area = {0};
    for (uint32_t i = 0; i < BIN_COUNT; i++)
        area_add(&area, e->bins[i].negative >> shift, e->bins[i].positive >> shift);
    return area_value(&area, out);
}

/* The group that begins at `first`; gives its end. */
static size_t group_area(const struct gauc *g, size_t first, uint64_t *examples, bool *defined,
                         double *value)
{
    size_t end = first;
    unsigned __int128 total = 0;
    *examples = 0;
    for (; end < g->count && g->entries[end].group == g->entries[first].group; end++) {
        total += g->entries[end].weight;
        *examples += g->entries[end].count;
    }
    uint32_t shift = area_shift(total);
    struct area area = {0};
    for (size_t i = first; i < end; i++) {
        const struct gauc_entry *x = &g->entries[i];
        uint64_t weight = x->weight >> shift, other = 0;
        /* The negative half of a bin comes first; its positive half must be added with it. */
        bool pair = i + 1 < end && (x->key & 1) == 0 && g->entries[i + 1].key == x->key + 1;
        if (pair)
            other = g->entries[++i].weight >> shift;
        if (x->key & 1)
            area_add(&area, 0, weight);
        else
            area_add(&area, weight, other);
    }
    *defined = area_value(&area, value);
    return end;
}

static bool metric_gauc(const struct evaluation *e, double *out)
{
    if (e->gauc == NULL)
        return false;
    gauc_compact(e->gauc);
    double sum = 0;
    uint64_t examples = 0;
    for (size_t i = 0; i < e->gauc->count;) {
        uint64_t in_group;
        bool defined;
        double value;
        i = group_area(e->gauc, i, &in_group, &defined, &value);
        if (defined) {
            sum += (double)in_group * value;
            examples += in_group;
        }
    }
    if (examples == 0)
        return false;
    *out = sum / (double)examples;
    return true;
}

static double sum_of(const struct evaluation *e, enum evaluation_sum sum)
{
    return (double)e->sums[sum];
}

/* Mean log loss over the entropy of the mean label. */
static bool metric_ne(const struct evaluation *e, double *out)
{
    double p = sum_of(e, SUM_LABEL) / sum_of(e, SUM_WEIGHT);
    if (e->loss != LOSS_LOGISTIC || !(p > 0 && p < 1))
        return false;
    double entropy = -(p * fmath_log64(p) + (1.0 - p) * fmath_log64(1.0 - p));
    *out = sum_of(e, SUM_LOSS) / sum_of(e, SUM_WEIGHT) / entropy;
    return entropy > 0;
}

static bool metric_of_sums(const struct evaluation *e, enum metric_kind kind, double *out)
{
    double weight = sum_of(e, SUM_WEIGHT);
    bool numeric = e->loss != LOSS_SOFTMAX;
    switch (kind) {
    case METRIC_OBJECTIVE:
        *out = sum_of(e, SUM_LOSS) / weight;
        return true;
    case METRIC_LOG_LOSS:
        *out = sum_of(e, SUM_LOSS) / weight;
        return e->loss != LOSS_SQUARED;
    case METRIC_ACCURACY:
        *out = sum_of(e, SUM_CORRECT) / weight;
        return e->loss != LOSS_SQUARED;
    case METRIC_RMSE:
        *out = __builtin_sqrt(sum_of(e, SUM_SQUARE) / weight);
        return numeric;
    case METRIC_MAE:
        *out = sum_of(e, SUM_ABSOLUTE) / weight;
        return numeric;
    case METRIC_CALIBRATION:
        *out = sum_of(e, SUM_PREDICTION) / sum_of(e, SUM_LABEL);
        return numeric && e->sums[SUM_LABEL] != 0;
    case METRIC_NE:
        return metric_ne(e, out);
    case METRIC_AUC:
        return metric_auc(e, out);
    case METRIC_GAUC:
        return metric_gauc(e, out);
    case METRIC_COUNT:
        break;
    }
    return false;
}

bool evaluation_metric(const struct evaluation *e, enum metric_kind kind, double *out)
{
    double value;
    if (e->invalid || e->sums[SUM_WEIGHT] <= 0 || !asks(e, 1u << kind) ||
        !metric_of_sums(e, kind, &value))
        return false;
    *out = value;
    return true;
}

/* The bits of a double, taken as an integer, are in the numbers' order, the negative ones reversed.
 */
int64_t evaluation_rank_key(const struct evaluation *e, enum metric_kind kind)
{
    double value;
    if (!evaluation_metric(e, kind, &value))
        return INT64_MIN;
    if (kind == METRIC_CALIBRATION)
        value = value < 1.0 ? value - 1.0 : 1.0 - value;
    else if (!metric_higher_is_better(kind))
        value = -value;
    uint64_t bits = fmath_bits64(value + 0.0);
    return (int64_t)(bits >> 63 ? bits ^ 0x7fffffffffffffffull : bits);
}
