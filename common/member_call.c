#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/member.h"
#include "common/member_internal.h"
#include "common/rpc.h"
#include "common/str.h"

#define RETRY_MS 100u

static char boot_id[64];
static pthread_once_t boot_id_once = PTHREAD_ONCE_INIT;

static void read_boot_id(void)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t size = read(fd, boot_id, sizeof boot_id - 1);
    close(fd);
    while (size > 0 && (unsigned char)boot_id[size - 1] <= ' ')
        size--;
    boot_id[size > 0 ? size : 0] = '\0';
}

const char *member_host_id(void)
{
    pthread_once(&boot_id_once, read_boot_id);
    return boot_id;
}

const char *member_pick_address(char *const *addresses, size_t count, const char *host_id)
{
    bool here = host_id[0] != '\0' && strcmp(host_id, member_host_id()) == 0;
    for (size_t i = 0; here && i < count; i++)
        if (rpc_unix_listens(addresses[i]))
            return addresses[i];
    for (size_t i = 0; i < count; i++)
        if (!rpc_is_unix(addresses[i]))
            return addresses[i];
    return count > 0 ? addresses[0] : NULL;
}

static struct json *where(const char *const *addresses)
{
    struct json *j = json_object();
    struct json *list = json_array();
    for (size_t i = 0; addresses != NULL && addresses[i] != NULL; i++)
        json_push(list, json_text(addresses[i]));
    json_set(j, "addresses", list);
    json_set_text(j, "host_id", member_host_id());
    return j;
}

static char *as_text(struct json *j)
{
    struct str s = {0};
    json_write(j, false, &s);
    json_destroy(j);
    return s.data;
}

char *member_leader_record(const char *const *addresses)
{
    return as_text(where(addresses));
}

char *member_record(const struct member_options *o)
{
    const char *device = o->capacity.device_class;
    struct json *j = where(o->addresses);
    json_set_text(j, "role", o->role);
    json_set_int(j, "cores", o->capacity.cores);
    json_set_int(j, "gpus", o->capacity.gpus);
    json_set_int(j, "memory_bytes", (int64_t)o->capacity.memory_bytes);
    json_set_text(j, "device_class", device != NULL ? device : "");
    json_set_text(j, "version", PARAMD_VERSION);
    return as_text(j);
}

char *member_record_address(const char *record)
{
    struct json *j, *list;
    const char *host;
    if (json_parse("record of a member", record, strlen(record), &j) != ERR_NONE)
        return NULL;
    char *address = NULL;
    if (json_get_array(j, "addresses", &list) == ERR_NONE &&
        json_get_text(j, "host_id", &host) == ERR_NONE) {
        size_t count = json_count(list);
        char **items = must_alloc((count + 1) * sizeof *items);
        size_t n = 0;
        for (size_t i = 0; i < count; i++)
            if (json_as_text(json_at(list, i)) != NULL)
                items[n++] = (char *)json_as_text(json_at(list, i));
        const char *picked = member_pick_address(items, n, host);
        address = picked != NULL ? must_strdup(picked) : NULL;
        mem_free(items);
    }
    json_destroy(j);
    return address;
}

/* ---- one control call ---- */

static enum rpc_status call_once(const char *address, const char *method,
                                 const ProtobufCMessage *request, uint32_t timeout_ms,
                                 struct chain *reply)
{
    struct rpc_channel *channel;
    if (rpc_channel_open(address, NULL, &channel) != ERR_NONE)
        return RPC_INVALID;
    size_t size = protobuf_c_message_get_packed_size(request);
    struct buf *b = buf_create(size > 0 ? size : 1);
    CHECK(b != NULL);
    protobuf_c_message_pack(request, buf_data(b));
    struct chain body = {0};
    chain_append(&body, b, buf_data(b), size);
    buf_unref(b);
    struct rpc_call_options options = {.method = method, .timeout_ms = timeout_ms};
    enum rpc_status status = rpc_channel_call_sync(channel, &options, &body, reply);
    chain_deinit(&body);
    rpc_channel_close(channel);
    return status;
}

static enum err unpack(const char *method, const struct chain *reply,
                       const ProtobufCMessageDescriptor *type, ProtobufCMessage **out)
{
    void *bytes = must_alloc(reply->size + 1);
    chain_copy_out(reply, 0, bytes, reply->size);
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, reply->size, bytes);
    mem_free(bytes);
    if (message == NULL)
        return err_set(ERR_INPUT, "%s: the reply of %zu bytes does not decode", method,
                       reply->size);
    *out = message;
    return ERR_NONE;
}

/* Tries once; *again says that a later try may do better. */
static enum err try_call(struct registry *registry, const char *method,
                         const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
                         uint32_t left_ms, bool *again, ProtobufCMessage **out)
{
    char *record;
    uint64_t term;
    enum err e = registry_leader(registry, &record, &term);
    *again = e == ERR_NOT_FOUND || e == ERR_UNAVAILABLE;
    if (e != ERR_NONE)
        return err_prefix(e, "%s: there is no leader", method);
    char *address = member_record_address(record);
    mem_free(record);
    if (address == NULL)
        return err_set(ERR_INPUT, "%s: the leader's record in the registry has no address", method);
    struct chain reply = {0};
    enum rpc_status status = call_once(address, method, request, left_ms, &reply);
    mem_free(address);
    *again = status == RPC_UNAVAILABLE || status == RPC_BUSY || status == RPC_CANCELLED;
    e = status == RPC_OK ? unpack(method, &reply, type, out) : rpc_status_err(status);
    chain_deinit(&reply);
    return e;
}

enum err control_call(struct registry *registry, const char *method,
                      const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                      uint32_t timeout_ms, ProtobufCMessage **reply_out)
{
    uint64_t deadline = clock_ms() + timeout_ms;
    for (;;) {
        uint64_t now = clock_ms();
        bool again = false;
        uint32_t left = now < deadline ? (uint32_t)(deadline - now) : 1;
        enum err e = try_call(registry, method, request, reply_type, left, &again, reply_out);
        if (e == ERR_NONE || !again || clock_ms() + RETRY_MS >= deadline)
            return e;
        clock_sleep_ms(RETRY_MS);
    }
}
