#include "worker/features.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/storage.h"
#include "worker/features_internal.h"

#define VOCAB_FILE_MAX (1u << 30)

/* ---- columns --------------------------------------------------------------------------------- */

static uint32_t field_of(const struct features_options *o, const char *name)
{
    for (uint32_t i = 0; name != NULL && i < o->column_count; i++) {
        if (strcmp(o->columns[i], name) == 0)
            return i;
    }
    return NO_FIELD;
}

/* A column that the job names and the files must have. */
static enum err find_column(const struct features_options *o, const char *setting, const char *name,
                            bool optional, uint32_t *out)
{
    *out = field_of(o, name);
    if (name == NULL || *out != NO_FIELD || optional)
        return ERR_NONE;
    const char **candidates = must_alloc((o->column_count + 1) * sizeof *candidates);
    for (uint32_t i = 0; i < o->column_count; i++)
        candidates[i] = o->columns[i];
    const char *nearest = str_nearest(name, candidates);
    mem_free(candidates);
    return err_set(ERR_INPUT, "%s: the data has no column '%s'%s%s%s", setting, name,
                   nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                   nearest != NULL ? "'?" : "");
}

static enum err find_columns(struct features *f)
{
    const struct features_options *o = &f->options;
    const struct job_data *d = &o->job->data;
    bool optional = o->label_optional;
    enum err e = ERR_NONE;
    f->label_field = 0; /* of formats with fixed columns */
    if (d->format == FORMAT_CSV)
        e = find_column(o, "data.label", d->label, optional, &f->label_field);
    const struct text_list *more = &o->job->model.more_labels;
    f->more_label_fields = must_alloc((more->count + 1) * sizeof *f->more_label_fields);
    for (size_t i = 0; i < more->count && e == ERR_NONE; i++)
        e = find_column(o, "model.outputs", more->items[i], optional, &f->more_label_fields[i]);
    if (e == ERR_NONE)
        e = find_column(o, "data.weight", d->weight, optional, &f->weight_field);
    if (e == ERR_NONE)
        e = find_column(o, "data.time", d->time, optional, &f->time_field);
    if (e == ERR_NONE)
        e = find_column(o, "eval.metrics: gauc", o->job->eval.gauc_column, optional,
                        &f->group_field);
    f->split_field = NO_FIELD;
    if (e == ERR_NONE && d->split.kind == SPLIT_HASH)
        e = find_column(o, "data.split.column", d->split.column, optional, &f->split_field);
    f->id_count = (uint32_t)d->id.count;
    f->id_fields = must_alloc(f->id_count * sizeof *f->id_fields);
    for (uint32_t i = 0; i < f->id_count && e == ERR_NONE; i++)
        e = find_column(o, "data.id", d->id.items[i], !optional, &f->id_fields[i]);
    return e;
}

static void prepare_split(struct features *f)
{
    double fraction = f->options.job->data.split.eval_fraction;
    f->split_seed = hash64("split", 5, 0);
    f->split_below = (uint64_t)(fraction * 0x1p64);
}

static enum err prepare_positive(struct features *f)
{
    const struct job_data *d = &f->options.job->data;
    struct compare *c = &f->positive;
    c->given = d->positive.compare[0] != '\0';
    if (!c->given)
        return ERR_NONE;
    c->operator= d->positive.compare;
    c->text = span_of(d->positive.value);
    c->is_number = reader_number(c->text, &c->number);
    bool orders = c->operator[0] == '<' || c->operator[0] == '>';
    if (orders && !c->is_number)
        return err_set(ERR_INPUT, "data.label.positive: '%s' is not a number to compare with",
                       d->positive.value);
    return ERR_NONE;
}

/* ---- vocabularies ---------------------------------------------------------------------------- */

struct key_list {
    uint64_t *keys;
    size_t count, capacity;
};

static enum err add_key(struct key_list *list, uint64_t key)
{
    if (!mem_grow(list->keys, list->capacity, list->count + 1))
        return ERR_MEMORY;
    list->keys[list->count++] = key;
    return ERR_NONE;
}

/* One value a line. */
static enum err read_vocab_file(const struct feature *x, struct key_list *list)
{
    char *text;
    size_t size;
    enum err e = storage_read_all(x->job->vocab_file, VOCAB_FILE_MAX, &text, &size);
    if (e != ERR_NONE)
        return err_prefix(e, "vocab of feature '%s'", x->spec->name);
    for (size_t at = 0; at < size && e == ERR_NONE;) {
        const char *stop = memchr(text + at, '\n', size - at);
        size_t length = stop != NULL ? (size_t)(stop - text) - at : size - at,
               next = at + length + 1;
        if (length > 0 && text[at + length - 1] == '\r')
            length--;
        if (length > 0)
            e = add_key(list, feature_hash(x, text + at, length));
        at = next;
    }
    mem_free(text);
    return e;
}

static enum err load_vocab(struct feature *x)
{
    struct key_list list = {0};
    enum err e = ERR_NONE;
    x->has_vocab = x->job->vocab.count > 0 || x->job->vocab_file != NULL;
    if (!x->has_vocab)
        return ERR_NONE;
    for (size_t i = 0; i < x->job->vocab.count && e == ERR_NONE; i++)
        e = add_key(&list, feature_hash(x, x->job->vocab.items[i], strlen(x->job->vocab.items[i])));
    if (e == ERR_NONE && x->job->vocab_file != NULL)
        e = read_vocab_file(x, &list);
    if (e == ERR_NONE)
        e = keyset_init(&x->vocab, list.keys, list.count);
    mem_free(list.keys);
    return e;
}

static enum err load_index(struct feature *x, const struct dataindex *index)
{
    x->mean = 0;
    x->deviation = 1;
    if (index == NULL)
        return ERR_NONE;
    if (x->index < index->feature_count) {
        x->mean = index->means[x->index];
        x->deviation = index->deviations[x->index] > 0 ? index->deviations[x->index] : 1;
    }
    if (x->job->min_count <= 1)
        return ERR_NONE;
    for (uint32_t i = 0; i < index->vocab_count; i++) {
        if (index->vocabs[i].feature != x->index)
            continue;
        x->has_min_count = true;
        return keyset_init(&x->frequent, index->vocabs[i].keys, index->vocabs[i].count);
    }
    return err_set(ERR_REFUSED, "the data index has no counts of feature '%s', which has min_count",
                   x->spec->name);
}

/* ---- features -------------------------------------------------------------------------------- */

static enum err init_feature(struct features *f, uint32_t index)
{
    const struct features_options *o = &f->options;
    struct feature *x = &f->items[index];
    x->spec = &o->spec->features[index];
    x->job = x->spec->job;
    x->index = index;
    x->missing_key = feature_hash(x, "", 0);
    x->unknown_key = feature_hash(x, KEY_UNKNOWN_TEXT, 1);
    x->number_key = feature_hash(x, KEY_NUMBER_TEXT, 1);
    x->field = NO_FIELD;
    enum data_format format = o->job->data.format;
    if (x->spec->cross_count == 0 && (format == FORMAT_CSV || format == FORMAT_CRITEO)) {
        enum err e = find_column(o, x->spec->name, x->spec->column, false, &x->field);
        if (e != ERR_NONE)
            return err_prefix(e, "features");
    }
    enum err e = load_vocab(x);
    if (e == ERR_NONE)
        e = load_index(x, o->index);
    bool one = x->field != NO_FIELD && x->job->type == FEATURE_CATEGORICAL &&
               x->spec->gives_terms && !x->job->multi_valued && x->job->key == KEY_HASH &&
               x->job->buckets == 0 && x->has_vocab != x->has_min_count;
    if (one)
        x->lookup = x->has_vocab ? &x->vocab : &x->frequent;
    return e;
}

/* libffm's features are named f0, f1, …: their field is the number. */
static enum err number_fields(struct features *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        const char *name = f->items[i].spec->name;
        uint64_t field;
        if (name[0] != 'f' || str_parse_u64(span_of(name + 1), &field) != ERR_NONE ||
            field >= FEATURE_MAX)
            return err_set(ERR_INPUT, "features: '%s' is not a field of libffm", name);
        f->items[i].field = (uint32_t)field;
        if (field >= f->libffm_field_count)
            f->libffm_field_count = (uint32_t)field + 1;
    }
    f->of_libffm_field = must_alloc(f->libffm_field_count * sizeof *f->of_libffm_field);
    memset(f->of_libffm_field, 0xff, f->libffm_field_count * sizeof *f->of_libffm_field);
    for (uint32_t i = 0; i < f->count; i++)
        f->of_libffm_field[f->items[i].field] = i;
    return ERR_NONE;
}

static int by_table_and_slot(const void *a, const void *b, void *context)
{
    const struct feature *items = context;
    const struct feature *x = &items[*(const uint32_t *)a], *y = &items[*(const uint32_t *)b];
    if (x->spec->gives_terms != y->spec->gives_terms)
        return x->spec->gives_terms ? -1 : 1;
    if (x->spec->gives_terms && x->spec->table != y->spec->table)
        return x->spec->table < y->spec->table ? -1 : 1;
    if (x->spec->gives_terms && x->spec->slot != y->spec->slot)
        return x->spec->slot < y->spec->slot ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

enum err features_create(const struct features_options *o, struct features **out)
{
    struct features *f = must_alloc(sizeof *f);
    f->options = *o;
    f->count = (uint32_t)o->spec->feature_count;
    f->items = must_alloc(f->count * sizeof *f->items);
    f->order = must_alloc(f->count * sizeof *f->order);
    if (o->index != NULL && o->job->data.split.kind == SPLIT_TIME) {
        f->options.has_time_split = true;
        f->options.time_split_ms = o->index->time_split_ms;
    }
    enum err e = find_columns(f);
    prepare_split(f);
    if (e == ERR_NONE)
        e = prepare_positive(f);
    for (uint32_t i = 0; i < f->count && e == ERR_NONE; i++) {
        f->order[i] = i;
        e = init_feature(f, i);
    }
    if (e == ERR_NONE && o->job->data.format == FORMAT_LIBFFM)
        e = number_fields(f);
    if (e != ERR_NONE) {
        features_destroy(f);
        return e;
    }
    for (uint32_t i = 0; i < LOG2_FLOOR_KNOWN; i++)
        f->log2_floor[i] = (float)feature_log2_floor(i);
    qsort_r(f->order, f->count, sizeof *f->order, by_table_and_slot, f->items);
    *out = f;
    return ERR_NONE;
}

void features_destroy(struct features *f)
{
    if (f == NULL)
        return;
    for (uint32_t i = 0; i < f->count; i++) {
        keyset_deinit(&f->items[i].vocab);
        keyset_deinit(&f->items[i].frequent);
    }
    mem_free(f->items);
    mem_free(f->more_label_fields);
    mem_free(f->order);
    mem_free(f->of_libffm_field);
    mem_free(f->id_fields);
    mem_free(f);
}

const uint32_t *features_id_fields(const struct features *f, uint32_t *count_out)
{
    *count_out = f->id_count;
    return f->id_fields;
}

uint32_t features_of_field(const struct features *f, uint32_t field)
{
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->items[i].field == field)
            return i;
    }
    return NO_FIELD;
}

/* ---- rows ------------------------------------------------------------------------------------ */

void rows_init(const struct features *f, struct rows *r)
{
    const struct features_spec *spec = f->options.spec;
    *r = (struct rows){.table_count = (uint32_t)spec->table_count,
                       .dense_width = spec->dense_width,
                       .more_label_count = (uint32_t)f->options.job->model.more_labels.count,
                       .has_groups = f->group_field != NO_FIELD,
                       .has_times = f->time_field != NO_FIELD};
    CHECK(r->table_count <= TABLE_MAX);
    r->lookups = must_alloc((f->count + 1) * sizeof *r->lookups);
    r->order = must_alloc((f->count + 1) * sizeof *r->order);
    r->tables = must_alloc(r->table_count * sizeof *r->tables);
    for (uint32_t t = 0; t < r->table_count; t++)
        r->tables[t].slot_count = spec->tables[t].slot_count;
    rows_clear(r);
}

void rows_clear(struct rows *r)
{
    r->count = 0;
    r->cut_values = 0;
    r->has_weights = false;
    for (uint32_t t = 0; t < r->table_count; t++) {
        r->tables[t].term_count = r->tables[t].committed_terms = 0;
        r->tables[t].has_values = false;
        r->tables[t].uniform = true;
    }
}

void rows_deinit(struct rows *r)
{
    for (uint32_t t = 0; t < r->table_count; t++) {
        mem_free(r->tables[t].keys);
        mem_free(r->tables[t].values);
        mem_free(r->tables[t].ends);
    }
    mem_free(r->tables);
    mem_free(r->labels);
    mem_free(r->more_labels);
    mem_free(r->weights);
    mem_free(r->dense);
    mem_free(r->groups);
    mem_free(r->times);
    mem_free(r->evals);
    mem_free(r->lookups);
    mem_free(r->order);
    *r = (struct rows){0};
}
