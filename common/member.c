#include "common/member.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/activity.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member_internal.h"
#include "common/rpc.h"
#include "common/str.h"

#define PARK_MS    1000u /* the leader answers an exchange after this long at the latest */
#define SPACING_MS 3u    /* between exchanges that were poked */
#define SEARCH_MS  200u  /* between looks for a leader */
#define LOOK_MS    500u  /* between looks for a newer one */
#define OPEN_MAX                                                                                   \
    2u /* a poke sends a second exchange; the leader then answers the first at once                \
        */

struct exchange {
    struct member *member;
    bool open;
};

struct member {
    struct member_options options;
    struct registry_member *joined;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping, poked, leaving;
    uint32_t open_count;
    struct exchange exchanges[OPEN_MAX];
    Paramd__Control__MemberOrders *arrived; /* the newest that follow() has not seen */
    bool failed, answered;                  /* since the thread last looked */
    char failure[160];

    /* the thread's own */
    struct rpc_channel *leader;
    uint64_t leader_term;
    uint64_t term, orders_version, sequence;
    uint64_t sent_ms, heard_ms, searched_ms, told_ms;
    bool reported;
};

static void *member_run(void *context);

enum err member_start(const struct member_options *o, struct member **out)
{
    struct member *m = must_alloc(sizeof *m);
    m->options = *o;
    char *record = member_record(o);
    enum err e = registry_join(o->registry, o->role, o->name, record, &m->joined);
    mem_free(record);
    if (e != ERR_NONE) {
        mem_free(m);
        return err_prefix(e, "cannot join as %s '%s'", o->role, o->name);
    }
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (size_t i = 0; i < OPEN_MAX; i++)
        m->exchanges[i].member = m;
    m->heard_ms = clock_ms();
    CHECK(pthread_create(&m->thread, NULL, member_run, m) == 0);
    *out = m;
    return ERR_NONE;
}

void member_poke(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    m->poked = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void member_ask_to_leave(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    m->leaving = m->poked = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void member_stop(struct member *m)
{
    if (m == NULL)
        return;
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    rpc_channel_close(m->leader);
    registry_leave(m->joined);
    if (m->arrived != NULL)
        paramd__control__member_orders__free_unpacked(m->arrived, NULL);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

const char *member_id(const struct member *m)
{
    return registry_member_id(m->joined);
}

/* ---- the thread ---- */

static void exchange_done(void *context, enum rpc_status status, const char *message,
                          struct chain *reply)
{
    struct exchange *x = context;
    struct member *m = x->member;
    Paramd__Control__MemberOrders *orders = NULL;
    if (status == RPC_OK) {
        void *bytes = must_alloc(reply->size + 1);
        chain_copy_out(reply, 0, bytes, reply->size);
        orders = paramd__control__member_orders__unpack(NULL, reply->size, bytes);
        mem_free(bytes);
    }
    pthread_mutex_lock(&m->lock);
    x->open = false;
    m->open_count--;
    if (orders != NULL) {
        m->answered = true;
        const Paramd__Control__MemberOrders *a = m->arrived;
        bool newer = a == NULL || orders->term > a->term ||
                     (orders->term == a->term && orders->orders_version >= a->orders_version);
        if (newer) {
            m->arrived = orders;
            orders = (Paramd__Control__MemberOrders *)a;
        }
    } else {
        m->failed = true;
        struct str text = {0};
        str_append_format(&text, "%s: %s", rpc_status_name(status), message);
        size_t size = text.size < sizeof m->failure - 1 ? text.size : sizeof m->failure - 1;
        memcpy(m->failure, text.data, size);
        m->failure[size] = '\0';
        str_deinit(&text);
    }
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (orders != NULL)
        paramd__control__member_orders__free_unpacked(orders, NULL);
}

static void send_state(struct member *m, struct exchange *x)
{
    Paramd__Control__MemberState state = PARAMD__CONTROL__MEMBER_STATE__INIT;
    size_t count = 0;
    while (m->options.addresses != NULL && m->options.addresses[count] != NULL)
        count++;
    state.member = (char *)member_id(m);
    state.role = (char *)m->options.role;
    state.address = count > 0 ? (char *)m->options.addresses[0] : (char *)"";
    state.n_addresses = count;
    state.addresses = (char **)m->options.addresses;
    state.host_id = (char *)member_host_id();
    state.term = m->term;
    state.sequence = ++m->sequence;
    state.orders_version = m->orders_version;
    pthread_mutex_lock(&m->lock);
    state.leaving = m->leaving;
    pthread_mutex_unlock(&m->lock);
    state.activity = activity_count();
    const struct member_capacity *capacity = &m->options.capacity;
    state.cores = capacity->cores;
    state.gpus = capacity->gpus;
    state.memory_bytes = capacity->memory_bytes;
    state.device_class = (char *)(capacity->device_class != NULL ? capacity->device_class : "");
    m->options.describe(m->options.context, &state);
    size_t size = paramd__control__member_state__get_packed_size(&state);
    struct buf *b = buf_create(size > 0 ? size : 1);
    CHECK(b != NULL);
    paramd__control__member_state__pack(&state, buf_data(b));
    struct chain request = {0};
    chain_append(&request, b, buf_data(b), size);
    buf_unref(b);
    uint32_t timeout = m->options.call_timeout_ms;
    struct rpc_call_options options = {
        .method = CONTROL_EXCHANGE,
        .timeout_ms = timeout > 2 * PARK_MS ? timeout : 2 * PARK_MS,
    };
    m->sent_ms = clock_ms();
    rpc_channel_call(m->leader, &options, &request, exchange_done, x);
}

/* Looks into the registry for whom to talk to; leaves m->leader NULL when there is nobody yet. */
static void find_leader(struct member *m)
{
    m->searched_ms = clock_ms();
    char *record;
    uint64_t term;
    if (registry_leader(m->options.registry, &record, &term) != ERR_NONE)
        return;
    char *address = member_record_address(record);
    mem_free(record);
    if (address == NULL || !member_may_follow(m->term, term) ||
        rpc_channel_open(address, NULL, &m->leader) != ERR_NONE)
        log_warn("member", "cannot dial the leader address='%s' term=%llu",
                 address != NULL ? address : "", (unsigned long long)term);
    else
        log_debug("member", "found the leader address=%s term=%llu", address,
                  (unsigned long long)term);
    if (m->leader != NULL)
        member_promise(&m->term, &m->orders_version, term);
    m->leader_term = term;
    mem_free(address);
}

/* A leader that is cut off from the registry answers on, and one that is cut off from us does not
   say so; in the meantime another one may have been elected. */
static void look_for_newer(struct member *m)
{
    m->searched_ms = clock_ms();
    char *record;
    uint64_t term;
    if (registry_leader(m->options.registry, &record, &term) != ERR_NONE)
        return;
    mem_free(record);
    if (term <= m->leader_term)
        return;
    log_info("member", "another leader was elected term=%llu was=%llu", (unsigned long long)term,
             (unsigned long long)m->leader_term);
    rpc_channel_close(m->leader);
    m->leader = NULL;
    m->searched_ms = 0;
}

static void wait_changed(struct member *m, uint64_t until_ms)
{
    struct timespec t = {.tv_sec = (time_t)(until_ms / 1000),
                         .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_cond_timedwait(&m->changed, &m->lock, &t);
}

/* Hands over what arrived, if it is not what we follow already and not of an earlier leader. */
static void follow_arrived(struct member *m, Paramd__Control__MemberOrders *orders)
{
    if (member_is_news(m->term, m->orders_version, orders)) {
        m->term = orders->term;
        m->orders_version = orders->orders_version;
        m->options.follow(m->options.context, orders);
    } else if (orders->term < m->term) {
        log_warn("member", "orders of an earlier leader refused term=%llu ours=%llu",
                 (unsigned long long)orders->term, (unsigned long long)m->term);
    }
    paramd__control__member_orders__free_unpacked(orders, NULL);
}

/* Takes in what the callbacks left; returns whether an exchange should leave now. Called and
 * returns locked. */
static bool take_in(struct member *m)
{
    Paramd__Control__MemberOrders *orders = m->arrived;
    bool failed = m->failed, answered = m->answered;
    m->arrived = NULL;
    m->failed = m->answered = false;
    if (orders != NULL || failed) {
        pthread_mutex_unlock(&m->lock);
        if (orders != NULL)
            follow_arrived(m, orders);
        if (failed && m->leader != NULL) {
            /* One that leaves says so, and another will lead. */
            if (!m->reported && strstr(m->failure, MEMBER_LEAVING) == NULL)
                log_warn("member", "the leader does not answer address=%s why='%s'",
                         rpc_channel_address(m->leader), m->failure);
            m->reported = true;
            rpc_channel_close(m->leader);
            m->leader = NULL;
        }
        pthread_mutex_lock(&m->lock);
    }
    if (answered) {
        m->heard_ms = clock_ms();
        m->reported = false;
        if (m->told_ms != 0) {
            m->told_ms = 0;
            pthread_mutex_unlock(&m->lock);
            m->options.orphaned(m->options.context, 0);
            pthread_mutex_lock(&m->lock);
        }
    }
    if (m->leader == NULL || m->open_count == OPEN_MAX)
        return false;
    return m->open_count == 0 || m->poked;
}

static void tell_orphaned(struct member *m, uint64_t now)
{
    if (m->options.orphaned == NULL || now - m->heard_ms < 2 * PARK_MS || now - m->told_ms < 1000)
        return;
    m->told_ms = now;
    pthread_mutex_unlock(&m->lock);
    m->options.orphaned(m->options.context, now - m->heard_ms);
    pthread_mutex_lock(&m->lock);
}

static void *member_run(void *context)
{
    struct member *m = context;
    pthread_mutex_lock(&m->lock);
    while (!m->stopping) {
        bool send = take_in(m);
        uint64_t now = clock_ms();
        tell_orphaned(m, now);
        if (m->stopping)
            break;
        uint32_t search_ms = m->leader == NULL ? SEARCH_MS : LOOK_MS;
        if (m->searched_ms == 0 || now - m->searched_ms >= search_ms) {
            pthread_mutex_unlock(&m->lock);
            if (m->leader == NULL)
                find_leader(m);
            else
                look_for_newer(m);
            pthread_mutex_lock(&m->lock);
            continue;
        }
        if (send && now - m->sent_ms >= SPACING_MS) {
            struct exchange *x = m->exchanges[0].open ? &m->exchanges[1] : &m->exchanges[0];
            x->open = true;
            m->open_count++;
            m->poked = false;
            pthread_mutex_unlock(&m->lock);
            send_state(m, x);
            pthread_mutex_lock(&m->lock);
            continue;
        }
        if (m->arrived == NULL && !m->failed)
            wait_changed(m, send ? m->sent_ms + SPACING_MS : now + search_ms);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}
