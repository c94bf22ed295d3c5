/*
 * compute.h - the operations that models are made of, as a table of functions: a backend.
 *
 * compute_cpu.c is the reference. A layer calls the operations of the table that it was given and
 * does no arithmetic of its own, so a model is written once for all backends. An operation is asked
 * for and need not be done when the call returns: what a later one reads it finds, as all of a
 * device are done in order; the caller finds it after fence().
 *
 * Shapes   all matrices are row-major; n is the number of examples. What an operation writes does
 *          not overlap what it reads, except where "in place" is said.
 * Bits     a result is a function of the arguments alone, not of the number of threads in `pool`:
 *          work is cut by fixed numbers of rows or of columns, and sums are added in a fixed order.
 * Memory   arrays are the device's (alloc()), of floats 64-byte aligned (a row inside one need not
 *          be); what arrays stand in (struct compute_table) is the host's. Operations allocate
 *          nothing.
 * Threads  one caller at a time for a device and its pool.
 * Errors   none of an operation: whoever makes the arguments checks them. What fails on a device is
 *          said by the next fence(). Numbers that are not finite go through.
 */
#ifndef PARAMD_WORKER_COMPUTE_H
#define PARAMD_WORKER_COMPUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/pool.h"
#include "worker/batch.h"

#define COMPUTE_ALIGNMENT 64u
/* Examples whose losses are summed before they are added to the other groups' sums. */
#define COMPUTE_LOSS_ROWS 1024u

struct compute;

/* What operations run on; a backend's own begins with it. */
struct device {
    const struct compute *compute;
    struct pool *pool; /* the host's threads, borrowed; NULL: the calling thread alone */
};

/*
 * y = x · weight; x: [n][in], weight: [in][out], y: [n][out]; gradients have the same shapes. From
 * row to row of x and of x_gradient it is x_stride floats; 0: in.
 */
struct compute_gemm {
    uint32_t n, in, out, x_stride;
    const float *x;
    const float *weight;
    float *y;                /* forward */
    const float *y_gradient; /* both gradients */
    float *x_gradient;       /* y_gradient · weightᵀ */
    bool add;                /* … is added to what stands in x_gradient */
    float *weight_gradient;  /* xᵀ · y_gradient */
};

/* y = activation(x + bias); bias [width] or NULL; x may be y. */
struct compute_activate {
    uint32_t n, width;
    enum activation activation;
    const float *bias;
    const float *x;
    float *y;
};

/* gradient = gradient * activation'(at what gave y), in place. */
struct compute_activate_back {
    uint32_t n, width;
    enum activation activation;
    const float *y;
    float *gradient;
};

/* sums[j] = Σ_i x[i][j] */
struct compute_columns {
    uint32_t n, width;
    const float *x;
    float *sums;
};

/* y = gain * (x - mean) / sqrt(variance + 1e-5) + bias, over each row. */
struct compute_norm {
    uint32_t n, width;
    const float *x;
    const float *gain, *bias;
    float *y;
    float *moments; /* [n][2]: mean, 1 / sqrt(…), for the way back */
};

struct compute_norm_back {
    uint32_t n, width;
    const float *x;
    const float *gain;
    const float *moments;
    const float *y_gradient;
    float *x_gradient;
    float *gain_gradient, *bias_gradient; /* [width] */
    bool add;                             /* to what stands in x_gradient */
};

/* y = x * mask; the mask is 0 with probability `rate`, else 1 / (1 - rate). */
struct compute_dropout {
    uint32_t n, width;
    double rate;
    uint64_t key; /* rng_key(seed, "dropout", layer) */
    uint64_t step;
    uint64_t first_example;
    const float *x;
    float *y;
    float *mask; /* [n][width] */
};

/* x = x * mask over count floats, in place. */
struct compute_multiply {
    size_t count;
    const float *mask;
    float *x;
};

/* y = x, or y += x; [n][width] with strides from row to row. x NULL: zeros. */
struct compute_copy {
    uint32_t n, width;
    size_t x_stride, y_stride;
    const float *x;
    float *y;
    bool add;
};

/*
 * DCN-V2's cross layer after its matrix product (Wang et al., WWW 2021): y = x0 ⊙ (t + bias) + x.
 * Backwards, one after the other: x_gradient (+)= y_gradient; x0_gradient (+)= y_gradient ⊙ (t +
 * bias); t = y_gradient ⊙ x0, its own gradient. The two gradients may be the same array.
 */
struct compute_cross {
    uint32_t n, width;
    size_t x_stride, x0_stride;      /* of x and x0, and of their gradients */
    const float *x, *x0, *bias;      /* bias: [width] */
    float *t;                        /* [n][width] */
    float *y;                        /* [n][width] */
    const float *y_gradient;         /* [n][width] */
    float *x_gradient, *x0_gradient; /* NULL: not wanted */
    bool add_x, add_x0;
};

/*
 * Pairs of vectors; x: [n][count][dim], x_stride floats from example to example, also of
 * x_gradient.
 * fm:  y[n] = ½ (|S|² - Σ |x_i|²), S = Σ x_i (Rendle, ICDM 2010).
 * dot: y[n][count (count - 1) / 2] = <x_i, x_j>, j < i, row after row (Naumov et al. 2019).
 */
struct compute_vectors {
    uint32_t n, count, dim;
    size_t x_stride;
    const float *x;
    float *y;
    float *sums; /* fm: [n][dim], S, written forwards */
    const float *y_gradient;
    float *x_gradient;
    bool add; /* to what stands in x_gradient */
};

/*
 * Rows of many terms, cut into parts that are summed each by itself and then in order: a device
 * with many threads has none that walks 10,000 terms. A row of up to COMPUTE_PART_TERMS is no part.
 */
#define COMPUTE_PART_TERMS 64u
struct compute_part {
    uint32_t row;
    uint32_t first, end; /* of by_row_cells */
};
struct compute_long_row {
    uint32_t row;
    uint32_t first_part, end_part;
};
struct compute_cuts {
    uint32_t part_count, long_count;
    const struct compute_part *parts;
    const struct compute_long_row *longs;
    float *sums; /* [part_count][dim + 2] scratch */
};

/* One table's terms with the rows that they name. */
struct compute_table {
    const struct batch_table *terms;
    const float *rows;           /* [key_count][dim] */
    float *row_gradients;        /* [key_count][dim]; NULL forwards */
    uint32_t dim;                /* floats of a row */
    uint32_t w_offset, v_offset; /* of the components in a row */
    uint32_t v_dim;              /* 0: the table has no v */
    uint32_t input_offset;       /* compute_input: column of its first slot */
    uint32_t first_field;        /* field_terms: number of its first slot */
    struct compute_cuts cuts;    /* of a device that does not share memory */
};

/*
 * The same tables where the device reads them, with their `terms` there too; and over all
 * tables:
 */
struct compute_tables_there {
    const struct compute_table *tables; /* NULL: the device shares memory */
    uint32_t most_keys, most_parts, most_longs;
};

/*
 * lr and fm. With r = 1 / |x| if `norms` is given, else 1, and x' = r x:
 * logit = bias + Σ w x' + ½ (|S|² - Σ v² x'²), S = Σ v x'; over all tables' terms.
 *
 * ffm (Juan et al., RecSys 2016): a slot is a field, and v of a row is [field_count][factor_dim].
 * logit = bias + Σ w x' + Σ_{i<j} <v_i[field of j], v_j[field of i]> x_i' x_j'.
 */
struct compute_terms {
    uint32_t n;
    uint32_t factor_dim;  /* 0: linear terms alone */
    uint32_t field_count; /* field_terms */
    uint32_t table_count;
    const struct compute_table *tables;
    struct compute_tables_there there;
    const float *bias;     /* [1] */
    float *norms;          /* [n]: r, written forwards; NULL: no normalization */
    float *sums;           /* [n][factor_dim]: S, written forwards; field_terms: not used */
    float *logits;         /* [n] */
    const float *gradient; /* [n], backwards */
    float *bias_gradient;  /* [1] */
};

/* [dense input, Σ v x of every slot of every table] side by side. */
struct compute_input {
    uint32_t n, width, dense_width;
    const float *dense; /* [n][dense_width] */
    uint32_t table_count;
    const struct compute_table *tables;
    struct compute_tables_there there;
    float *y; /* [n][width] */
    const float *y_gradient;
};

/*
 * Logistic: log(1 + exp(z)) - y z. Squared: ½ (z - y)². Softmax: -log softmax(z)[y].
 * A weight of 0 makes loss and gradient 0, whatever the logit is.
 */
struct compute_loss {
    enum loss_type type;
    uint32_t n, width;
    const float *logits;           /* [n][width] */
    const float *labels, *weights; /* [n] */
    float *gradient;               /* [n][width]: weight × scale × derivative */
    double *sums;                  /* [ceil(n / COMPUTE_LOSS_ROWS)]: Σ weight × loss of each */
    uint32_t label_stride;         /* from label to label; 0: 1 */
    float scale;                   /* of the gradient; 0: 1 */
};

/* x = x * scale over count floats, in place; *bad = 1 where one is not finite then. */
struct compute_check {
    float *x;
    size_t count;
    float scale;
    uint32_t *bad;
};

struct compute {
    const char *name; /* "cpu", "cuda" */
    /* What bits depend on beyond the arguments: "openblas Zen". Devices of one job agree on it. */
    const char *(*family)(const struct device *d);
    /* The device reads and writes the host's memory: nothing is uploaded. alloc() … fence() MUST
     * all the same work, and take no time. */
    bool shares_memory;

    /* Memory of the device, 256-byte aligned, not cleared. NULL: there is none left. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*free)(struct device *d, void *memory); /* accepts NULL */
    /* Memory of the host that is copied from and to while both compute (pinned). */
    void *(*host_alloc)(struct device *d, size_t bytes);
    void (*host_free)(struct device *d, void *memory);
    /* Begins to copy beside what the device computes; `from` stays as it is until join() and
     * fence(). */
    void (*upload)(struct device *d, void *to, const void *from, size_t bytes);
    /* Operations asked for from here on find what was uploaded before. */
    void (*join)(struct device *d);
    /* After what was asked for so far. The caller reads `to` after fence(). */
    void (*download)(struct device *d, void *to, const void *from, size_t bytes);
    /* Waits until all is done that was asked for and joined. ERR_IO: the device has failed. */
    enum err (*fence)(struct device *d);
    void (*close)(struct device *d); /* frees the device too; not its memory */

    void (*gemm_forward)(struct device *d, const struct compute_gemm *g);
    void (*gemm_input)(struct device *d, const struct compute_gemm *g);
    void (*gemm_weight)(struct device *d, const struct compute_gemm *g);
    /* gemm_forward(), then activate() of its y in place. */
    void (*linear)(struct device *d, const struct compute_gemm *g,
                   const struct compute_activate *a);
    void (*activate)(struct device *d, const struct compute_activate *a);
    void (*activate_back)(struct device *d, const struct compute_activate_back *a);
    void (*column_sums)(struct device *d, const struct compute_columns *c);
    void (*norm)(struct device *d, const struct compute_norm *c);
    void (*norm_back)(struct device *d, const struct compute_norm_back *c);
    void (*dropout)(struct device *d, const struct compute_dropout *o);
    void (*multiply)(struct device *d, const struct compute_multiply *m);
    void (*copy)(struct device *d, const struct compute_copy *c);
    void (*cross)(struct device *d, const struct compute_cross *c);
    void (*cross_back)(struct device *d, const struct compute_cross *c);
    void (*fm)(struct device *d, const struct compute_vectors *v);
    void (*fm_back)(struct device *d, const struct compute_vectors *v);
    void (*dot)(struct device *d, const struct compute_vectors *v);
    void (*dot_back)(struct device *d, const struct compute_vectors *v);
    void (*terms)(struct device *d, const struct compute_terms *t);
    void (*terms_back)(struct device *d, const struct compute_terms *t);
    void (*field_terms)(struct device *d, const struct compute_terms *t);
    void (*field_terms_back)(struct device *d, const struct compute_terms *t);
    void (*input)(struct device *d, const struct compute_input *c);
    void (*input_back)(struct device *d, const struct compute_input *c);
    void (*loss)(struct device *d, const struct compute_loss *l);
    void (*check)(struct device *d, const struct compute_check *c);
};

/* Groups of examples that a loss has sums of. */
static inline uint32_t compute_loss_groups(uint32_t n)
{
    return (n + COMPUTE_LOSS_ROWS - 1) / COMPUTE_LOSS_ROWS;
}

/* Σ weight × loss of n examples, from the sums of groups. */
static inline double compute_loss_total(const double *sums, uint32_t n)
{
    double total = 0;
    for (uint32_t i = 0; i < compute_loss_groups(n); i++)
        total += sums[i];
    return total;
}

#endif
