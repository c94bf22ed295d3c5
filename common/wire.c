#include "common/wire.h"

#include <string.h>

#include "common/check.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays on the wire are little-endian and are used where they lie: this host is not"
#endif

enum {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    WIRE_GROUP = 3,
    WIRE_GROUP_END = 4,
    WIRE_FIXED32 = 5
};

/* Everything but the payload: descriptors, cursors, metrics. */
#define HEADER_MAX_BYTES (1u << 26)
/* Before a message is unpacked: an empty descriptor is two bytes that become a hundred. */
#define FIELDS_MAX       (4 * WIRE_BLOCK_MAX)
#define VARINT_MAX_BYTES 10
#define GROUP_DEPTH_MAX  32

uint64_t wire_payload_add(struct wire_payload *p, struct buf *owner, const void *data, size_t size,
                          size_t alignment)
{
    static const uint8_t zeros[8];
    CHECK(alignment == 4 || alignment == 8);
    size_t beyond = p->chain.size % alignment;
    if (beyond != 0)
        chain_append(&p->chain, NULL, zeros, alignment - beyond);
    uint64_t offset = p->chain.size;
    chain_append(&p->chain, owner, data, size);
    return offset;
}

void wire_payload_deinit(struct wire_payload *p)
{
    chain_deinit(&p->chain);
}

/* NULL: messages of this type have none. */
static const ProtobufCFieldDescriptor *payload_field(const ProtobufCMessageDescriptor *descriptor)
{
    return protobuf_c_message_descriptor_get_field_by_name(descriptor, "payload");
}

static size_t varint_write(uint64_t value, uint8_t *out)
{
    size_t size = 0;
    while (value >= 0x80) {
        out[size++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    out[size++] = (uint8_t)value;
    return size;
}

void wire_encode(const ProtobufCMessage *message, struct wire_payload *payload, struct chain *out)
{
    const ProtobufCFieldDescriptor *field = payload_field(message->descriptor);
    if (field != NULL) {
        ProtobufCBinaryData inside;
        memcpy(&inside, (const uint8_t *)message + field->offset, sizeof inside);
        CHECK(inside.len == 0);
    } else {
        CHECK(payload->chain.size == 0);
    }

    size_t header_size = protobuf_c_message_get_packed_size(message);
    uint8_t *header = must_alloc(header_size + 2 * VARINT_MAX_BYTES);
    size_t size = protobuf_c_message_pack(message, header);
    CHECK(size == header_size);
    if (payload->chain.size > 0) {
        size += varint_write((uint64_t)field->id << 3 | WIRE_BYTES, header + size);
        size += varint_write(payload->chain.size, header + size);
    }
    chain_append_copy(out, header, size);
    mem_free(header);
    chain_move(out, &payload->chain);
}

static enum err read_varint(struct chain_cursor *cursor, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 7 * VARINT_MAX_BYTES; shift += 7) {
        uint8_t carry;
        const uint8_t *byte = chain_cursor_next(cursor, 1, &carry);
        if (byte == NULL)
            return err_set(ERR_INPUT, "message is cut off within a number");
        value |= (uint64_t)(*byte & 0x7f) << shift;
        if (*byte < 0x80) {
            *out = value;
            return ERR_NONE;
        }
    }
    return err_set(ERR_INPUT, "message has a number of more than %d bytes", VARINT_MAX_BYTES);
}

/* Steps over the value of one field, whose tag has been read. Groups nest; their depth is bounded.
 */
static enum err skip_value(struct chain_cursor *cursor, uint64_t tag)
{
    uint64_t open[GROUP_DEPTH_MAX];
    size_t depth = 0;
    for (;;) {
        uint64_t size = 0;
        enum err e = ERR_NONE;
        switch (tag & 7) {
        case WIRE_VARINT:
            e = read_varint(cursor, &size);
            size = 0;
            break;
        case WIRE_FIXED64:
            size = 8;
            break;
        case WIRE_FIXED32:
            size = 4;
            break;
        case WIRE_BYTES:
            e = read_varint(cursor, &size);
            break;
        case WIRE_GROUP:
            if (depth == GROUP_DEPTH_MAX)
                return err_set(ERR_LIMIT, "message nests more than %d groups", GROUP_DEPTH_MAX);
            open[depth++] = tag >> 3;
            break;
        case WIRE_GROUP_END:
            if (depth == 0 || open[--depth] != tag >> 3)
                return err_set(ERR_INPUT, "message closes group %llu, which is not open",
                               (unsigned long long)(tag >> 3));
            break;
        default:
            return err_set(ERR_INPUT, "field %llu has wire type %u, which does not exist",
                           (unsigned long long)(tag >> 3), (unsigned)(tag & 7));
        }
        if (e != ERR_NONE)
            return e;
        if (size > cursor->left || !chain_cursor_skip(cursor, size))
            return err_set(ERR_INPUT, "message is cut off within field %llu",
                           (unsigned long long)(tag >> 3));
        if (depth == 0)
            return ERR_NONE;
        if ((e = read_varint(cursor, &tag)) != ERR_NONE)
            return e;
    }
}

static enum err check_tag(uint64_t tag)
{
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return err_set(ERR_INPUT, "message has a field of number %llu",
                       (unsigned long long)(tag >> 3));
    return ERR_NONE;
}

/* Copies the known fields to `header` (its size to *size_out) and notes where the payload lies. */
static enum err walk(const ProtobufCMessageDescriptor *descriptor, const struct chain *c,
                     uint8_t *header, size_t header_max, struct wire_message *out, size_t *size_out)
{
    const ProtobufCFieldDescriptor *payload = payload_field(descriptor);
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, c, 0, c->size);
    size_t size = 0, count = 0;
    while (cursor.left > 0) {
        struct chain_cursor start = cursor;
        uint64_t tag = 0;
        enum err e = read_varint(&cursor, &tag);
        if (e == ERR_NONE)
            e = check_tag(tag);
        if (e != ERR_NONE)
            return e;
        if (payload != NULL && tag == ((uint64_t)payload->id << 3 | WIRE_BYTES)) {
            uint64_t bytes = 0;
            if ((e = read_varint(&cursor, &bytes)) != ERR_NONE)
                return e;
            if (bytes > cursor.left)
                return err_set(ERR_INPUT, "payload of %llu bytes, but the message ends after %zu",
                               (unsigned long long)bytes, cursor.left);
            out->payload_offset = c->size - cursor.left;
            out->payload_size = (size_t)bytes;
            CHECK(chain_cursor_skip(&cursor, (size_t)bytes));
            continue;
        }
        if ((e = skip_value(&cursor, tag)) != ERR_NONE)
            return e;
        bool known =
            (payload == NULL || tag >> 3 != payload->id) &&
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3)) != NULL;
        if (!known)
            continue;
        if (++count > FIELDS_MAX)
            return err_set(ERR_LIMIT, "message has more than %u fields", FIELDS_MAX);
        size_t whole = start.left - cursor.left;
        if (whole > header_max - size)
            return err_set(ERR_LIMIT, "message has more than %u bytes beside its payload",
                           HEADER_MAX_BYTES);
        if (header != NULL)
            CHECK(chain_cursor_read(&start, header + size, whole));
        size += whole;
    }
    *size_out = size;
    return ERR_NONE;
}

enum err wire_decode(const ProtobufCMessageDescriptor *descriptor, const struct chain *c,
                     struct wire_message *out)
{
    if (c->size > MESSAGE_MAX_BYTES)
        return err_set(ERR_LIMIT, "message of %zu bytes; the most is %u", c->size,
                       MESSAGE_MAX_BYTES);
    struct wire_message m = {.chain = c};
    size_t size;
    enum err e = walk(descriptor, c, NULL, HEADER_MAX_BYTES, &m, &size);
    if (e != ERR_NONE)
        return err_prefix(e, "%s", descriptor->short_name);
    uint8_t *header = mem_alloc(size);
    if (header == NULL)
        return ERR_MEMORY;
    e = walk(descriptor, c, header, size, &m, &size);
    CHECK(e == ERR_NONE);
    m.message = protobuf_c_message_unpack(descriptor, NULL, size, header);
    mem_free(header);
    if (m.message == NULL)
        return err_set(ERR_INPUT, "%s: not a valid protobuf message", descriptor->short_name);
    *out = m;
    return ERR_NONE;
}

void wire_message_deinit(struct wire_message *m)
{
    if (m->message != NULL)
        protobuf_c_message_free_unpacked(m->message, NULL);
    *m = (struct wire_message){0};
}

void wire_keys(const struct wire_message *m, const Paramd__Block *b, struct chain_cursor *out)
{
    chain_cursor_init(out, m->chain, m->payload_offset + b->keys_offset,
                      b->count * sizeof(uint64_t));
}

/* Bytes of a block's values; it has been checked, or is one of ours. */
static size_t values_size(const Paramd__Block *b)
{
    uint64_t dim = b->kind == PARAMD__BLOCK__KIND__ROWS ? b->dim : 1;
    return b->count * dim * sizeof(float);
}

void wire_values(const struct wire_message *m, const Paramd__Block *b, struct chain_cursor *out)
{
    chain_cursor_init(out, m->chain, m->payload_offset + b->values_offset, values_size(b));
}

/* ---- checking ---- */

struct check {
    const struct wire_message *m;
    const struct wire_limits *limits;
    bool pushing;
    bool table_seen[TABLE_MAX];
    uint32_t dense_end[DENSE_MAX]; /* where the parameter's blocks so far end */
    uint64_t wanted_bytes;         /* of the answers */
};

static enum err check_range(const struct check *k, const char *name, const char *what,
                            uint64_t offset, uint64_t count, uint64_t element_size,
                            uint64_t alignment)
{
    uint64_t size, end;
    if (offset % alignment != 0)
        return err_set(ERR_INPUT, "%s: %s_offset %llu is not a multiple of %llu", name, what,
                       (unsigned long long)offset, (unsigned long long)alignment);
    if (__builtin_mul_overflow(count, element_size, &size) ||
        __builtin_add_overflow(offset, size, &end) || end > k->m->payload_size)
        return err_set(
            ERR_INPUT, "%s: %llu %s at %s_offset %llu lie outside the payload of %zu bytes", name,
            (unsigned long long)count, what, what, (unsigned long long)offset, k->m->payload_size);
    return ERR_NONE;
}

static enum err check_answer_size(struct check *k, const char *name, uint64_t count, uint64_t dim)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(count, dim * sizeof(float), &bytes) || bytes > MESSAGE_MAX_BYTES ||
        (k->wanted_bytes += bytes) > MESSAGE_MAX_BYTES)
        return err_set(ERR_LIMIT, "%s: the answer would have more than %u bytes", name,
                       MESSAGE_MAX_BYTES);
    return ERR_NONE;
}

#define CHECK_BATCH 128

static enum err check_keys(const struct check *k, const char *name, const Paramd__Block *b)
{
    struct chain_cursor cursor;
    wire_keys(k->m, b, &cursor);
    uint64_t keys[CHECK_BATCH], before = 0;
    for (uint64_t done = 0; done < b->count;) {
        size_t n = b->count - done < CHECK_BATCH ? (size_t)(b->count - done) : CHECK_BATCH;
        CHECK(chain_cursor_read(&cursor, keys, n * sizeof keys[0]));
        for (size_t i = 0; i < n; i++) {
            if (keys[i] <= before && done + i > 0)
                return err_set(ERR_INPUT, "table %s: key %llu (number %llu) does not ascend", name,
                               (unsigned long long)keys[i], (unsigned long long)(done + i));
            before = keys[i];
        }
        /* The keys ascend, so the ends of the batch decide for all of it. */
        if (partition_of_key(keys[0]) < k->limits->first_partition ||
            partition_of_key(keys[n - 1]) >= k->limits->end_partition) {
            bool first = partition_of_key(keys[0]) < k->limits->first_partition;
            uint64_t key = first ? keys[0] : keys[n - 1];
            return err_set(ERR_INPUT, "table %s: key %llu is in partition %u, not in %u to %u",
                           name, (unsigned long long)key, partition_of_key(key),
                           k->limits->first_partition, k->limits->end_partition - 1);
        }
        done += n;
    }
    return ERR_NONE;
}

/* A float that may lie anywhere. */
typedef uint32_t loose_bits __attribute__((aligned(1), may_alias));

static bool all_finite(const void *values, size_t count)
{
    const loose_bits *bits = values;
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = bits[i] & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < 0x7f800000;
}

/* The index of the first value that is not finite, or `count`. */
static uint64_t first_not_finite(struct chain_cursor cursor, uint64_t count)
{
    for (uint64_t done = 0; done < count;) {
        struct chain_cursor here = cursor;
        size_t size;
        const void *run = chain_cursor_run(&cursor, (size_t)-1 / 2, &size);
        size_t whole = size / sizeof(float);
        if (whole == 0) { /* one that straddles slices */
            uint32_t carry;
            cursor = here;
            if (!all_finite(chain_cursor_next(&cursor, sizeof carry, &carry), 1))
                return done;
            done++;
            continue;
        }
        if (!all_finite(run, whole)) {
            const uint8_t *value = run;
            while (all_finite(value, 1)) {
                value += sizeof(float);
                done++;
            }
            return done;
        }
        cursor = here;
        CHECK(chain_cursor_skip(&cursor, whole * sizeof(float)));
        done += whole;
    }
    return count;
}

static enum err check_rows(struct check *k, const Paramd__Block *b)
{
    const struct schema *schema = k->limits->schema;
    if (b->index >= schema->table_count)
        return err_set(ERR_INPUT, "block of table %u; the model has %u", b->index,
                       schema->table_count);
    const struct schema_table *t = &schema->tables[b->index];
    if (k->table_seen[b->index])
        return err_set(ERR_INPUT, "table %s: more than one block", t->name);
    k->table_seen[b->index] = true;
    if (b->dim != t->dim && (k->pushing || b->dim != 0))
        return err_set(ERR_INPUT, "table %s: dim %u; its rows have %u", t->name, b->dim, t->dim);
    enum err e = check_range(k, t->name, "keys", b->keys_offset, b->count, sizeof(uint64_t), 8);
    if (e == ERR_NONE && !k->pushing)
        e = check_answer_size(k, t->name, b->count, t->dim);
    if (e == ERR_NONE && k->pushing)
        e = check_range(k, t->name, "values", b->values_offset, b->count, t->dim * sizeof(float),
                        4);
    if (e == ERR_NONE)
        e = check_keys(k, t->name, b);
    if (e != ERR_NONE || !k->pushing)
        return e;
    struct chain_cursor cursor;
    wire_values(k->m, b, &cursor);
    uint64_t bad = first_not_finite(cursor, b->count * t->dim);
    if (bad == b->count * t->dim)
        return ERR_NONE;
    uint64_t key;
    wire_keys(k->m, b, &cursor);
    CHECK(chain_cursor_skip(&cursor, bad / t->dim * sizeof key) &&
          chain_cursor_read(&cursor, &key, sizeof key));
    return err_set(ERR_REFUSED, "table %s: the gradient of key %llu is not finite at position %u",
                   t->name, (unsigned long long)key, (unsigned)(bad % t->dim));
}

static enum err check_dense_range(struct check *k, const struct schema_dense *d,
                                  const Paramd__Block *b, uint64_t *count_out)
{
    uint32_t first, end;
    layout_blocks(d, k->limits->first_partition, k->limits->end_partition, &first, &end);
    uint64_t block_end = (uint64_t)b->first_block + b->block_count;
    if (b->block_count == 0 || b->first_block < first || block_end > end)
        return err_set(ERR_INPUT, "%s: %u blocks from %u; this shard has %u to %u", d->name,
                       b->block_count, b->first_block, first, end);
    if (b->first_block < k->dense_end[b->index])
        return err_set(ERR_INPUT, "%s: block %u comes after block %u", d->name, b->first_block,
                       k->dense_end[b->index] - 1);
    k->dense_end[b->index] = (uint32_t)block_end;
    uint64_t value_end = block_end == d->block_count ? d->count : block_end * d->block_values;
    *count_out = value_end - schema_block_first(d, b->first_block);
    return ERR_NONE;
}

static enum err check_dense(struct check *k, const Paramd__Block *b)
{
    const struct schema *schema = k->limits->schema;
    if (b->index >= schema->dense_count)
        return err_set(ERR_INPUT, "block of dense parameter %u; the model has %u", b->index,
                       schema->dense_count);
    const struct schema_dense *d = &schema->dense[b->index];
    uint64_t count = 0;
    enum err e = check_dense_range(k, d, b, &count);
    if (e != ERR_NONE)
        return e;
    if (b->count != count && (k->pushing || b->count != 0))
        return err_set(ERR_INPUT, "%s: %llu values in %u blocks from %u; there are %llu", d->name,
                       (unsigned long long)b->count, b->block_count, b->first_block,
                       (unsigned long long)count);
    if (!k->pushing)
        return check_answer_size(k, d->name, count, 1);
    e = check_range(k, d->name, "values", b->values_offset, count, sizeof(float), 4);
    if (e != ERR_NONE)
        return e;
    struct chain_cursor cursor;
    wire_values(k->m, b, &cursor);
    uint64_t bad = first_not_finite(cursor, count);
    if (bad == count)
        return ERR_NONE;
    return err_set(ERR_REFUSED, "%s: the gradient is not finite at index %llu", d->name,
                   (unsigned long long)(schema_block_first(d, b->first_block) + bad));
}

enum err wire_check_blocks(const struct wire_message *m, Paramd__Block *const *blocks, size_t count,
                           const struct wire_limits *limits, bool pushing)
{
    if (count > WIRE_BLOCK_MAX)
        return err_set(ERR_LIMIT, "%zu blocks in one message; the most is %u", count,
                       WIRE_BLOCK_MAX);
    struct check k = {.m = m, .limits = limits, .pushing = pushing};
    for (size_t i = 0; i < count; i++) {
        const Paramd__Block *b = blocks[i];
        enum err e;
        if (b->kind == (pushing ? PARAMD__BLOCK__KIND__ROWS : PARAMD__BLOCK__KIND__KEYS))
            e = check_rows(&k, b);
        else if (b->kind ==
                 (pushing ? PARAMD__BLOCK__KIND__DENSE : PARAMD__BLOCK__KIND__DENSE_WANTED))
            e = check_dense(&k, b);
        else
            e = err_set(ERR_INPUT, "kind %d among %s blocks", (int)b->kind,
                        pushing ? "push" : "pull");
        if (e != ERR_NONE)
            return err_prefix(e, "%s block %zu", pushing ? "push" : "pull", i);
    }
    return ERR_NONE;
}

/* ---- checksums ---- */

static uint64_t checksum(const struct chain *c, size_t offset, Paramd__Block *const *blocks,
                         size_t count)
{
    struct chain parts = {0};
    for (size_t i = 0; i < count; i++) {
        const Paramd__Block *b = blocks[i];
        if (b->kind == PARAMD__BLOCK__KIND__ROWS || b->kind == PARAMD__BLOCK__KIND__KEYS)
            chain_share(&parts, c, offset + b->keys_offset, b->count * sizeof(uint64_t));
        if (b->kind == PARAMD__BLOCK__KIND__ROWS || b->kind == PARAMD__BLOCK__KIND__DENSE)
            chain_share(&parts, c, offset + b->values_offset, values_size(b));
    }
    uint64_t hash = checksum64_chain(&parts, 0, parts.size);
    chain_deinit(&parts);
    return hash;
}

uint64_t wire_checksum(const struct wire_message *m, Paramd__Block *const *blocks, size_t count)
{
    return checksum(m->chain, m->payload_offset, blocks, count);
}

uint64_t wire_checksum_payload(const struct wire_payload *p, Paramd__Block *const *blocks,
                               size_t count)
{
    return checksum(&p->chain, 0, blocks, count);
}
