/*
 * rpc_fixture.h - a server to call and a client to call it with, for the tests of rpc.
 *
 * Echo gives the request back; Hold keeps the call until fixture_end_held(); Fail answers the
 * status that is its request's first byte; Left answers rpc_call_left_ms(). A failure of the
 * fixture itself fails the test at hand.
 */
#ifndef PARAMD_TESTS_SUPPORT_RPC_FIXTURE_H
#define PARAMD_TESTS_SUPPORT_RPC_FIXTURE_H

#ifdef __SANITIZE_THREAD__
#define FIXTURE_THREAD_SANITIZER 1
#else
#define FIXTURE_THREAD_SANITIZER 0
#endif

#include <pthread.h>
#include <stdatomic.h>

#include "common/rpc.h"

#define WAIT_MS              8000 /* of waits that end earlier unless something is broken */
#define ECHO                 "/test.Service/Echo"
#define HOLD                 "/test.Service/Hold"
#define FAIL                 "/test.Service/Fail"
#define LEFT                 "/test.Service/Left"
#define FIXTURE_METHOD_COUNT 4
#define HELD_MAX             64

extern const struct rpc_method fixture_methods[FIXTURE_METHOD_COUNT];

/* The calls that Hold keeps. */
extern struct fixture_desk {
    pthread_mutex_t mutex;
    struct rpc_call *held[HELD_MAX];
    size_t held_count;
} fixture_desk;

struct outcome {
    _Atomic int times;
    enum rpc_status status;
    char message[256];
    struct chain reply;
};

struct rpc_server *fixture_serve(const char *const *addresses, uint32_t calls_max,
                                 uint64_t message_max_bytes);
struct rpc_channel *fixture_dial(const char *address);
void fixture_wait_held(size_t count);
/* Ends all held calls with an empty reply. */
void fixture_end_held(void);

/* A call of one byte, whose end `o` notes; for as long as the call is open, *o must stay. */
void fixture_call(struct rpc_channel *c, const char *method, uint32_t timeout_ms,
                  struct outcome *o);
void fixture_note(void *context, enum rpc_status status, const char *message, struct chain *reply);
void fixture_wait_outcome(struct outcome *o);
enum rpc_status fixture_call_sync(struct rpc_channel *c, const char *method, const void *data,
                                  size_t size, struct chain *reply);
/* The thread's error text has this part. */
void fixture_assert_text(const char *part);

#endif
