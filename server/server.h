/*
 * server.h - a parameter server as an object: what paramd-server runs, and what `--servers 0` runs
 * in paramctl's own process beside a worker.
 *
 * server_start() joins the registry, listens, tries to lead, and serves until server_stop();
 * everything runs on its own threads (one loop, the shard owners, storage, transport).
 *
 * Threads  start, stop, wait: one thread of the owner. Errors: texts name registry, address and
 * what to do.
 */
#ifndef PARAMD_SERVER_SERVER_H
#define PARAMD_SERVER_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/settings.h"

struct server;

/* `settings` are borrowed until the stop. */
enum err server_start(const struct daemon_settings *settings, struct server **out) MUST_CHECK;
/* The exit code once the server has ended by itself (released: 0, job failed …), or -1 after
 * timeout_ms. */
int server_wait(struct server *s, uint32_t timeout_ms);
/* Asks the leader to take the work over; server_wait() tells when that is done. true: there is
 * none, it may go at once. */
bool server_ask_to_leave(struct server *s);
/* Asks it to end: leaves the registry, answers what is held, joins its threads, frees it. Accepts
 * NULL. */
void server_stop(struct server *s);
/* Address of the data and control plane, as registered. */
const char *server_address(const struct server *s);

#endif
