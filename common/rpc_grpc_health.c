/*
 * grpc.health.v1, by hand: what Kubernetes probes and grpc_health_probe ask.
 *
 * Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md. The messages are
 * HealthCheckRequest{string service = 1} and HealthCheckResponse{enum status = 1}.
 */
#include "common/rpc_grpc_internal.h"

#include <string.h>

#include "common/str.h"

#define REQUEST_MAX_BYTES 512
enum health { HEALTH_SERVING = 1, HEALTH_SERVICE_UNKNOWN = 3 };

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool skip(const uint8_t **at, const uint8_t *end, uint64_t size)
{
    if (size > (uint64_t)(end - *at))
        return false;
    *at += size;
    return true;
}

/* Reads the one field there is, steps over others. *service is left alone when it is not there. */
static bool parse_service(const uint8_t *at, const uint8_t *end, struct span *service)
{
    while (at < end) {
        uint64_t tag, value;
        if (!read_varint(&at, end, &tag))
            return false;
        bool is_good = false;
        switch (tag & 7) {
        case 0:
            is_good = read_varint(&at, end, &value);
            break;
        case 1:
            is_good = skip(&at, end, 8);
            break;
        case 2:
            is_good = read_varint(&at, end, &value);
            if (is_good && tag >> 3 == 1 && value <= (uint64_t)(end - at))
                *service = span_make((const char *)at, (size_t)value);
            is_good = is_good && skip(&at, end, value);
            break;
        case 5:
            is_good = skip(&at, end, 4);
            break;
        }
        if (!is_good)
            return false;
    }
    return true;
}

/* The service of "/package.Service/Method" is "package.Service"; "" is the server as a whole. */
static bool is_served(const struct rpc_server_options *options, struct span service)
{
    if (service.size == 0)
        return true;
    for (size_t i = 0; i < options->method_count; i++) {
        const char *name = options->methods[i].name + 1;
        if (span_equal(span_make(name, (size_t)(strchr(name, '/') - name)), service))
            return true;
    }
    return false;
}

static enum err ask(const struct rpc_server_options *options, const struct chain *request,
                    bool *is_served_out)
{
    uint8_t bytes[REQUEST_MAX_BYTES];
    if (request->size > sizeof bytes)
        return err_set(ERR_INPUT, "a health request of %zu bytes is over the limit of %zu bytes",
                       request->size, sizeof bytes);
    chain_copy_out(request, 0, bytes, request->size);
    struct span service = {0};
    if (!parse_service(bytes, bytes + request->size, &service))
        return err_set(ERR_INPUT, "the health request of %zu bytes is no protobuf message",
                       request->size);
    *is_served_out = is_served(options, service);
    return ERR_NONE;
}

static void put_status(struct chain *reply, enum health status)
{
    const uint8_t bytes[] = {0x08, (uint8_t)status}; /* field 1, varint */
    chain_append_copy(reply, bytes, sizeof bytes);
}

void rpc_grpc_health_check(void *context, struct rpc_call *call)
{
    bool serves = false;
    if (ask(context, rpc_call_request(call), &serves) != ERR_NONE) {
        rpc_call_fail(call, RPC_INVALID, err_text());
        return;
    }
    if (!serves) {
        rpc_call_fail(call, RPC_NOT_FOUND, "no such service here");
        return;
    }
    struct chain reply = {0};
    put_status(&reply, HEALTH_SERVING);
    rpc_call_reply(call, &reply);
}

enum err rpc_grpc_health_watch_answer(const struct rpc_server_options *options,
                                      const struct chain *request, struct chain *reply)
{
    bool serves = false;
    enum err e = ask(options, request, &serves);
    if (e == ERR_NONE)
        put_status(reply, serves ? HEALTH_SERVING : HEALTH_SERVICE_UNKNOWN);
    return e;
}
