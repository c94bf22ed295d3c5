#include "tests/support/model_job.h"

#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/settings_codec.h"

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

static void read_layers(const char *yaml, struct job_model *out)
{
    const struct setting row = {.path = "model.layers"};
    struct conf_node *list = NULL;
    CHECK(conf_parse("layers", yaml, strlen(yaml), &list) == ERR_NONE);
    enum err err = codec_layers_read(&row, list, "model.layers", out);
    if (err != ERR_NONE)
        log_error("model_job", "%s", err_text());
    CHECK(err == ERR_NONE);
    conf_destroy(list);
}

void model_job_deinit(struct model_job *j)
{
    for (size_t i = 0; i < j->job.model.layer_count; i++)
        job_layer_deinit(&j->job.model.layers[i]);
    mem_free(j->job.model.layers);
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
        .hidden = {out->hidden, c->hidden_count},
        .activation = c->activation,
        .dropout = c->dropout,
        .layer_norm = c->layer_norm,
        .normalize = c->normalize,
        .l2 = c->l2,
        .cross_layers = c->cross_layers > 0 ? c->cross_layers : 3,
        .low_rank = c->low_rank,
        .structure = c->structure,
        .wide = c->wide,
        .bottom = {out->bottom, c->bottom > 0},
    };
    out->bottom[0] = c->bottom;
    out->job.model.outputs = c->outputs;
    out->job.model.output_count = c->output_count;
    if (c->layers != NULL)
        read_layers(c->layers, &out->job.model);
    out->job.optimizer.linear = optimizer("ftrl", 0.1);
    out->job.optimizer.linear.l1 = 0.5;
    out->job.optimizer.embedding = optimizer("adagrad", 0.05);
    out->job.optimizer.dense = optimizer("adam", 0.001);
    for (uint32_t t = 0; t < c->table_count; t++) {
        out->tables[t] = (struct table_spec){.name = names[t], .slot_count = c->slot_count[t]};
        if (c->table_dims[t] > 0) {
            out->job_tables[t] = (struct job_table){.name = names[t], .dim = c->table_dims[t]};
            out->tables[t].job = &out->job_tables[t];
        }
    }
    out->features.tables = out->tables;
    out->features.table_count = c->table_count;
    out->features.dense_width = c->dense_width;
}
