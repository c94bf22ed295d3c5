#include "tests/support/random_batch.h"

#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"

static void *array(size_t count, size_t size)
{
    void *a = mem_alloc_array(count + 1, size);
    CHECK(a != NULL);
    return a;
}

float *random_floats(uint64_t seed, size_t count, float scale)
{
    float *x = array(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (2.0f * rng_uniform(rng_at(seed, i)) - 1.0f) * scale;
    return x;
}

/* The same terms by row: a stable counting sort keeps cells ascending. */
static void sort_by_row(struct batch_table *t, uint32_t cells)
{
    uint32_t *next = mem_calloc(t->key_count + 1, sizeof *next);
    CHECK(next != NULL);
    for (uint32_t k = 0; k < t->term_count; k++)
        next[t->ids[k] + 1]++;
    for (uint32_t r = 0; r < t->key_count; r++)
        next[r + 1] += next[r];
    for (uint32_t r = 0; r <= t->key_count; r++)
        t->by_row_offsets[r] = next[r];
    for (uint32_t cell = 0; cell < cells; cell++) {
        for (uint32_t k = t->offsets[cell]; k < t->offsets[cell + 1]; k++) {
            uint32_t at = next[t->ids[k]]++;
            t->by_row_cells[at] = cell;
            if (t->values != NULL)
                t->by_row_values[at] = t->values[k];
        }
    }
    mem_free(next);
}

static void make_table(const struct random_batch *r, uint32_t index, struct batch_table *t)
{
    uint64_t key = rng_key(r->seed, "table", index);
    uint32_t cells = r->example_count * r->slot_count[index];
    t->key_count = r->key_count[index];
    t->slot_count = r->slot_count[index];
    t->keys = array(t->key_count, sizeof *t->keys);
    for (uint32_t i = 0; i < t->key_count; i++)
        t->keys[i] = 1 + ((uint64_t)i << 32);
    t->offsets = array(cells + 1, sizeof *t->offsets);
    for (uint32_t cell = 0; cell < cells; cell++) {
        t->offsets[cell] = t->term_count;
        t->term_count += (uint32_t)rng_below(rng_at(key, cell), r->max_terms + 1);
    }
    t->offsets[cells] = t->term_count;
    t->ids = array(t->term_count, sizeof *t->ids);
    t->by_row_offsets = array(t->key_count + 1, sizeof *t->by_row_offsets);
    t->by_row_cells = array(t->term_count, sizeof *t->by_row_cells);
    t->by_row_values = array(t->term_count, sizeof *t->by_row_values);
    for (uint32_t k = 0; k < t->term_count; k++) {
        /* Half of the terms go to a tenth of the rows. */
        uint64_t bits = rng_at(key + 1, k);
        uint32_t few = t->key_count < 10 ? 1 : t->key_count / 10;
        t->ids[k] = (uint32_t)rng_below(rng_at(key + 2, k), bits & 1 ? few : t->key_count);
    }
    if (r->weighted)
        t->values = random_floats(key + 3, t->term_count, 1.5f);
    sort_by_row(t, cells);
}

struct batch *random_batch_create(const struct random_batch *r)
{
    struct batch *b = mem_calloc(1, sizeof *b);
    CHECK(b != NULL && r->table_count <= RANDOM_BATCH_TABLES);
    b->step = 3;
    b->example_count = r->example_count;
    b->dense_width = r->dense_width;
    b->table_count = r->table_count;
    b->tables = mem_calloc(r->table_count + 1, sizeof *b->tables);
    CHECK(b->tables != NULL);
    for (uint32_t t = 0; t < r->table_count; t++)
        make_table(r, t, &b->tables[t]);
    b->dense = random_floats(r->seed + 1, (size_t)r->example_count * r->dense_width, 1.0f);
    b->labels = random_floats(r->seed + 2, r->example_count, 2.0f);
    b->more_label_count = r->more_labels;
    b->more_labels = random_floats(r->seed + 5, (size_t)r->example_count * r->more_labels, 1.0f);
    for (uint32_t i = 0; i < r->example_count * r->more_labels; i++)
        b->more_labels[i] = b->more_labels[i] > 0;
    b->weights = random_floats(r->seed + 3, r->example_count, 1.0f);
    for (uint32_t i = 0; i < r->example_count; i++) {
        if (r->classes > 0)
            b->labels[i] = (float)rng_below(rng_at(r->seed + 4, i), r->classes);
        b->weights[i] = i % 5 == 4 ? 0.0f : 1.0f + b->weights[i];
        b->weight_sum += (double)b->weights[i];
    }
    return b;
}

void random_batch_destroy(struct batch *b)
{
    for (uint32_t t = 0; t < b->table_count; t++) {
        struct batch_table *table = &b->tables[t];
        mem_free(table->keys);
        mem_free(table->offsets);
        mem_free(table->ids);
        mem_free(table->values);
        mem_free(table->by_row_offsets);
        mem_free(table->by_row_cells);
        mem_free(table->by_row_values);
    }
    mem_free(b->tables);
    mem_free(b->dense);
    mem_free(b->labels);
    mem_free(b->more_labels);
    mem_free(b->weights);
    mem_free(b);
}
