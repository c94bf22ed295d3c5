/*
 * settings_table.h - the rows behind settings.h and job.h, and the engine that reads and writes by
 * them.
 *
 * A row says where a value stands in YAML ("train.batch_size"), where in a struct (offset), its
 * type, unit, bounds, default as YAML text, help, whether it can influence bits, and when it may
 * change. Rows are kept in one array for each struct: the job, a feature, a table, an optimizer,
 * the daemons. Reading, writing, hashing, comparing and documenting walk these arrays in order;
 * that order is the canonical one.
 *
 * A row may apply to some kinds only (an optimizer's type, a feature's type): `applies` is a bit
 * set, 0 for all. Two rows of one path that apply to different kinds carry different defaults.
 *
 * Defaults written as "<…>" depend on something else and are filled in by job_parse(); "<required>"
 * has none.
 *
 * Units    durations in milliseconds, sizes in bytes, both as numbers of the struct's own width.
 * Threads  none; the caller owns what it passes.
 * Errors   ERR_INPUT, ERR_UNSUPPORTED: "what:line:column: path: what is wrong; what would be
 *          right".
 */
#ifndef PARAMD_COMMON_SETTINGS_TABLE_H
#define PARAMD_COMMON_SETTINGS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/job.h"
#include "common/settings.h"
#include "common/str.h"

enum setting_type {
    SETTING_BOOL, /* bool */
    SETTING_U32,
    SETTING_U64,
    SETTING_F64,
    SETTING_TEXT,   /* char * */
    SETTING_NAME16, /* char[16], one of `choices` */
    SETTING_LIST,   /* struct text_list; a single text stands for a list of one */
    SETTING_CHOICE, /* an enum: the index in `choices` */
    SETTING_CHAR,   /* char; 0 when null */
    SETTING_MS32,   /* uint32_t of milliseconds: "90s", "5min" */
    SETTING_MS64,   /* int64_t */
    SETTING_BYTES,  /* uint64_t: "256MiB" */
    SETTING_CUSTOM, /* read and write do it */
    SETTING_GROUP,  /* stands for other rows; job_parse() reads it */
    SETTING_LATER   /* known, and not in this version */
};

struct setting;
typedef enum err setting_read(const struct setting *row, const struct conf_node *n,
                              const char *path, void *place);
typedef void setting_write(const struct setting *row, const void *place, struct str *out);

struct setting {
    const char *path; /* relative to the struct: "train.batch_size", "transform" */
    enum setting_type type;
    size_t offset;
    const char *unit;    /* NULL: none */
    double min, max;     /* inclusive; both 0: as wide as the type */
    bool exclusive_min;  /* min itself is out */
    const char *initial; /* the default, as YAML; "~": may be null */
    const char *help;
    const char *form;           /* what may stand there, when type and bounds do not say it */
    const char *const *choices; /* NULL-terminated */
    const char *const *later;   /* choices that this version does not have */
    uint32_t applies;
    bool no_bits;          /* cannot influence the model's bits */
    bool bits_if_schedule; /* only when a schedule counts to the job's end */
    enum setting_change change;
    setting_read *read;
    setting_write *write;
};

extern const struct setting job_settings[], feature_settings[], table_settings[],
    optimizer_settings[], layer_settings[], output_settings[], daemon_settings[];
extern const size_t job_setting_count, feature_setting_count, table_setting_count,
    optimizer_setting_count, layer_setting_count, output_setting_count, daemon_setting_count;

/* What a map is read against, or a struct written by. */
struct settings_view {
    const struct setting *rows;
    size_t count;
    uint32_t applies; /* the kind of the struct at hand; 0: all rows */
    const char *kind; /* "optimizer ftrl": for the error on a row of another kind */
};

static inline bool settings_applies(const struct settings_view *v, const struct setting *row)
{
    return !row->applies || !v->applies || (row->applies & v->applies);
}

/* Kinds of jobs, as bits of setting.applies: 1 << enum model_type, and the format csv. */
#define JOB_APPLIES_CSV (1u << 16)

/* Daemons whose default file has the row. */
#define DAEMON_APPLIES_SERVER 1u
#define DAEMON_APPLIES_WORKER 2u

/* Kinds of features, as bits of setting.applies. */
enum feature_class {
    CLASS_CATEGORICAL = 1,
    CLASS_NUMERIC = 2,
    CLASS_VECTOR = 4,
    CLASS_BINNED = 8, /* numeric, made categorical by bucketize or a transform */
    CLASS_CROSS = 16,
    CLASS_MULTI = 32 /* set besides CLASS_CATEGORICAL: multi-valued */
};

/* Sets an error about `n`: position, path, and the text that follows like printf's. */
#define setting_error(code, n, path, ...) setting_place(err_set(code, __VA_ARGS__), n, path)
enum err setting_place(enum err code, const struct conf_node *n, const char *path);

/* Reads what `map` gives into `base`. `path` is what errors put in front of names; "" for none. */
enum err settings_read(const struct settings_view *v, const struct conf_node *map, const char *path,
                       void *base) MUST_CHECK;
/* Fills every applying row whose default stands by itself. */
void settings_set_defaults(const struct settings_view *v, void *base);
/* Refuses a map that lacks a "<required>" row. */
enum err settings_require(const struct settings_view *v, const struct conf_node *map,
                          const char *path) MUST_CHECK;
/* Frees texts and lists of non-custom rows and clears them. */
void settings_clear(const struct settings_view *v, void *base);
/* The row's value as YAML in flow style. */
void setting_print(const struct setting *row, const void *base, struct str *out);
/* The node at a dotted path, or NULL. */
const struct conf_node *settings_at(const struct conf_node *map, const char *path);

struct setting_unit {
    const char *name;
    uint64_t factor;
};
extern const struct setting_unit setting_durations[], setting_sizes[]; /* end with a NULL name */

/*
 * Values (settings_value.c, settings_print.c). `row` gives bounds, choices and form for the error.
 */
enum err value_read(const struct setting *row, const struct conf_node *n, const char *path,
                    void *place) MUST_CHECK;
void value_write(const struct setting *row, const void *place, struct str *out);
enum err value_error(const struct setting *row, const struct conf_node *n, const char *path,
                     const char *problem);
enum err value_choice(const struct setting *row, const struct conf_node *n, const char *path,
                      uint32_t *out) MUST_CHECK;
enum err value_u64(const struct setting *row, const struct conf_node *n, const char *path,
                   uint64_t *out) MUST_CHECK;
enum err value_f64(const struct setting *row, const struct conf_node *n, const char *path,
                   double *out) MUST_CHECK;
enum err value_text(const struct setting *row, const struct conf_node *n, const char *path,
                    const char **out) MUST_CHECK;
enum err value_list(const struct setting *row, const struct conf_node *n, const char *path,
                    struct text_list *out) MUST_CHECK;
void value_list_clear(struct text_list *list);
void value_print_text(const char *text, struct str *out); /* quoted where YAML wants it */
void value_print_name(const char *name, struct str *out); /* of a map: holds no variables */
void value_print_f64(double value, struct str *out);      /* shortest that reads back the same */
void value_print_duration(uint64_t ms, struct str *out);
void value_print_bytes(uint64_t bytes, struct str *out);
void value_print_list(const struct text_list *list, struct str *out);
/* What may stand at the row: "a number from 1 to 64", "one of a, b". */
void value_describe(const struct setting *row, struct str *out);

#endif
