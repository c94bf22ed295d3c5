#include "tests/support/model_job.h"

#include <string.h>

#include "common/check.h"

static struct optimizer_spec optimizer(const char *type, double learning_rate)
{
    struct optimizer_spec o = {.learning_rate = learning_rate,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .epsilon = 1e-8,
                               .initial_accumulator = 0.1,
                               .beta = 1};
    strcpy(o.type, type);
    return o;
}

void model_job_init(struct model_job *out, const struct model_case *c)
{
    static char *const names[MODEL_JOB_TABLES] = {"table0", "table1", "table2"};
    CHECK(c->table_count <= MODEL_JOB_TABLES && c->hidden_count <= MODEL_JOB_HIDDEN);
    *out = (struct model_job){0};
    memcpy(out->hidden, c->hidden, sizeof out->hidden);
    out->job.seed = 1;
    out->job.model = (struct job_model){
        .type = c->type,
        .dim = c->dim,
        .loss = c->loss,
        .classes = c->classes > 0 ? c->classes : 1,
        .hidden = out->hidden,
        .hidden_count = c->hidden_count,
        .activation = c->activation,
        .dropout = c->dropout,
        .layer_norm = c->layer_norm,
        .normalize = c->normalize,
        .l2 = c->l2,
    };
    out->job.optimizer.linear = optimizer("ftrl", 0.1);
    out->job.optimizer.linear.l1 = 0.5;
    out->job.optimizer.embedding = optimizer("adagrad", 0.05);
    out->job.optimizer.dense = optimizer("adam", 0.001);
    for (uint32_t t = 0; t < c->table_count; t++)
        out->tables[t] = (struct table_spec){.name = names[t], .slot_count = c->slot_count[t]};
    out->features.tables = out->tables;
    out->features.table_count = c->table_count;
    out->features.dense_width = c->dense_width;
}
