#include "worker/layer.h"

static const struct layer_kind *const kinds[] = {
    &layer_terms, &layer_input, &layer_linear, &layer_norm, &layer_activation, &layer_dropout,
};

const struct layer_kind *layer_kind_find(enum layer_type type)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i]->type == type)
            return kinds[i];
    }
    return NULL;
}
