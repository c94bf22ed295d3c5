/*
 * Goal     push-pull runs at the speed of the transport: what one server and one worker, two
 *          processes, exchange a second, beside raw copies of as many bytes through TCP and unix
 *          sockets in the same run.
 * Method   real shards behind real gRPC in a child process; the parent drives worker/exchange with
 *          hand-made batches at pipeline depth 1 and gradients of zeros, so that only the exchange
 *          and the table are timed. Rounds of raw copies and of push-pulls alternate; medians
 *          count. A push-pull could at best take as long as its bytes, both ways, take through the
 *          raw socket.
 *
 *     bench_pushpull [STEPS [SHAPE]]
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/layout.h"
#include "common/mem.h"
#include "common/queue.h"
#include "common/rng.h"
#include "common/rpc.h"
#include "server/service_peek.h"
#include "server/shard.h"
#include "worker/exchange.h"

#define SHARDS    2u
#define OWNERS    2u
#define ROUNDS    5
#define RAW_CHUNK (1u << 20)
#define RAW_BYTES (256ull << 20)
#define KEY_COUNT 100000u
#define KEY_SPACE 1000000u
#define BATCHES   8u
#define WARMING   (2 * BATCHES + 2) /* steps that count in no round */

struct shape {
    const char *name;
    uint32_t row_dim;      /* 0: no table */
    uint64_t dense_values; /* 0: no dense parameter */
    double target;         /* of raw TCP; 0: none */
    double rows_target;    /* rows/s; 0: none */
};

static const struct shape shapes[] = {
    {"100000 random rows x 64 floats", 64, 0, 0, 4e6},
    {"100000 random rows x 1 float", 1, 0, 0, 0},
    {"dense 1 MiB", 0, 1ull << 18, 0.8, 0},
    {"dense 4 MiB", 0, 1ull << 20, 0.8, 0},
    {"dense 32 MiB", 0, 8ull << 20, 0.8, 0},
};

static struct schema *make_schema(const struct shape *shape)
{
    struct schema *s = must_alloc(sizeof *s);

    s->tables = must_alloc(sizeof *s->tables);
    s->dense = must_alloc(sizeof *s->dense);
    if (shape->row_dim) {
        s->table_count = 1;
        strcpy(s->tables[0].name, "bench");
        s->tables[0].component_count = 1;
        s->tables[0].components[0] =
            (struct schema_component){.name = "v",
                                      .dim = shape->row_dim,
                                      .optimizer = {.type = "sgd", .learning_rate = 0.01}};
    }
    if (shape->dense_values) {
        s->dense_count = 1;
        strcpy(s->dense[0].name, "bench");
        s->dense[0].shape[0] = (uint32_t)shape->dense_values;
        s->dense[0].shape_count = 1;
        s->dense[0].optimizer = (struct optimizer_spec){.type = "sgd", .learning_rate = 0.01};
    }
    CHECK(schema_finish(s, 1) == ERR_NONE);
    return s;
}

static struct steps make_steps(void)
{
    return (struct steps){.consistency = CONSISTENCY_BSP,
                          .steps_per_epoch = 1000000,
                          .last_step = 1000000,
                          .drain_every = 1000000,
                          .pipeline_depth = 1};
}

/* ---- the server: a child process ---- */

struct owner {
    struct queue *queue;
    pthread_t thread;
};

struct server {
    struct shard *shards[SHARDS];
    struct owner owners[OWNERS];
};

struct request {
    struct rpc_call *call;
    uint32_t shard;
    bool is_resume;
};

static void notice(void *context, const struct shard_notice *n)
{
    (void)context;
    if (n->kind == SHARD_FAILED)
        fprintf(stderr, "shard %u: %s\n", n->shard, n->text);
}

static void answer(void *context, enum err code, struct chain *reply)
{
    if (code)
        rpc_call_fail(context, RPC_INVALID, err_text());
    else
        rpc_call_reply(context, reply);
}

static struct server *the_server;

static void *own(void *context)
{
    struct owner *o = context;
    void *item;

    while (queue_pop(o->queue, &item, QUEUE_FOREVER) == ERR_NONE) {
        struct request *r = item;
        const struct chain *body = rpc_call_request(r->call);
        struct chain copy = {0};
        chain_share(&copy, body, 0, body->size);
        if (r->is_resume)
            shard_resume(the_server->shards[r->shard], &copy, answer, r->call);
        else
            shard_push_pull(the_server->shards[r->shard], &copy, answer, r->call, clock_ms());
        chain_deinit(&copy);
        free(r);
    }
    return NULL;
}

static void handle(struct rpc_call *call, bool is_resume)
{
    struct request_head head;
    struct request *r = must_alloc(sizeof *r);

    CHECK(request_peek(rpc_call_request(call), false, &head) == ERR_NONE);
    CHECK(head.shard < SHARDS);
    *r = (struct request){.call = call, .shard = head.shard, .is_resume = is_resume};
    CHECK(queue_push(the_server->owners[r->shard % OWNERS].queue, r, 1000) == ERR_NONE);
}

static void handle_push_pull(void *context, struct rpc_call *call)
{
    handle(call, false);
}

static void handle_resume(void *context, struct rpc_call *call)
{
    handle(call, true);
}

static void serve(const struct shape *shape, const char *address, int ready)
{
    const struct rpc_method methods[] = {{WIRE_PUSH_PULL, handle_push_pull, NULL},
                                         {WIRE_RESUME, handle_resume, NULL}};
    const char *listen[] = {address, NULL};
    struct rpc_server_options options = {.listen = listen, .methods = methods, .method_count = 2};
    struct rpc_server *server;
    struct schema *schema = make_schema(shape);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    the_server = must_alloc(sizeof *the_server);
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard_options o = {.job = "bench",
                                  .generation = 1,
                                  .index = i,
                                  .first_partition = i * PARTITION_COUNT / SHARDS,
                                  .end_partition = (i + 1) * PARTITION_COUNT / SHARDS,
                                  .rank_count = 1,
                                  .schema = schema,
                                  .steps = make_steps(),
                                  .wait_ms = 10000,
                                  .notify = notice};
        CHECK(shard_create(&o, &the_server->shards[i]) == ERR_NONE);
        shard_set_lease(the_server->shards[i], 0, 1);
        shard_begin(the_server->shards[i], 0);
    }
    for (uint32_t i = 0; i < OWNERS; i++) {
        the_server->owners[i].queue = queue_create(1024);
        pthread_create(&the_server->owners[i].thread, NULL, own, &the_server->owners[i]);
    }
    if (rpc_server_create(&options, &server) != ERR_NONE) {
        fprintf(stderr, "%s\n", err_text());
        _exit(1);
    }
    const char *bound = rpc_server_address(server, 0);
    CHECK(write(ready, bound, strlen(bound) + 1) > 0);
    pause();
    _exit(0);
}

/* ---- the worker: this process ---- */

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void make_keys(uint64_t seed, uint64_t *keys, uint32_t *count)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < KEY_COUNT; i++)
        keys[i] = mix64(rng_below(rng_at(seed, i), KEY_SPACE));
    qsort(keys, KEY_COUNT, sizeof *keys, compare_keys);
    for (uint32_t i = 0; i < KEY_COUNT; i++)
        if (!n || keys[i] != keys[n - 1])
            keys[n++] = keys[i];
    *count = n;
}

struct work {
    struct batch batches[BATCHES];
    struct batch_table tables[BATCHES];
    uint64_t next; /* batch to give */
};

static void make_batches(struct work *w, const struct shape *shape)
{
    for (uint32_t i = 0; i < BATCHES; i++) {
        w->batches[i] = (struct batch){.example_count = 1, .weight_sum = 1};
        if (!shape->row_dim)
            continue;
        w->tables[i].keys = must_alloc(KEY_COUNT * sizeof(uint64_t));
        make_keys(i + 1, w->tables[i].keys, &w->tables[i].key_count);
        w->batches[i].tables = &w->tables[i];
        w->batches[i].table_count = 1;
    }
}

static void give(struct exchange *x, struct work *w)
{
    while (w->next <= exchange_batches_needed(x, 0)) {
        struct batch *b = &w->batches[w->next % BATCHES];
        b->step = w->next++;
        CHECK(exchange_give(x, 0, b) == ERR_NONE);
    }
}

/*
 * One step; gradients of zeros cost the server what others do. Returns the bytes, both ways.
 *
 * Gradients are cleared while warming only: memory goes round among areas of one size, which then
 * hold gradients and values, zeros all. Before that it may have held keys, which can look like
 * infinite gradients. Making gradients is not what is measured here.
 */
static uint64_t step(struct exchange *x, struct work *w, const struct shape *shape, uint64_t *rows)
{
    struct exchange_work values;
    struct exchange_push push = {.weight = 1};
    uint64_t bytes = 2 * sizeof(float) * shape->dense_values;

    if (exchange_wait(x, 0, &values) != ERR_NONE) {
        fprintf(stderr, "%s\n", err_text());
        exit(1);
    }
    bool clears = values.step <= WARMING || shape->row_dim == 1; /* keys take as much memory */
    if (shape->row_dim > 0) {
        uint32_t count = w->batches[values.step % BATCHES].tables[0].key_count;
        if (clears)
            memset(values.row_gradients[0], 0, sizeof(float) * count * shape->row_dim);
        bytes += count * 2ull * (sizeof(uint64_t) + sizeof(float) * shape->row_dim);
        *rows += count;
    } else if (clears) {
        memset(values.dense_gradients[0], 0, sizeof(float) * shape->dense_values);
    }
    give(x, w);
    CHECK(exchange_push(x, 0, &push) == ERR_NONE);
    return bytes;
}

/* ---- what is measured ---- */

struct outcome {
    double bytes_per_second, rows_per_second;
    double cpu_ns_per_byte; /* of both ends: it does not depend on who else uses the machine */
};

static double cpu_ns(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1e9 +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1e3;
}

static double own_cpu_ns(void)
{
    struct rusage u;
    CHECK(getrusage(RUSAGE_SELF, &u) == 0);
    return cpu_ns(&u);
}

static double cpu_ns_of(pid_t process)
{
    clockid_t clock;
    struct timespec t;
    CHECK(clock_getcpuclockid(process, &clock) == 0 && clock_gettime(clock, &t) == 0);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ---- raw sockets ---- */

static void raw_pair(bool is_tcp, int ends[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int one = 1;

    if (!is_tcp) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        return;
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(ends[0], (struct sockaddr *)&address, sizeof address) == 0);
    ends[1] = accept(listener, NULL, NULL);
    CHECK(ends[1] >= 0);
    CHECK(setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    close(listener);
}

static void read_all(int end, char *buffer)
{
    for (uint64_t left = RAW_BYTES; left > 0;) {
        ssize_t got = read(end, buffer, RAW_CHUNK);
        if (got <= 0)
            _exit(1);
        left -= (uint64_t)got;
    }
    CHECK(write(end, "", 1) == 1);
}

/* One way, 1 MiB writes and reads, between two processes. */
static struct outcome raw_copy(bool is_tcp)
{
    int ends[2];
    char *buffer = mem_calloc(1, RAW_CHUNK);
    struct rusage used;

    CHECK(buffer != NULL);
    raw_pair(is_tcp, ends);
    pid_t reader = fork();
    CHECK(reader >= 0);
    if (reader == 0) {
        close(ends[0]);
        read_all(ends[1], buffer);
        _exit(0);
    }
    close(ends[1]);
    double cpu = own_cpu_ns();
    uint64_t start = clock_ns();
    for (uint64_t sent = 0; sent < RAW_BYTES;) {
        ssize_t wrote = write(ends[0], buffer, RAW_CHUNK);
        CHECK(wrote > 0);
        sent += (uint64_t)wrote;
    }
    CHECK(read(ends[0], buffer, 1) == 1);
    double seconds = clock_seconds_since(start);
    cpu = own_cpu_ns() - cpu;
    close(ends[0]);
    CHECK(wait4(reader, NULL, 0, &used) == reader);
    cpu += cpu_ns(&used);
    mem_free(buffer);
    return (struct outcome){.bytes_per_second = (double)RAW_BYTES / seconds,
                            .cpu_ns_per_byte = cpu / (double)RAW_BYTES};
}

/* ---- push-pull: two processes for each shape and transport, which wait between rounds ---- */

struct pair {
    pid_t worker;
    int go, result;
};

static struct exchange *open_exchange(const struct shape *shape, const char *address)
{
    const char *addresses[] = {address};
    struct exchange_shard shards[SHARDS];
    for (uint32_t i = 0; i < SHARDS; i++)
        shards[i] = (struct exchange_shard){i * PARTITION_COUNT / SHARDS,
                                            (i + 1) * PARTITION_COUNT / SHARDS, addresses, 1, NULL};
    struct exchange_options options = {.job = "bench",
                                       .generation = 1,
                                       .schema = make_schema(shape),
                                       .steps = make_steps(),
                                       .shards = shards,
                                       .shard_count = SHARDS,
                                       .rank_max = 1,
                                       .call_timeout_ms = 20000,
                                       .give_up_ms = 20000};
    struct exchange *x;
    uint32_t index;
    CHECK(exchange_open(&options, &x) == ERR_NONE);
    CHECK(exchange_add_rank(x, &(struct exchange_rank_options){0, 1, 0}, &index) == ERR_NONE);
    if (exchange_resume(x) != ERR_NONE) {
        fprintf(stderr, "%s\n", err_text());
        exit(1);
    }
    return x;
}

static struct outcome run_round(struct exchange *x, struct work *w, const struct shape *shape,
                                pid_t server, uint32_t steps)
{
    double cpu = own_cpu_ns() + cpu_ns_of(server);
    uint64_t start = clock_ns(), bytes = 0, rows = 0;

    for (uint32_t i = 0; i < steps; i++)
        bytes += step(x, w, shape, &rows);
    double seconds = clock_seconds_since(start);
    cpu = own_cpu_ns() + cpu_ns_of(server) - cpu;
    return (struct outcome){(double)bytes / seconds, (double)rows / seconds, cpu / (double)bytes};
}

static void work_in_child(const struct shape *shape, const char *address, uint32_t steps, int go,
                          int result)
{
    char bound[256] = "", byte;
    int ready[2];
    struct work w = {.next = 1};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(pipe(ready) == 0);
    pid_t server = fork();
    CHECK(server >= 0);
    if (server == 0)
        serve(shape, address, ready[1]);
    close(ready[1]);
    CHECK(read(ready[0], bound, sizeof bound) > 0);
    struct exchange *x = open_exchange(shape, bound);
    make_batches(&w, shape);
    give(x, &w);
    CHECK(exchange_begin(x, 0) == ERR_NONE);
    (void)run_round(x, &w, shape, server, WARMING); /* creates the rows, warms */
    while (read(go, &byte, 1) == 1) {
        struct outcome o = run_round(x, &w, shape, server, steps);
        CHECK(write(result, &o, sizeof o) == sizeof o);
    }
    _exit(0);
}

/* gRPC must not be there when we fork: every pair has processes of its own. */
static struct pair pair_start(const struct shape *shape, const char *address, uint32_t steps)
{
    int go[2], result[2];

    CHECK(pipe(go) == 0 && pipe(result) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(go[1]);
        close(result[0]);
        work_in_child(shape, address, steps, go[0], result[1]);
    }
    close(go[0]);
    close(result[1]);
    return (struct pair){child, go[1], result[0]};
}

static bool pair_round(struct pair *p, struct outcome *out)
{
    return write(p->go, "", 1) == 1 && read(p->result, out, sizeof *out) == sizeof *out;
}

static void pair_stop(struct pair *p)
{
    /* Its server goes with it. Closing `go` would not do: the other pair has that end, too. */
    kill(p->worker, SIGKILL);
    close(p->go);
    close(p->result);
    waitpid(p->worker, NULL, 0);
}

/* ---- medians, and what is printed ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double median_of(const struct outcome *o, size_t offset)
{
    double values[ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        memcpy(&values[i], (const char *)&o[i] + offset, sizeof values[i]);
    qsort(values, ROUNDS, sizeof *values, compare_doubles);
    return values[ROUNDS / 2];
}

static struct outcome medians(const struct outcome *o)
{
    return (struct outcome){median_of(o, offsetof(struct outcome, bytes_per_second)),
                            median_of(o, offsetof(struct outcome, rows_per_second)),
                            median_of(o, offsetof(struct outcome, cpu_ns_per_byte))};
}

static void print(const struct shape *s, const char *transport, struct outcome o,
                  struct outcome raw, double raw_tcp)
{
    printf("push-pull %-30s %-4s %5.2f GiB/s, raw %5.2f, ratio %.2f; of raw tcp %.2f", s->name,
           transport, o.bytes_per_second / (1 << 30), raw.bytes_per_second / (1 << 30),
           o.bytes_per_second / raw.bytes_per_second, o.bytes_per_second / raw_tcp);
    if (s->target > 0)
        printf(" (target %.1f)", s->target);
    printf("; cpu %.2f ns/B, raw %.2f", o.cpu_ns_per_byte, raw.cpu_ns_per_byte);
    if (s->row_dim > 0)
        printf("; %.2f M rows/s pushed and pulled", o.rows_per_second / 1e6);
    if (s->rows_target > 0)
        printf(" (target %.1f M)", s->rows_target / 1e6);
    printf("\n");
    fflush(stdout);
}

static bool compare(const struct shape *s, uint32_t steps)
{
    struct outcome raw[2][ROUNDS], ours[2][ROUNDS];
    char name[64];
    bool good = true;

    snprintf(name, sizeof name, "unix-abstract:paramd-bench-%d-%td", getpid(), s - shapes);
    struct pair pairs[2] = {pair_start(s, "127.0.0.1:0", steps), pair_start(s, name, steps)};
    for (int round = 0; round < ROUNDS && good; round++) {
        for (int i = 0; i < 2 && good; i++) {
            raw[i][round] = raw_copy(i == 0);
            good = pair_round(&pairs[i], &ours[i][round]);
        }
    }
    pair_stop(&pairs[0]);
    pair_stop(&pairs[1]);
    if (!good) {
        fprintf(stderr, "push-pull of %s did not end\n", s->name);
        return false;
    }
    struct outcome raw_tcp = medians(raw[0]);
    print(s, "tcp", medians(ours[0]), raw_tcp, raw_tcp.bytes_per_second);
    print(s, "unix", medians(ours[1]), medians(raw[1]), raw_tcp.bytes_per_second);
    return true;
}

int main(int argc, char **argv)
{
    uint32_t steps = argc > 1 ? (uint32_t)atoi(argv[1]) : 12;
    bool good = true;

    mem_keep_freed(); /* as the daemons do */
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        if (argc > 2 && i != (size_t)atoi(argv[2]))
            continue;
        bool is_small = s->dense_values > 0 && s->dense_values < (8u << 20);
        good &= compare(s, is_small || s->row_dim == 1 ? steps * 8 : steps);
    }
    return good ? 0 : 1;
}
