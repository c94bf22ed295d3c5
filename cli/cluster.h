/*
 * cluster.h - which cluster a command means, and calls to whoever leads it.
 *
 * The registry is that of the first of: --registry URI; --set registry=URI; --run-dir DIR, or
 * --config FILE; the variable PARAMD_REGISTRY; a `paramctl run` of the job at hand that goes on in
 * this directory (runs/JOB); the user's configuration, ~/.config/paramd/paramctl.yaml; the
 * machine's, /etc/paramd/paramctl.yaml. Configuration files hold settings as the daemons' do
 * (docs/daemon-settings.md); other settings of the first file found count whatever names the
 * registry, and --set has the last word.
 *
 * Each call finds the leader anew, so a change of leader costs a client no more than time.
 *
 * Threads  one.
 * Errors   ERR_UNAVAILABLE: the registry is away or nobody leads; ERR_NOT_FOUND: the cluster does
 *          not know the job; ERR_REFUSED: it says no; ERR_TIMEOUT: no answer within call_timeout.
 */
#ifndef PARAMD_CLI_CLUSTER_H
#define PARAMD_CLI_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "common/err.h"
#include "common/member.h"
#include "common/registry.h"
#include "proto/control.pb-c.h"

struct cluster_options {
    const char *registry, *config, *run_directory;
    struct option_list sets; /* daemon settings */
};

/* Rows of an option table. */
#define CLUSTER_OPTIONS(o)                                                                         \
    {"registry", 0, OPTION_TEXT, &(o).registry}, {"config", 0, OPTION_TEXT, &(o).config},          \
    {                                                                                              \
        "set", 0, OPTION_LIST, &(o).sets                                                           \
    }
#define CLUSTER_OPTION_COUNT 3
#define CLUSTER_SYNOPSIS     "[--registry URI] [--config FILE]"

struct cluster {
    char *uri;
    struct daemon_settings *settings;
    struct registry *registry; /* NULL until cluster_connect() */
};

/* `job` NULL: any; a run in this directory is not looked for then. _open is _find and _connect. */
enum err cluster_find(const struct cluster_options *o, const char *job,
                      struct cluster *out) MUST_CHECK;
enum err cluster_connect(struct cluster *c) MUST_CHECK;
enum err cluster_open(const struct cluster_options *o, const char *job,
                      struct cluster *out) MUST_CHECK;
void cluster_close(struct cluster *c);          /* accepts a zeroed one */
bool cluster_is_local(const struct cluster *c); /* of one machine */

/* One call to the leader; *out is freed with protobuf_c_message_free_unpacked(). */
enum err cluster_call(struct cluster *c, const char *method, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *reply_type,
                      ProtobufCMessage **out) MUST_CHECK;

/* Of a job that lives, or, from the history, of the last one of that name; ERR_NOT_FOUND. */
enum err cluster_status(struct cluster *c, const char *job,
                        Paramd__Control__StatusReply **out) MUST_CHECK;
enum err cluster_list(struct cluster *c, bool all, Paramd__Control__ListReply **out) MUST_CHECK;

#endif
