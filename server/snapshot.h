/*
 * snapshot.h - shard -> checkpoint -> storage, and back.
 *
 * A snapshot is begun by the shard's owner at a drain point, and then made in slices:
 * snapshot_step() serializes rows for about a millisecond and hands full blocks to a writer thread
 * (a bounded queue), which writes and makes them durable. Its extra memory is bounded by
 * memory_bytes: copies of rows changed meanwhile, the frozen dense values and slots, blocks under
 * way. Over it, or past the deadline, it is abandoned: the shard is free at once, and the writer
 * removes its files as soon as the storage lets it.
 *
 * Restoring reads only the partitions that the shard owns, whatever sharding wrote the files, and
 * verifies every block; a refusal has a named reason.
 *
 * Threads  snapshot_begin/step/poll/destroy: the shard's owner, which waits for the storage in none
 *          of them. The writer thread is its own. restore: owner; it reads from the storage.
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
    const char *directory; /* URI of `<generation>-<step>` */
    uint64_t step;
    uint64_t memory_bytes;   /* 0: no bound */
    uint64_t deadline_ms;    /* monotonic */
    uint64_t file_max_bytes; /* 0: CHECKPOINT_FILE_MAX */
};
/* ERR_LIMIT: what must be frozen at once does not fit memory_bytes. One at a time on a shard. */
enum err snapshot_begin(const struct snapshot_options *o, struct snapshot **out) MUST_CHECK;
/* More to serialize? false: all has been handed to the writer, or it is abandoned. budget_ns: about
   1 ms. */
bool snapshot_step(struct snapshot *s, uint64_t budget_ns);
/* The last step ended because the writer is behind: another one at once would bring nothing. */
bool snapshot_is_held_up(const struct snapshot *s);
enum snapshot_state { SNAPSHOT_RUNNING, SNAPSHOT_DURABLE, SNAPSHOT_ABANDONED };
/* ABANDONED: *why_out is the reason, borrowed. DURABLE: *files_out, borrowed. */
enum snapshot_state snapshot_poll(struct snapshot *s, uint64_t now_ms,
                                  const struct checkpoint_file **files_out,
                                  uint32_t *file_count_out, const char **why_out);
/* Ends the frozen state; an unfinished one is abandoned and its files removed. Accepts NULL. */
void snapshot_destroy(struct snapshot *s);

/* Loads the shard's partitions from a checkpoint and calls shard_begin(). The shard must be new,
   and is of no use after a failure. ERR_CORRUPT: this checkpoint is refused. */
enum err snapshot_restore(struct shard *s, const char *directory,
                          const struct checkpoint_manifest *m) MUST_CHECK;

/* ---- whole checkpoints: for the coordinator's host and paramctl ---- */

/* ERR_NOT_FOUND: never committed. ERR_CORRUPT, ERR_UNSUPPORTED: refused; also when the directory is
   named as another checkpoint. */
enum err checkpoint_read_manifest(const char *directory, struct checkpoint_manifest **out,
                                  char sha256[SHA256_HEX_SIZE]) MUST_CHECK;
/*
 * Commits: creates MANIFEST.json exclusively; if one is there already it must be the same
 * bytes, else ERR_EXISTS. ERR_INPUT: no reader would take it, as files are missing or not in
 * order.
 */
enum err checkpoint_publish(const char *directory, const struct checkpoint_manifest *m,
                            char sha256[SHA256_HEX_SIZE]) MUST_CHECK;
/* Reads and verifies every byte of every file. */
enum err checkpoint_verify(const char *directory) MUST_CHECK;
/* SHA-256 over the model: tables by index (keys, states, in key order), dense by index (values,
   slots), the same whatever the sharding. The step is not in it: equal models, equal digests. */
enum err checkpoint_digest(const char *directory, char hex[SHA256_HEX_SIZE]) MUST_CHECK;

struct checkpoint_listing {
    char *directory; /* URI */
    uint64_t generation, step;
    bool committed;   /* has a manifest */
    enum err refused; /* ERR_NONE: the manifest parses, all files have their sizes */
    char *why;
    uint64_t bytes;
};
/* Of `<uri>/<job>`, newest (generation, step) first. Sizes are looked at, contents are not. */
enum err checkpoint_list(const char *job_uri, struct checkpoint_listing **out,
                         size_t *count_out) MUST_CHECK;
void checkpoint_listing_free(struct checkpoint_listing *l, size_t count);
/*
 * Removes good ones beyond the newest `keep`, and what is uncommitted or refused and older than a
 * good one; never a directory in `protect` (NULL-terminated list of names), nor one of a newer
 * format. One that cannot be removed does not stop the others; its error is returned at the end.
 */
enum err checkpoint_retain(const char *job_uri, uint32_t keep, const char *const *protect,
                           uint32_t *removed_out) MUST_CHECK;

#endif
