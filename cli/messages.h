/*
 * messages.h - control messages as JSON for machines and as lines for people: what `-o json` of
 * status, list, members, logs, run and submit prints.
 *
 * Threads  one.
 */
#ifndef PARAMD_CLI_MESSAGES_H
#define PARAMD_CLI_MESSAGES_H

#include <stdio.h>

#include "cli/cli.h"
#include "common/json.h"
#include "proto/control.pb-c.h"

struct json *message_status(const Paramd__Control__StatusReply *s);
struct json *message_job(const Paramd__Control__JobSummary *j);
struct json *message_member(const Paramd__Control__MemberSummary *m);
struct json *message_log(const Paramd__Control__LogLine *l);
/* How a job ended, for `run` and `submit --wait`; `digest` and `why` may be "" or NULL. */
struct json *message_result(const Paramd__Control__StatusReply *s, const char *state,
                            const char *digest, const char *why);

/* A table; a worker's ranks and where it stands are in its last column. */
void members_print(Paramd__Control__MemberSummary *const *members, size_t count, FILE *to);

bool state_is_over(const char *state);
/* Of a job that is over: DONE 0, FAILED 3, STOPPED 130. */
enum exit_code state_exit_code(const char *state);

#endif
