#include "worker/evaluator.h"

#include "common/activity.h"
#include "common/check.h"
#include "common/mem.h"
#include "worker/area.h"
#include "worker/exchange.h"
#include "worker/network.h"

struct evaluator {
    struct evaluator_options options;
    struct pool *pool;
    struct device *device;
    struct network *network;
    float *logits;
    float *metric_logits, *metric_labels; /* room for network_metric() */
    float **dense;                        /* [dense_count], read once */
    bool has_dense;
    float **rows; /* [table_count], in row_memory */
    float *row_memory;
    size_t row_capacity; /* bytes */
};

static enum err read_from_exchange(void *context, const struct batch *b, float *const *rows,
                                   float *const *dense)
{
    struct exchange_source *s = context;
    return exchange_read(s->exchange, s->version, b, rows, dense);
}

struct values_source exchange_source_make(struct exchange_source *s)
{
    return (struct values_source){.context = s, .read = read_from_exchange};
}

enum err evaluator_create(const struct evaluator_options *o, struct evaluator **out)
{
    const struct schema *schema = o->model->schema;
    struct evaluator *e = must_alloc(sizeof *e);
    e->options = *o;
    e->pool = pool_create(o->threads);
    e->rows = must_alloc((schema->table_count + 1) * sizeof *e->rows);
    e->dense = must_alloc((schema->dense_count + 1) * sizeof *e->dense);
    e->logits = mem_alloc_array((size_t)o->max_examples * o->model->output_width, sizeof(float));
    e->metric_logits = mem_alloc_array(o->max_examples, sizeof(float));
    e->metric_labels = mem_alloc_array(o->max_examples, sizeof(float));
    bool complete = e->logits != NULL && e->metric_logits != NULL && e->metric_labels != NULL;
    for (uint32_t p = 0; p < schema->dense_count; p++) {
        e->dense[p] = mem_alloc_array(schema->dense[p].count, sizeof(float));
        complete = complete && e->dense[p] != NULL;
    }
    struct device_options device = o->device;
    device.pool = e->pool;
    enum err error = complete ? device_open(&device, &e->device) : ERR_MEMORY;
    struct network_options network = {
        .model = o->model, .device = e->device, .max_examples = o->max_examples};
    if (error == ERR_NONE)
        error = network_create(&network, &e->network);
    if (error != ERR_NONE) {
        evaluator_destroy(e);
        return error;
    }
    *out = e;
    return ERR_NONE;
}

void evaluator_destroy(struct evaluator *e)
{
    if (e == NULL)
        return;
    mem_free(e->metric_logits);
    mem_free(e->metric_labels);
    network_destroy(e->network);
    device_close(e->device);
    pool_destroy(e->pool);
    for (uint32_t p = 0; p < e->options.model->schema->dense_count; p++)
        mem_free(e->dense[p]);
    mem_free(e->dense);
    mem_free(e->rows);
    mem_free(e->row_memory);
    mem_free(e->logits);
    mem_free(e);
}

/* Room for the rows of a batch; grown when a batch has more keys than any before. */
static enum err make_room(struct evaluator *e, const struct batch *b)
{
    const struct schema *schema = e->options.model->schema;
    struct area_cutter size = {0};
    for (uint32_t t = 0; t < schema->table_count; t++)
        (void)area_cut(&size, (size_t)b->tables[t].key_count * schema->tables[t].dim,
                       sizeof(float));
    if (e->row_memory == NULL || size.offset > e->row_capacity) {
        mem_free(e->row_memory);
        e->row_capacity = size.offset + size.offset / 8 + 64;
        e->row_memory = mem_alloc_array(e->row_capacity, 1);
        if (e->row_memory == NULL)
            return ERR_MEMORY;
    }
    struct area_cutter cutter = {.base = (char *)e->row_memory};
    for (uint32_t t = 0; t < schema->table_count; t++)
        e->rows[t] = area_cut(&cutter, (size_t)b->tables[t].key_count * schema->tables[t].dim,
                              sizeof(float));
    return ERR_NONE;
}

enum err evaluator_infer(struct evaluator *e, const struct batch *b, const float **logits_out)
{
    enum err error = make_room(e, b);
    if (error != ERR_NONE)
        return error;
    float *const *dense =
        e->has_dense || e->options.model->schema->dense_count == 0 ? NULL : e->dense;
    error = e->options.source.read(e->options.source.context, b, e->rows, dense);
    if (error != ERR_NONE)
        return error;
    e->has_dense = true;
    struct network_values values = {.rows = (const float *const *)e->rows,
                                    .dense = (const float *const *)e->dense};
    error = network_infer(e->network, b, &values, e->logits);
    if (error == ERR_NONE)
        *logits_out = e->logits;
    return error;
}

enum err evaluator_run(struct evaluator *e, struct batch_stream *stream, const atomic_bool *cancel,
                       struct evaluation *into)
{
    for (;;) {
        struct batch *b = NULL;
        const float *logits = NULL;
        if (cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed))
            return err_set(ERR_CANCELLED, "evaluation was told to stop");
        enum err error = batch_stream_next(stream, &b);
        if (error != ERR_NONE || b == NULL)
            return error;
        if (b->example_count > 0)
            error = evaluator_infer(e, b, &logits);
        if (error == ERR_NONE && b->example_count > 0) {
            struct network_metric m =
                network_metric(e->options.model, b, logits, e->metric_logits, e->metric_labels);
            error =
                evaluation_add(into, m.logits, m.labels, b->weights, b->groups, b->example_count);
        }
        batch_release(b);
        if (error != ERR_NONE)
            return error;
        activity_note();
    }
}
