#include "worker/exchange_internal.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"

static void wanted_clear(struct wanted *w)
{
    buf_unref(w->owner);
    w->owner = NULL;
}

void exchange_step_release(struct step *s)
{
    buf_unref(s->keys_area);
    buf_unref(s->values_area);
    buf_unref(s->gradients_area);
    s->keys_area = s->values_area = s->gradients_area = NULL;
    wanted_clear(&s->wanted);
    s->is_used = s->has_batch = s->has_push = s->has_report = false;
}

/* Gives every step of the ring its arrays of pointers, once. */
void exchange_steps_make(struct exchange *x, struct rank *r)
{
    uint32_t tables = x->options.schema->table_count, dense = x->options.schema->dense_count;
    /* From the oldest unanswered push, d before the newest, to the last batch pulled, d + 1 after
     * it. */
    r->step_count = 2 * x->options.steps.pipeline_depth + 4;
    r->steps = must_alloc(r->step_count * sizeof *r->steps);
    size_t each = 5 * (size_t)tables + 2 * (size_t)dense;
    r->pointers = must_alloc((each * r->step_count + 1) * sizeof *r->pointers);
    for (uint32_t i = 0; i < r->step_count; i++) {
        struct step *s = &r->steps[i];
        void **at = r->pointers + i * each;
        s->keys = (uint64_t **)at;
        s->rows = (float **)(at + tables);
        s->row_gradients = (float **)(at + 2 * tables);
        s->wanted.keys = (const uint64_t **)(at + 3 * tables);
        s->key_counts = (uint32_t *)(at + 4 * tables); /* two counts in the place of a pointer */
        s->wanted.counts = s->key_counts + tables;
        s->dense = (float **)(at + 5 * tables);
        s->dense_gradients = s->dense + dense;
    }
}

struct step *exchange_step(const struct rank *r, uint64_t seq)
{
    struct step *s = &r->steps[seq % r->step_count];
    return s->is_used && s->seq == seq ? s : NULL;
}

struct step *exchange_step_make(struct rank *r, uint64_t seq)
{
    struct step *s = &r->steps[seq % r->step_count];
    if (s->is_used && s->seq == seq)
        return s;
    CHECK(!s->is_used);
    s->is_used = true;
    s->seq = seq;
    return s;
}

/* The ascending union of the keys of a table in batches first … last; returns its size. */
static uint32_t unite(const struct rank *r, uint32_t table, uint64_t first, uint64_t last,
                      uint64_t *out)
{
    uint32_t places[PIPELINE_DEPTH_MAX + 1] = {0};
    uint32_t count = 0;
    for (;;) {
        bool found = false;
        uint64_t key = 0;
        for (uint64_t b = first; b <= last; b++) {
            const struct step *s = exchange_step(r, b);
            uint32_t at = places[b - first];
            if (at < s->key_counts[table] && (!found || s->keys[table][at] < key)) {
                key = s->keys[table][at];
                found = true;
            }
        }
        if (!found)
            return count;
        for (uint64_t b = first; b <= last; b++) {
            const struct step *s = exchange_step(r, b);
            uint32_t at = places[b - first];
            if (at < s->key_counts[table] && s->keys[table][at] == key)
                places[b - first]++;
        }
        out[count++] = key;
    }
}

static enum err want_union(struct exchange *x, struct rank *r, struct step *s)
{
    uint32_t tables = x->options.schema->table_count;
    struct area_cutter size = {0};
    for (uint32_t t = 0; t < tables; t++) {
        size_t most = 0;
        for (uint64_t b = s->pull_first; b <= s->pull_last; b++)
            most += exchange_step(r, b)->key_counts[t];
        (void)area_cut(&size, most, sizeof(uint64_t));
        s->wanted.counts[t] = (uint32_t)most;
    }
    s->wanted.owner = area_take(x->areas, size.offset);
    if (s->wanted.owner == NULL)
        return ERR_MEMORY;
    struct area_cutter cutter = {.base = buf_data(s->wanted.owner)};
    for (uint32_t t = 0; t < tables; t++) {
        uint64_t *keys = area_cut(&cutter, s->wanted.counts[t], sizeof(uint64_t));
        s->wanted.counts[t] = unite(r, t, s->pull_first, s->pull_last, keys);
        s->wanted.keys[t] = keys;
    }
    return ERR_NONE;
}

/* Room for the values of a batch. */
static enum err make_values(struct exchange *x, struct step *s)
{
    const struct schema *schema = x->options.schema;
    struct area_cutter size = {0};
    for (uint32_t t = 0; t < schema->table_count; t++)
        (void)area_cut(&size, (size_t)s->key_counts[t] * schema->tables[t].dim, sizeof(float));
    for (uint32_t p = 0; p < schema->dense_count; p++)
        (void)area_cut(&size, schema->dense[p].count, sizeof(float));
    s->values_area = area_take(x->areas, size.offset);
    if (s->values_area == NULL)
        return ERR_MEMORY;
    struct area_cutter cutter = {.base = buf_data(s->values_area)};
    for (uint32_t t = 0; t < schema->table_count; t++)
        s->rows[t] =
            area_cut(&cutter, (size_t)s->key_counts[t] * schema->tables[t].dim, sizeof(float));
    for (uint32_t p = 0; p < schema->dense_count; p++)
        s->dense[p] = area_cut(&cutter, schema->dense[p].count, sizeof(float));
    return ERR_NONE;
}

/* Decides what the push-pull of `s` pulls, and makes room for the answer. */
enum err exchange_step_pull(struct exchange *x, struct rank *r, struct step *s)
{
    uint32_t tables = x->options.schema->table_count;
    session_batches_pulled(r->session, s->seq, &s->pull_first, &s->pull_last);
    s->wanted.dense = false;
    memset(s->wanted.counts, 0, tables * sizeof *s->wanted.counts);
    if (s->pull_first > s->pull_last)
        return ERR_NONE;
    enum err e = ERR_NONE;
    for (uint64_t b = s->pull_first; b <= s->pull_last && e == ERR_NONE; b++) {
        struct step *batch = exchange_step(r, b);
        CHECK(batch != NULL && batch->has_batch);
        if (batch->is_empty)
            continue;
        s->wanted.dense = true;
        /* Batches that were trained on before this session need no values again. */
        if (b > session_acked(r->session))
            e = make_values(x, batch);
    }
    if (e != ERR_NONE)
        return e;
    if (s->pull_first < s->pull_last)
        return want_union(x, r, s);
    struct step *batch = exchange_step(r, s->pull_first);
    s->wanted.owner = buf_ref(batch->keys_area);
    for (uint32_t t = 0; t < tables; t++) {
        s->wanted.keys[t] = batch->keys[t];
        s->wanted.counts[t] = batch->key_counts[t];
    }
    return ERR_NONE;
}

/* Room for the gradients of a batch: as its values. */
enum err exchange_step_gradients(struct exchange *x, struct step *s)
{
    const struct schema *schema = x->options.schema;
    struct area_cutter size = {0};
    for (uint32_t t = 0; t < schema->table_count; t++)
        (void)area_cut(&size, (size_t)s->key_counts[t] * schema->tables[t].dim, sizeof(float));
    for (uint32_t p = 0; p < schema->dense_count; p++)
        (void)area_cut(&size, schema->dense[p].count, sizeof(float));
    s->gradients_area = area_take(x->areas, size.offset);
    if (s->gradients_area == NULL)
        return ERR_MEMORY;
    struct area_cutter cutter = {.base = buf_data(s->gradients_area)};
    for (uint32_t t = 0; t < schema->table_count; t++)
        s->row_gradients[t] =
            area_cut(&cutter, (size_t)s->key_counts[t] * schema->tables[t].dim, sizeof(float));
    for (uint32_t p = 0; p < schema->dense_count; p++)
        s->dense_gradients[p] = area_cut(&cutter, schema->dense[p].count, sizeof(float));
    return ERR_NONE;
}

void exchange_step_report(struct step *s, const Paramd__Report *report)
{
    s->has_report = report != NULL;
    if (report == NULL)
        return;
    s->report = *report;
    str_clear(&s->rank_state);
    str_append_span(&s->rank_state,
                    span_make((char *)report->rank_state.data, report->rank_state.len));
    str_clear(&s->metrics);
    str_append_span(&s->metrics, span_make((char *)report->metrics.data, report->metrics.len));
    s->report.cursor = (ProtobufCBinaryData){0};
    s->report.rank_state = (ProtobufCBinaryData){s->rank_state.size, (uint8_t *)s->rank_state.data};
    s->report.metrics = (ProtobufCBinaryData){s->metrics.size, (uint8_t *)s->metrics.data};
}
