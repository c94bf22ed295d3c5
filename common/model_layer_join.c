#include "common/model_builder.h"

enum err model_make_concat(struct model_builder *b, const struct job_layer *l,
                           const struct model_refs *in, struct model_ref *out)
{
    struct model_layer layer = model_layer_init(LAYER_CONCAT, l->name, in, in->width);
    return model_add_layer(b, &layer, out);
}

enum err model_make_sum(struct model_builder *b, const struct job_layer *l,
                        const struct model_refs *in, struct model_ref *out)
{
    uint32_t width = in->items[0].width;
    for (uint32_t i = 1; i < in->count; i++)
        if (in->items[i].width != width)
            return layer_error(b, l, ERR_INPUT,
                               "adds arrays, which must have one width, and reads some of %u and "
                               "some of %u columns",
                               width, in->items[i].width);
    struct model_layer layer = model_layer_init(LAYER_SUM, l->name, in, width);
    return model_add_layer(b, &layer, out);
}

/* The bias is a number and not a row, so it always exists; l1 would only pull it to 0. */
enum err model_make_terms(struct model_builder *b, const struct job_layer *l,
                          const struct model_refs *in, struct model_ref *out)
{
    const struct model *m = b->model;
    enum layer_type type = l->pairs == PAIRS_FFM ? LAYER_FIELD_TERMS : LAYER_TERMS;
    struct model_layer layer = model_layer_init(type, l->name, in, 1);
    struct optimizer_spec optimizer = b->job->optimizer.linear;
    optimizer.l1 = 0;
    struct model_parameter bias = {
        .part = "bias", .columns = 1, .init = {INIT_ZERO, 0}, .optimizer = &optimizer};
    enum err err = model_add_parameter(b, &bias, &layer.dense[0]);
    if (err != ERR_NONE)
        return err;
    layer.factor_dim = l->pairs != PAIRS_NONE ? b->job->model.dim : 0;
    for (uint32_t t = 0; l->pairs == PAIRS_FFM && t < m->schema->table_count; t++)
        layer.vector_count += m->slot_count[t];
    return model_add_layer(b, &layer, out);
}
