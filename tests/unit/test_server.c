/*
 * Goal: servers and workers as objects train, evaluate, checkpoint, resume and leave, over each
 * transport, and what is on disk at the end has the same digest whatever the shape of the cluster.
 * Method: real servers and workers in this process on a small CSV file of made-up clicks; the test
 * is the user, through control calls alone. It waits for states, not for times.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/registry.h"
#include "common/rng.h"
#include "common/storage.h"
#include "server/server.h"
#include "server/snapshot.h"
#include "worker/worker.h"

#define MEMBERS_MAX 3
/* gRPC is not built for the thread sanitizer, which would see races in it that are none. */
#ifdef __SANITIZE_THREAD__
#define TCP "memory"
#else
#define TCP "tcp"
#endif
#define WAIT_MS 20000u

struct cluster {
    char directory[64];
    char *uri;
    struct daemon_settings *settings[2 * MEMBERS_MAX];
    struct server *servers[MEMBERS_MAX];
    struct worker *workers[MEMBERS_MAX];
    uint32_t server_count, worker_count;
    struct registry *registry;
};

/* ---- the data: a label that follows from two columns, with noise ---- */

static void write_rows(const char *directory, const char *name, uint32_t count, uint64_t seed)
{
    char *path = must_format("%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("y,a,b\n", f);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bits = rng_at(seed, i);
        unsigned a = bits % 20, b = bits / 20 % 7, noise = bits / 140 % 10;
        fprintf(f, "%u,%u,%u\n", noise == 0 ? a % 2 : (a + b) % 3 == 0, a, b);
    }
    fclose(f);
    mem_free(path);
}

static uint32_t epochs = 2;

static char *job_text(const struct cluster *c, const char *more)
{
    return must_format(
        "name: clicks\n"
        "data: {format: csv, train: %s/train.csv, eval: %s/eval.csv, label: y, shuffle: full}\n"
        "features: {a: categorical, b: categorical}\n"
        "model: {type: fm, dim: 4}\n"
        "train: {batch_size: 64, epochs: %u, ranks: 2, drain_every: 10}\n"
        "checkpoint: {uri: \"file:%s/runs\", every_steps: 20, keep: 10}\n"
        "resources: {servers: %u, workers: %u, shards: 2, threads: 1}\n%s",
        c->directory, c->directory, epochs, c->directory, c->server_count, c->worker_count, more);
}

/* ---- the cluster ---- */

static struct daemon_settings *make_settings(const struct cluster *c, const char *listen,
                                             uint32_t number)
{
    char *registry = must_format("registry=local:%s/registry", c->directory);
    char *where = must_format("listen=%s", listen);
    char *name = must_format("name=m%u", number);
    const char *sets[] = {registry, where, name, "threads=2", "log_level=warn", NULL};
    struct daemon_settings *s;
    assert_int_equal(daemon_settings_parse("test", NULL, 0, sets, &s), ERR_NONE);
    mem_free(registry);
    mem_free(where);
    mem_free(name);
    return s;
}

static void cluster_start(struct cluster *c, const char *transport, uint32_t servers,
                          uint32_t workers)
{
    c->server_count = servers;
    c->worker_count = workers;
    c->uri = must_format("local:%s/registry", c->directory);
    assert_int_equal(registry_open(c->uri, &c->registry), ERR_NONE);
    for (uint32_t i = 0; i < servers + workers; i++) {
        static uint32_t serial;
        char *listen = strcmp(transport, "memory") == 0 ? must_format("memory:test-%u", serial++)
                                                        : must_strdup("127.0.0.1:0");
        c->settings[i] = make_settings(c, listen, i);
        mem_free(listen);
        enum err e = i < servers ? server_start(c->settings[i], &c->servers[i])
                                 : worker_start(c->settings[i], &c->workers[i - servers]);
        if (e != ERR_NONE)
            fail_msg("%s", err_text());
    }
}

static void cluster_stop(struct cluster *c)
{
    for (uint32_t i = 0; i < c->worker_count; i++)
        worker_stop(c->workers[i]);
    for (uint32_t i = 0; i < c->server_count; i++)
        server_stop(c->servers[i]);
    for (uint32_t i = 0; i < c->server_count + c->worker_count; i++)
        daemon_settings_destroy(c->settings[i]);
    registry_close(c->registry);
    mem_free(c->uri);
    memset(c->servers, 0, sizeof c->servers);
    memset(c->workers, 0, sizeof c->workers);
}

static void cluster_init(struct cluster *c)
{
    *c = (struct cluster){.directory = "/tmp/paramd-test-server-XXXXXX"};
    assert_non_null(mkdtemp(c->directory));
    write_rows(c->directory, "train.csv", 2000, 1);
    write_rows(c->directory, "eval.csv", 300, 2);
}

static void cluster_deinit(struct cluster *c)
{
    assert_int_equal(storage_remove_tree(c->directory), ERR_NONE);
}

/* ---- the user ---- */

static void submit(struct cluster *c, const char *more, bool resume, bool shutdown)
{
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = job_text(c, more);
    r.mode = (char *)"train";
    r.resume = resume;
    r.shutdown_at_end = shutdown;
    ProtobufCMessage *m;
    enum err e = control_call(c->registry, CONTROL_SUBMIT, &r.base,
                              &paramd__control__submit_reply__descriptor, WAIT_MS, &m);
    if (e != ERR_NONE)
        fail_msg("%s", err_text());
    assert_string_equal(((Paramd__Control__SubmitReply *)m)->error, "");
    protobuf_c_message_free_unpacked(m, NULL);
    mem_free(r.job_yaml);
}

static Paramd__Control__StatusReply *status(struct cluster *c)
{
    Paramd__Control__StatusRequest r = PARAMD__CONTROL__STATUS_REQUEST__INIT;
    ProtobufCMessage *m;
    enum err e = control_call(c->registry, CONTROL_STATUS, &r.base,
                              &paramd__control__status_reply__descriptor, WAIT_MS, &m);
    if (e != ERR_NONE)
        fail_msg("%s", err_text());
    return (Paramd__Control__StatusReply *)m;
}

static Paramd__Control__StatusReply *wait_for(struct cluster *c, const char *state)
{
    uint64_t until = clock_ms() + WAIT_MS;
    for (;;) {
        Paramd__Control__StatusReply *s = status(c);
        if (strcmp(s->state, state) == 0)
            return s;
        if (clock_ms() > until || strcmp(s->state, "FAILED") == 0)
            fail_msg("the job is %s, not %s: %s", s->state, state, s->why);
        paramd__control__status_reply__free_unpacked(s, NULL);
        clock_sleep_ms(5);
    }
}

static void digest_of(const char *uri, char hex[SHA256_HEX_SIZE])
{
    if (checkpoint_digest(uri, hex) != ERR_NONE)
        fail_msg("%s", err_text());
}

/* ---- */

struct shape {
    const char *transport;
    uint32_t servers, workers;
};

/* Two epochs of 32 steps: evaluated, checkpointed, released; the same bits for every shape. */
static void test_shapes(void **state)
{
    static const struct shape shapes[] = {{"memory", 1, 1}, {"memory", 2, 2}, {TCP, 2, 1}};
    char first[SHA256_HEX_SIZE] = "";
    double loss = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct cluster c;
        cluster_init(&c);
        cluster_start(&c, shapes[i].transport, shapes[i].servers, shapes[i].workers);
        submit(&c, "", false, true);
        Paramd__Control__StatusReply *s = wait_for(&c, "DONE");
        assert_int_equal(s->step, s->last_step);
        assert_int_equal(s->epoch, 2);
        assert_int_equal(s->examples, 4000);
        uint32_t held_out = 0;
        for (size_t k = 0; k < s->n_evals; k++)
            held_out += !s->evals[k]->progressive && s->evals[k]->examples == 300;
        assert_int_equal(held_out, 2);
        assert_true(s->objective > 0.1 && s->objective < 0.69);
        char hex[SHA256_HEX_SIZE];
        digest_of(s->checkpoint, hex);
        if (i == 0) {
            memcpy(first, hex, sizeof first);
            loss = s->objective;
        }
        assert_string_equal(hex, first);
        assert_true(s->objective == loss);
        paramd__control__status_reply__free_unpacked(s, NULL);
        for (uint32_t k = 0; k < shapes[i].workers; k++)
            assert_int_equal(worker_wait(c.workers[k], WAIT_MS), 0);
        for (uint32_t k = 0; k < shapes[i].workers; k++) {
            worker_stop(c.workers[k]);
            c.workers[k] = NULL;
        }
        for (uint32_t k = shapes[i].servers; k-- > 0;) {
            assert_int_equal(server_wait(c.servers[k], WAIT_MS), 0);
            server_stop(c.servers[k]);
            c.servers[k] = NULL;
        }
        cluster_stop(&c);
        cluster_deinit(&c);
    }
}

/* Runs the job to `state` and gives its status; the members stay. */
static Paramd__Control__StatusReply *run(struct cluster *c, const char *more, bool resume,
                                         const char *state)
{
    submit(c, more, resume, false);
    return wait_for(c, state);
}

static void flip_byte(const char *uri)
{
    struct storage_list list;
    const char *path = uri + strlen("file:");
    assert_int_equal(storage_list(uri, &list), ERR_NONE);
    bool flipped = false;
    for (size_t i = 0; i < list.count && !flipped; i++) {
        if (strncmp(list.entries[i].name, "table", 5) != 0 || list.entries[i].info.size < 200)
            continue;
        char *name = must_format("%s/%s", path, list.entries[i].name);
        FILE *f = fopen(name, "r+");
        assert_non_null(f);
        assert_int_equal(fseek(f, 100, SEEK_SET), 0);
        int byte = fgetc(f);
        assert_int_equal(fseek(f, 100, SEEK_SET), 0);
        fputc(byte ^ 1, f);
        fclose(f);
        mem_free(name);
        flipped = true;
    }
    assert_true(flipped);
    storage_list_deinit(&list);
}

/* The newest checkpoint has a flipped bit: the one before is taken, said why, and the end has the
 * same bits. */
static void test_resume(void **state)
{
    struct cluster c;
    cluster_init(&c);
    cluster_start(&c, "memory", 2, 2);
    Paramd__Control__StatusReply *s = run(&c, "", false, "DONE");
    char first[SHA256_HEX_SIZE], again[SHA256_HEX_SIZE];
    digest_of(s->checkpoint, first);
    flip_byte(s->checkpoint);
    paramd__control__status_reply__free_unpacked(s, NULL);
    s = run(&c, "", true, "DONE");
    assert_int_equal(s->generation, 2);
    assert_true(s->n_warnings > 0);
    assert_non_null(strstr(s->warnings[0], "1-64"));
    assert_true(s->examples > 0 && s->examples < 4000);
    digest_of(s->checkpoint, again);
    assert_string_equal(first, again);
    paramd__control__status_reply__free_unpacked(s, NULL);
    cluster_stop(&c);
    cluster_deinit(&c);
}

/* Stopped at a drain point, resumed by another shape of cluster: the same bits again. */
static void test_stop_and_resume(void **state)
{
    struct cluster c;
    epochs = 10;
    cluster_init(&c);
    cluster_start(&c, "memory", 1, 2);
    Paramd__Control__StatusReply *s = run(&c, "", false, "DONE");
    char whole[SHA256_HEX_SIZE], resumed[SHA256_HEX_SIZE];
    digest_of(s->checkpoint, whole);
    paramd__control__status_reply__free_unpacked(s, NULL);
    char *runs = must_format("%s/runs", c.directory);
    char *records = must_format("%s/registry/records", c.directory);
    cluster_stop(&c);
    assert_int_equal(storage_remove_tree(runs), ERR_NONE);
    assert_int_equal(storage_remove_tree(records), ERR_NONE);
    mem_free(runs);
    mem_free(records);

    cluster_start(&c, "memory", 2, 1);
    s = run(&c, "", false, "RUNNING");
    paramd__control__status_reply__free_unpacked(s, NULL);
    Paramd__Control__StopRequest r = PARAMD__CONTROL__STOP_REQUEST__INIT;
    r.job = (char *)"clicks";
    r.checkpoint = true;
    ProtobufCMessage *m;
    assert_int_equal(control_call(c.registry, CONTROL_STOP, &r.base,
                                  &paramd__control__simple_reply__descriptor, WAIT_MS, &m),
                     ERR_NONE);
    /* On a machine that stood still meanwhile the job may be over. */
    const char *error = ((Paramd__Control__SimpleReply *)m)->error;
    assert_true(error[0] == '\0' || strstr(error, "DONE") != NULL);
    s = wait_for(&c, error[0] == '\0' ? "STOPPED" : "DONE");
    protobuf_c_message_free_unpacked(m, NULL);
    assert_true(s->checkpoint_step > 0);
    paramd__control__status_reply__free_unpacked(s, NULL);
    cluster_stop(&c);

    cluster_start(&c, "memory", 1, 1);
    s = run(&c, "", true, "DONE");
    digest_of(s->checkpoint, resumed);
    assert_string_equal(whole, resumed);
    paramd__control__status_reply__free_unpacked(s, NULL);
    epochs = 2;
    cluster_stop(&c);
    cluster_deinit(&c);
}

/* What may not be submitted is said to who submits it. */
static void test_refused_at_once(void **state)
{
    struct cluster c;
    cluster_init(&c);
    cluster_start(&c, "memory", 1, 1);
    paramd__control__status_reply__free_unpacked(run(&c, "", false, "DONE"), NULL);
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = job_text(&c, "");
    ProtobufCMessage *m;
    assert_int_equal(control_call(c.registry, CONTROL_SUBMIT, &r.base,
                                  &paramd__control__submit_reply__descriptor, WAIT_MS, &m),
                     ERR_NONE);
    const char *error = ((Paramd__Control__SubmitReply *)m)->error;
    assert_non_null(strstr(error, "--resume"));
    assert_non_null(strstr(error, "1-64"));
    protobuf_c_message_free_unpacked(m, NULL);
    mem_free(r.job_yaml);
    cluster_stop(&c);
    cluster_deinit(&c);
}

int main(void)
{
    log_set_level(LOG_WARN);
    if (getenv("PARAMD_TEST_LOG") != NULL)
        log_set_level(LOG_INFO);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_stop_and_resume),
        cmocka_unit_test(test_refused_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
