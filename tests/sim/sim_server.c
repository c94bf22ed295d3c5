#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/wire.h"
#include "server/service.h"
#include "tests/sim/sim_parts.h"

/* A server: the real service, whose owners are those of sim_owner.c. */

struct sim_server {
    struct process *process;
    struct service *service;
    struct rpc_method methods[SHARD_METHOD_COUNT];
};

static void poke(void *context)
{
    struct sim_server *s = context;
    member_poked(s->process->member);
}

struct sim_server *server_begin(struct process *p)
{
    struct sim_server *s = must_alloc(sizeof *s);
    s->process = p;
    s->service = service_create(&(struct service_options){
        .owner_count = (uint32_t)sim_between(1, 2),
        .memory_bytes = UINT64_C(1) << 30,
        .wait_ms = sim.plan.call_timeout_ms / 2,
        .poke = poke,
        .context = s,
    });
    service_methods(s->service, s->methods);
    return s;
}

void server_end(struct sim_server *s)
{
    if (s == NULL)
        return;
    service_destroy(s->service);
    mem_free(s);
}

void server_call(struct sim_server *s, const char *method, struct rpc_call *call)
{
    for (uint32_t i = 0; i < SHARD_METHOD_COUNT; i++) {
        if (strcmp(s->methods[i].name, method) != 0)
            continue;
        s->methods[i].handler(s->methods[i].context, call);
        return;
    }
    rpc_call_fail(call, RPC_UNIMPLEMENTED, method);
}

void server_describe(struct sim_server *s, Paramd__Control__MemberState *state)
{
    service_describe(s->service, state);
}

void server_follow(struct sim_server *s, const Paramd__Control__MemberOrders *orders)
{
    service_follow(s->service, orders);
}

void server_set_orphaned(struct sim_server *s, bool orphaned)
{
    service_set_orphaned(s->service, orphaned);
}
