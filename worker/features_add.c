/*
 * features_add.c - one record into the rows.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/check.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/mem.h"
#include "worker/features_internal.h"

static int shown(struct span text)
{
    return text.size < 60 ? (int)text.size : 60;
}

static bool is_missing(struct span text)
{
    return text.data == NULL || text.size == 0;
}

/* ---- terms ----------------------------------------------------------------------------------- */

/* From here on the table has values; those so far are 1. */
static enum err begin_values(struct rows_table *t)
{
    if (!mem_grow(t->values, t->value_capacity, t->key_capacity))
        return ERR_MEMORY;
    for (size_t i = 0; i < t->term_count; i++)
        t->values[i] = 1;
    t->has_values = true;
    return ERR_NONE;
}

static enum err add_term(struct rows_table *t, uint64_t key, float value)
{
    size_t n = t->term_count + 1;
    if (n > t->key_capacity && !mem_grow(t->keys, t->key_capacity, n))
        return ERR_MEMORY;
    if (value != 1 && !t->has_values) {
        enum err e = begin_values(t);
        if (e != ERR_NONE)
            return e;
    }
    if (t->has_values) {
        if (n > t->value_capacity && !mem_grow(t->values, t->value_capacity, n))
            return ERR_MEMORY;
        t->values[n - 1] = value;
    }
    t->keys[n - 1] = mix64(key);
    t->term_count = n;
    return ERR_NONE;
}

static void observe_key(const struct feature_input *in, const struct feature *x, uint64_t key)
{
    const struct features_observer *o = in->call->observer;
    if (o != NULL && o->key != NULL)
        o->key(o->context, x->index, key);
}

/*
 * Looks up the values of all features that look one up, so that the look-ups overlap: first they
 * wait for memory together, then no branch depends on their outcome.
 */
static void look_up(const struct feature_input *in, struct rows *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < in->f->count; i++) {
        const struct feature *x = &in->f->items[i];
        if (x->lookup == NULL || is_missing(in->record->fields[x->field]))
            continue;
        struct span text = in->record->fields[x->field];
        uint64_t key = feature_hash(x, text.data, text.size);
        keyset_prefetch(x->lookup, key);
        rows->lookups[i].key = key;
        rows->order[count++] = i;
    }
    for (uint32_t k = 0; k < count; k++) {
        const struct feature *x = &in->f->items[rows->order[k]];
        struct rows_lookup *l = &rows->lookups[rows->order[k]];
        uint64_t passes = keyset_has(x->lookup, l->key) | (l->key == x->missing_key);
        l->final_key = x->unknown_key ^ ((x->unknown_key ^ l->key) & -passes);
    }
}

static enum err add_single(const struct feature_input *in, const struct feature *x,
                           const struct rows *rows, struct rows_table *t)
{
    uint64_t key;
    bool missing;
    if (x->lookup != NULL && !is_missing(in->record->fields[x->field])) {
        observe_key(in, x, rows->lookups[x->index].key);
        return add_term(t, rows->lookups[x->index].final_key, 1);
    }
    enum err e = feature_single_key(in, x, &key, &missing);
    if (e != ERR_NONE)
        return e;
    if (missing)
        return x->job->missing == MISSING_ZERO ? ERR_NONE : add_term(t, x->missing_key, 1);
    observe_key(in, x, key);
    return add_term(t, feature_final_key(in->f, x, key), 1);
}

static enum err add_cross(const struct feature_input *in, const struct feature *x,
                          struct rows_table *t)
{
    uint64_t parts[3], key;
    for (uint32_t i = 0; i < x->spec->cross_count; i++) {
        const struct feature *part = &in->f->items[x->spec->cross_parts[i]];
        bool missing;
        /* What a part says to an observer it says for itself. */
        struct features_call call = *in->call;
        call.observer = NULL;
        struct feature_input quiet = {in->f, &call, in->record};
        enum err e = feature_single_key(&quiet, part, &parts[i], &missing);
        if (e != ERR_NONE)
            return e;
        if (missing && part->job->missing == MISSING_ZERO)
            return ERR_NONE;
        if (missing)
            parts[i] = part->missing_key;
    }
    key = feature_hash(x, parts, x->spec->cross_count * sizeof *parts);
    observe_key(in, x, key);
    return add_term(t, feature_final_key(in->f, x, key), 1);
}

static enum err add_number(const struct feature_input *in, const struct feature *x,
                           struct rows_table *t)
{
    double value;
    bool missing;
    enum err e = feature_number(in, x, &value, &missing);
    if (e != ERR_NONE)
        return e;
    if (fabs(value) > FLT_MAX)
        return feature_error(in, x, in->record->fields[x->field], "%g is too large a value", value);
    e = add_term(t, x->number_key, (float)value);
    if (e == ERR_NONE && missing && x->job->missing_flag)
        e = add_term(t, x->missing_key, 1);
    return e;
}

/* ---- several values -------------------------------------------------------------------------- */

/* The pooling's factor, into the values from `first` on. */
static enum err scale_terms(const struct feature *x, struct rows_table *t, size_t first)
{
    size_t n = t->term_count - first;
    if (n < 2 || (x->job->pooling != POOLING_MEAN && x->job->pooling != POOLING_SQRTN))
        return ERR_NONE;
    enum err e = t->has_values ? ERR_NONE : begin_values(t);
    if (e != ERR_NONE)
        return e;
    double scale = x->job->pooling == POOLING_MEAN ? 1.0 / (double)n : 1.0 / sqrt((double)n);
    for (size_t i = first; i < t->term_count; i++)
        t->values[i] = (float)(t->values[i] * scale);
    return ERR_NONE;
}

/* "tag:0.7": takes the weight off. */
static enum err split_weight(const struct feature_input *in, const struct feature *x,
                             struct span *value, float *weight)
{
    const char *at = memrchr(value->data, x->job->value_weights, value->size);
    double number;
    *weight = 1;
    if (at == NULL)
        return ERR_NONE;
    struct span text = span_make(at + 1, value->size - (size_t)(at + 1 - value->data));
    if (!reader_number(span_trim(text), &number) || fabs(number) > FLT_MAX)
        return feature_error(in, x, *value, "the weight in '%.*s' is not a number", shown(*value),
                             value->data);
    *weight = (float)number;
    value->size = (size_t)(at - value->data);
    return ERR_NONE;
}

static enum err add_many(const struct feature_input *in, const struct feature *x, struct rows *rows,
                         struct rows_table *t)
{
    struct span rest = in->record->fields[x->field];
    size_t first = t->term_count, count = 0;
    while (!is_missing(rest)) {
        const char *stop = memchr(rest.data, x->job->separator, rest.size);
        struct span value =
            span_make(rest.data, stop != NULL ? (size_t)(stop - rest.data) : rest.size);
        size_t step = value.size + (stop != NULL);
        rest.data += step;
        rest.size -= step;
        if (value.size == 0)
            continue;
        if (count == x->job->max_values) {
            rows->cut_values++;
            continue;
        }
        float weight = 1;
        uint64_t key;
        enum err e = x->job->value_weights != 0 ? split_weight(in, x, &value, &weight) : ERR_NONE;
        if (e == ERR_NONE)
            e = feature_text_key(in, x, value, &key);
        if (e != ERR_NONE)
            return e;
        observe_key(in, x, key);
        e = add_term(t, feature_final_key(in->f, x, key), weight);
        if (e != ERR_NONE)
            return e;
        count++;
    }
    if (count > 0)
        return scale_terms(x, t, first);
    const struct features_observer *o = in->call->observer;
    if (o != NULL && o->missing != NULL)
        o->missing(o->context, x->index);
    if (x->job->missing == MISSING_ERROR)
        return feature_error(in, x, in->record->fields[x->field], "the value is missing");
    return x->job->missing == MISSING_ZERO ? ERR_NONE : add_term(t, x->missing_key, 1);
}

/* Terms of libsvm and libffm; `field` chooses for libffm. */
static enum err add_entries(const struct feature_input *in, const struct feature *x, uint32_t field,
                            struct rows *rows, struct rows_table *t)
{
    const struct record *record = in->record;
    size_t first = t->term_count, count = 0;
    for (uint32_t i = 0; i < record->entry_count; i++) {
        const struct record_entry *entry = &record->entries[i];
        if (entry->field != field)
            continue;
        if (count++ >= x->job->max_values) {
            rows->cut_values++;
            continue;
        }
        uint64_t key = feature_index_key(x, entry->index);
        observe_key(in, x, key);
        enum err e = add_term(t, feature_final_key(in->f, x, key), entry->value);
        if (e != ERR_NONE)
            return e;
    }
    return scale_terms(x, t, first);
}

/* ---- dense inputs ---------------------------------------------------------------------------- */

static enum err put_vector(const struct feature_input *in, const struct feature *x, float *out)
{
    struct span text = in->record->fields[x->field], rest = text;
    uint32_t length = x->job->length, count = 0;
    if (is_missing(text)) {
        if (x->job->missing == MISSING_ERROR)
            return feature_error(in, x, text, "the value is missing");
        for (uint32_t i = 0; i < length; i++)
            out[i] = (float)x->job->missing_number;
        return ERR_NONE;
    }
    for (bool more = true; more; count++) {
        const char *stop = memchr(rest.data, x->job->separator, rest.size);
        struct span value =
            span_make(rest.data, stop != NULL ? (size_t)(stop - rest.data) : rest.size);
        double number;
        more = stop != NULL;
        rest.data += value.size + more;
        rest.size -= value.size + more;
        if (!reader_number(span_trim(value), &number) || fabs(number) > FLT_MAX)
            return feature_error(in, x, value,
                                 "'%.*s' is not a number of a vector of %u with '%c' "
                                 "between them (separator, length)",
                                 shown(value), value.data, length, x->job->separator);
        if (count < length)
            out[count] = (float)number;
    }
    if (count != length)
        return feature_error(in, x, text, "%u numbers, but length is %u", count, length);
    return ERR_NONE;
}

static enum err put_bytes(const struct feature_input *in, const struct feature *x, float *out)
{
    const struct record *record = in->record;
    if (record->byte_count != x->job->length)
        return feature_error(in, x, (struct span){0},
                             "images of %u values, but length is %u; set features.%s.length",
                             record->byte_count, x->job->length, x->job->name);
    for (uint32_t i = 0; i < record->byte_count; i++)
        out[i] = (float)record->bytes[i] / 255.0f;
    return ERR_NONE;
}

static enum err put_number(const struct feature_input *in, const struct feature *x, float *out)
{
    double value;
    bool missing;
    enum err e = feature_number(in, x, &value, &missing);
    if (e != ERR_NONE)
        return e;
    if (fabs(value) > FLT_MAX)
        return feature_error(in, x, in->record->fields[x->field], "%g is too large a value", value);
    out[0] = (float)value;
    if (x->job->missing_flag)
        out[1] = missing;
    return ERR_NONE;
}

static enum err put_dense(const struct feature_input *in, const struct feature *x, float *dense)
{
    if (x->spec->dense_width == 0)
        return ERR_NONE;
    float *out = dense + x->spec->dense_offset;
    if (x->job->type != FEATURE_VECTOR)
        return put_number(in, x, out);
    return in->record->bytes != NULL ? put_bytes(in, x, out) : put_vector(in, x, out);
}

/* ---- label, weight, time --------------------------------------------------------------------- */

static bool holds(const struct compare *c, double number, struct span text, bool is_number)
{
    bool equal = c->is_number && is_number ? number == c->number : span_equal(text, c->text);
    switch (c->operator[0]) {
    case '>':
        return number > c->number || (c->operator[1] == '=' && number == c->number);
    case '<':
        return number < c->number || (c->operator[1] == '=' && number == c->number);
    case '!':
        return !equal;
    default:
        return equal;
    }
}

static enum err label_error(const struct feature_input *in, struct span text, const char *what)
{
    return reader_error(in->call->reader, text.data, "label '%.*s' %s", shown(text), text.data,
                        what);
}

/* The loss of the outputs that learn label `index`. */
static enum loss_type loss_of_label(const struct job_model *m, uint32_t index)
{
    for (size_t i = 0; i < m->output_count; i++)
        if (m->outputs[i].label_index == index)
            return m->outputs[i].loss;
    return m->loss;
}

/* Label 0 is data.label; those after it are more_labels. */
static enum err read_label(const struct feature_input *in, uint32_t index, float *out)
{
    const struct features *f = in->f;
    const struct job *job = f->options.job;
    uint32_t field = index == 0 ? f->label_field : f->more_label_fields[index - 1];
    enum loss_type loss = loss_of_label(&job->model, index);
    bool has_name = job->data.format == FORMAT_CSV && field != NO_FIELD;
    struct span text = (struct span){0};
    if (field != NO_FIELD && in->record->fields[field].data != NULL)
        text = span_trim(in->record->fields[field]);
    double value = 0;
    *out = 0;
    if (is_missing(text))
        return f->options.label_optional
                   ? ERR_NONE
                   : reader_error(in->call->reader, NULL, "the label is missing%s%s%s",
                                  has_name ? " in column '" : "",
                                  has_name ? f->options.columns[field] : "", has_name ? "'" : "");
    bool is_number = reader_number(text, &value);
    if (f->positive.given && index == 0) {
        if (!is_number && f->positive.operator[1] != '=' && f->positive.is_number)
            return label_error(in, text, "is not a number");
        if (!is_number && (f->positive.operator[0] == '<' || f->positive.operator[0] == '>'))
            return label_error(in, text, "is not a number");
        *out = holds(&f->positive, value, text, is_number);
        return ERR_NONE;
    }
    if (!is_number)
        return label_error(in, text, "is not a number; positive: \"== …\" makes one of text");
    if (loss == LOSS_LOGISTIC && value == -1)
        value = 0;
    if (loss == LOSS_LOGISTIC && value != 0 && value != 1)
        return label_error(in, text, "is not 0, 1 or -1; positive: \">= …\" makes it so");
    if (loss == LOSS_SOFTMAX && (value != floor(value) || value < 0 || value >= job->model.classes))
        return label_error(in, text, "is not a class; they are 0 to model.classes - 1");
    if (fabs(value) > FLT_MAX)
        return label_error(in, text, "is too large");
    *out = (float)value;
    return ERR_NONE;
}

static enum err read_weight(const struct feature_input *in, float *out)
{
    *out = 1;
    if (in->f->weight_field == NO_FIELD)
        return ERR_NONE;
    struct span text = in->record->fields[in->f->weight_field];
    double value = 0;
    if (is_missing(text) && in->f->options.label_optional)
        return ERR_NONE;
    if (is_missing(text))
        return reader_error(in->call->reader, NULL, "the weight is missing");
    if (!reader_number(span_trim(text), &value) || value < 0 || value > FLT_MAX)
        return reader_error(in->call->reader, text.data, "weight '%.*s' is not a number from 0 on",
                            shown(text), text.data);
    *out = (float)value;
    return ERR_NONE;
}

static enum err read_time(const struct feature_input *in, int64_t *out)
{
    *out = 0;
    if (in->f->time_field == NO_FIELD)
        return ERR_NONE;
    struct span text = in->record->fields[in->f->time_field];
    if (is_missing(text) && in->f->options.label_optional)
        return ERR_NONE;
    if (is_missing(text))
        return reader_error(in->call->reader, NULL, "the time is missing");
    if (!features_parse_time(text, out))
        return reader_error(in->call->reader, text.data,
                            "'%.*s' is not a time; epoch seconds, milliseconds or ISO 8601",
                            shown(text), text.data);
    return ERR_NONE;
}

static bool is_eval(const struct feature_input *in, int64_t time)
{
    const struct features *f = in->f;
    if (in->call->for_eval)
        return true;
    if (f->split_field != NO_FIELD) {
        struct span text = in->record->fields[f->split_field];
        return hash64(text.data != NULL ? text.data : "", text.size, f->split_seed) <
               f->split_below;
    }
    return f->options.has_time_split && time >= f->options.time_split_ms;
}

/* ---- a record -------------------------------------------------------------------------------- */

static enum err reserve_example(struct rows *r)
{
    size_t n = (size_t)r->count + 1;
    bool fits =
        mem_grow(r->labels, r->label_capacity, n) && mem_grow(r->weights, r->weight_capacity, n) &&
        mem_grow(r->evals, r->eval_capacity, n) &&
        (r->more_label_count == 0 ||
         mem_grow(r->more_labels, r->more_label_capacity, n * r->more_label_count)) &&
        (r->dense_width == 0 || mem_grow(r->dense, r->dense_capacity, n * r->dense_width)) &&
        (!r->has_groups || mem_grow(r->groups, r->group_capacity, n)) &&
        (!r->has_times || mem_grow(r->times, r->time_capacity, n));
    for (uint32_t t = 0; t < r->table_count && fits; t++)
        fits = mem_grow(r->tables[t].ends, r->tables[t].end_capacity, n * r->tables[t].slot_count);
    return fits ? ERR_NONE : ERR_MEMORY;
}

static enum err add_scalars(const struct feature_input *in, struct rows *r)
{
    const struct features *f = in->f;
    int64_t time;
    enum err e = read_label(in, 0, &r->labels[r->count]);
    float *more = r->more_labels + (size_t)r->count * r->more_label_count;
    for (uint32_t i = 0; i < r->more_label_count && e == ERR_NONE; i++)
        e = read_label(in, i + 1, &more[i]);
    if (e == ERR_NONE)
        e = read_weight(in, &r->weights[r->count]);
    if (e == ERR_NONE)
        e = read_time(in, &time);
    if (e != ERR_NONE)
        return e;
    r->has_weights = r->has_weights || r->weights[r->count] != 1;
    if (r->has_times)
        r->times[r->count] = time;
    r->evals[r->count] = is_eval(in, time);
    if (r->has_groups) {
        struct span text = in->record->fields[f->group_field];
        r->groups[r->count] = hash64(text.data != NULL ? text.data : "", text.size, 0);
    }
    return ERR_NONE;
}

static enum err add_terms(const struct feature_input *in, const struct feature *x,
                          struct rows *rows)
{
    struct rows_table *t = &rows->tables[x->spec->table];
    size_t before = t->term_count;
    enum err e;
    if (in->f->of_libffm_field != NULL)
        e = add_entries(in, x, (uint32_t)(x->field), rows, t);
    else if (in->f->options.job->data.format == FORMAT_LIBSVM)
        e = add_entries(in, x, 0, rows, t);
    else if (x->spec->cross_count > 0)
        e = add_cross(in, x, t);
    else if (!x->spec->acts_categorical)
        e = add_number(in, x, t);
    else if (x->job->multi_valued)
        e = add_many(in, x, rows, t);
    else
        e = add_single(in, x, rows, t);
    if (e != ERR_NONE)
        return e;
    CHECK(t->term_count <= UINT32_MAX);
    t->ends[(size_t)rows->count * t->slot_count + x->spec->slot] = (uint32_t)t->term_count;
    t->uniform = t->uniform && t->term_count == before + 1;
    return ERR_NONE;
}

enum err features_add(const struct features *f, const struct features_call *call,
                      const struct record *record, struct rows *rows)
{
    struct feature_input in = {f, call, record};
    CHECK(rows->count < DATA_BLOCK_RECORDS || f->options.label_optional);
    enum err e = reserve_example(rows);
    if (e == ERR_NONE)
        e = add_scalars(&in, rows);
    float *dense = rows->dense + (size_t)rows->count * rows->dense_width;
    look_up(&in, rows);
    for (uint32_t i = 0; i < f->count && e == ERR_NONE; i++) {
        const struct feature *x = &f->items[f->order[i]];
        e = x->spec->gives_terms ? add_terms(&in, x, rows) : put_dense(&in, x, dense);
    }
    for (uint32_t t = 0; t < rows->table_count; t++) {
        if (e == ERR_NONE)
            rows->tables[t].committed_terms = rows->tables[t].term_count;
        rows->tables[t].term_count = rows->tables[t].committed_terms;
    }
    rows->count += e == ERR_NONE;
    return e;
}
