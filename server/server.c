#include "server/server.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/registry.h"
#include "common/rpc.h"
#include "server/leader.h"
#include "server/service.h"

#define ROLE            "server"
#define LEAVE_GRACE_MS  5000u /* the leader lets the end of the job be asked for */
#define LOOK_MS         50u
#define EXIT_JOB_FAILED 3
#define METHOD_COUNT    (SHARD_METHOD_COUNT + CONTROL_METHOD_COUNT)

struct server {
    struct registry *registry;
    struct service *service;
    struct leader *leader;
    struct rpc_server *rpc;
    struct member *member;
    char *socket; /* abstract, for peers on this host; NULL: none */
    char *advertise;
    char *name;
    const char *addresses[3];

    pthread_mutex_t lock;
    uint32_t registry_grace_ms;
    bool leaving, asked_to_leave, job_failed;
    bool member_is_there; /* poke may reach it */
};

static void poke(void *context);
static void describe(void *context, Paramd__Control__MemberState *state);
static void follow(void *context, const Paramd__Control__MemberOrders *orders);
static void orphaned(void *context, uint64_t for_ms);

/* What the settings allow; else 80 % of what there is. */
static uint64_t memory_of(const struct daemon_settings *settings)
{
    return settings->memory_bytes > 0 ? settings->memory_bytes : machine_memory() / 5 * 4;
}

/* A network address gets an abstract socket beside it; a same-host one needs none. */
static bool wants_socket(const struct daemon_settings *settings)
{
    return settings->unix_sockets && strncmp(settings->listen, "unix", 4) != 0 &&
           strncmp(settings->listen, "memory:", 7) != 0;
}

static enum err listen_all(struct server *s, const struct daemon_settings *settings)
{
    struct rpc_method methods[METHOD_COUNT];
    service_methods(s->service, methods);
    leader_methods(s->leader, methods + SHARD_METHOD_COUNT);
    const char *listen[3] = {settings->listen, NULL, NULL};
    if (wants_socket(settings)) {
        s->socket = must_format("unix-abstract:paramd-%d-%" PRIx64, (int)getpid(), clock_ns());
        listen[1] = s->socket;
    }
    struct rpc_server_options options = {
        .listen = listen,
        .methods = methods,
        .method_count = METHOD_COUNT,
        .threads = settings->transport_threads,
        .message_max_bytes = settings->message_max_bytes,
    };
    enum err e = rpc_server_create(&options, &s->rpc);
    if (e != ERR_NONE)
        return e;
    if (settings->advertise != NULL)
        s->advertise = must_strdup(settings->advertise);
    s->addresses[0] = s->advertise != NULL ? s->advertise : rpc_server_address(s->rpc, 0);
    if (s->socket != NULL)
        s->addresses[1] = rpc_server_address(s->rpc, 1);
    return ERR_NONE;
}

static enum err join(struct server *s, const struct daemon_settings *settings)
{
    s->name =
        settings->name != NULL ? must_strdup(settings->name) : must_format("%d", (int)getpid());
    struct member_options options = {
        .registry = s->registry,
        .role = ROLE,
        .name = s->name,
        .addresses = s->addresses,
        .capacity = {.cores = machine_cores(), .memory_bytes = memory_of(settings)},
        .call_timeout_ms = settings->call_timeout_ms,
        .describe = describe,
        .follow = follow,
        .orphaned = orphaned,
        .context = s,
    };
    struct member *m;
    enum err e = member_start(&options, &m);
    if (e != ERR_NONE)
        return e;
    pthread_mutex_lock(&s->lock);
    s->member = m;
    s->member_is_there = true;
    pthread_mutex_unlock(&s->lock);
    return ERR_NONE;
}

enum err server_start(const struct daemon_settings *settings, struct server **out)
{
    struct server *s = must_alloc(sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    s->registry_grace_ms = settings->registry_grace_ms;
    s->service = service_create(&(struct service_options){
        .owner_count = settings->threads > 0 ? settings->threads : machine_cores(),
        .memory_bytes = memory_of(settings),
        .wait_ms = settings->call_timeout_ms / 2,
        .poke = poke,
        .context = s,
    });
    const struct registry_options registry = {
        .session_timeout_ms = settings->registry_session_timeout_ms,
        .auth_file = settings->registry_auth_file,
    };
    enum err e = registry_open_with(settings->registry, &registry, &s->registry);
    if (e != ERR_NONE)
        goto fail;
    s->leader = leader_create(&(struct leader_options){
        .registry = s->registry,
        .peer_timeout_ms = settings->peer_timeout_ms,
        .stall_timeout_ms = settings->stall_timeout_ms,
        .stuck_timeout_ms = settings->stuck_timeout_ms,
        .replace_wait_ms = settings->replace_wait_ms,
        .recovery_limit = settings->recovery_limit,
        .registry_grace_ms = settings->registry_grace_ms,
    });
    e = listen_all(s, settings);
    if (e != ERR_NONE)
        goto fail;
    leader_start(s->leader, s->addresses);
    e = join(s, settings);
    if (e != ERR_NONE)
        goto fail;
    log_info("server", "serves address=%s socket=%s member=%s registry=%s", s->addresses[0],
             s->addresses[1] != NULL ? s->addresses[1] : "none", member_id(s->member),
             settings->registry);
    *out = s;
    return ERR_NONE;
fail:;
    char *why = must_strdup(err_text());
    server_stop(s);
    e = err_set(e, "%s", why);
    mem_free(why);
    return e;
}

int server_wait(struct server *s, uint32_t timeout_ms)
{
    uint64_t deadline = clock_ms() + timeout_ms;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool leaving = s->leaving, failed = s->job_failed, asked = s->asked_to_leave;
        pthread_mutex_unlock(&s->lock);
        if (leaving && asked)
            return 0;
        if (leaving && leader_may_leave(s->leader, member_id(s->member), LEAVE_GRACE_MS))
            return failed ? EXIT_JOB_FAILED : 0;
        uint64_t now = clock_ms();
        if (now >= deadline)
            return -1;
        clock_sleep_ms(deadline - now < LOOK_MS ? (uint32_t)(deadline - now) : LOOK_MS);
    }
}

bool server_ask_to_leave(struct server *s)
{
    if (service_is_idle(s->service))
        return true;
    pthread_mutex_lock(&s->lock);
    s->asked_to_leave = true;
    if (s->member_is_there)
        member_ask_to_leave(s->member);
    pthread_mutex_unlock(&s->lock);
    return false;
}

void server_stop(struct server *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->member_is_there = false;
    pthread_mutex_unlock(&s->lock);
    member_stop(s->member);
    if (s->leader != NULL)
        leader_stop(s->leader);
    service_stop(s->service);
    if (s->rpc != NULL)
        rpc_server_destroy(s->rpc);
    leader_destroy(s->leader);
    service_destroy(s->service);
    if (s->registry != NULL)
        registry_close(s->registry);
    pthread_mutex_destroy(&s->lock);
    mem_free(s->socket);
    mem_free(s->advertise);
    mem_free(s->name);
    mem_free(s);
}

const char *server_address(const struct server *s)
{
    return s->addresses[0];
}

/* ---- member's callbacks ---- */

static void poke(void *context)
{
    struct server *s = context;
    pthread_mutex_lock(&s->lock);
    if (s->member_is_there)
        member_poke(s->member);
    pthread_mutex_unlock(&s->lock);
}

static void describe(void *context, Paramd__Control__MemberState *state)
{
    struct server *s = context;
    service_describe(s->service, state);
}

static void follow(void *context, const Paramd__Control__MemberOrders *orders)
{
    struct server *s = context;
    service_follow(s->service, orders);
    pthread_mutex_lock(&s->lock);
    if (orders->server != NULL)
        s->job_failed = orders->server->fail[0] != '\0';
    s->leaving |= orders->shutdown;
    pthread_mutex_unlock(&s->lock);
}

static void orphaned(void *context, uint64_t for_ms)
{
    struct server *s = context;
    service_set_orphaned(s->service, for_ms > s->registry_grace_ms);
    if (for_ms > 0 && for_ms / 1000 % 10 == 0)
        log_warn("server", "no leader answers for_ms=%" PRIu64, for_ms);
}
