/*
 * member.h - a daemon's side of the control plane: membership, finding the leader, the long poll.
 *
 * Joins the registry, finds the leader's address there (again whenever a call fails), and keeps
 * exactly one Exchange call open: it sends the state that the daemon describes and hands over the
 * orders that come back. When the state changes member_poke() sends it at once.
 *
 * Threads  describe() and follow() are called on member's own thread, never both at once.
 * member_poke() from any.
 */
#ifndef PARAMD_COMMON_MEMBER_H
#define PARAMD_COMMON_MEMBER_H

#include <stdint.h>

#include "common/err.h"
#include "common/registry.h"
#include "proto/control.pb-c.h"

#define CONTROL_EXCHANGE       "/paramd.control.Control/Exchange"
#define CONTROL_SUBMIT         "/paramd.control.Control/Submit"
#define CONTROL_STATUS         "/paramd.control.Control/Status"
#define CONTROL_STOP           "/paramd.control.Control/Stop"
#define CONTROL_CHECKPOINT_NOW "/paramd.control.Control/CheckpointNow"
#define CONTROL_LIST           "/paramd.control.Control/List"
#define CONTROL_LOGS           "/paramd.control.Control/Logs"

/* What a server that ends answers to calls that it holds. */
#define MEMBER_LEAVING "this server is leaving"

struct member;

/* What a process offers: in its entry of the registry, for whoever looks there, and in its state.
 */
struct member_capacity {
    uint32_t cores, gpus;
    uint64_t memory_bytes;
    const char *device_class; /* of workers: backend, kernels, build; borrowed, may be NULL */
};

struct member_options {
    struct registry *registry; /* borrowed */
    const char *role;          /* "server" | "worker" */
    const char *name;
    const char *const *addresses; /* data plane, NULL-terminated; may be empty for workers */
    struct member_capacity capacity;
    uint32_t call_timeout_ms;
    /* Fills role-specific fields of the state; what it points to must stay valid until the next
     * describe(). */
    void (*describe)(void *context, Paramd__Control__MemberState *state);
    /* Complete orders of the current term; borrowed for the length of the call. Called only when
     * they changed. */
    void (*follow)(void *context, const Paramd__Control__MemberOrders *orders);
    /* No leader could be reached for so long (ms). Called every second while it lasts, and with 0
     * when one is reached again. */
    void (*orphaned)(void *context, uint64_t for_ms);
    void *context;
};

enum err member_start(const struct member_options *o, struct member **out) MUST_CHECK;
void member_poke(struct member *m);
/* From now on the state says that this process wishes to leave; orders to do so follow when its
 * work is handed over. */
void member_ask_to_leave(struct member *m);
void member_stop(struct member *m); /* leaves the registry; accepts NULL */
const char *member_id(const struct member *m);

/* What registry_lead() is given: how the leader is dialled. Freed with mem_free(). */
char *member_leader_record(const char *const *addresses);
/* Equal for two processes exactly when they run on one host since its last boot; "" where that is
 * not known. */
const char *member_host_id(void);
/* The one of `addresses` to dial from here: a unix socket that takes our connection when `host_id`
 * is ours, else the first of a network, else the first. */
const char *member_pick_address(char *const *addresses, size_t count, const char *host_id);

/* One control call to the present leader, for paramctl and tests: finds it, packs, waits, unpacks.
   `reply_out` is freed by the caller with protobuf_c_message_free_unpacked(). */
enum err control_call(struct registry *registry, const char *method,
                      const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                      uint32_t timeout_ms, ProtobufCMessage **reply_out) MUST_CHECK;

#endif
