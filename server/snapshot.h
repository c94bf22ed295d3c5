/*
 * snapshot.h - shard -> checkpoint -> storage, and back.
 *
 * A snapshot is begun by the shard's owner at a drain point, and then made in slices: snapshot_step() serializes
 * rows for about a millisecond and hands full blocks to a writer thread (a bounded queue), which writes and
 * makes them durable. Its extra memory (copies of rows changed meanwhile, blocks under way) is bounded by
 * memory_bytes; over it, or past the time-out, it is abandoned.
 *
 * Restoring reads only the partitions that the shard owns, whatever sharding wrote the files, and verifies
 * every block; a refusal has a named reason.
 *
 * Threads  snapshot_begin/step/poll/destroy: the shard's owner. The writer thread is its own. restore: owner.
 */
#ifndef PARAMD_SERVER_SNAPSHOT_H
#define PARAMD_SERVER_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "common/err.h"
#include "server/shard.h"

struct snapshot;
struct snapshot_options {
    struct shard *shard;
    const char *directory;           /* URI of `<generation>-<step>` */
    uint64_t step;
    uint64_t memory_bytes;
    uint64_t deadline_ms;            /* monotonic */
};
enum err snapshot_begin(const struct snapshot_options *o, struct snapshot **out) MUST_CHECK;
/* More to serialize? Returns false when all has been handed to the writer. budget_ns: about 1 ms. */
bool snapshot_step(struct snapshot *s, uint64_t budget_ns);
enum snapshot_state { SNAPSHOT_RUNNING, SNAPSHOT_DURABLE, SNAPSHOT_ABANDONED };
/* ABANDONED: *why_out is the reason, borrowed. DURABLE: *files_out, borrowed. */
enum snapshot_state snapshot_poll(struct snapshot *s, uint64_t now_ms, const struct checkpoint_file **files_out,
                                  uint32_t *file_count_out, const char **why_out);
/* Ends the frozen state; an unfinished one is abandoned and its files removed. Accepts NULL. */
void snapshot_destroy(struct snapshot *s);

/* Loads the shard's partitions from a checkpoint and calls shard_begin(). The shard must be new. */
enum err snapshot_restore(struct shard *s, const char *directory, const struct checkpoint_manifest *m) MUST_CHECK;

/* ---- whole checkpoints: for the coordinator's host and paramctl ---- */

enum err checkpoint_read_manifest(const char *directory, struct checkpoint_manifest **out,
                                  char sha256[SHA256_HEX_SIZE]) MUST_CHECK;
/* Commits: creates MANIFEST.json exclusively; if one is there already it must be the same bytes. */
enum err checkpoint_publish(const char *directory, const struct checkpoint_manifest *m,
                            char sha256[SHA256_HEX_SIZE]) MUST_CHECK;
/* Reads and verifies every byte of every file. */
enum err checkpoint_verify(const char *directory) MUST_CHECK;
/* SHA-256 over the model in key order: tables by index (keys, states), dense by index (values, slots), the same
   whatever the sharding. Also the step is not in it: equal models have equal digests. */
enum err checkpoint_digest(const char *directory, char hex[SHA256_HEX_SIZE]) MUST_CHECK;

struct checkpoint_listing {
    char *directory;                 /* URI */
    uint64_t generation, step;
    bool committed;                  /* has a manifest */
    enum err refused;                /* ERR_NONE: the manifest parses and all files have their sizes */
    char *why;
    uint64_t bytes;
};
/* Of `<uri>/<job>`, newest (generation, step) first. */
enum err checkpoint_list(const char *job_uri, struct checkpoint_listing **out, size_t *count_out) MUST_CHECK;
void checkpoint_listing_free(struct checkpoint_listing *l, size_t count);
/* Removes committed ones beyond the newest `keep` and uncommitted ones older than the newest committed; never a directory
   in `protect` (NULL-terminated list of names). */
enum err checkpoint_retain(const char *job_uri, uint32_t keep, const char *const *protect,
                           uint32_t *removed_out) MUST_CHECK;

#endif
