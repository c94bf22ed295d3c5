/*
 * features_internal.h - what the files of worker/features share. Only they include it.
 */
#ifndef PARAMD_WORKER_FEATURES_INTERNAL_H
#define PARAMD_WORKER_FEATURES_INTERNAL_H

#include "worker/features.h"
#include "worker/keyset.h"

#define NO_FIELD UINT32_MAX

/* Bytes that no UTF-8 text is: keys of rows that stand for no value (features_spec.h). */
#define KEY_UNKNOWN_TEXT "\xff"
#define KEY_NUMBER_TEXT  "\xfe"

struct feature {
    const struct feature_spec *spec;
    const struct job_feature *job;
    uint32_t index;
    uint32_t field; /* of a record; NO_FIELD for crosses, libsvm, libffm, idx */
    uint64_t missing_key, unknown_key, number_key;
    bool has_vocab, has_min_count;
    struct keyset vocab;         /* hashes of the list */
    struct keyset frequent;      /* hashes that pass min_count; unused while the index is made */
    const struct keyset *lookup; /* one of them, when all there is to do is to look into it */
    double mean, deviation;      /* of standardize without constants */
};

struct compare {
    bool given;
    bool is_number;
    double number;
    struct span text;
    const char *operator;
};

#define LOG2_FLOOR_KNOWN 1024u

struct features {
    struct features_options options;
    struct feature *items;
    uint32_t count;
    uint32_t *order;           /* [count] features by (table, slot), those without terms last */
    uint32_t *of_libffm_field; /* [libffm_field_count] feature or NO_FIELD */
    uint32_t libffm_field_count;
    uint32_t label_field, weight_field, time_field, group_field, split_field;
    uint32_t *id_fields;
    uint32_t id_count;
    struct compare positive;
    uint32_t *more_label_fields;        /* of job.model.more_labels */
    float log2_floor[LOG2_FLOOR_KNOWN]; /* of whole numbers, most of which are small */
    uint64_t split_seed, split_below;   /* SPLIT_HASH: hashes below evaluate */
    bool split_everything;
};

/* Of one record. */
struct feature_input {
    const struct features *f;
    const struct features_call *call;
    const struct record *record;
};

/* ERR_INPUT at the field: "…; feature 'x'". */
enum err feature_error(const struct feature_input *in, const struct feature *x, struct span field,
                       const char *format, ...) PRINTF_LIKE(4, 5);

/* Keys (features_value.c). */
uint64_t feature_hash(const struct feature *x, const void *data, size_t size);
/* The key that enters batches, from the key before vocab and buckets; still unmixed. */
uint64_t feature_final_key(const struct features *f, const struct feature *x, uint64_t key);
enum err feature_text_key(const struct feature_input *in, const struct feature *x, struct span text,
                          uint64_t *out) MUST_CHECK;
uint64_t feature_index_key(const struct feature *x, uint64_t index);
/* The number after transforms. *missing: it stood for a missing one. */
enum err feature_number(const struct feature_input *in, const struct feature *x, double *out,
                        bool *missing) MUST_CHECK;
double feature_log2_floor(double value);
/* Of a single-valued categorical feature; *missing: no key was given. */
enum err feature_single_key(const struct feature_input *in, const struct feature *x, uint64_t *out,
                            bool *missing) MUST_CHECK;

#endif
