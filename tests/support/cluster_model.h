/*
 * cluster_model.h - a world for the coordinator: servers and workers as tiny models, a store, a
 * registry.
 *
 * A turn delivers every member's state, lets it follow its orders, does the actions and moves
 * training a few steps; time goes on by 100 ms. What may go wrong is switched on by the test
 * through the members' fields.
 */
#ifndef TESTS_SUPPORT_CLUSTER_MODEL_H
#define TESTS_SUPPORT_CLUSTER_MODEL_H

#include "server/coordinator.h"

#define MODEL_MEMBERS 8
#define MODEL_SHARDS  8
#define MODEL_STORED  64
#define MODEL_LOG     400

struct model_shard {
    bool restored;
    uint64_t applied, drained, armed, refused_arm, durable, abandoned, verdict, arm_seen;
    bool stopped;
};

struct model_member {
    char id[32];
    bool is_server, here;
    uint64_t sequence, version, term;
    Paramd__Control__MemberOrders *orders; /* followed last */
    char job[64];
    uint64_t generation;
    char *yaml;
    Paramd__Control__MemberOrders *layout;
    char failure[128];
    int failure_kind;
    /* server */
    struct model_shard shards[MODEL_SHARDS]; /* by number in the layout */
    char restoring[64];
    uint64_t memory;
    const char *refuses;      /* the checkpoint that it finds broken */
    int refuse_arms, abandon; /* so many times */
    /* worker */
    char device[32];
    uint32_t rounds;
    bool index_done;
    uint32_t scans; /* turns that the first round takes */
    uint64_t activity;
    uint64_t evaluated; /* step + 1 */
    uint32_t evaluated_part, evaluated_part_count;
    uint64_t released_turn; /* when it let go */
    bool frozen;            /* neither trains nor evaluates */
    bool mute;              /* says nothing at all */
    bool leaving;
    bool left;        /* it was told to, and did */
    uint64_t busy_ms; /* of its first shard or rank */
};

struct model_stored {
    char uri[128];
    uint64_t generation, step;
    bool committed;
    const char *broken;
    struct checkpoint_manifest *manifest;
};

struct model {
    struct coordinator *c;
    struct model_member members[MODEL_MEMBERS];
    uint32_t member_count;
    struct model_stored stored[MODEL_STORED];
    uint32_t stored_count;
    char *record[64][2]; /* job, text */
    char *past[64];
    uint32_t past_count;
    uint32_t record_count;
    uint64_t now, turn;
    uint64_t unix_offset; /* now + this goes on when another leader's clock is taken */
    uint64_t train_examples, eval_examples;
    uint32_t steps_a_turn;
    const double *quality; /* of the nth evaluation: the logit of the right class */
    uint32_t quality_count, rounds_needed;
    bool index_stored; /* worker 0 has; who begins then finds it in its first round */
    bool store_away;
    uint32_t manifests_gone; /* so many looks at a manifest find none */
    uint64_t term;
    bool registry_away;
    const char *job_recorded;
    uint64_t verdict_recorded, generation_recorded; /* as the registry has them */
    uint32_t retained;
    char *log[MODEL_LOG];
    uint32_t log_count;
};

void model_init(struct model *m, uint32_t servers, uint32_t workers);
void model_deinit(struct model *m);
struct model_member *model_add(struct model *m, const char *id, bool is_server);
void model_leave(struct model *m, struct model_member *member);
/* Another leader, of the next term, reads what is recorded. */
void model_new_leader(struct model *m);
void model_turn(struct model *m);
/* Submits `yaml` with flags "resume", "fresh", "auto", "shutdown" in a text; asserts that it is
 * taken. */
void model_submit(struct model *m, const char *yaml, const char *flags);
void model_submit_eval(struct model *m, const char *yaml, const char *checkpoint);
/* Free with paramd__control__status_reply__free_unpacked(). */
Paramd__Control__StatusReply *model_status(struct model *m, const char *job);
/* Turns until the job is in that state; false after `turns`. */
bool model_until(struct model *m, const char *job, const char *state, uint32_t turns);
bool model_logged(const struct model *m, const char *part);
const struct model_stored *model_find(const struct model *m, uint64_t generation, uint64_t step);
uint64_t model_version(struct model *m, const struct model_member *member);

#endif
