#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/member.h"
#include "tests/sim/sim_parts.h"

/*
 * paramctl: submits until the job is taken, asks for its status, now and then for a checkpoint or a
 * stop (and submits again after that), and looks at what it has become. It talks to the leader
 * without a network of its own: its calls are whole or are not.
 */

#define LOOK_MS 250u

static struct {
    uint32_t stops, checkpoints_now, submissions;
    char last_state[16], last_why[256];
    uint64_t last_step, last_generation;
    bool stopping;
} user;

/* A call to whoever the registry says leads; false: it did not answer. */
static bool call(const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply)
{
    char address[32];
    uint64_t term;
    if (!registry_find_leader(NULL, address, sizeof address, &term) || sim_fault(100))
        return false;
    struct process *p = process_by_name(address);
    if (p == NULL || !p->is_up || p->frozen_until_us > sim.now_us || p->leader == NULL)
        return false;
    struct process *here = sim.here;
    sim.here = p;
    struct str packed = {0};
    size_t size = protobuf_c_message_get_packed_size(request);
    uint8_t *bytes = must_alloc(size + 1);
    protobuf_c_message_pack(request, bytes);
    bool answered = leader_ask(p->leader, method, bytes, size, &packed);
    sim.here = here;
    mem_free(bytes);
    *reply = NULL;
    if (answered)
        *reply = protobuf_c_message_unpack(type, NULL, packed.size, (const uint8_t *)packed.data);
    str_deinit(&packed);
    return *reply != NULL;
}

static void submit(void)
{
    Paramd__Control__SubmitRequest q = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    ProtobufCMessage *m;
    q.job_yaml = sim.plan.yaml;
    q.mode = (char *)"train";
    q.resume = q.resume_auto = true;
    if (!call(CONTROL_SUBMIT, &q.base, &paramd__control__submit_reply__descriptor, &m))
        return;
    const Paramd__Control__SubmitReply *r = (const Paramd__Control__SubmitReply *)m;
    TRACE("user submits: '%s' %s", r->job, r->error);
    if (r->error[0] == '\0') {
        user.submissions++;
        user.stopping = false;
    }
    protobuf_c_message_free_unpacked(m, NULL);
}

static void ask_simple(bool stop)
{
    Paramd__Control__StopRequest s = PARAMD__CONTROL__STOP_REQUEST__INIT;
    Paramd__Control__CheckpointNowRequest c = PARAMD__CONTROL__CHECKPOINT_NOW_REQUEST__INIT;
    ProtobufCMessage *m;
    s.job = c.job = (char *)"sim";
    s.checkpoint = true;
    if (!call(stop ? CONTROL_STOP : CONTROL_CHECKPOINT_NOW, stop ? &s.base : &c.base,
              &paramd__control__simple_reply__descriptor, &m))
        return;
    const Paramd__Control__SimpleReply *r = (const Paramd__Control__SimpleReply *)m;
    TRACE("user asks for %s: %s", stop ? "a stop" : "a checkpoint",
          r->error[0] != '\0' ? r->error : "yes");
    if (stop) {
        user.stopping |= r->error[0] == '\0';
        sim.count.stops += r->error[0] == '\0';
        user.stops += r->error[0] == '\0';
    } else {
        sim.count.checkpoints_now += r->error[0] == '\0';
        user.checkpoints_now += r->error[0] == '\0';
    }
    protobuf_c_message_free_unpacked(m, NULL);
}

/* A job fails for what was done to it alone. */
static void take_failure(const char *why)
{
    if (sim.plan.bad_step != 0 && strstr(why, "does not parse") != NULL) {
        sim.over = sim.done = true;
    } else if (sim.count.blind > 0 && strstr(why, "does not list it") != NULL) {
        submit();
    } else {
        sim_violation("the job has failed: %s", why);
    }
}

static void take_end(const Paramd__Control__StatusReply *s)
{
    if (strcmp(s->state, "DONE") == 0) {
        oracle_done(s);
        sim.over = true;
    } else if (strcmp(s->state, "FAILED") == 0) {
        take_failure(s->why);
    } else if (strcmp(s->state, "STOPPED") == 0) {
        if (user.stops == 0)
            sim_violation("the job was stopped and nobody asked for it: %s", s->why);
        submit();
    }
}

static void look(void *context)
{
    Paramd__Control__StatusRequest q = PARAMD__CONTROL__STATUS_REQUEST__INIT;
    ProtobufCMessage *m;
    (void)context;
    q.job = (char *)"sim";
    sim_after(NULL, sim_between(LOOK_MS / 2, LOOK_MS) * SIM_MS, "user", look, NULL, NULL);
    if (!call(CONTROL_STATUS, &q.base, &paramd__control__status_reply__descriptor, &m))
        return;
    const Paramd__Control__StatusReply *s = (const Paramd__Control__StatusReply *)m;
    snprintf(user.last_state, sizeof user.last_state, "%s", s->found ? s->state : "absent");
    snprintf(user.last_why, sizeof user.last_why, "%s", s->why);
    user.last_step = s->step;
    user.last_generation = s->generation;
    sim_note(s->step);
    sim_note(s->generation);
    if (!s->found)
        submit();
    else
        take_end(s);
    bool runs = s->found && strcmp(s->state, "RUNNING") == 0;
    if (runs && user.checkpoints_now < sim.plan.checkpoints_now && sim_chance(300))
        ask_simple(false);
    else if (runs && user.stops < sim.plan.stops && sim_chance(150))
        ask_simple(true);
    protobuf_c_message_free_unpacked(m, NULL);
}

void user_begin(void)
{
    memset(&user, 0, sizeof user);
    sim_after(NULL, 10 * SIM_MS, "user", look, NULL, NULL);
}

void user_end(void)
{
}

void user_describe_hang(void)
{
    sim_violation("the job did not end within %.0f s: %s at step %llu of generation %llu: %s",
                  (double)(sim.plan.bound_us - 10 * SIM_S) / 1e6, user.last_state,
                  (unsigned long long)user.last_step, (unsigned long long)user.last_generation,
                  user.last_why);
}
