/*
 * dataset_internal.h - what the files of worker/dataset share.
 *
 *   dataset.c            opening; checks that the files are those of the index
 *   dataset_stream.c     which batches come next, read-ahead, recycling
 *   dataset_group.c      a group of blocks, mapped, with one dictionary of their keys
 *   dataset_batch.c      picks of a group -> struct batch
 *   dataset_predict.c    examples from outside the index
 *   dataset_describe.c   `paramctl data describe`
 */
#ifndef PARAMD_WORKER_DATASET_INTERNAL_H
#define PARAMD_WORKER_DATASET_INTERNAL_H

#include <pthread.h>

#include "worker/blockcache.h"
#include "worker/dataset.h"
#include "worker/keysort.h"
#include "worker/sampler.h"

struct dataset {
    struct dataset_options o;
    struct blockcache *cache;
    uint32_t *train_counts; /* [block_count] */
};

/* ---- groups ---------------------------------------------------------------------------------- */

/* Beyond so many dictionary entries in a group its batches look their keys up one by one. */
#define GROUP_DICTIONARY_MAX (32u << 20)

struct group_table {
    uint64_t *keys; /* [key_count] of all blocks, ascending */
    uint32_t key_count;
    uint32_t *local;     /* of all blocks one after the other: block-local id -> place in keys */
    uint64_t *marks;     /* bitmap of keys; all 0 between batches */
    uint32_t *before;    /* [words] marked keys before each word */
    uint32_t **of_range; /* [range_count] into local */
    size_t key_capacity, local_capacity, mark_capacity, before_capacity, of_range_capacity;
};

struct group {
    struct sampler_range *ranges;
    struct block_view *views; /* [range_count] */
    const uint32_t *starts;   /* [block_count] first example of a block that counts, or NULL: 0 */
    bool evaluation;          /* examples are those of the evaluation set */
    uint32_t range_count;
    uint32_t table_count;
    bool has_dictionary;
    bool borrowed;              /* views are not ours to unmap */
    struct group_table *tables; /* [table_count] */
    struct keysort sort;
    uint64_t *sort_keys;
    uint32_t *sort_numbers;
    size_t sort_key_capacity, sort_number_capacity;
};

/* Takes ownership of `ranges`; parses what is missing. Empties the group before. */
enum err group_load(struct group *g, struct dataset *d, struct sampler_range *ranges,
                    uint32_t count, const atomic_bool *cancel) MUST_CHECK;
/* One block from outside the cache; the view is borrowed. For predict. */
enum err group_of_view(struct group *g, const struct block_view *v) MUST_CHECK;
void group_deinit(struct group *g);
/* Tests: groups above so many entries do without a dictionary. 0: the default. */
void group_set_dictionary_max(uint64_t entries);

/* ---- batches --------------------------------------------------------------------------------- */

/* A batch and the memory of its arrays, which goes back to its owner and is used again. */
struct batch_arena {
    struct batch batch;
    struct arena_list *owner;
    struct batch_arena *next;
    uint64_t *groups; /* batch.groups is NULL without a gauc column */
    size_t label_capacity, more_label_capacity, weight_capacity, dense_capacity, group_capacity;
    struct arena_table {
        float *values, *by_row_values; /* batch.tables has NULL where they are all 1 */
        size_t key_capacity, offset_capacity, id_capacity, value_capacity;
        size_t by_row_offset_capacity, cell_capacity, by_row_value_capacity;
    } * tables;
};

struct arena_list {
    pthread_mutex_t lock;
    struct batch_arena *free;
    const struct features_spec *spec;
    uint64_t made; /* arenas; stands still once a stream runs */
    uint64_t out;  /* not yet released */
};
void arena_list_init(struct arena_list *l, const struct features_spec *spec);
struct batch_arena *arena_take(struct arena_list *l); /* NULL: no memory */
void arena_list_deinit(struct arena_list *l);         /* CHECKs that all are back */

/* Room for `needed` elements in a 64-byte aligned array whose contents do not matter. */
#define arena_room(array, capacity, needed)                                                        \
    arena_room_(&(array), &(capacity), (needed), sizeof *(array))
bool arena_room_(void *array_pointer, size_t *capacity, size_t needed, size_t element_size);

struct batch_maker { /* scratch; zero-initialize */
    struct keysort sort;
    uint64_t *slots, *unique;
    uint32_t *slot_ids, *numbers, *ranks;
    size_t slot_capacity, unique_capacity, slot_id_capacity, number_capacity, rank_capacity;
};
enum err batch_make(struct batch_maker *m, struct group *g, const struct sampler_pick *picks,
                    uint32_t n, struct batch_arena *a) MUST_CHECK;
void batch_maker_deinit(struct batch_maker *m);

#endif
