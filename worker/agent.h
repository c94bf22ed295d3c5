/*
 * agent.h - a worker's conduct: what its orders say should be, against what is.
 *
 * The leader's orders are complete each time, so the agent compares them with what it has and takes
 * the next step towards them: adopt or drop a job, run a round of indexing, load the index, train,
 * evaluate, leave. Long work runs as a task or in the trainer, on threads of their own that can be
 * told to stop; the agent's thread never waits for anything but them ending.
 *
 * Threads  follow(), describe(): the member's thread. Everything else the owner's.
 */
#ifndef PARAMD_WORKER_AGENT_H
#define PARAMD_WORKER_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/settings.h"
#include "proto/control.pb-c.h"

struct agent;

/* What the bits of its results depend on: backend, family of kernels, build. Lives as the agent. */
uint32_t agent_gpus(const struct agent *a);
const char *agent_device_class(const struct agent *a);
/* `settings` is borrowed. poke(): the state has changed. */
enum err agent_start(const struct daemon_settings *settings, void (*poke)(void *context),
                     void *context, struct agent **out) MUST_CHECK;
/* The exit code once the agent has ended (told to shut down: 0), or -1 after timeout_ms. */
int agent_wait(struct agent *a, uint32_t timeout_ms);
bool agent_is_idle(struct agent *a); /* it has no job */
void agent_stop(struct agent *a);    /* drops the job, joins all threads; accepts NULL */
void agent_destroy(struct agent *a); /* after agent_stop() and member_stop(); accepts NULL */

/* As member_options has them. */
void agent_describe(void *agent, Paramd__Control__MemberState *state);
void agent_follow(void *agent, const Paramd__Control__MemberOrders *orders);

#endif
