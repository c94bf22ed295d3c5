/*
 * table_internal.h - what server/table and server/table_snapshot share.
 */
#ifndef PARAMD_SERVER_TABLE_INTERNAL_H
#define PARAMD_SERVER_TABLE_INTERNAL_H

#include "server/table.h"
#include "server/table_arena.h"
#include "server/table_index.h"

enum snapshot_state { SNAPSHOT_NONE, SNAPSHOT_ACTIVE, SNAPSHOT_ABANDONED };

/*
 * The rows below rows_at_begin as they were at the beginning: where a copy is, the copy; else the
 * row itself, which nobody has changed since. Rows whose key is below `next_key` have been handed
 * out.
 */
struct table_snapshot {
    enum snapshot_state state;
    uint64_t memory_bytes; /* for copies; 0: no bound */
    uint32_t rows_at_begin;
    uint64_t next_key;
    bool done;                     /* all keys have been handed out */
    struct table_index copy_index; /* key -> copy; without segments until the first */
    struct table_arena copies;
};

struct table {
    const struct schema_table *schema;
    uint32_t first_partition, end_partition;
    uint64_t rows_max; /* of this shard; 0: no bound */
    struct table_index index;
    struct table_arena arena;
    struct table_snapshot snapshot;
};

#endif
