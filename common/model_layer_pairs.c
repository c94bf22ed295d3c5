#include "common/model_builder.h"

/* The input's columns are a slot's vector each; what a layer gives is one vector. */
static uint32_t vector_length(const struct model_builder *b, struct model_ref ref)
{
    const struct model *m = b->model;
    if (ref.layer != b->input)
        return ref.width;
    if (ref.first < m->dense_width)
        return 0;
    uint32_t found = 0;
    for (uint32_t t = 0; t < m->schema->table_count; t++) {
        uint32_t first = m->embedding_offset[t], dim = model_embedding_dim(b, t);
        uint32_t end = first + m->slot_count[t] * dim;
        if (end <= ref.first || first >= ref.first + ref.width)
            continue;
        if (found != 0 && found != dim)
            return 0;
        found = dim;
    }
    return found;
}

/* All vectors that the layer reads, in one array. */
static enum err join_vectors(struct model_builder *b, const struct job_layer *l,
                             const struct model_refs *in, struct model_ref *x, uint32_t *dim)
{
    for (uint32_t i = 0; i < in->count; i++) {
        uint32_t length = vector_length(b, in->items[i]);
        if (length == 0)
            return layer_error(b, l, ERR_INPUT,
                               "multiplies vectors, which must have one length, and reads %s",
                               in->items[i].first < b->model->dense_width
                                   ? "the dense input; let an mlp make a vector of it"
                                   : "tables of different dims; give them one, or name some by "
                                     "embeddings(PATTERN)");
        if (i > 0 && length != *dim)
            return layer_error(b, l, ERR_INPUT,
                               "multiplies vectors, which must have one length, and reads some of "
                               "%u and some of %u numbers",
                               *dim, length);
        *dim = length;
    }
    if (in->width / *dim < 2)
        return layer_error(b, l, ERR_INPUT, "multiplies pairs of vectors, and reads only one; %s",
                           b->is_preset ? "add categorical features, or use model.type: fm or mlp"
                                        : "name more in 'in'");
    return model_join(b, l->name, in, x);
}

static enum err add_pairs(struct model_builder *b, const struct job_layer *l,
                          const struct model_refs *in, enum layer_type type, struct model_ref *out)
{
    struct model_ref x;
    uint32_t dim = 0;
    enum err err = join_vectors(b, l, in, &x, &dim);
    if (err != ERR_NONE)
        return err;
    uint64_t count = x.width / dim;
    uint64_t width = type == LAYER_FM ? 1 : count * (count - 1) / 2;
    if (width > 1u << 20)
        return layer_error(b, l, ERR_LIMIT, "makes %llu products an example; read fewer vectors",
                           (unsigned long long)width);
    struct model_refs refs = model_refs_of(x);
    struct model_layer layer = model_layer_init(type, l->name, &refs, (uint32_t)width);
    layer.factor_dim = dim;
    layer.vector_count = (uint32_t)count;
    return model_add_layer(b, &layer, out);
}

enum err model_make_fm(struct model_builder *b, const struct job_layer *l,
                       const struct model_refs *in, struct model_ref *out)
{
    return add_pairs(b, l, in, LAYER_FM, out);
}

enum err model_make_dot(struct model_builder *b, const struct job_layer *l,
                        const struct model_refs *in, struct model_ref *out)
{
    return add_pairs(b, l, in, LAYER_DOT, out);
}
