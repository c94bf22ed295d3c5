#include "worker/staging.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "worker/area.h"

#define COPY_BYTES ((size_t)1 << 20) /* of one piece of work */

/* One piece of memory of the device and its pinned image. */
struct stage {
    char *there, *here;
    size_t capacity;
};

struct slot {
    struct stage stage;
    const struct batch *of; /* whose arrays it holds, with … */
    uint64_t step;          /* … its step: memory of batches is used again */
    uint32_t rank;
    struct batch view;         /* addresses of the device */
    struct batch_table *terms; /* [table_count] view.tables */
    struct compute_cuts *cuts; /* [table_count] */
};

struct staging {
    struct device *device;
    const struct model *model;
    uint32_t max_examples, table_count, dense_count;
    uint64_t allocations;
    struct slot slots[2];
    const struct slot *opened; /* of the pass that was opened last */
    struct stage values, gradients;
    /* of the pass that was opened last */
    size_t gradient_bytes;
    size_t *row_bytes;            /* [table_count] */
    struct compute_table *tables; /* this and what follows: addresses of the device */
    struct batch_table *terms;
    float **rows, **row_gradients; /* [table_count] */
    float **dense, **dense_gradients;
};

/* ---- areas ----------------------------------------------------------------------------------- */

static void stage_deinit(struct staging *s, struct stage *stage)
{
    s->device->compute->free(s->device, stage->there);
    s->device->compute->host_free(s->device, stage->here);
    *stage = (struct stage){0};
}

/* What is in it is lost when it grows: nothing may be on its way. */
static enum err stage_reserve(struct staging *s, struct stage *stage, size_t size)
{
    if (size <= stage->capacity)
        return ERR_NONE;
    const struct compute *c = s->device->compute;
    c->join(s->device); /* a fence alone waits for operations, not for uploads */
    enum err err = c->fence(s->device);
    if (err != ERR_NONE)
        return err;
    size_t capacity = stage->capacity == 0 ? size : size + size / 4;
    stage_deinit(s, stage);
    s->allocations++;
    stage->there = c->alloc(s->device, capacity);
    stage->here = stage->there != NULL ? c->host_alloc(s->device, capacity) : NULL;
    if (stage->here == NULL) {
        stage_deinit(s, stage);
        return ERR_MEMORY;
    }
    stage->capacity = capacity;
    return ERR_NONE;
}

struct long_copy {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_piece(void *context, uint32_t index, uint32_t thread)
{
    const struct long_copy *c = context;
    size_t first = (size_t)index * COPY_BYTES, left = c->bytes - first;
    memcpy(c->to + first, c->from + first, left < COPY_BYTES ? left : COPY_BYTES);
}

/* Rows are many megabytes: more than one core copies in the time of a step. */
static void copy_long(struct staging *s, void *to, const void *from, size_t bytes)
{
    struct long_copy c = {to, from, bytes};
    pool_run(s->device->pool, (uint32_t)((bytes + COPY_BYTES - 1) / COPY_BYTES), copy_piece, &c);
}

/* An array in both; count 0: NULL. Copies `from`, if it is given, into the pinned image. */
static void *place(struct area_cutter *cutter, const struct stage *stage, const void *from,
                   size_t count, size_t size)
{
    size_t at = cutter->offset;
    (void)area_cut(cutter, count, size);
    if (stage->there == NULL || count == 0)
        return NULL;
    if (from != NULL)
        memcpy(stage->here + at, from, count * size);
    return stage->there + at;
}

/* ---- rows of many terms ---------------------------------------------------------------------- */

static uint32_t parts_of(uint32_t terms)
{
    return terms > COMPUTE_PART_TERMS ? (terms + COMPUTE_PART_TERMS - 1) / COMPUTE_PART_TERMS : 0;
}

static void count_cuts(const struct batch_table *b, struct compute_cuts *cuts)
{
    cuts->part_count = cuts->long_count = 0;
    for (uint32_t row = 0; row < b->key_count; row++) {
        uint32_t parts = parts_of(b->by_row_offsets[row + 1] - b->by_row_offsets[row]);
        cuts->part_count += parts;
        cuts->long_count += parts > 0;
    }
}

static void write_cuts(const struct batch_table *b, struct compute_part *part,
                       struct compute_long_row *longs)
{
    uint32_t at = 0;
    for (uint32_t row = 0; row < b->key_count; row++) {
        uint32_t first = b->by_row_offsets[row], end = b->by_row_offsets[row + 1];
        uint32_t parts = parts_of(end - first);
        if (parts == 0)
            continue;
        *longs++ = (struct compute_long_row){row, at, at + parts};
        at += parts;
        for (; first < end; first += COMPUTE_PART_TERMS) {
            uint32_t left = end - first;
            *part++ = (struct compute_part){
                row, first, left > COMPUTE_PART_TERMS ? first + COMPUTE_PART_TERMS : end};
        }
    }
}

/* ---- a batch's arrays ------------------------------------------------------------------------ */

static void pack_table(struct slot *slot, struct area_cutter *cutter, const struct batch *b,
                       uint32_t t)
{
    const struct batch_table *from = &b->tables[t];
    const struct stage *stage = &slot->stage;
    struct batch_table *to = &slot->terms[t];
    struct compute_cuts *cuts = &slot->cuts[t];
    size_t cells = (size_t)b->example_count * from->slot_count;
    size_t weighted = from->values != NULL ? from->term_count : 0;
    *to = *from;
    to->keys = NULL;
    to->offsets = place(cutter, stage, from->offsets, cells + 1, sizeof *from->offsets);
    to->ids = place(cutter, stage, from->ids, from->term_count, sizeof *from->ids);
    to->values = place(cutter, stage, from->values, weighted, sizeof *from->values);
    to->by_row_offsets = place(cutter, stage, from->by_row_offsets, (size_t)from->key_count + 1,
                               sizeof *from->by_row_offsets);
    to->by_row_cells =
        place(cutter, stage, from->by_row_cells, from->term_count, sizeof *from->by_row_cells);
    to->by_row_values =
        place(cutter, stage, from->by_row_values, weighted, sizeof *from->by_row_values);
    size_t at = cutter->offset;
    cuts->parts = place(cutter, stage, NULL, cuts->part_count, sizeof *cuts->parts);
    size_t longs_at = cutter->offset;
    cuts->longs = place(cutter, stage, NULL, cuts->long_count, sizeof *cuts->longs);
    if (stage->here != NULL)
        write_cuts(from, (struct compute_part *)(stage->here + at),
                   (struct compute_long_row *)(stage->here + longs_at));
}

/* -> the size of all; *upload_out: of what is uploaded. With a stage of no memory: sizes alone. */
static size_t pack(struct staging *s, struct slot *slot, const struct batch *b, size_t *upload_out)
{
    struct area_cutter cutter = {0};
    size_t n = b->example_count;
    struct batch *view = &slot->view;
    *view = *b;
    view->labels = place(&cutter, &slot->stage, b->labels, n, sizeof(float));
    view->more_labels =
        place(&cutter, &slot->stage, b->more_labels, n * b->more_label_count, sizeof(float));
    view->weights = place(&cutter, &slot->stage, b->weights, n, sizeof(float));
    view->dense = place(&cutter, &slot->stage, b->dense, n * b->dense_width, sizeof(float));
    view->groups = NULL;
    view->arena = NULL;
    view->tables = slot->terms;
    for (uint32_t t = 0; t < s->table_count; t++)
        pack_table(slot, &cutter, b, t);
    *upload_out = cutter.offset;
    for (uint32_t t = 0; t < s->table_count; t++)
        slot->cuts[t].sums = place(&cutter, &slot->stage, NULL, slot->cuts[t].part_count,
                                   (s->model->schema->tables[t].dim + 2) * sizeof(float));
    return cutter.offset;
}

/* Of a batch of max_examples, one term a slot. */
static size_t usual_size(const struct staging *s)
{
    struct area_cutter c = {0};
    size_t n = s->max_examples;
    (void)area_cut(&c, n * (s->model->dense_width + 4), sizeof(float));
    for (uint32_t t = 0; t < s->table_count; t++) {
        size_t terms = n * s->model->slot_count[t], parts = terms / (COMPUTE_PART_TERMS / 2) + 1;
        (void)area_cut(&c, 6 * (terms + 32), sizeof(float));
        (void)area_cut(&c, parts, sizeof(struct compute_part) + sizeof(struct compute_long_row));
        (void)area_cut(&c, parts, (s->model->schema->tables[t].dim + 2) * sizeof(float));
    }
    return c.offset;
}

static struct slot *find_slot(struct staging *s, const struct batch *b)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct slot *slot = &s->slots[i];
        if (slot->of == b && slot->step == b->step && slot->rank == b->rank)
            return slot;
    }
    return NULL;
}

static enum err send_batch(struct staging *s, const struct batch *b, struct slot **out)
{
    /* Never the one that is computed from. */
    struct slot *slot = s->opened != &s->slots[0] ? &s->slots[0] : &s->slots[1];
    size_t upload;
    slot->of = NULL;
    for (uint32_t t = 0; t < s->table_count; t++)
        count_cuts(&b->tables[t], &slot->cuts[t]);
    struct stage stage = slot->stage;
    slot->stage = (struct stage){0};
    size_t size = pack(s, slot, b, &upload);
    slot->stage = stage;
    enum err err = stage_reserve(s, &slot->stage, size);
    if (err != ERR_NONE)
        return err_prefix(err, "arrays of a batch");
    (void)pack(s, slot, b, &upload);
    s->device->compute->upload(s->device, slot->stage.there, slot->stage.here, upload);
    slot->of = b;
    slot->step = b->step;
    slot->rank = b->rank;
    *out = slot;
    return ERR_NONE;
}

enum err staging_send(struct staging *s, const struct batch *b)
{
    struct slot *slot;
    CHECK(b->table_count == s->table_count);
    if (b->example_count == 0 || find_slot(s, b) != NULL)
        return ERR_NONE;
    return send_batch(s, b, &slot);
}

/* ---- values and gradients -------------------------------------------------------------------- */

/* Gradients lie as the rows and dense values do. */
static size_t lay_values(struct staging *s, const struct batch *b,
                         const struct network_values *values)
{
    const struct schema *schema = s->model->schema;
    const struct stage *stage = &s->values;
    struct area_cutter cutter = {0};
    s->tables = place(&cutter, stage, NULL, s->table_count, sizeof *s->tables);
    s->terms = place(&cutter, stage, NULL, s->table_count, sizeof *s->terms);
    size_t rows_at = cutter.offset;
    for (uint32_t t = 0; t < s->table_count; t++) {
        s->row_bytes[t] = (size_t)b->tables[t].key_count * schema->tables[t].dim * sizeof(float);
        size_t at = cutter.offset;
        s->rows[t] = place(&cutter, stage, NULL, s->row_bytes[t], 1);
        if (s->rows[t] != NULL)
            copy_long(s, stage->here + at, values->rows[t], s->row_bytes[t]);
    }
    for (uint32_t p = 0; p < s->dense_count; p++)
        s->dense[p] =
            place(&cutter, stage, values->dense[p], schema->dense[p].count, sizeof(float));
    s->gradient_bytes = cutter.offset - rows_at;
    return cutter.offset;
}

static void lay_gradients(struct staging *s)
{
    struct area_cutter cutter = {0};
    for (uint32_t t = 0; t < s->table_count; t++)
        s->row_gradients[t] = place(&cutter, &s->gradients, NULL, s->row_bytes[t], 1);
    for (uint32_t p = 0; p < s->dense_count; p++)
        s->dense_gradients[p] =
            place(&cutter, &s->gradients, NULL, s->model->schema->dense[p].count, sizeof(float));
}

/* Room for every row of a batch of one term a slot to be another; up to ROOMY, or half as much
 * again. */
#define ROOMY ((size_t)256 << 20)
static size_t roomy(const struct staging *s, size_t needed)
{
    struct area_cutter most = {0};
    for (uint32_t t = 0; t < s->table_count; t++)
        (void)area_cut(&most, (size_t)s->max_examples * s->model->slot_count[t],
                       s->model->schema->tables[t].dim * sizeof(float));
    for (uint32_t p = 0; p < s->dense_count; p++)
        (void)area_cut(&most, s->model->schema->dense[p].count, sizeof(float));
    (void)area_cut(&most, s->table_count,
                   sizeof(struct compute_table) + sizeof(struct batch_table) + 64);
    size_t wanted = needed + needed / 2 > ROOMY ? needed + needed / 2 : ROOMY;
    wanted = wanted < most.offset ? wanted : most.offset;
    return wanted > needed ? wanted : needed;
}

static void count_most(const struct batch *b, const struct slot *slot,
                       struct compute_tables_there *there)
{
    for (uint32_t t = 0; t < b->table_count; t++) {
        const struct compute_cuts *c = &slot->cuts[t];
        uint32_t keys = b->tables[t].key_count;
        there->most_keys = keys > there->most_keys ? keys : there->most_keys;
        there->most_parts = c->part_count > there->most_parts ? c->part_count : there->most_parts;
        there->most_longs = c->long_count > there->most_longs ? c->long_count : there->most_longs;
    }
}

/* Fills the caller's tables, and what the device reads of them. */
static void describe_tables(struct staging *s, const struct slot *slot, bool gradients,
                            struct compute_table *tables)
{
    for (uint32_t t = 0; t < s->table_count; t++) {
        tables[t].terms = &slot->terms[t];
        tables[t].rows = s->rows[t];
        tables[t].row_gradients = gradients ? s->row_gradients[t] : NULL;
        tables[t].cuts = slot->cuts[t];
        char *here = s->values.here;
        struct compute_table *table = (struct compute_table *)here + t;
        *table = tables[t];
        table->terms = s->terms + t;
        memcpy(here + ((char *)(s->terms + t) - s->values.there), &slot->terms[t],
               sizeof slot->terms[t]);
    }
}

enum err staging_open(struct staging *s, const struct batch *b, const struct network_values *values,
                      bool gradients, struct compute_table *tables, struct staging_view *out)
{
    const struct compute *c = s->device->compute;
    struct slot *slot = find_slot(s, b);
    enum err err = slot == NULL ? send_batch(s, b, &slot) : ERR_NONE;
    if (err != ERR_NONE)
        return err;
    s->opened = slot;
    slot->of = NULL; /* what comes at the same address may be another batch */
    struct stage stage = s->values;
    s->values = (struct stage){0};
    size_t size = lay_values(s, b, values);
    s->values = stage;
    if (size > stage.capacity)
        err = stage_reserve(s, &s->values, roomy(s, size));
    if (err == ERR_NONE && gradients && s->gradient_bytes > s->gradients.capacity)
        err = stage_reserve(s, &s->gradients, roomy(s, s->gradient_bytes));
    if (err != ERR_NONE)
        return err_prefix(err, "values of a batch");
    (void)lay_values(s, b, values);
    if (gradients)
        lay_gradients(s);
    describe_tables(s, slot, gradients, tables);
    c->upload(s->device, s->values.there, s->values.here, size);
    c->join(s->device);
    *out = (struct staging_view){.batch = &slot->view,
                                 .there = {.tables = s->tables},
                                 .dense = (const float *const *)s->dense,
                                 .dense_gradients = s->dense_gradients};
    count_most(b, slot, &out->there);
    return ERR_NONE;
}

float *const *staging_row_gradients(const struct staging *s)
{
    return s->row_gradients;
}

void staging_fetch(struct staging *s)
{
    s->device->compute->download(s->device, s->gradients.here, s->gradients.there,
                                 s->gradient_bytes);
}

void staging_give(struct staging *s, const struct network_gradients *gradients)
{
    const char *here = s->gradients.here;
    for (uint32_t t = 0; t < s->table_count; t++)
        if (s->row_bytes[t] > 0)
            copy_long(s, gradients->rows[t],
                      here + ((char *)s->row_gradients[t] - s->gradients.there), s->row_bytes[t]);
    for (uint32_t p = 0; p < s->dense_count; p++)
        memcpy(gradients->dense[p], here + ((char *)s->dense_gradients[p] - s->gradients.there),
               s->model->schema->dense[p].count * sizeof(float));
}

/* ---- lifetime -------------------------------------------------------------------------------- */

enum err staging_create(const struct staging_options *o, struct staging **out)
{
    struct staging *s = must_alloc(sizeof *s);
    s->device = o->device;
    s->model = o->model;
    s->max_examples = o->max_examples;
    s->table_count = o->model->schema->table_count;
    s->dense_count = o->model->schema->dense_count;
    s->row_bytes = must_alloc((s->table_count + 1) * sizeof *s->row_bytes);
    s->rows = must_alloc((s->table_count + 1) * sizeof *s->rows);
    s->row_gradients = must_alloc((s->table_count + 1) * sizeof *s->row_gradients);
    s->dense = must_alloc((s->dense_count + 1) * sizeof *s->dense);
    s->dense_gradients = must_alloc((s->dense_count + 1) * sizeof *s->dense_gradients);
    enum err err = ERR_NONE;
    for (uint32_t i = 0; i < 2; i++) {
        s->slots[i].terms = must_alloc((s->table_count + 1) * sizeof *s->slots[i].terms);
        s->slots[i].cuts = must_alloc((s->table_count + 1) * sizeof *s->slots[i].cuts);
        if (err == ERR_NONE)
            err = stage_reserve(s, &s->slots[i].stage, usual_size(s));
    }
    if (err != ERR_NONE) {
        staging_destroy(s);
        return err;
    }
    *out = s;
    return ERR_NONE;
}

void staging_destroy(struct staging *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < 2; i++) {
        stage_deinit(s, &s->slots[i].stage);
        mem_free(s->slots[i].terms);
        mem_free(s->slots[i].cuts);
    }
    stage_deinit(s, &s->values);
    stage_deinit(s, &s->gradients);
    mem_free(s->row_bytes);
    mem_free(s->rows);
    mem_free(s->row_gradients);
    mem_free(s->dense);
    mem_free(s->dense_gradients);
    mem_free(s);
}

uint64_t staging_allocations(const struct staging *s)
{
    return s->allocations;
}
