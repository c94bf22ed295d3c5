#include "tests/support/registry_contract.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"

#define CHILD_ARGUMENTS 4
/* What a child is told to do. */
#define PUT_ORDER   'p'
#define LEADS_ORDER 'l'

/* ---- helpers ---- */

void registry_assert_text_has(const char *part)
{
    if (strstr(err_text(), part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err_text());
}

static struct registry *open_registry(void **state)
{
    struct registry_contract *c = *state;
    return c->open(c);
}

size_t registry_count_members(struct registry *r, const char *role)
{
    struct registry_entry *entries;
    size_t count;
    if (registry_members(r, role, &entries, &count) != ERR_NONE)
        fail_msg("%s", err_text());
    registry_entries_free(entries, count);
    return count;
}

void registry_await_members(struct registry *r, const char *role, size_t count)
{
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    size_t found;
    while ((found = registry_count_members(r, role)) != count) {
        if (clock_ms() > until)
            fail_msg("%zu members after all that time, not %zu", found, count);
        clock_sleep_ms(5);
    }
}

uint64_t registry_await_lead(struct registry *r, const char *record)
{
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS, term = 0;
    bool is_leader = false;
    while (!is_leader) {
        enum err e = registry_lead(r, record, &is_leader, &term);
        if (e != ERR_NONE && e != ERR_UNAVAILABLE)
            fail_msg("%s", err_text());
        if (clock_ms() > until)
            fail_msg("'%s' does not become the leader", record);
        if (!is_leader)
            clock_sleep_ms(5);
    }
    return term;
}

void registry_await_state(struct registry *r, enum registry_state state)
{
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    while (registry_state(r, NULL) != state) {
        if (clock_ms() > until)
            fail_msg("the registry is not in state %d but in %d", (int)state,
                     (int)registry_state(r, NULL));
        clock_sleep_ms(5);
    }
}

static char *await_leader(struct registry *r, uint64_t *term)
{
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    char *record = NULL;
    while (registry_leader(r, &record, term) != ERR_NONE) {
        if (clock_ms() > until)
            fail_msg("there is no leader: %s", err_text());
        clock_sleep_ms(5);
    }
    return record;
}

void registry_await_no_leader(struct registry *r)
{
    uint64_t until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS, term;
    char *record;
    enum err e;
    while ((e = registry_leader(r, &record, &term)) != ERR_NOT_FOUND) {
        if (e == ERR_NONE)
            mem_free(record);
        if (clock_ms() > until)
            fail_msg("there is a leader still");
        clock_sleep_ms(5);
    }
}

/* ---- child processes ---- */

bool registry_contract_is_child(int argc)
{
    return argc == CHILD_ARGUMENTS;
}

/* Says "x" when it has joined and leads; answers every order with a letter for what
   the registry said. */
int registry_contract_child(char **argv)
{
    struct registry *r;
    struct registry_member *m;
    bool is_leader = false;
    uint64_t term;
    const struct registry_options options = {.session_timeout_ms = (uint32_t)atoi(argv[3])};
    alarm(60);
    if (registry_open_with(argv[2], &options, &r) != ERR_NONE ||
        registry_join(r, "server", "child", "record", &m) != ERR_NONE ||
        registry_lead(r, "child", &is_leader, &term) != ERR_NONE || !is_leader) {
        fprintf(stderr, "child: %s\n", err_text());
        return 1;
    }
    putchar('x');
    fflush(stdout);
    for (int order; (order = getchar()) != EOF;) {
        int answer = order == LEADS_ORDER
                         ? registry_leads(r, NULL)
                         : (int)registry_put_led(r, "child", "c", 1, REGISTRY_ANY_VERSION, NULL);
        putchar('a' + answer);
        fflush(stdout);
    }
    registry_close(r);
    return 0;
}

void registry_child_start(const struct registry_contract *c, struct registry_child *child)
{
    int to[2], from[2];
    char session[16];
    snprintf(session, sizeof session, "%u", c->session_ms);
    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    child->pid = fork();
    assert_true(child->pid >= 0);
    if (child->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        execl("/proc/self/exe", "child", "child", c->uri, session, (char *)NULL);
        _exit(1);
    }
    close(to[0]);
    close(from[1]);
    child->to = fdopen(to[1], "w");
    child->from = fdopen(from[0], "r");
    assert_int_equal(fgetc(child->from), 'x');
}

static int order_child(struct registry_child *child, char order)
{
    fputc(order, child->to);
    fflush(child->to);
    int answer = fgetc(child->from);
    assert_true(answer >= 'a' && answer < 'a' + (int)ERR_COUNT);
    return answer - 'a';
}

enum err registry_child_put_led(struct registry_child *child)
{
    return (enum err)order_child(child, PUT_ORDER);
}

bool registry_child_leads(struct registry_child *child)
{
    return order_child(child, LEADS_ORDER) != 0;
}

void registry_child_kill(struct registry_child *child)
{
    assert_int_equal(kill(child->pid, SIGKILL), 0);
    assert_int_equal(waitpid(child->pid, NULL, 0), child->pid);
    fclose(child->to);
    fclose(child->from);
}

/* ---- the cases ---- */

void registry_contract_members(void **state)
{
    struct registry *a = open_registry(state), *b = open_registry(state);
    struct registry_member *m[4];
    registry_await_members(a, NULL, 0);
    assert_int_equal(registry_join(a, "worker", "w-1", "{\"a\":\n1}", &m[0]), ERR_NONE);
    assert_int_equal(registry_join(b, "worker", "w", "", &m[1]), ERR_NONE);
    assert_int_equal(registry_join(b, "server", "w", "s", &m[2]), ERR_NONE);
    registry_await_members(a, NULL, 3);
    registry_await_members(b, "worker", 2);
    registry_await_members(b, "work", 0);

    struct registry_entry *entries;
    size_t count;
    assert_int_equal(registry_members(b, NULL, &entries, &count), ERR_NONE);
    assert_string_equal(entries[0].id, registry_member_id(m[2]));
    assert_string_equal(entries[0].role, "server");
    assert_string_equal(entries[0].record, "s");
    for (size_t i = 1; i < count; i++) {
        assert_true(strcmp(entries[i - 1].id, entries[i].id) < 0);
        bool is_first = strcmp(entries[i].id, registry_member_id(m[0])) == 0;
        assert_string_equal(entries[i].role, "worker");
        assert_string_equal(entries[i].record, is_first ? "{\"a\":\n1}" : "");
    }
    registry_entries_free(entries, count);

    /* A name is taken for as long as its member lives; then a new member has another id. */
    assert_int_equal(registry_join(b, "worker", "w-1", "", &m[3]), ERR_EXISTS);
    registry_assert_text_has(registry_member_id(m[0]));
    char *old_id = must_strdup(registry_member_id(m[0]));
    registry_leave(m[0]);
    registry_await_members(a, "worker", 1);
    assert_int_equal(registry_join(b, "worker", "w-1", "", &m[3]), ERR_NONE);
    assert_string_not_equal(registry_member_id(m[3]), old_id);
    mem_free(old_id);

    assert_int_equal(registry_join(b, "worker", "a/b", "", &m[0]), ERR_INPUT);
    assert_int_equal(registry_join(b, "wor-ker", "a", "", &m[0]), ERR_INPUT);
    assert_int_equal(registry_join(b, "worker", "", "", &m[0]), ERR_INPUT);
    registry_close(b);
    registry_await_members(a, NULL, 0);
    registry_close(a);
}

void registry_contract_leader(void **state)
{
    struct registry *a = open_registry(state), *b = open_registry(state);
    uint64_t seen = 0, last = 0;
    char *record = NULL;
    assert_int_equal(registry_leader(a, &record, &seen), ERR_NOT_FOUND);
    assert_false(registry_leads(a, NULL));
    for (int round = 0; round < 5; round++) {
        struct registry *winner = round % 2 ? a : b, *loser = round % 2 ? b : a;
        uint64_t term = registry_await_lead(winner, "tcp://w\nx");
        assert_true(term > last);
        last = term;
        term = 0;
        bool is_leader = true;
        assert_int_equal(registry_lead(loser, "loser", &is_leader, &term), ERR_NONE);
        assert_false(is_leader);
        assert_int_equal(term, 0);
        record = await_leader(loser, &seen);
        assert_string_equal(record, "tcp://w\nx");
        assert_int_equal(seen, last);
        mem_free(record);
        assert_int_equal(registry_lead(winner, "again", &is_leader, &term), ERR_NONE);
        assert_true(is_leader);
        assert_int_equal(term, last);
        assert_true(registry_leads(winner, &seen) && seen == last);
        assert_false(registry_leads(loser, NULL));
        registry_resign(winner);
        registry_resign(winner);
        assert_false(registry_leads(winner, NULL));
        registry_await_no_leader(loser);
    }
    registry_await_lead(a, "a");
    registry_close(a);
    registry_await_no_leader(b);
    registry_close(b);
}

void registry_contract_killed(void **state)
{
    const struct registry_contract *c = *state;
    if (c->uri == NULL)
        skip();
    struct registry *r = open_registry(state);
    struct registry_member *m;
    for (int round = 0; round < 2; round++) {
        struct registry_child child;
        uint64_t before = 0;
        bool is_leader = true;
        registry_child_start(c, &child);
        registry_await_members(r, "server", 1);
        char *record = await_leader(r, &before);
        assert_string_equal(record, "child");
        mem_free(record);
        assert_int_equal(registry_child_put_led(&child), ERR_NONE);
        assert_int_equal(registry_lead(r, "me", &is_leader, &before), ERR_NONE);
        assert_false(is_leader);
        assert_int_equal(registry_join(r, "server", "child", "", &m), ERR_EXISTS);

        registry_child_kill(&child);
        registry_await_members(r, "server", 0);
        assert_true(registry_await_lead(r, "me") > before);
        assert_int_equal(registry_join(r, "server", "child", "", &m), ERR_NONE);
        registry_leave(m);
        registry_resign(r);
    }
    registry_close(r);
}

void registry_contract_records(void **state)
{
    struct registry *r = open_registry(state);
    void *data;
    size_t size;
    uint64_t version = 0, next = 0;
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NOT_FOUND);
    registry_assert_text_has("jobs/a/state");
    assert_int_equal(registry_put(r, "jobs/a/state", "one", 3, 7, NULL), ERR_NOT_FOUND);
    assert_int_equal(registry_put(r, "jobs/a/state", "one", 3, 0, &version), ERR_NONE);
    assert_int_equal(registry_put(r, "jobs/a/state", "two", 3, 0, NULL), ERR_EXISTS);
    assert_int_equal(registry_put(r, "jobs/a/state", "two", 3, version + 1, NULL), ERR_EXISTS);
    assert_int_equal(registry_put(r, "jobs/a/state", "t\0o", 3, version, &next), ERR_NONE);
    assert_true(next > version);
    assert_int_equal(registry_put(r, "jobs/a/state", "old", 3, version, NULL), ERR_EXISTS);
    registry_close(r);

    r = open_registry(state); /* what is written stays */
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NONE);
    assert_int_equal(version, next);
    assert_int_equal(size, 3);
    assert_memory_equal(data, "t\0o", 4);
    mem_free(data);
    assert_int_equal(registry_put(r, "jobs/a", "", 0, 0, NULL), ERR_NONE);
    assert_int_equal(registry_get(r, "jobs/a", &data, &size, &version), ERR_NONE);
    assert_int_equal(size, 0);
    mem_free(data);
    assert_int_equal(registry_remove(r, "jobs/a/state"), ERR_NONE);
    assert_int_equal(registry_remove(r, "jobs/a/state"), ERR_NONE);
    assert_int_equal(registry_get(r, "jobs/a/state", &data, &size, &version), ERR_NOT_FOUND);

    char *big = calloc(1, (512 << 10) + 1);
    assert_int_equal(registry_put(r, "big", big, 512 << 10, 0, NULL), ERR_NONE);
    assert_int_equal(registry_put(r, "bigger", big, (512 << 10) + 1, 0, NULL), ERR_LIMIT);
    assert_int_equal(registry_get(r, "big", &data, &size, &version), ERR_NONE);
    assert_int_equal(size, 512 << 10);
    mem_free(data);
    free(big);

    static const char *const bad[] = {"",  "a//b", "a/",  "/a",      "a/..",
                                      ".", "a b",  "a!b", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(registry_put(r, bad[i], "x", 1, 0, NULL), ERR_INPUT);
    registry_close(r);
}

void registry_contract_any_version(void **state)
{
    struct registry *r = open_registry(state);
    void *data;
    size_t size;
    uint64_t first = 0, second = 0, version = 0;
    assert_int_equal(registry_put(r, "any", "one", 3, REGISTRY_ANY_VERSION, &first), ERR_NONE);
    assert_int_equal(registry_put(r, "any", "two", 3, REGISTRY_ANY_VERSION, &second), ERR_NONE);
    assert_true(second > first);
    assert_int_equal(registry_get(r, "any", &data, &size, &version), ERR_NONE);
    assert_string_equal(data, "two");
    assert_int_equal(version, second);
    mem_free(data);
    registry_close(r);
}

/* Only the newest leader writes, also when the older does not know of it. */
void registry_contract_led(void **state)
{
    struct registry_contract *c = *state;
    struct registry *a = open_registry(state), *b = open_registry(state);
    uint64_t seen = 0, version = 0;
    assert_false(registry_leads(a, NULL));
    assert_int_equal(registry_put_led(a, "led", "x", 1, 0, NULL), ERR_REFUSED);
    uint64_t term = registry_await_lead(a, "a");
    assert_true(registry_leads(a, &seen));
    assert_int_equal(seen, term);
    assert_int_equal(registry_put_led(a, "led", "a", 1, 0, &version), ERR_NONE);
    assert_int_equal(registry_put_led(a, "led", "a", 1, 0, NULL), ERR_EXISTS);
    assert_int_equal(registry_put_led(a, "led", "a", 1, version, &version), ERR_NONE);
    assert_int_equal(registry_put_led(b, "led", "b", 1, version, NULL), ERR_REFUSED);
    assert_int_equal(registry_remove_led(b, "led"), ERR_REFUSED);

    c->take_leader(c);
    assert_true(registry_await_lead(b, "b") > term);
    assert_int_equal(registry_put_led(a, "led", "a", 1, version, NULL), ERR_REFUSED);
    assert_false(registry_leads(a, NULL));
    assert_int_equal(registry_remove_led(a, "led"), ERR_REFUSED);
    assert_int_equal(registry_put_led(b, "led", "b", 1, version, NULL), ERR_NONE);
    assert_int_equal(registry_put_led(b, "led", "b", 1, REGISTRY_ANY_VERSION, NULL), ERR_NONE);
    assert_int_equal(registry_remove_led(b, "led"), ERR_NONE);
    assert_int_equal(registry_remove_led(b, "led"), ERR_NONE);
    assert_true(registry_leads(b, &seen) && seen > term);
    registry_resign(b);
    assert_false(registry_leads(b, NULL));
    assert_true(registry_await_lead(a, "a") > seen);
    uint64_t away_ms = 1;
    assert_int_equal(registry_state(a, &away_ms), REGISTRY_CONNECTED);
    assert_int_equal(away_ms, 0);
    registry_close(a);
    registry_close(b);
}

void registry_contract_list(void **state)
{
    struct registry *r = open_registry(state);
    static const char *const paths[] = {"jobs/b",   "jobs/a", "jobs/a/state", "jobs/c/state",
                                        "jobs-2/x", "top",    "jobs/a/b/c"};
    static const struct {
        const char *path, *names;
    } cases[] = {{"jobs", "a b "}, {"", "top "},     {"jobs/a", "state "}, {"jobs/a/b", "c "},
                 {"none", ""},     {"jobs-2", "x "}, {"top", ""}};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        assert_int_equal(registry_put(r, paths[i], "", 0, 0, NULL), ERR_NONE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char **names;
        size_t count;
        char text[100] = "";
        assert_int_equal(registry_list(r, cases[i].path, &names, &count), ERR_NONE);
        for (size_t n = 0; n < count; n++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s ", names[n]);
        assert_string_equal(text, cases[i].names);
        registry_names_free(names, count);
    }
    char **names;
    size_t count;
    assert_int_equal(registry_list(r, "jobs/", &names, &count), ERR_INPUT);
    registry_close(r);
}

#define RACERS    4
#define ADDITIONS 25
#define LEADS     5

/* Adds to a counter in a record as often as it says. */
static void *add(void *context)
{
    struct registry *r = context;
    for (int done = 0; done < ADDITIONS;) {
        void *data = NULL;
        size_t size;
        uint64_t version = 0;
        int value = 0;
        enum err e = registry_get(r, "counter", &data, &size, &version);
        if (e == ERR_NONE)
            value = atoi(data);
        else if (e != ERR_NOT_FOUND)
            return "cannot read";
        mem_free(data);
        char text[16];
        int text_size = snprintf(text, sizeof text, "%d", value + 1);
        e = registry_put(r, "counter", text, (size_t)text_size, version, NULL);
        if (e != ERR_NONE && e != ERR_EXISTS)
            return "cannot write";
        done += e == ERR_NONE;
    }
    return NULL;
}

void registry_contract_compare_and_set_race(void **state)
{
    struct registry *registries[RACERS];
    pthread_t threads[RACERS];
    for (int i = 0; i < RACERS; i++) {
        registries[i] = i % 2 == 0 ? open_registry(state) : registries[i - 1];
        assert_int_equal(pthread_create(&threads[i], NULL, add, registries[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        if (complaint != NULL)
            fail_msg("%s", (char *)complaint);
    }
    void *data;
    size_t size;
    uint64_t version;
    assert_int_equal(registry_get(registries[0], "counter", &data, &size, &version), ERR_NONE);
    assert_int_equal(atoi(data), RACERS * ADDITIONS);
    assert_int_equal(version, RACERS * ADDITIONS);
    mem_free(data);
    for (int i = 0; i < RACERS; i += 2)
        registry_close(registries[i]);
}

static _Atomic int leaders;

/* Leads as often as it says, each time as the only one. */
static void *lead_and_resign(void *context)
{
    struct registry *r = context;
    uint64_t term = 0, last = 0, until = clock_ms() + REGISTRY_CONTRACT_WAIT_MS;
    for (int led = 0; led < LEADS;) {
        bool is_leader;
        if (registry_lead(r, "racer", &is_leader, &term) != ERR_NONE)
            return "cannot lead";
        if (clock_ms() > until)
            return "did not lead for long";
        if (!is_leader) {
            clock_sleep_ms(1);
            continue;
        }
        if (leaders++ != 0)
            return "two lead";
        if (term <= last)
            return "the term did not rise";
        last = term;
        leaders--;
        registry_resign(r);
        led++;
    }
    return NULL;
}

void registry_contract_leader_race(void **state)
{
    struct registry *registries[RACERS];
    pthread_t threads[RACERS];
    leaders = 0;
    for (int i = 0; i < RACERS; i++) {
        registries[i] = open_registry(state);
        assert_int_equal(pthread_create(&threads[i], NULL, lead_and_resign, registries[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        registry_close(registries[i]);
        if (complaint != NULL)
            fail_msg("%s", (char *)complaint);
    }
}
