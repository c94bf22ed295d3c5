/*
 * shard_fixture.h - one shard with a small model, requests made by hand, and a plain reference of
 * what must come of them.
 *
 * What rank r pushes and pulls at step t is a pure function of (r, t, salt). The reference applies
 * the same steps to flat arrays, row by row and value by value, with the gradients summed in the
 * order of ranks.
 */
#ifndef TESTS_SUPPORT_SHARD_FIXTURE_H
#define TESTS_SUPPORT_SHARD_FIXTURE_H

#include "server/dense.h"
#include "server/shard.h"
#include "server/table.h"

#define FIXTURE_TABLES     2
#define FIXTURE_KEYS       150   /* of each table that may ever occur */
#define FIXTURE_STATE      16    /* floats of the widest row's state, at most */
#define FIXTURE_DENSE      20000 /* values: two blocks */
#define FIXTURE_RANKS      5
#define FIXTURE_STEPS      40
#define FIXTURE_GENERATION 7

struct shard_fixture {
    struct schema_table tables[FIXTURE_TABLES];
    struct schema_dense dense;
    struct schema schema;
    uint64_t keys[FIXTURE_KEYS]; /* mixed, ascending */
    struct shard_options options;
    struct shard *shard;
    uint64_t now_ms;
    /* What the shard has told. */
    uint32_t progress_count, drain_count, fail_count;
    uint64_t drain_step;
    char fail_text[256];
    bool had_reports;
    uint64_t examples[FIXTURE_RANKS]; /* of the latest notice's reports */
};

/* What a call was answered. */
struct fixture_reply {
    uint32_t count;
    enum err code;
    char text[256]; /* of err_text(), or the reply's message */
    Paramd__PushPullReply__Status status;
    uint64_t received, applied, acked, version;
    float *values; /* of all blocks, one after another */
    size_t value_count;
};
void shard_fixture_reply_deinit(struct fixture_reply *r);

struct fixture_request {
    uint32_t rank;
    uint64_t seq, lease, acked;
    bool header_only;
    bool empty; /* pushes nothing */
    bool skipped;
    bool no_pull;
    bool weightless;
    uint64_t salt; /* other contents */
    uint64_t cut;  /* seed of the places where the message is cut */
    /* What a worker would not send. */
    const char *job;
    uint64_t generation;
    uint32_t shard;
    float poison; /* takes the place of the first gradient unless 0 */
    void (*damage)(Paramd__PushPullRequest *q);
    uint64_t fail_nth; /* allocation of the shard, or 0 */
};

/* Steps, ranks and mode are in f->options already; the schema, the keys and the shard are made. */
void shard_fixture_start(struct shard_fixture *f, const struct steps *steps, uint32_t ranks);
void shard_fixture_stop(struct shard_fixture *f);

/* 20 steps in an epoch, with drains, evaluations and checkpoints between them. */
struct steps shard_fixture_steps(enum consistency mode, uint32_t depth);
/* Of these steps, from nothing; _begin() is ready for requests, too. */
void shard_fixture_start_usual(struct shard_fixture *f, enum consistency mode, uint32_t depth,
                               uint32_t ranks);
void shard_fixture_begin(struct shard_fixture *f, enum consistency mode, uint32_t depth,
                         uint32_t ranks);

void shard_fixture_send(struct shard_fixture *f, const struct fixture_request *r,
                        struct fixture_reply *out);
/* The answer to a push-pull of seq, when none is expected to wait. */
void shard_fixture_call(struct shard_fixture *f, const struct fixture_request *r,
                        struct fixture_reply *out);
/* The answer comes at once, with this status, and `part` in its text; else the test has failed. */
void shard_fixture_expect(struct shard_fixture *f, const struct fixture_request *r,
                          Paramd__PushPullReply__Status status, const char *part);
/* What a rank sends that has had all answers so far. */
struct fixture_request fixture_push(uint32_t rank, uint64_t seq);
void shard_fixture_expect_push(struct shard_fixture *f, uint32_t rank, uint64_t seq,
                               Paramd__PushPullReply__Status status);
double shard_fixture_weight(uint32_t rank, uint64_t seq);

/* Keys and states of all rows, dense values and slots. */
uint64_t shard_fixture_digest(struct shard_fixture *f);

struct reference {
    float rows[FIXTURE_TABLES][FIXTURE_KEYS][FIXTURE_STATE];
    bool present[FIXTURE_TABLES][FIXTURE_KEYS];
    float dense[FIXTURE_DENSE];
    float slots[2 * FIXTURE_DENSE];
    uint32_t row_count;
};
void reference_init(const struct shard_fixture *f, struct reference *m);
/* The pushes of ranks [first, end) as one update of this step. */
void reference_apply(const struct shard_fixture *f, struct reference *m, uint32_t first,
                     uint32_t end, uint64_t seq);
/* What the pull of (rank, seq) gets now; the caller frees. */
float *reference_answer(const struct shard_fixture *f, const struct reference *m, uint32_t rank,
                        uint64_t seq, size_t *count);
uint64_t reference_digest(const struct shard_fixture *f, const struct reference *m);

#endif
