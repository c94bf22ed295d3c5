#include "server/service_peek.h"

#include <string.h>

#define FIELD_JOB           1u
#define FIELD_GENERATION    2u
#define FIELD_SHARD         5u
#define FIELD_SHARD_OF_READ 3u

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static bool read_varint(struct chain_cursor *c, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte;
        if (!chain_cursor_read(c, &byte, 1))
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_job(struct chain_cursor *c, uint64_t size, struct request_head *out)
{
    if (size > NAME_MAX_BYTES || !chain_cursor_read(c, out->job, (size_t)size))
        return false;
    out->job[size] = '\0';
    return true;
}

static bool read_field(struct chain_cursor *c, uint64_t tag, uint64_t shard_field,
                       struct request_head *out)
{
    uint64_t value;
    switch (tag & 7) {
    case WIRE_VARINT:
        if (!read_varint(c, &value))
            return false;
        if (tag >> 3 == FIELD_GENERATION)
            out->generation = value;
        else if (tag >> 3 == shard_field)
            out->shard = (uint32_t)value;
        return true;
    case WIRE_FIXED64:
        return chain_cursor_skip(c, 8);
    case WIRE_FIXED32:
        return chain_cursor_skip(c, 4);
    case WIRE_BYTES:
        if (!read_varint(c, &value) || value > c->left)
            return false;
        return tag >> 3 == FIELD_JOB ? read_job(c, value, out)
                                     : chain_cursor_skip(c, (size_t)value);
    default:
        return false;
    }
}

enum err request_peek(const struct chain *request, bool is_read, struct request_head *out)
{
    struct request_head head = {0};
    struct chain_cursor c;
    chain_cursor_init(&c, request, 0, request->size);
    while (c.left > 0) {
        uint64_t tag;
        if (!read_varint(&c, &tag) ||
            !read_field(&c, tag, is_read ? FIELD_SHARD_OF_READ : FIELD_SHARD, &head))
            return err_set(ERR_INPUT, "the request of %zu bytes is not a message of the data plane",
                           request->size);
    }
    *out = head;
    return ERR_NONE;
}
