/*
 * local.h - a cluster on this machine, for as long as one command runs: server and worker processes
 * that die with paramctl, or one server and one worker inside it.
 *
 * The processes meet in a local registry inside the run directory. They hold the read end of a pipe
 * whose write end only paramctl has, so that they end whatever happens to it (PROTOCOL.md 8).
 *
 * Threads  one.
 */
#ifndef PARAMD_CLI_LOCAL_H
#define PARAMD_CLI_LOCAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/registry.h"
#include "common/str.h"

#define LOCAL_REGISTRY_PREFIX "registry-" /* of the registry's directory in the run directory */

struct local;

struct local_options {
    const char *directory; /* the run directory: logs/, cache/, registry */
    uint32_t servers;      /* 0: one server and one worker in this process */
    uint32_t workers;
    uint32_t gpus_per_worker; /* workers take them in turn; 0: the setting device says */
    const char *const *sets;  /* daemon settings, NULL-terminated; borrowed until local_stop() */
};

enum err local_start(const struct local_options *o, struct local **out) MUST_CHECK;
struct registry *local_registry(struct local *l);

struct local_tender {
    void (*died)(void *context,
                 const char *text); /* "server 1 died (signal 9, …): started again" */
    void *context;
};
/*
 * To be called a few times a second: starts a new process in the place of each that has ended.
 * It is a new member of the same name and role; what the job makes of it is the coordinator's
 * business.
 * false: one ends again and again, or for a reason that a restart cannot mend: *why names it.
 */
bool local_tend(struct local *l, const struct local_tender *t, struct str *why);
/*
 * SIGTERM, at most `grace_ms`, SIGKILL; every process is waited for. Removes registry and cache.
 * Accepts NULL.
 */
void local_stop(struct local *l, uint32_t grace_ms);

#endif
