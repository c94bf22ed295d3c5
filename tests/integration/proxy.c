/*
 * A proxy between workers and a server that loses, delays and doubles requests and replies of the
 * data plane (Shard/PushPull, Resume, Read); the control plane passes through. A server stands
 * behind it by its setting `advertise` (with unix_sockets off, or peers on the same host go around
 * it).
 *
 *     proxy --listen ADDRESS --target ADDRESS [--lose-request P] [--lose-reply P] [--double P]
 * [--delay P]
 *           [--delay-ms N] [--lost-ms N] [--seed N]
 *
 * P are probabilities. What is lost is answered UNAVAILABLE after lost-ms, as a broken connection
 * would be; a request that is lost never reaches the target, a reply that is lost leaves its effect
 * there. A doubled request reaches the target again later. Prints "listening ADDRESS" once it
 * serves, and what it has done when SIGTERM ends it.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/rng.h"
#include "common/rpc.h"
#include "common/str.h"
#include "common/wire.h"

#define PASS_TIMEOUT_MS 60000u

enum deed { DEED_FORWARD, DEED_REPLY, DEED_FAIL };

/* A call that is being served, or a doubled copy of one (call NULL). */
struct passage {
    struct rpc_call *call;
    const char *method;
    bool has_faults;
    struct chain bytes; /* the request, or the reply that waits to leave */
    enum deed deed;     /* when it is due */
    uint64_t due_ms;
    struct passage *next;
};

struct proxy {
    const char *listen, *target;
    double lose_request, lose_reply, twice, delay;
    uint64_t delay_ms, lost_ms, seed;
    struct rpc_channel *channel;
    pthread_mutex_t lock;
    pthread_t thread;
    struct passage *later;
    bool is_stopping;
    atomic_uint_fast64_t dice;
    atomic_uint_fast64_t calls, lost_requests, lost_replies, doubled, delayed;
};

static struct proxy proxy = {.delay_ms = 20, .lost_ms = 50, .seed = 1};
static volatile sig_atomic_t told_to_stop;

static bool happens(double probability)
{
    uint64_t n = atomic_fetch_add(&proxy.dice, 1);
    return rng_uniform(rng_at(proxy.seed, n)) < probability;
}

static void passage_end(struct passage *p)
{
    chain_deinit(&p->bytes);
    mem_free(p);
}

static void put_off(struct passage *p, enum deed deed, uint64_t ms)
{
    p->deed = deed;
    p->due_ms = clock_ms() + ms;
    pthread_mutex_lock(&proxy.lock);
    bool stops = proxy.is_stopping;
    if (!stops) {
        p->next = proxy.later;
        proxy.later = p;
    }
    pthread_mutex_unlock(&proxy.lock);
    if (!stops)
        return;
    if (p->call != NULL)
        rpc_call_fail(p->call, RPC_UNAVAILABLE, "the proxy is leaving");
    passage_end(p);
}

static void forwarded(void *context, enum rpc_status status, const char *message,
                      struct chain *reply)
{
    struct passage *p = context;
    if (p->call == NULL) {
        passage_end(p);
        return;
    }
    if (status != RPC_OK) {
        rpc_call_fail(p->call, status, message);
        passage_end(p);
        return;
    }
    chain_deinit(&p->bytes);
    chain_move(&p->bytes, reply);
    if (p->has_faults && happens(proxy.lose_reply)) {
        atomic_fetch_add(&proxy.lost_replies, 1);
        put_off(p, DEED_FAIL, proxy.lost_ms);
    } else if (p->has_faults && happens(proxy.delay)) {
        atomic_fetch_add(&proxy.delayed, 1);
        put_off(p, DEED_REPLY, proxy.delay_ms);
    } else {
        rpc_call_reply(p->call, &p->bytes);
        passage_end(p);
    }
}

static void forward(struct passage *p)
{
    uint32_t left_ms = p->call != NULL ? rpc_call_left_ms(p->call) : PASS_TIMEOUT_MS;
    struct rpc_call_options options = {.method = p->method,
                                       .timeout_ms = left_ms > 0 ? left_ms : 1};
    struct chain request = {0};
    chain_move(&request, &p->bytes);
    rpc_channel_call(proxy.channel, &options, &request, forwarded, p);
}

static struct passage *passage_make(struct rpc_call *call, const char *method,
                                    const struct chain *bytes)
{
    struct passage *p = must_alloc(sizeof *p);
    p->call = call;
    p->method = method;
    chain_share(&p->bytes, bytes, 0, bytes->size);
    return p;
}

static void serve(const char *method, bool has_faults, struct rpc_call *call)
{
    struct passage *p = passage_make(call, method, rpc_call_request(call));
    p->has_faults = has_faults;
    atomic_fetch_add(&proxy.calls, 1);
    if (has_faults && happens(proxy.lose_request)) {
        atomic_fetch_add(&proxy.lost_requests, 1);
        put_off(p, DEED_FAIL, proxy.lost_ms);
        return;
    }
    if (has_faults && happens(proxy.twice)) {
        atomic_fetch_add(&proxy.doubled, 1);
        put_off(passage_make(NULL, method, &p->bytes), DEED_FORWARD, proxy.delay_ms);
    }
    if (has_faults && happens(proxy.delay)) {
        atomic_fetch_add(&proxy.delayed, 1);
        put_off(p, DEED_FORWARD, proxy.delay_ms);
    } else {
        forward(p);
    }
}

static void serve_shard(void *context, struct rpc_call *call)
{
    serve(context, true, call);
}

static void serve_control(void *context, struct rpc_call *call)
{
    serve(context, false, call);
}

/* Takes one passage off the list that is due; NULL: none is. */
static struct passage *take_due(uint64_t now_ms)
{
    for (struct passage **at = &proxy.later; *at != NULL; at = &(*at)->next) {
        struct passage *p = *at;
        if (p->due_ms > now_ms)
            continue;
        *at = p->next;
        return p;
    }
    return NULL;
}

static void *run_later(void *context)
{
    for (;;) {
        pthread_mutex_lock(&proxy.lock);
        struct passage *p = take_due(proxy.is_stopping ? UINT64_MAX : clock_ms());
        bool stops = proxy.is_stopping && p == NULL;
        pthread_mutex_unlock(&proxy.lock);
        if (stops)
            return context;
        if (p == NULL) {
            clock_sleep_ms(1);
            continue;
        }
        if (p->deed == DEED_FORWARD) {
            forward(p);
            continue;
        }
        if (p->deed == DEED_REPLY)
            rpc_call_reply(p->call, &p->bytes);
        else
            rpc_call_fail(p->call, RPC_UNAVAILABLE, "lost by the proxy");
        passage_end(p);
    }
}

/* ---- the command line ---- */

struct option {
    const char *name;
    const char **text;
    double *probability;
    uint64_t *number;
};

static const struct option options[] = {
    {"--listen", &proxy.listen, NULL, NULL},
    {"--target", &proxy.target, NULL, NULL},
    {"--lose-request", NULL, &proxy.lose_request, NULL},
    {"--lose-reply", NULL, &proxy.lose_reply, NULL},
    {"--double", NULL, &proxy.twice, NULL},
    {"--delay", NULL, &proxy.delay, NULL},
    {"--delay-ms", NULL, NULL, &proxy.delay_ms},
    {"--lost-ms", NULL, NULL, &proxy.lost_ms},
    {"--seed", NULL, NULL, &proxy.seed},
};

static bool parse_option(const char *name, const char *value)
{
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const struct option *o = &options[i];
        if (strcmp(o->name, name) != 0)
            continue;
        if (o->text != NULL)
            *o->text = value;
        else if (o->probability != NULL)
            return str_parse_f64(span_of(value), o->probability) == ERR_NONE;
        else
            return str_parse_u64(span_of(value), o->number) == ERR_NONE;
        return true;
    }
    return false;
}

static void on_signal(int number)
{
    (void)number;
    told_to_stop = 1;
}

static int parent_pipe(void)
{
    const char *text = getenv("PARAMD_PARENT_FD");
    uint64_t descriptor;
    if (text == NULL || str_parse_u64(span_of(text), &descriptor) != ERR_NONE)
        return -1;
    return (int)descriptor;
}

static bool has_ended(int pipe)
{
    struct pollfd p = {.fd = pipe, .events = POLLIN};
    char byte;
    return pipe >= 0 && poll(&p, 1, 0) > 0 && read(pipe, &byte, 1) == 0;
}

static enum err serve_until_told(void)
{
    static const char *const shard[] = {WIRE_PUSH_PULL, WIRE_RESUME, WIRE_READ};
    static const char *const control[] = {CONTROL_EXCHANGE, CONTROL_SUBMIT, CONTROL_STATUS,
                                          CONTROL_STOP, CONTROL_CHECKPOINT_NOW};
    struct rpc_method methods[8];
    size_t count = 0;
    for (size_t i = 0; i < 3; i++)
        methods[count++] = (struct rpc_method){shard[i], serve_shard, (void *)(uintptr_t)shard[i]};
    for (size_t i = 0; i < 5; i++)
        methods[count++] =
            (struct rpc_method){control[i], serve_control, (void *)(uintptr_t)control[i]};
    const char *listen[] = {proxy.listen, NULL};
    struct rpc_server_options o = {
        .listen = listen, .methods = methods, .method_count = count, .threads = 2};
    struct rpc_server *server;
    enum err e = rpc_channel_open(proxy.target, NULL, &proxy.channel);
    if (e == ERR_NONE)
        e = rpc_server_create(&o, &server);
    if (e != ERR_NONE)
        return e;
    printf("listening %s\n", rpc_server_address(server, 0));
    fflush(stdout);
    int pipe = parent_pipe();
    while (!told_to_stop && !has_ended(pipe))
        clock_sleep_ms(20);
    pthread_mutex_lock(&proxy.lock);
    proxy.is_stopping = true;
    pthread_mutex_unlock(&proxy.lock);
    pthread_join(proxy.thread, NULL);
    rpc_channel_close(proxy.channel);
    rpc_server_destroy(server);
    return ERR_NONE;
}

int main(int count, char **arguments)
{
    for (int i = 1; i + 1 < count; i += 2) {
        if (!parse_option(arguments[i], arguments[i + 1])) {
            fprintf(stderr, "proxy: '%s %s' is not an option\n", arguments[i], arguments[i + 1]);
            return 2;
        }
    }
    if (proxy.listen == NULL || proxy.target == NULL || count % 2 == 0) {
        fprintf(stderr, "usage: proxy --listen ADDRESS --target ADDRESS [--lose-request P] ...\n");
        return 2;
    }
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    pthread_mutex_init(&proxy.lock, NULL);
    CHECK(pthread_create(&proxy.thread, NULL, run_later, NULL) == 0);
    if (serve_until_told() != ERR_NONE) {
        fprintf(stderr, "proxy: %s\n", err_text());
        return 1;
    }
    printf("calls=%llu lost_requests=%llu lost_replies=%llu doubled=%llu delayed=%llu\n",
           (unsigned long long)proxy.calls, (unsigned long long)proxy.lost_requests,
           (unsigned long long)proxy.lost_replies, (unsigned long long)proxy.doubled,
           (unsigned long long)proxy.delayed);
    return 0;
}
