/*
 * shard.h - one shard: its rows, dense blocks and optimizer state, and the push-pulls that change
 * them.
 *
 * A shard belongs to one thread. It is driven by messages (shard_push_pull, shard_resume,
 * shard_read), by the coordinator's commands (restore, arm, verdict) and by a tick; it answers
 * through the callbacks given at creation. Which pushes may be applied and which replies may leave
 * is server/consistency's business, storage that of server/table and server/dense, arithmetic that
 * of server/optimizer.
 *
 * Threads  all functions from the owner thread, but shard_create().
 * Errors   a malformed request is handed back through shard_reply with its code and err_text(); a
 *          request that must fail the job (a non-finite gradient, an irreproducible push) is
 *          answered FAILED, and notify() tells SHARD_FAILED.
 */
#ifndef PARAMD_SERVER_SHARD_H
#define PARAMD_SERVER_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/layout.h"
#include "common/schema.h"
#include "common/steps.h"
#include "common/wire.h"

struct shard;
struct shard_notice;

struct shard_options {
    const char *job;
    uint64_t generation;
    uint32_t index; /* in the layout */
    uint32_t first_partition, end_partition;
    uint32_t rank_count;
    const struct schema *schema; /* borrowed; outlives the shard */
    struct steps steps;          /* the calendar */
    uint32_t staleness;          /* ssp */
    uint64_t memory_bytes; /* budget for parameters, kept values and waiting pushes; 0: none */
    uint32_t wait_ms;      /* a held call is answered WAITING after this long */
    bool read_only;        /* eval and predict: pushes are refused */

    /* Tells the coordinator's side something; copied by the receiver; on the owner thread. */
    void (*notify)(void *context, const struct shard_notice *notice);
    void *context;
};

enum shard_notice_kind {
    SHARD_PROGRESS, /* `step` applied; at drain points, and at most ten times a second otherwise */
    SHARD_AT_DRAIN, /* all R pushes up to drain point `step` are applied; replies are held if it is
                       an evaluation step or the last one, until shard_verdict() */
    SHARD_FAILED    /* `text` says why; the job cannot go on */
};
struct shard_notice {
    enum shard_notice_kind kind;
    uint32_t shard;
    uint64_t step;
    const char *text;
    /* [rank_count]; the first shard only, else NULL: entries may be NULL. */
    const Paramd__Report *const *reports;
};

enum err shard_create(const struct shard_options *options, struct shard **out) MUST_CHECK;
void shard_destroy(struct shard *s); /* answers what it holds NOT_FORMED; accepts NULL */

/*
 * The initial state, an implicit checkpoint of step 0, or what a snapshot reader has fed in
 * (server/snapshot). A version that waits for a verdict (an evaluation step, the last one) is told
 * with SHARD_AT_DRAIN at once, because nobody may know yet whether the job goes on from there.
 */
void shard_begin(struct shard *s, uint64_t version);

/*
 * Called once, now or later, on the owner thread. ERR_NONE: `reply` is the encoded reply, whose
 * slices move. Else the request was malformed and changed nothing: `reply` is empty, and the call
 * is answered RPC_INVALID with err_text().
 */
typedef void (*shard_reply)(void *context, enum err code, struct chain *reply);
/* Take over `request` (slices moved). now_ms: monotonic. A read answers absent rows with zeros:
   evaluation knows no row that training has not made. Callbacks do not call into the shard. */
void shard_push_pull(struct shard *s, struct chain *request, shard_reply reply, void *context,
                     uint64_t now_ms);
void shard_resume(struct shard *s, struct chain *request, shard_reply reply, void *context);
void shard_read(struct shard *s, struct chain *request, shard_reply reply, void *context);

/* Continue past the held drain point `step`, or stop there: replies leave with OK or STOP.
   Idempotent. A step that is not reached yet is remembered (the latest such); any drain point can
   be the one to stop at. */
void shard_verdict(struct shard *s, uint64_t step, bool stop);
/* While paused, replies of drain points are held: training stops at the next one. */
void shard_set_paused(struct shard *s, bool paused);
/* Raises the lease of a rank; older ones are answered REPLACED. */
void shard_set_lease(struct shard *s, uint32_t rank, uint64_t lease);
/* Answers calls that have waited long enough. Call every 100 ms or so. */
void shard_tick(struct shard *s, uint64_t now_ms);
/* Fails the job from this shard: everything held and everything later is answered FAILED with the
   text. */
void shard_fail(struct shard *s, const char *text);

uint64_t shard_version(const struct shard *s); /* the last step applied by all */
bool shard_rests(const struct shard *s);       /* and nothing beyond it has come */
uint64_t shard_memory(const struct shard *s);  /* bytes held now */
uint64_t shard_rows(const struct shard *s);

/* For server/snapshot only. */
struct table;
struct dense;
struct table *shard_table(struct shard *s, uint32_t index);
struct dense *shard_dense(struct shard *s, uint32_t index);
const struct shard_options *shard_options_of(const struct shard *s);
/* Reports to save (rank_count of them, entries may be NULL), and to take back after a restore. */
const Paramd__Report *const *shard_reports(const struct shard *s);
void shard_set_report(struct shard *s, uint32_t rank, const Paramd__Report *report);

#endif
