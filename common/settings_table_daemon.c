/*
 * settings_table_daemon.c - the rows of the daemons' settings, paramd-server's, paramd-worker's,
 * paramctl's.
 */
#include "common/limits.h"
#include "common/settings_table.h"

#define AT(member) .offset = offsetof(struct daemon_settings, member)
#define NAMES(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* Which default file has the row; both daemons take all. */
#define SERVER DAEMON_APPLIES_SERVER
#define WORKER DAEMON_APPLIES_WORKER

const struct setting daemon_settings[] = {
    {"registry", SETTING_TEXT, AT(registry), .initial = "local:/var/lib/paramd/registry",
     .help = "Where the processes of a cluster find each other: local:DIR on one machine, "
             "zk://HOST:PORT,HOST:PORT/CLUSTER in ZooKeeper."},
    {"registry_session_timeout", SETTING_MS32, AT(registry_session_timeout_ms), .initial = "10s",
     .min = 500, .max = 600000,
     .help = "zk: a daemon that ZooKeeper does not hear of for so long is dead. ZooKeeper keeps it "
             "within 2 to 20 of its ticks; the log says what it became."},
    {"registry_auth_file", SETTING_TEXT, AT(registry_auth_file), .initial = "~",
     .help = "zk: file with one line user:password; the cluster's nodes are then closed to all "
             "others (digest). They travel in the clear: Debian's ZooKeeper client has neither TLS "
             "nor SASL. ~: nodes open to everybody who reaches ZooKeeper."},
    {"listen", SETTING_TEXT, AT(listen), .initial = "127.0.0.1:0",
     .help =
         "Address to listen on: HOST:PORT (port 0: any free one), unix:/PATH, unix-abstract:NAME."},
    {"advertise", SETTING_TEXT, AT(advertise), .initial = "~",
     .help = "Address that others are told; ~: what `listen` got."},
    {"name", SETTING_TEXT, AT(name), .initial = "~",
     .help = "The member's name in the registry; ~: its role and process id."},
    {"log_level", SETTING_TEXT, AT(log_level), .initial = "info",
     .choices = NAMES("debug", "info", "warn", "error"), .help = "What is logged."},
    {"log_file", SETTING_TEXT, AT(log_file), .initial = "~", .help = "~: standard error."},
    {"scratch", SETTING_TEXT, AT(scratch), .applies = WORKER, .initial = "~",
     .help = "worker: directory of the block cache; ~: under the registry's run directory."},
    {"scratch_limit", SETTING_BYTES, AT(scratch_limit_bytes), .applies = WORKER, .initial = "0",
     .max = 1e15,
     .help = "worker: most that the block cache may take; blocks that were not used for longest go "
             "first, and are read again when they are needed. 0: 80 % of the file system."},
    {"memory", SETTING_BYTES, AT(memory_bytes), .applies = SERVER, .initial = "0", .max = 1e15,
     .help = "server: for parameters and buffers; 0: 80 % of what the machine has."},
    {"threads", SETTING_U32, AT(threads), .initial = "0", .max = 1024,
     .help = "worker: compute threads; server: shard threads. 0: by the number of cores."},
    {"device", SETTING_TEXT, AT(device), .applies = WORKER, .initial = "cpu",
     .help = "worker: what it computes on: cpu; cuda, the first GPU; cuda:1, or cuda:0,2 for "
             "several, which its ranks share; auto, a GPU if there is one, else the processor."},
    {"transport_threads", SETTING_U32, AT(transport_threads), .initial = "2", .min = 1, .max = 64,
     .help = "Threads that receive and send."},
    {"call_timeout", SETTING_MS32, AT(call_timeout_ms), .initial = "10s", .min = 100,
     .max = 3600000, .help = "How long one call may take before it is tried again."},
    {"peer_timeout", SETTING_MS32, AT(peer_timeout_ms), .initial = "10s", .min = 500,
     .max = 3600000, .help = "A member that is silent for so long counts as lost."},
    {"stall_timeout", SETTING_MS32, AT(stall_timeout_ms), .initial = "2min", .min = 1000,
     .max = 86400000,
     .help = "A step without progress for so long is treated as a failure; so are indexing, "
             "restoring, evaluating and the last checkpoint when nothing is read or written for "
             "ten times as long."},
    {"stuck_timeout", SETTING_MS32, AT(stuck_timeout_ms), .initial = "1min", .max = 86400000,
     .help = "A shard or rank that is at one piece of work for so long counts as lost; 0: never."},
    {"replace_wait", SETTING_MS32, AT(replace_wait_ms), .applies = SERVER, .initial = "3s",
     .max = 86400000,
     .help = "server: how long a job waits for a replacement of a lost server or worker before it "
             "goes on with those that are there."},
    {"recovery_limit", SETTING_U32, AT(recovery_limit), .applies = SERVER, .initial = "10",
     .max = 1000000,
     .help = "server: losses in a row without progress after which a job fails; 0: any number."},
    {"registry_grace", SETTING_MS32, AT(registry_grace_ms), .initial = "5min", .min = 1000,
     .max = 86400000,
     .help = "The registry, or a leader, away for longer: training holds at the next drain "
             "point until it is back."},
    {"drain_timeout", SETTING_MS32, AT(drain_timeout_ms), .initial = "45s", .max = 3600000,
     .help = "After SIGTERM: how long a daemon may take to hand its work over before it leaves."},
    {"message_max", SETTING_BYTES, AT(message_max_bytes), .initial = "64MiB", .min = 1 << 20,
     .max = MESSAGE_MAX_BYTES, .help = "The largest message that is sent or taken."},
    {"unix_sockets", SETTING_BOOL, AT(unix_sockets), .initial = "true",
     .help = "Also listen on an abstract Unix socket, for peers on the same host."},

    {"storage_timeout", SETTING_MS32, AT(storage.timeout_ms), .initial = "2min", .min = 1000,
     .max = 86400000,
     .help = "hdfs, s3: how long one operation may take, trying again included; a transfer may "
             "take longer while it moves."},
    {"storage_stall_timeout", SETTING_MS32, AT(storage.stall_ms), .initial = "30s", .min = 1000,
     .max = 3600000, .help = "hdfs, s3: a transfer that moves nothing for so long has failed."},
    {"storage_ca_file", SETTING_TEXT, AT(storage.ca_file), .initial = "~",
     .help = "hdfs, s3: certificates (PEM) that are trusted; ~: the system's."},
    {"hdfs_user", SETTING_TEXT, AT(storage.hdfs_user), .initial = "~",
     .help = "hdfs: the user by simple authentication; ~: HADOOP_USER_NAME, or the process's."},
    {"hdfs_auth", SETTING_TEXT, AT(storage.hdfs_auth), .initial = "simple",
     .choices = NAMES("simple", "kerberos"),
     .help = "hdfs: who we are to the NameNode. kerberos: by the ticket of this process "
             "(KRB5CCNAME, or KRB5_CLIENT_KTNAME)."},
    {"hdfs_token_file", SETTING_TEXT, AT(storage.hdfs_token_file), .initial = "~",
     .help = "hdfs: file with a delegation token (one line), read again when it changes; it takes "
             "the place of hdfs_auth."},
    {"hdfs_namenodes", SETTING_TEXT, AT(storage.hdfs_namenodes), .initial = "~",
     .help = "hdfs: named services: \"NAME=HOST:PORT,HOST:PORT; NAME=...\", so that "
             "hdfs://NAME/path finds its NameNodes. PORT is that of HTTP."},
    {"hdfs_tls", SETTING_BOOL, AT(storage.hdfs_tls), .initial = "false",
     .help = "hdfs: over HTTPS (SWebHDFS)."},
    {"s3_endpoint", SETTING_TEXT, AT(storage.s3_endpoint), .initial = "~",
     .help = "s3: http[s]://HOST[:PORT] of the store; ~: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or "
             "Amazon's."},
    {"s3_region", SETTING_TEXT, AT(storage.s3_region), .initial = "~",
     .help = "s3: region that requests are signed for; ~: AWS_REGION, AWS_DEFAULT_REGION, or "
             "us-east-1."},
    {"s3_addressing", SETTING_TEXT, AT(storage.s3_addressing), .initial = "auto",
     .choices = NAMES("auto", "path", "virtual"),
     .help = "s3: where the bucket's name stands: path: HOST/BUCKET/KEY, virtual: "
             "BUCKET.HOST/KEY. auto: path with an endpoint or a dot in the bucket's name, else "
             "virtual."},
    {"s3_credentials_file", SETTING_TEXT, AT(storage.s3_credentials_file), .initial = "~",
     .help = "s3: file like ~/.aws/credentials, read again when it changes; ~: the usual places, "
             "in the order of docs/storage.md."},
    {"s3_profile", SETTING_TEXT, AT(storage.s3_profile), .initial = "~",
     .help = "s3: section of the file of credentials; ~: AWS_PROFILE, or default."},
};
const size_t daemon_setting_count = sizeof daemon_settings / sizeof *daemon_settings;
