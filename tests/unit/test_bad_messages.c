/*
 * Goal: whatever bytes a client sends, a server answers each call once, within its deadline, by
 * name of what is wrong, changes nothing of the model, and goes on serving: the good push that
 * comes last is applied as if nothing had been before it. A gradient that is not finite fails the
 * job by name, and the server serves the next one.
 *
 * Method: a real service behind real gRPC on a socket, called through a real channel with messages
 * that plain protobuf-c packs, as any client's would be. A table of one lie each in a message that
 * is good without it, checksum included; every prefix and a flipped bit of every byte of a whole
 * message; noise; too large a message. The state is looked at through Read before and after.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/rpc.h"
#include "common/wire.h"
#include "server/service.h"
#include "tests/support/rpc_fixture.h"

#define CALL_MS       5000
#define MESSAGE_MAX   (1u << 20)
#define ROWS          3u
#define DIM           5u
#define PUSH_KEYS     0
#define PUSH_VALUES   24
#define PUSH_DENSE    84
#define PULL_KEYS     88
#define PAYLOAD_BYTES 112
#define STATUS(name)  PARAMD__PUSH_PULL_REPLY__STATUS__##name

static const char job_yaml[] = "name: clicks\n"
                               "data: {format: csv, train: t.csv, label: label}\n"
                               "features: {user: categorical, price: numeric}\n"
                               "model: {type: fm, dim: 4}\n"
                               "train: {batch_size: 4, ranks: 2, drain_every: 10}\n";

static struct server {
    char address[64];
    struct service *service;
    struct rpc_server *rpc;
    struct rpc_channel *channel;
} server;

static void ignore_poke(void *context)
{
    (void)context;
}

/* ---- one message ---- */

/* A push-pull with all its parts in one place, so that a case can change any of them. */
struct message {
    Paramd__PushPullRequest request;
    Paramd__Block push[2], pull[2];
    Paramd__Block *push_list[2], *pull_list[2];
    uint64_t keys[ROWS], wanted[ROWS];
    float values[ROWS * DIM], bias;
    uint8_t payload[PAYLOAD_BYTES];
    size_t payload_size;
    bool checksum_given;
};

static void message_init(struct message *m, uint32_t rank, uint64_t seq)
{
    static const uint64_t keys[ROWS] = {7, 1ull << 60, (2048ull << PARTITION_SHIFT) - 1};
    *m = (struct message){.payload_size = PAYLOAD_BYTES, .bias = 0.25f};
    paramd__push_pull_request__init(&m->request);
    for (size_t i = 0; i < 2; i++) {
        paramd__block__init(&m->push[i]);
        paramd__block__init(&m->pull[i]);
        m->push_list[i] = &m->push[i];
        m->pull_list[i] = &m->pull[i];
    }
    memcpy(m->keys, keys, sizeof keys);
    memcpy(m->wanted, keys, sizeof keys);
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        m->values[i] = 0.5f + (float)i;
    m->request.job = (char *)(uintptr_t) "clicks";
    m->request.generation = 1;
    m->request.rank = rank;
    m->request.seq = seq;
    m->request.weight = 2.0;
    m->push[0].kind = PARAMD__BLOCK__KIND__ROWS;
    m->push[0].count = ROWS;
    m->push[0].dim = DIM;
    m->push[0].values_offset = PUSH_VALUES;
    m->push[1].kind = PARAMD__BLOCK__KIND__DENSE;
    m->push[1].count = 1;
    m->push[1].values_offset = PUSH_DENSE;
    m->push[1].block_count = 1;
    m->pull[0].kind = PARAMD__BLOCK__KIND__KEYS;
    m->pull[0].count = ROWS;
    m->pull[0].dim = DIM;
    m->pull[0].keys_offset = PULL_KEYS;
    m->pull[1].kind = PARAMD__BLOCK__KIND__DENSE_WANTED;
    m->pull[1].count = 1;
    m->pull[1].block_count = 1;
    m->request.push = m->push_list;
    m->request.pull = m->pull_list;
    m->request.n_push = seq > 0 ? 2 : 0;
    m->request.n_pull = 2;
}

static void message_pack(struct message *m, struct chain *out)
{
    memcpy(m->payload + PUSH_KEYS, m->keys, sizeof m->keys);
    memcpy(m->payload + PUSH_VALUES, m->values, sizeof m->values);
    memcpy(m->payload + PUSH_DENSE, &m->bias, sizeof m->bias);
    memcpy(m->payload + PULL_KEYS, m->wanted, sizeof m->wanted);
    m->request.payload = (ProtobufCBinaryData){m->payload_size, m->payload};
    if (!m->checksum_given) {
        /* Over what the honest blocks cover; a lie about a place is found before it matters. */
        struct wire_payload p = {0};
        struct message honest;
        message_init(&honest, 0, 1);
        wire_payload_add(&p, NULL, m->payload, PAYLOAD_BYTES, 8);
        m->request.checksum = wire_checksum_payload(&p, honest.push_list, m->request.n_push);
        wire_payload_deinit(&p);
    }
    size_t size = paramd__push_pull_request__get_packed_size(&m->request);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__push_pull_request__pack(&m->request, bytes);
    chain_append_copy(out, bytes, size);
    mem_free(bytes);
}

/* ---- calls ---- */

struct answer {
    enum rpc_status rpc;
    int status; /* of the reply; -1: there is none */
    uint64_t version;
    char text[512];
};

static uint8_t *flatten(const struct chain *c)
{
    uint8_t *bytes = must_alloc(c->size + 1);
    chain_copy_out(c, 0, bytes, c->size);
    return bytes;
}

static void call(const char *method, struct chain *request, struct answer *a)
{
    struct rpc_call_options o = {.method = method, .timeout_ms = CALL_MS, .wait_for_ready = true};
    struct chain reply = {0};
    *a = (struct answer){.status = -1};
    a->rpc = rpc_channel_call_sync(server.channel, &o, request, &reply);
    if (a->rpc == RPC_OK) {
        /* Status, message and version have the numbers 1, 2 and 5 in a push-pull's reply. */
        uint8_t *bytes = flatten(&reply);
        Paramd__PushPullReply *r = paramd__push_pull_reply__unpack(NULL, reply.size, bytes);
        mem_free(bytes);
        if (r != NULL) {
            a->status = (int)r->status;
            a->version = r->version;
            strncpy(a->text, r->message, sizeof a->text - 1);
            paramd__push_pull_reply__free_unpacked(r, NULL);
        }
    } else {
        strncpy(a->text, err_text(), sizeof a->text - 1);
    }
    chain_deinit(&reply);
    /* Answered, and by the server: not by a deadline, not by its death. */
    if (a->rpc == RPC_DEADLINE || a->rpc == RPC_UNAVAILABLE || a->rpc == RPC_INTERNAL)
        fail_msg("%s: %s: %s", method, rpc_status_name(a->rpc), a->text);
}

static void push_pull(struct message *m, struct answer *a)
{
    struct chain c = {0};
    message_pack(m, &c);
    call(WIRE_PUSH_PULL, &c, a);
}

static void expect(uint32_t rank, uint64_t seq, int status)
{
    struct message m;
    struct answer a;
    message_init(&m, rank, seq);
    m.request.acked = seq > 0 ? seq - 1 : 0;
    push_pull(&m, &a);
    if (a.rpc != RPC_OK || a.status != status)
        fail_msg("rank %u seq %llu: %s, status %d: %s", rank, (unsigned long long)seq,
                 rpc_status_name(a.rpc), a.status, a.text);
}

/* Everything that the server has of the keys in play, and the version. */
static void look(struct str *out)
{
    struct message m;
    Paramd__ReadRequest r = PARAMD__READ_REQUEST__INIT;
    struct chain c = {0}, reply = {0};
    message_init(&m, 0, 0);
    m.pull[0].keys_offset = 0;
    r.job = m.request.job;
    r.generation = m.request.generation;
    r.any_version = true;
    r.pull = m.pull_list;
    r.n_pull = 2;
    r.payload = (ProtobufCBinaryData){sizeof m.wanted, (uint8_t *)m.wanted};
    uint8_t *bytes = must_alloc(paramd__read_request__get_packed_size(&r) + 1);
    chain_append_copy(&c, bytes, paramd__read_request__pack(&r, bytes));
    mem_free(bytes);
    struct rpc_call_options o = {
        .method = WIRE_READ, .timeout_ms = CALL_MS, .wait_for_ready = true};
    if (rpc_channel_call_sync(server.channel, &o, &c, &reply) != RPC_OK)
        fail_msg("%s", err_text());
    bytes = flatten(&reply);
    str_clear(out);
    str_append_span(out, span_make((char *)bytes, reply.size));
    mem_free(bytes);
    chain_deinit(&reply);
}

static void assert_unchanged(const struct str *before, const char *after_what)
{
    struct str now = {0};
    look(&now);
    if (now.size != before->size || memcmp(now.data, before->data, now.size) != 0)
        fail_msg("%s changed the model", after_what);
    str_deinit(&now);
}

/* ---- the server ---- */

static void follow(uint64_t generation)
{
    Paramd__Control__MemberOrders o = PARAMD__CONTROL__MEMBER_ORDERS__INIT;
    Paramd__Control__ServerOrders s = PARAMD__CONTROL__SERVER_ORDERS__INIT;
    Paramd__Control__LayoutShard shards[2], *shard_list[2] = {&shards[0], &shards[1]};
    char *columns[] = {(char[]){"label"}, (char[]){"user"}, (char[]){"price"}};
    uint32_t mine[2] = {0, 1};
    for (uint32_t i = 0; i < 2; i++) {
        paramd__control__layout_shard__init(&shards[i]);
        shards[i].first_partition = i * 2048;
        shards[i].end_partition = (i + 1) * 2048;
    }
    o.job = (char *)(uintptr_t) "clicks";
    o.generation = generation;
    o.job_yaml = (char *)(uintptr_t)job_yaml;
    o.mode = (char *)(uintptr_t) "train";
    o.shards = shard_list;
    o.n_shards = 2;
    o.rank_count = 2;
    o.server = &s;
    s.shards = mine;
    s.n_shards = 2;
    s.form = true;
    s.train_examples = 400;
    s.columns = columns;
    s.n_columns = 3;
    service_follow(server.service, &o);
}

/* Seq 0 of both ranks: asked for until the shard is formed. */
static void begin(uint64_t generation)
{
    for (uint32_t rank = 0; rank < 2; rank++) {
        struct answer a = {.status = STATUS(NOT_FORMED)};
        for (int i = 0; i < 5000 && a.status == STATUS(NOT_FORMED); i++) {
            struct message m;
            message_init(&m, rank, 0);
            m.request.generation = generation;
            push_pull(&m, &a);
            clock_sleep_ms(1);
        }
        if (a.status != STATUS(OK))
            fail_msg("rank %u: status %d: %s", rank, a.status, a.text);
    }
}

static int start(void **state)
{
    const char *listen[] = {server.address, NULL};
    struct rpc_method methods[SHARD_METHOD_COUNT];
    struct service_options so = {
        .owner_count = 2, .memory_bytes = 64u << 20, .wait_ms = 20, .poke = ignore_poke};
    /* The distribution's gRPC is not instrumented: what it does looks like races. */
    snprintf(server.address, sizeof server.address, "%s/tmp/test_bad_messages-%ld",
             FIXTURE_THREAD_SANITIZER ? "memory:" : "unix:", (long)getpid());
    server.service = service_create(&so);
    service_methods(server.service, methods);
    struct rpc_server_options ro = {.listen = listen,
                                    .methods = methods,
                                    .method_count = SHARD_METHOD_COUNT,
                                    .message_max_bytes = MESSAGE_MAX};
    if (rpc_server_create(&ro, &server.rpc) != ERR_NONE ||
        rpc_channel_open(server.address, NULL, &server.channel) != ERR_NONE)
        return -1;
    follow(1);
    begin(1);
    return 0;
}

static int stop(void **state)
{
    rpc_channel_close(server.channel);
    service_stop(server.service);
    rpc_server_destroy(server.rpc);
    service_destroy(server.service);
    if (!FIXTURE_THREAD_SANITIZER)
        unlink(server.address + strlen("unix:"));
    return 0;
}

/* ---- one lie at a time ---- */

/* A number of the message, and what it becomes. */
#define AT(field) offsetof(struct message, field), sizeof(((struct message *)NULL)->field)

struct lie {
    size_t offset, size;
    uint64_t value;
    enum rpc_status rpc;
    int status;
    const char *says;
};

static void assert_refused(struct message *m, const struct lie *l, size_t i)
{
    struct answer a;

    push_pull(m, &a);
    if (a.rpc != l->rpc || a.status != l->status || strstr(a.text, l->says) == NULL)
        fail_msg("case %zu: %s, status %d, '%s' does not say '%s'", i, rpc_status_name(a.rpc),
                 a.status, a.text, l->says);
}

static void test_numbers(void **state)
{
    static const struct lie cases[] = {
        {AT(request.generation), 0, RPC_OK, STATUS(NOT_FORMED), "generation"},
        {AT(request.generation), 2, RPC_OK, STATUS(NOT_FORMED), "generation"},
        {AT(request.shard), 99, RPC_OK, STATUS(NOT_FORMED), "shard"},
        {AT(request.shard), UINT32_MAX, RPC_OK, STATUS(NOT_FORMED), "shard"},
        {AT(request.rank), 2, RPC_INVALID, -1, "rank 2"},
        {AT(request.rank), UINT32_MAX, RPC_INVALID, -1, "rank 4294967295"},
        {AT(request.seq), 50, RPC_OK, STATUS(EXPECTED), "window"},
        {AT(request.seq), UINT64_MAX, RPC_OK, STATUS(EXPECTED), "window"},
        {AT(request.acked), 9, RPC_INVALID, -1, "acked 9"},
        {AT(request.acked), UINT64_MAX, RPC_INVALID, -1, "acked 18446744073709551615"},
        {AT(request.skipped), 1, RPC_INVALID, -1, "skipped"},
        {AT(push[0].kind), 77, RPC_INVALID, -1, "kind 77"},
        {AT(push[0].kind), PARAMD__BLOCK__KIND__KEYS, RPC_INVALID, -1, "push block 0"},
        {AT(pull[0].kind), PARAMD__BLOCK__KIND__ROWS, RPC_INVALID, -1, "pull block 0"},
        {AT(push[0].dim), DIM - 1, RPC_INVALID, -1, "4"},
        {AT(push[0].dim), 0, RPC_INVALID, -1, "dim"},
        {AT(push[0].dim), UINT32_MAX, RPC_INVALID, -1, "4294967295"},
        {AT(push[0].count), ROWS + 5, RPC_INVALID, -1, "8"},
        {AT(push[0].count), UINT64_MAX, RPC_INVALID, -1, "18446744073709551615"},
        {AT(push[0].count), (1ull << 61) + ROWS, RPC_INVALID, -1, "2305843009213693955"},
        {AT(push[0].index), 1, RPC_INVALID, -1, "table 1"},
        {AT(push[0].index), UINT32_MAX, RPC_INVALID, -1, "4294967295"},
        {AT(push[0].keys_offset), PAYLOAD_BYTES, RPC_INVALID, -1, "payload"},
        {AT(push[0].keys_offset), UINT64_MAX - 7, RPC_INVALID, -1, "18446744073709551608"},
        {AT(push[0].keys_offset), 4, RPC_INVALID, -1, "multiple of 8"},
        {AT(push[0].values_offset), PAYLOAD_BYTES - 4, RPC_INVALID, -1, "payload"},
        {AT(push[0].values_offset), UINT64_MAX - 3, RPC_INVALID, -1, "18446744073709551612"},
        {AT(push[0].values_offset), PUSH_VALUES + 2, RPC_INVALID, -1, "multiple of 4"},
        {AT(keys[1]), 3, RPC_INVALID, -1, "ascend"},
        {AT(keys[1]), 7, RPC_INVALID, -1, "ascend"},
        {AT(keys[2]), 2048ull << PARTITION_SHIFT, RPC_INVALID, -1, "partition"},
        {AT(keys[2]), UINT64_MAX, RPC_INVALID, -1, "partition"},
        {AT(wanted[1]), 3, RPC_INVALID, -1, "ascend"},
        {AT(wanted[2]), UINT64_MAX, RPC_INVALID, -1, "partition"},
        {AT(pull[0].count), UINT64_MAX, RPC_INVALID, -1, "18446744073709551615"},
        {AT(pull[0].keys_offset), PAYLOAD_BYTES, RPC_INVALID, -1, "payload"},
        {AT(push[1].index), 9, RPC_INVALID, -1, "9"},
        {AT(push[1].first_block), 5, RPC_INVALID, -1, "5"},
        {AT(push[1].first_block), UINT32_MAX, RPC_INVALID, -1, "4294967295"},
        {AT(push[1].block_count), UINT32_MAX, RPC_INVALID, -1, "4294967295"},
        {AT(push[1].count), 2, RPC_INVALID, -1, "2"},
        {AT(push[1].count), UINT64_MAX, RPC_INVALID, -1, "18446744073709551615"},
        {AT(push[1].values_offset), PAYLOAD_BYTES, RPC_INVALID, -1, "payload"},
        {AT(pull[1].first_block), 1, RPC_INVALID, -1, "pull block 1"},
        {AT(payload_size), PUSH_DENSE, RPC_INVALID, -1, "payload"},
        {AT(payload_size), 0, RPC_INVALID, -1, "payload"},
    };
    struct str before = {0};
    look(&before);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message m;
        message_init(&m, 0, 1);
        assert_memory_not_equal((char *)&m + cases[i].offset, &cases[i].value, cases[i].size);
        memcpy((char *)&m + cases[i].offset, &cases[i].value, cases[i].size);
        assert_refused(&m, &cases[i], i);
        assert_unchanged(&before, cases[i].says);
    }
    str_deinit(&before);
}

static void test_other_lies(void **state)
{
    static const double weights[] = {NAN, INFINITY, -1.0};
    static const char *const jobs[] = {"", "songs", "clicks ", "\xff\xfe"};
    struct lie l = {.rpc = RPC_INVALID, .status = -1, .says = "weight"};
    struct str before = {0};
    struct message m;
    look(&before);
    for (size_t i = 0; i < 3; i++) {
        message_init(&m, 0, 1);
        m.request.weight = weights[i];
        assert_refused(&m, &l, i);
    }
    l.says = "push block 1";
    message_init(&m, 0, 1);
    m.push[1] = m.push[0];
    assert_refused(&m, &l, 0);
    l.says = "pull block 1";
    message_init(&m, 0, 1);
    m.pull[1] = m.pull[0];
    assert_refused(&m, &l, 0);
    l = (struct lie){.rpc = RPC_OK, .status = STATUS(WRONG_JOB), .says = "another job"};
    for (size_t i = 0; i < 4; i++) {
        message_init(&m, 0, 1);
        m.request.job = (char *)(uintptr_t)jobs[i];
        assert_refused(&m, &l, i);
    }
    assert_unchanged(&before, "a lie");
    str_deinit(&before);
}

/* ---- bytes ---- */

/*
 * `seq` lies beyond every window, so that what happens to be well formed is refused, too. Without
 * its seq it is one more push 0, so it carries that one's checksum: another one would fail the job,
 * rightly (PROTOCOL.md 3).
 */
static void far_message(struct chain *out)
{
    struct message m;
    message_init(&m, 0, 0);
    message_pack(&m, out);
    chain_deinit(out);
    m.checksum_given = true;
    m.request.seq = 99;
    m.request.n_push = 2;
    message_pack(&m, out);
}

#define SEQ_END 12 /* of job, generation and seq, which come first */

static void test_cuts_and_flips(void **state)
{
    struct chain whole = {0};
    struct str before = {0};
    struct answer a;
    far_message(&whole);
    uint8_t *bytes = flatten(&whole);
    look(&before);
    for (size_t size = 0; size < whole.size; size++) {
        struct chain c = {0};
        if (size == SEQ_END - 2) /* a whole message: push 0, without a checksum */
            continue;
        chain_append_copy(&c, bytes, size);
        call(WIRE_PUSH_PULL, &c, &a);
        if (a.rpc == RPC_OK && (a.status == STATUS(OK) || a.status == STATUS(WAITING)))
            fail_msg("cut at %zu: status %d", size, a.status);
    }
    for (size_t bit = 0; bit < 8 * whole.size; bit++) {
        struct chain c = {0};
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        chain_append_copy(&c, bytes, whole.size);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        call(WIRE_PUSH_PULL, &c, &a);
    }
    assert_unchanged(&before, "cuts and flips");
    str_deinit(&before);
    chain_deinit(&whole);
    mem_free(bytes);
}

static void test_noise(void **state)
{
    static const char *const methods[] = {WIRE_PUSH_PULL, WIRE_RESUME, WIRE_READ};
    static const size_t sizes[] = {0, 1, 2, 3, 7, 16, 64, 300, 5000};
    struct str before = {0};
    struct answer a;
    look(&before);
    for (uint64_t seed = 0; seed < 900; seed++) {
        struct chain c = {0};
        size_t size = sizes[seed / 3 % 9];
        uint8_t *bytes = must_alloc(size + 1);
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)rng_at(seed, i);
        chain_append_copy(&c, bytes, size);
        mem_free(bytes);
        call(methods[seed % 3], &c, &a);
        assert_true(a.rpc != RPC_OK || a.status != STATUS(OK));
    }
    assert_unchanged(&before, "noise");
    str_deinit(&before);
}

static void test_size_and_method(void **state)
{
    struct chain c = {0};
    struct answer a;
    uint8_t *bytes = must_alloc(MESSAGE_MAX + 1);
    chain_append_copy(&c, bytes, MESSAGE_MAX + 1);
    mem_free(bytes);
    call(WIRE_PUSH_PULL, &c, &a);
    assert_int_equal(a.rpc, RPC_BUSY);
    assert_non_null(strstr(a.text, "1048577"));
    far_message(&c);
    call("/paramd.Shard/Pull", &c, &a);
    assert_int_equal(a.rpc, RPC_UNIMPLEMENTED);
    /* Another service's message for one of ours. */
    far_message(&c);
    call(WIRE_RESUME, &c, &a);
    assert_true(a.rpc == RPC_INVALID || a.status != -1);
}

/* ---- the end ---- */

static void test_good_after_all(void **state)
{
    struct str before = {0}, after = {0};
    look(&before);
    expect(0, 1, STATUS(WAITING)); /* for the other rank */
    assert_unchanged(&before, "one rank of two");
    expect(1, 1, STATUS(OK));
    expect(0, 1, STATUS(OK));
    look(&after);
    assert_true(before.size != after.size || memcmp(before.data, after.data, after.size) != 0);
    str_deinit(&before);
    str_deinit(&after);
}

static void test_not_finite(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (uint64_t i = 0; i < 3; i++) {
        struct message m;
        struct answer a;
        follow(2 + i);
        begin(2 + i);
        message_init(&m, 0, 1);
        m.request.generation = 2 + i;
        m.values[7] = bad[i];
        push_pull(&m, &a);
        assert_int_equal(a.rpc, RPC_OK);
        assert_int_equal(a.status, STATUS(FAILED));
        if (strstr(a.text, "features") == NULL || strstr(a.text, "1152921504606846976") == NULL)
            fail_msg("'%s' names neither table nor key", a.text);
        /* The job is over for everybody, until there is another generation. */
        message_init(&m, 1, 1);
        m.request.generation = 2 + i;
        push_pull(&m, &a);
        assert_int_equal(a.status, STATUS(FAILED));
    }
    follow(9);
    begin(9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),         cmocka_unit_test(test_other_lies),
        cmocka_unit_test(test_cuts_and_flips),  cmocka_unit_test(test_noise),
        cmocka_unit_test(test_size_and_method), cmocka_unit_test(test_good_after_all),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
