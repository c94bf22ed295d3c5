/*
 * settings_codec.h - values of the job file that are more than one number or text.
 *
 * Each pair reads YAML into the struct at `place` and writes it back in canonical form. Which
 * struct that is stands beside it. What a failed read leaves behind is owned by the struct, and
 * freed with it.
 *
 * Threads  none.
 */
#ifndef PARAMD_COMMON_SETTINGS_CODEC_H
#define PARAMD_COMMON_SETTINGS_CODEC_H

#include "common/settings_table.h"

#define CODEC(name)                                                                                \
    setting_read codec_##name##_read;                                                              \
    setting_write codec_##name##_write

CODEC(label);      /* struct job_data */
CODEC(shuffle);    /* struct job_data */
CODEC(every);      /* struct job_eval */
CODEC(metrics);    /* struct job_eval */
CODEC(metric);     /* struct job_early_stopping */
CODEC(restore);    /* struct job_early_stopping */
CODEC(widths);     /* struct width_list */
CODEC(layers);     /* struct job_model */
CODEC(outputs);    /* struct job_model */
CODEC(missing);    /* struct job_feature */
CODEC(vocab);      /* struct job_feature */
CODEC(edges);      /* struct job_feature */
CODEC(transforms); /* struct job_feature */
CODEC(init);       /* struct job_table */

#undef CODEC

extern const char *const metric_names[]; /* by enum metric_kind, NULL-terminated */
extern const char *const data_format_names[];
extern const char *const consistency_names[];
extern const char *const model_type_names[];
extern const char *const layer_type_names[];
extern const char *const transform_names[];

bool transform_makes_categorical(enum transform_kind kind);
/* Whether a feature's numbers end as categories: bucketize, or a transform that says so. */
bool feature_is_binned(const struct job_feature *f);

/* Settings of model.layers (settings_codec_layers.c). */
void job_layer_deinit(struct job_layer *l);
void job_output_deinit(struct job_output *o);
void job_layer_write(const struct job_layer *l, struct str *out); /* a map in flow style */

#endif
