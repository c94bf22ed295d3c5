/*
 * dataset_arena.c - the memory of batches, used again and again.
 */
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "worker/dataset_internal.h"

void arena_list_init(struct arena_list *l, const struct features_spec *spec)
{
    *l = (struct arena_list){.spec = spec};
    pthread_mutex_init(&l->lock, NULL);
}

static struct batch_arena *arena_create(struct arena_list *l)
{
    struct batch_arena *a = mem_calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->owner = l;
    a->batch.arena = a;
    a->batch.table_count = (uint32_t)l->spec->table_count;
    a->batch.dense_width = l->spec->dense_width;
    a->batch.tables = must_alloc(l->spec->table_count * sizeof *a->batch.tables);
    a->tables = must_alloc(l->spec->table_count * sizeof *a->tables);
    for (uint32_t t = 0; t < a->batch.table_count; t++)
        a->batch.tables[t].slot_count = l->spec->tables[t].slot_count;
    return a;
}

static void arena_destroy(struct batch_arena *a)
{
    for (uint32_t t = 0; t < a->batch.table_count; t++) {
        struct batch_table *b = &a->batch.tables[t];
        mem_free(b->keys);
        mem_free(b->offsets);
        mem_free(b->ids);
        mem_free(b->by_row_offsets);
        mem_free(b->by_row_cells);
        mem_free(a->tables[t].values);
        mem_free(a->tables[t].by_row_values);
    }
    mem_free(a->batch.tables);
    mem_free(a->batch.labels);
    mem_free(a->batch.more_labels);
    mem_free(a->batch.weights);
    mem_free(a->batch.dense);
    mem_free(a->groups);
    mem_free(a->tables);
    mem_free(a);
}

struct batch_arena *arena_take(struct arena_list *l)
{
    pthread_mutex_lock(&l->lock);
    struct batch_arena *a = l->free;
    if (a != NULL)
        l->free = a->next;
    l->out++;
    l->made += a == NULL;
    pthread_mutex_unlock(&l->lock);
    if (a == NULL)
        a = arena_create(l);
    if (a == NULL) {
        pthread_mutex_lock(&l->lock);
        l->out--;
        l->made--;
        pthread_mutex_unlock(&l->lock);
    }
    return a;
}

void batch_release(struct batch *b)
{
    if (b == NULL)
        return;
    struct batch_arena *a = b->arena;
    struct arena_list *l = a->owner;
    pthread_mutex_lock(&l->lock);
    CHECK(l->out > 0);
    l->out--;
    a->next = l->free;
    l->free = a;
    pthread_mutex_unlock(&l->lock);
}

void arena_list_deinit(struct arena_list *l)
{
    CHECK(l->out == 0);
    while (l->free != NULL) {
        struct batch_arena *a = l->free;
        l->free = a->next;
        arena_destroy(a);
    }
    pthread_mutex_destroy(&l->lock);
}

bool arena_room_(void *array_pointer, size_t *capacity, size_t needed, size_t element_size)
{
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    if (array != NULL && needed <= *capacity)
        return true;
    /* Half as much again, so that batches of slightly different sizes settle soon. */
    size_t room = needed + needed / 2 + 16;
    mem_free(array);
    array = mem_alloc_array(room, element_size);
    *capacity = array != NULL ? room : 0;
    memcpy(array_pointer, &array, sizeof array);
    return array != NULL;
}
