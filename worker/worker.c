#include "worker/worker.h"

#include <inttypes.h>
#include <unistd.h>

#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/registry.h"
#include "worker/agent.h"

#define ORPHAN_LOG_MS 10000u

struct worker {
    const struct daemon_settings *settings;
    struct registry *registry;
    struct member *member;
    struct agent *agent;
    uint64_t told_ms; /* of being orphaned: the last time that was logged */
};

static void poke(void *context)
{
    struct worker *w = context;
    struct member *m = __atomic_load_n(&w->member, __ATOMIC_ACQUIRE);
    if (m != NULL)
        member_poke(m);
}

static void describe(void *context, Paramd__Control__MemberState *state)
{
    agent_describe(((struct worker *)context)->agent, state);
}

static void follow(void *context, const Paramd__Control__MemberOrders *orders)
{
    agent_follow(((struct worker *)context)->agent, orders);
}

/* Training goes on: it stops by itself at a drain point that needs the leader. */
static void orphaned(void *context, uint64_t for_ms)
{
    struct worker *w = context;
    if (for_ms < w->told_ms)
        w->told_ms = 0;
    if (for_ms < w->told_ms + ORPHAN_LOG_MS)
        return;
    w->told_ms = for_ms;
    log_warn("worker", "no leader can be reached for_ms=%" PRIu64, for_ms);
}

enum err worker_start(const struct daemon_settings *settings, struct worker **out)
{
    static const char *const no_addresses[] = {NULL};
    struct worker *w = must_alloc(sizeof *w);
    w->settings = settings;
    char *name =
        settings->name != NULL ? must_strdup(settings->name) : must_format("%ld", (long)getpid());
    const struct registry_options registry = {
        .session_timeout_ms = settings->registry_session_timeout_ms,
        .auth_file = settings->registry_auth_file,
    };
    enum err e = registry_open_with(settings->registry, &registry, &w->registry);
    if (e == ERR_NONE)
        e = agent_start(settings, poke, w, &w->agent);
    struct member *member = NULL;
    if (e == ERR_NONE) {
        struct member_options o = {
            .registry = w->registry,
            .role = "worker",
            .name = name,
            .addresses = no_addresses,
            .capacity = {.cores = machine_cores(),
                         .memory_bytes = machine_memory(),
                         .gpus = agent_gpus(w->agent),
                         .device_class = agent_device_class(w->agent)},
            .call_timeout_ms = settings->call_timeout_ms,
            .describe = describe,
            .follow = follow,
            .orphaned = orphaned,
            .context = w,
        };
        e = member_start(&o, &member);
    }
    mem_free(name);
    if (e != ERR_NONE) {
        worker_stop(w);
        return e;
    }
    __atomic_store_n(&w->member, member, __ATOMIC_RELEASE);
    log_info("worker", "started member=%s registry='%s'", member_id(member), settings->registry);
    *out = w;
    return ERR_NONE;
}

int worker_wait(struct worker *w, uint32_t timeout_ms)
{
    return agent_wait(w->agent, timeout_ms);
}

bool worker_ask_to_leave(struct worker *w)
{
    if (agent_is_idle(w->agent))
        return true;
    member_ask_to_leave(w->member);
    return false;
}

void worker_stop(struct worker *w)
{
    if (w == NULL)
        return;
    /* The agent's threads poke the member until they have ended; the member's asks the agent until
     * it has. */
    agent_stop(w->agent);
    member_stop(w->member);
    agent_destroy(w->agent);
    if (w->registry != NULL)
        registry_close(w->registry);
    mem_free(w);
}
