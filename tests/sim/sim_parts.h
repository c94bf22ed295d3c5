/*
 * sim_parts.h - what the simulator's files give each other (see sim.h for who is who).
 */
#ifndef TESTS_SIM_SIM_PARTS_H
#define TESTS_SIM_SIM_PARTS_H

#include <stdatomic.h>

#include "common/checkpoint.h"
#include "common/job.h"
#include "common/model.h"
#include "common/rpc.h"
#include "common/steps.h"
#include "common/str.h"
#include "proto/control.pb-c.h"
#include "tests/sim/sim.h"
#include "worker/batch.h"

struct sim_leader;
struct sim_member;
struct sim_server;
struct sim_worker;
struct shard;

struct process {
    uint32_t number; /* among all */
    bool is_server, is_up;
    bool wants_to_leave; /* SIGTERM: it asks the leader to let it go */
    bool is_leaving;     /* it goes */
    char name[16];       /* also its address, which a restart keeps */
    uint32_t life;       /* changes at every crash and every start */
    uint64_t frozen_until_us;
    uint64_t wanted_us; /* when it is to be started again; 0: it is not */
    uint32_t cut;       /* bit set of process numbers that its messages do not reach */
    bool cut_registry;
    struct sim_member *member;
    struct sim_leader *leader; /* a server's */
    struct sim_server *server;
    struct sim_worker *worker;
};

/* ---- sim_process.c ---- */
void processes_begin(void);
void processes_end(void);
const char *process_name(const struct process *p);
uint32_t process_number(const struct process *p);
uint32_t process_life(const struct process *p);
uint64_t process_frozen_until(const struct process *p);
struct process *process_by_name(const char *name); /* NULL: there is none */
void process_start(struct process *p);
void process_crash(struct process *p); /* volatile state is lost; not from within its own events */
void process_crash_soon(struct process *p); /* from anywhere */
/* Leaves in order, as daemons do when they are told to shut down; it comes back after a while. */
void process_leave(struct process *p);
void process_freeze(struct process *p, uint64_t for_us);
void process_want(struct process *p, uint64_t delay_us); /* is started then */

/* ---- sim_rpc.c: handlers by address ---- */
void rpc_end(void);
void rpc_break(struct process *p); /* its connections, because it goes down */
/* An RPC reaches `p`: finds the handler. */
void rpc_serve(struct process *p, const char *method, struct rpc_call *call);
const char *rpc_call_caller(const struct rpc_call *call);

/* ---- sim_stubs.c ---- */
/* The exchange that runs now is told by this flag that it would have to wait. */
extern atomic_bool *stub_yield;
/* Threads of production code that run to their end once their queue is closed. */
void stub_threads_crash(struct process *p);
void stub_threads_end(void);

/* ---- sim_storage.c ---- */
void storage_begin(void);
void storage_end(void);
extern bool storage_is_dead; /* the calling process has crashed: nothing happens any more */
void storage_set_away(bool away);
bool storage_is_away(void);
/* Lists nothing, as with the credentials of somebody else. */
void storage_set_blind(bool blind);
/* Crashes the calling process after so many more operations. */
void storage_crash_after(uint32_t operations);
/* Changes, cuts or removes a file of that directory. */
bool storage_damage(const char *directory);
/* Verifies without faults and without time. */
bool storage_verifies(const char *directory);
/* No faults, for the oracle; returns what was. */
bool storage_quiet(bool quiet);

/* ---- sim_registry.c ---- */
void registry_begin(void);
void registry_end(void);
void registry_join_process(struct process *p); /* a new session and member id */
void registry_leave_process(struct process *p);
void registry_dropped(struct process *p); /* it has crashed: its session ends by itself */
const char *registry_id(const struct process *p);
bool registry_reaches(const struct process *p);
/* Tries to lead; *term is larger than any before. false: another one does, or it is away. */
bool registry_try_lead(struct process *p, uint64_t *term);
void registry_step_down(struct process *p);
/* The leader's address; false: there is none, or the registry is not reached. */
bool registry_find_leader(const struct process *p, char *address, size_t size, uint64_t *term);
/* Fenced by the term. */
enum err registry_put_fenced(struct process *p, uint64_t term, const char *path, const char *text);
char *registry_get_text(const char *path); /* NULL: there is none */
bool registry_shows(const char *id);
size_t registry_member_count(void);
const char *registry_member_at(size_t i);
void registry_set_away(bool away);
void registry_for_each(const char *prefix,
                       void (*see)(void *context, const char *path, const char *text),
                       void *context);

/* ---- sim_leader.c ---- */
struct sim_leader *leader_begin(struct process *p);
void leader_end(struct sim_leader *l);
void leader_call(struct sim_leader *l, const char *method, struct rpc_call *call);
/* A call of paramctl, answered at once; false: it does not lead, or has not read the records. */
bool leader_ask(struct sim_leader *l, const char *method, const uint8_t *bytes, size_t size,
                struct str *out);
void leader_expired(struct sim_leader *l); /* the session is gone: it leads no more */
bool leader_leads(const struct sim_leader *l);

/* ---- sim_member.c ---- */
struct sim_member *member_begin(struct process *p);
void member_end(struct sim_member *m);
void member_poked(struct sim_member *m);

/* ---- sim_server.c ---- */
struct sim_server *server_begin(struct process *p);
void server_end(struct sim_server *s);
void server_call(struct sim_server *s, const char *method, struct rpc_call *call);
void server_describe(struct sim_server *s, Paramd__Control__MemberState *state);
void server_follow(struct sim_server *s, const Paramd__Control__MemberOrders *orders);
void server_set_orphaned(struct sim_server *s, bool orphaned);

/* ---- sim_worker.c, sim_trainer.c, sim_evaluate.c ---- */
struct sim_worker *worker_begin(struct process *p);
void worker_end(struct sim_worker *w);
void worker_describe(struct sim_worker *w, Paramd__Control__MemberState *state);
void worker_follow(struct sim_worker *w, const Paramd__Control__MemberOrders *orders);
void worker_arrived(struct sim_worker *w); /* a reply has come */

/* ---- sim_user.c ---- */
void user_begin(void);
void user_end(void);
void user_describe_hang(void);

/* ---- sim_faults.c ---- */
void faults_begin(void);

/* ---- sim_reference.c: batches, gradients, the model ---- */
extern const char *const sim_columns[];
extern const uint32_t sim_column_count;
void reference_make(void);
void reference_end(void);
const struct job *reference_job(void);
const struct model *reference_model(void);
const struct steps *reference_steps(void);
/* Batch of (rank, step): keys ascending, counts, weight; arrays are the caller's. */
struct sim_batch {
    uint32_t key_count;
    uint64_t keys[SIM_KEYS];
    uint32_t examples; /* 0: empty */
    double weight;
    bool skipped;
};
void reference_batch(uint32_t rank, uint64_t step, struct sim_batch *out);
/* Gradients of rows [key_count][dim] and of the bias, from values. */
void reference_gradient(uint32_t rank, uint64_t step, const struct sim_batch *b, const float *rows,
                        const float *dense, float *row_gradients, float *dense_gradients);
double reference_loss(uint32_t rank, uint64_t step);
/* The logit of share `part` at a version whose values are these. */
#define EVAL_KEYS 3u
void reference_eval_keys(uint32_t part, uint64_t keys[EVAL_KEYS]); /* ascending */
float reference_eval_logit(const float *rows, const float *dense);
float reference_eval_label(uint32_t part, uint64_t step);
double reference_log_loss(uint64_t step);
/* Of a job that has trained for long: all keys in these partitions. */
uint32_t reference_rows(uint32_t first_partition, uint32_t end_partition);
/* What is wrong with the checkpoint in `directory`; NULL: it is the model of its step. */
const char *reference_compare(const char *directory, const struct checkpoint_manifest *m);
uint64_t reference_last_step(void);   /* where early stopping or the calendar end the job */
uint64_t reference_result_step(void); /* of the checkpoint that is its result */

/* ---- sim_oracle.c ---- */
void oracle_begin(void);
void oracle_done(const Paramd__Control__StatusReply *status);
void oracle_end(void);
void oracle_committed(const char *uri); /* a file has appeared */
void oracle_removed(const char *uri);   /* a manifest goes */
void oracle_tree_removed(const char *directory);
void oracle_restored(struct process *p, uint64_t generation, const char *restore);
void oracle_record(const char *path, const char *text, uint64_t term);
void oracle_orders(struct process *p, const Paramd__Control__MemberOrders *orders);
bool oracle_damage(void); /* the newest checkpoint, if there is one behind it */
/* Before and after a shard has taken a request. */
void oracle_before_request(struct shard *s, const struct chain *request, bool is_push);
void oracle_after_request(struct shard *s);

#endif
