/*
 * kernels_rows.cuh - gradients by row of a table: each row's terms, in the order of examples, are
 * added by one group of threads, one thread a column.
 *
 * Rows of many terms are summed in parts (struct compute_cuts), then over the parts, so that a
 * value which stands in every example does not hold up the rest. All tables go in one launch:
 * blockIdx.y.
 *
 * A source says what a term adds:
 *   uint32_t columns(table)                 at least 1 where anything is written
 *   column column_of(table, c)              what is known of a column before its terms
 *   void add(table, column, row, k, sums)   the term at place k of by_row_cells
 *   void write(table, row, c, sums)
 */
#ifndef PARAMD_WORKER_KERNELS_ROWS_CUH
#define PARAMD_WORKER_KERNELS_ROWS_CUH

#include "worker/kernels.cuh"

struct row_sums {
    float sum, linear, square; /* of the column; of the row, the same in each column */
};

/* Threads that share a row or an example of `width` columns. */
static inline uint32_t group_size(uint32_t width)
{
    return width <= 4    ? 4
           : width <= 8  ? 8
           : width <= 16 ? 16
           : width <= 32 ? 32
           : width <= 64 ? 64
                         : 128;
}

template <typename source>
DEVICE row_sums sum_terms(const source &s, const struct compute_table &t, uint32_t row,
                          uint32_t first, uint32_t end, uint32_t c)
{
    auto column = s.column_of(t, c);
    row_sums sums = {0, 0, 0};
    UNROLL
    for (uint32_t k = first; k < end; k++)
        s.add(t, column, row, k, sums);
    return sums;
}

template <typename source>
KERNEL rows_kernel(source s, const struct compute_table *tables, uint32_t group)
{
    const struct compute_table &t = tables[blockIdx.y];
    uint32_t columns = s.columns(t);
    EACH(i, (uint64_t)t.terms->key_count * group)
    {
        uint32_t row = (uint32_t)(i / group);
        uint32_t first = t.terms->by_row_offsets[row], end = t.terms->by_row_offsets[row + 1];
        if (end - first > COMPUTE_PART_TERMS)
            continue;
        for (uint32_t c = (uint32_t)(i % group); c < columns; c += group)
            s.write(t, row, c, sum_terms(s, t, row, first, end, c));
    }
}

template <typename source>
KERNEL parts_kernel(source s, const struct compute_table *tables, uint32_t group)
{
    const struct compute_table &t = tables[blockIdx.y];
    uint32_t columns = s.columns(t);
    EACH(i, (uint64_t)t.cuts.part_count * group)
    {
        struct compute_part part = t.cuts.parts[i / group];
        float *out = t.cuts.sums + i / group * (t.dim + 2);
        for (uint32_t c = (uint32_t)(i % group); c < columns; c += group) {
            row_sums sums = sum_terms(s, t, part.row, part.first, part.end, c);
            out[c] = sums.sum;
            if (c == 0) {
                out[t.dim] = sums.linear;
                out[t.dim + 1] = sums.square;
            }
        }
    }
}

template <typename source>
KERNEL longs_kernel(source s, const struct compute_table *tables, uint32_t group)
{
    const struct compute_table &t = tables[blockIdx.y];
    uint32_t columns = s.columns(t);
    EACH(i, (uint64_t)t.cuts.long_count * group)
    {
        struct compute_long_row r = t.cuts.longs[i / group];
        for (uint32_t c = (uint32_t)(i % group); c < columns; c += group) {
            row_sums sums = {0, 0, 0};
            UNROLL
            for (uint32_t p = r.first_part; p < r.end_part; p++) {
                const float *part = t.cuts.sums + (uint64_t)p * (t.dim + 2);
                sums.sum += part[c];
                sums.linear += part[t.dim];
                sums.square += part[t.dim + 1];
            }
            s.write(t, r.row, c, sums);
        }
    }
}

template <typename source>
static void sum_rows(struct kernel_stream k, source s, const struct compute_tables_there *there,
                     uint32_t table_count, uint32_t group)
{
    if (table_count == 0)
        return;
    dim3 rows(blocks_for((uint64_t)there->most_keys * group), table_count);
    dim3 parts(blocks_for((uint64_t)there->most_parts * group), table_count);
    dim3 longs(blocks_for((uint64_t)there->most_longs * group), table_count);
    LAUNCH(rows_kernel<source>, rows, KERNEL_THREADS, k, s, there->tables, group);
    if (there->most_longs == 0)
        return;
    LAUNCH(parts_kernel<source>, parts, KERNEL_THREADS, k, s, there->tables, group);
    LAUNCH(longs_kernel<source>, longs, KERNEL_THREADS, k, s, there->tables, group);
}

#endif
