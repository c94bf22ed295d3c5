/*
 * What the gRPC transport sets on its sockets, by the core's channel argument for that.
 *
 * A unix socket takes 208 KiB from its sender before it must be read (net.core.wmem_default), and
 * the kernel does not let that grow as it does for TCP. So a body of a megabyte is written in five
 * pieces, and for each the core goes through its poller, wakes a thread, and waits: a quarter to a
 * third of the CPU time of a large call.
 *
 * The argument (GRPC_ARG_SOCKET_MUTATOR) is public, the structs that it points to are in none of
 * the core's installed headers. They are declared here as the core has had them since 1.37; the
 * field that was added then is the last. test_rpc_grpc finds out if they ever change.
 */
#include "common/rpc_grpc_internal.h"

#include <sys/socket.h>

#include <grpc/support/sync.h>

/* As much as the core writes at once. The kernel takes less where net.core.wmem_max says so. */
#define UNIX_SEND_BYTES (1 << 20)

struct socket_info {
    int fd;
    int usage; /* client's, listening, server's */
};

struct socket_mutator;

struct socket_mutator_table {
    bool (*mutate_old)(int fd, struct socket_mutator *m);
    int (*compare)(struct socket_mutator *a, struct socket_mutator *b);
    void (*destroy)(struct socket_mutator *m);
    bool (*mutate)(const struct socket_info *info, struct socket_mutator *m);
};

struct socket_mutator {
    const struct socket_mutator_table *table;
    gpr_refcount references;
};

/* true: the core goes on with the socket. Refusal changes speed only. */
static bool widen(int fd, struct socket_mutator *m)
{
    int family;
    socklen_t size = sizeof family;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 && family == AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){UNIX_SEND_BYTES}, sizeof(int));
    return true;
}

static bool mutate(const struct socket_info *info, struct socket_mutator *m)
{
    return widen(info->fd, m);
}

static int compare(struct socket_mutator *a, struct socket_mutator *b)
{
    return (a > b) - (a < b);
}

/* There is one for all sockets, and it stays. */
static void keep(struct socket_mutator *m)
{
}

static void *argument_copy(void *m)
{
    return m;
}

static void argument_destroy(void *m)
{
}

static int argument_compare(void *a, void *b)
{
    return compare(a, b);
}

grpc_arg rpc_grpc_socket_arg(void)
{
    static const struct socket_mutator_table table = {widen, compare, keep, mutate};
    static struct socket_mutator mutator = {.table = &table, .references = {1}};
    static const grpc_arg_pointer_vtable pointer = {argument_copy, argument_destroy,
                                                    argument_compare};
    return (grpc_arg){.type = GRPC_ARG_POINTER,
                      .key = (char *)(uintptr_t)GRPC_ARG_SOCKET_MUTATOR,
                      .value.pointer = {.p = &mutator, .vtable = &pointer}};
}
