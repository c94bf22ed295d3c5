#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/member_internal.h"
#include "tests/sim/sim_parts.h"

/*
 * A member as common/member.c has it: finds the leader in the registry, exchanges its state for
 * orders, two exchanges at a time at most, follows what is newer and of no earlier leader.
 */

#define OPEN_MAX  2u
#define SEARCH_MS 100u
#define SPACE_MS  2u
#define PARK_MS   1000u
#define GRACE_MS  3000u

struct sim_member {
    struct process *process;
    struct rpc_channel *leader;
    uint64_t term, version, sequence;
    uint32_t open;
    bool poked, sending;
    uint64_t sent_us, heard_us;
};

static void search(void *context);
static void send_soon(struct sim_member *m);

static void follow(struct sim_member *m, const Paramd__Control__MemberOrders *o)
{
    if (!member_is_news(m->term, m->version, o))
        return;
    oracle_orders(m->process, o);
    m->term = o->term;
    m->version = o->orders_version;
    TRACE("orders term=%llu version=%llu job='%s' generation=%llu%s", (unsigned long long)o->term,
          (unsigned long long)o->orders_version, o->job, (unsigned long long)o->generation,
          o->shutdown ? " shutdown" : "");
    if (m->process->is_server)
        server_follow(m->process->server, o);
    else
        worker_follow(m->process->worker, o);
    m->poked = true;
    if (o->shutdown)
        process_leave(m->process);
}

static void answered(void *context, enum rpc_status status, const char *message,
                     struct chain *reply)
{
    struct sim_member *m = context;
    m->open--;
    if (status == RPC_CANCELLED)
        return;
    if (status == RPC_OK) {
        m->heard_us = sim.now_us;
        uint8_t *bytes = must_alloc(reply->size + 1);
        chain_copy_out(reply, 0, bytes, reply->size);
        Paramd__Control__MemberOrders *o =
            paramd__control__member_orders__unpack(NULL, reply->size, bytes);
        mem_free(bytes);
        CHECK(o != NULL);
        follow(m, o);
        paramd__control__member_orders__free_unpacked(o, NULL);
    } else if (m->leader != NULL) {
        TRACE("the leader does not answer: %s", message);
        struct rpc_channel *c = m->leader;
        m->leader = NULL;
        rpc_channel_close(c);
        sim_after(m->process, SEARCH_MS * SIM_MS, "search", search, NULL, m);
    }
    if (m->open == 0 || m->poked)
        send_soon(m);
}

static void send_state(struct sim_member *m)
{
    Paramd__Control__MemberState state = PARAMD__CONTROL__MEMBER_STATE__INIT;
    char *address = m->process->name;
    state.member = (char *)registry_id(m->process);
    state.role = (char *)(m->process->is_server ? "server" : "worker");
    state.address = address;
    state.n_addresses = 1;
    state.addresses = &address;
    state.host_id = (char *)"sim";
    state.device_class = (char *)"sim";
    state.memory_bytes = UINT64_C(1) << 30;
    state.term = m->term;
    state.orders_version = m->version;
    state.sequence = ++m->sequence;
    state.leaving = m->process->wants_to_leave;
    if (m->process->is_server)
        server_describe(m->process->server, &state);
    else
        worker_describe(m->process->worker, &state);
    struct chain request = {0};
    size_t size = paramd__control__member_state__get_packed_size(&state);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_state__pack(&state, bytes);
    chain_append_copy(&request, bytes, size);
    mem_free(bytes);
    m->sent_us = sim.now_us;
    m->open++;
    m->poked = false;
    struct rpc_call_options options = {.method = CONTROL_EXCHANGE, .timeout_ms = 2 * PARK_MS};
    if (options.timeout_ms < sim.plan.call_timeout_ms)
        options.timeout_ms = sim.plan.call_timeout_ms;
    rpc_channel_call(m->leader, &options, &request, answered, m);
}

/* Shards hold while no leader is heard for too long. */
static void watch_leader(void *context)
{
    struct sim_member *m = context;
    server_set_orphaned(m->process->server, sim.now_us - m->heard_us > GRACE_MS * SIM_MS);
    sim_after(m->process, 500 * SIM_MS, "orphaned", watch_leader, NULL, m);
}

static void send_now(void *context)
{
    struct sim_member *m = context;
    m->sending = false;
    if (m->leader != NULL && (m->open == 0 || (m->poked && m->open < OPEN_MAX)))
        send_state(m);
}

static void send_soon(struct sim_member *m)
{
    if (m->sending || m->leader == NULL || m->open == OPEN_MAX)
        return;
    m->sending = true;
    uint64_t at_us = m->sent_us + SPACE_MS * SIM_MS;
    uint64_t wait_us = at_us > sim.now_us ? at_us - sim.now_us : sim_between(10, 100);
    sim_after(m->process, wait_us, "send", send_now, NULL, m);
}

static void search(void *context)
{
    struct sim_member *m = context;
    char address[32];
    uint64_t term;
    if (m->leader != NULL)
        return;
    if (!registry_find_leader(m->process, address, sizeof address, &term) ||
        !member_may_follow(m->term, term)) {
        sim_after(m->process, SEARCH_MS * SIM_MS, "search", search, NULL, m);
        return;
    }
    CHECK(rpc_channel_open(address, NULL, &m->leader) == ERR_NONE);
    member_promise(&m->term, &m->version, term);
    send_soon(m);
}

struct sim_member *member_begin(struct process *p)
{
    struct sim_member *m = must_alloc(sizeof *m);
    m->process = p;
    m->heard_us = sim.now_us;
    sim_after(p, sim_between(1, 50) * SIM_MS, "search", search, NULL, m);
    if (p->is_server)
        sim_after(p, 500 * SIM_MS, "orphaned", watch_leader, NULL, m);
    return m;
}

void member_end(struct sim_member *m)
{
    if (m == NULL)
        return;
    struct rpc_channel *c = m->leader;
    m->leader = NULL;
    rpc_channel_close(c);
    mem_free(m);
}

void member_poked(struct sim_member *m)
{
    if (m == NULL)
        return;
    m->poked = true;
    send_soon(m);
}
