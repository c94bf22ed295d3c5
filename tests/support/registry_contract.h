/*
 * registry_contract.h - what every registry must do, as cmocka cases: members and leaders are there
 * exactly as long as their process or registry; one leads, with a term that only rises; only the
 * newest leader writes what is the leader's; a record changes only for who knows its version.
 *
 * A test program gives a struct registry_contract as the state of each case, on an empty registry:
 *
 *     REGISTRY_CONTRACT_CASES(set_up, tear_down)
 *
 * What another connection did may be seen late; the cases ask again until it is, or WAIT_MS are
 * over.
 *
 * Cases with processes start the test program anew, as its own child: main() begins with
 * `if (registry_contract_is_child(argc)) return registry_contract_child(argv);`.
 */
#ifndef PARAMD_TESTS_SUPPORT_REGISTRY_CONTRACT_H
#define PARAMD_TESTS_SUPPORT_REGISTRY_CONTRACT_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "common/registry.h"

#define REGISTRY_CONTRACT_WAIT_MS 20000u

struct registry_contract {
    /* Another connection to the same registry; fails the test when there is none. */
    struct registry *(*open)(struct registry_contract *c);
    /* Takes the leader's record away, behind the registry's back. */
    void (*take_leader)(struct registry_contract *c);
    const char *uri;     /* for child processes; NULL: cases with them are left out */
    uint32_t session_ms; /* time-out of children's sessions */
    void *context;
};

void registry_contract_members(void **state);
void registry_contract_leader(void **state);
void registry_contract_killed(void **state);
void registry_contract_records(void **state);
void registry_contract_any_version(void **state);
void registry_contract_led(void **state);
void registry_contract_list(void **state);
void registry_contract_compare_and_set_race(void **state);
void registry_contract_leader_race(void **state);

#define REGISTRY_CONTRACT_CASE(name, set_up, tear_down)                                            \
    cmocka_unit_test_setup_teardown(registry_contract_##name, set_up, tear_down)
#define REGISTRY_CONTRACT_CASES(set_up, tear_down)                                                 \
    REGISTRY_CONTRACT_CASE(members, set_up, tear_down),                                            \
        REGISTRY_CONTRACT_CASE(leader, set_up, tear_down),                                         \
        REGISTRY_CONTRACT_CASE(killed, set_up, tear_down),                                         \
        REGISTRY_CONTRACT_CASE(records, set_up, tear_down),                                        \
        REGISTRY_CONTRACT_CASE(any_version, set_up, tear_down),                                    \
        REGISTRY_CONTRACT_CASE(led, set_up, tear_down),                                            \
        REGISTRY_CONTRACT_CASE(list, set_up, tear_down),                                           \
        REGISTRY_CONTRACT_CASE(compare_and_set_race, set_up, tear_down),                           \
        REGISTRY_CONTRACT_CASE(leader_race, set_up, tear_down)

/* ---- for the cases of a kind of registry alone ---- */

void registry_assert_text_has(const char *part);
size_t registry_count_members(struct registry *r, const char *role);
/* Until there are so many. */
void registry_await_members(struct registry *r, const char *role, size_t count);
/* Until `r` has become the leader; its term. */
uint64_t registry_await_lead(struct registry *r, const char *record);
void registry_await_state(struct registry *r, enum registry_state state);
void registry_await_no_leader(struct registry *r);

/* A process that has joined as server-child and leads. */
struct registry_child {
    pid_t pid;
    FILE *to, *from;
};
void registry_child_start(const struct registry_contract *c, struct registry_child *child);
/* Has it write record "child" as the leader; what registry_put_led() said. */
enum err registry_child_put_led(struct registry_child *child);
bool registry_child_leads(struct registry_child *child);
void registry_child_kill(struct registry_child *child);

bool registry_contract_is_child(int argc);
int registry_contract_child(char **argv);

#endif
