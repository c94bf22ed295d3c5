/*
 * wire.h - data-plane messages to and from chains, without flattening their arrays.
 *
 * Encoding: the header is packed by protobuf-c, the payload's tag and length are written by hand,
 * and the arrays follow as slices of the memory where they already lie. Decoding: the top-level
 * fields are walked in any order, unknown ones of every wire type are skipped, everything but the
 * payload is gathered into a small header and unpacked by protobuf-c, and the payload stays a range
 * of the received chain.
 *
 * wire_check_blocks() proves, before anything is applied, that descriptors stay within the payload,
 * do not lie about counts, dims and ownership, and that keys ascend strictly within the shard's
 * range.
 *
 * Shapes   see proto/paramd.proto. Keys uint64, values float32, both little-endian; hosts that are
 *          not are refused at compile time.
 * Errors   ERR_INPUT with the field and the value; ERR_LIMIT for sizes beyond common/limits.h.
 * Pure     no I/O.
 */
#ifndef PARAMD_COMMON_WIRE_H
#define PARAMD_COMMON_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/layout.h"
#include "common/schema.h"
#include "proto/paramd.pb-c.h"

#define WIRE_PUSH_PULL "/paramd.Shard/PushPull"
#define WIRE_RESUME    "/paramd.Shard/Resume"
#define WIRE_READ      "/paramd.Shard/Read"

/* Collects the arrays of a message that is being made: slices, and the offset of the next. */
struct wire_payload {
    struct chain chain;
};

/* Pads to `alignment` (4 or 8), appends a reference to the bytes, and returns their offset. */
uint64_t wire_payload_add(struct wire_payload *p, struct buf *owner, const void *data, size_t size,
                          size_t alignment);
void wire_payload_deinit(struct wire_payload *p);

/*
 * Encode: `message` with an empty payload field, then `payload`, whose slices are moved. The
 * protobuf-c descriptor of the message tells the payload's field number (its field named
 * "payload"); a message without one has no arrays. CHECKs memory.
 */
void wire_encode(const ProtobufCMessage *message, struct wire_payload *payload, struct chain *out);

/* A decoded message: `message` as protobuf-c gives it (payload field empty), and where the payload
   lies. */
struct wire_message {
    ProtobufCMessage *message;
    const struct chain *chain; /* borrowed from the caller of wire_decode() */
    size_t payload_offset;
    size_t payload_size;
};
enum err wire_decode(const ProtobufCMessageDescriptor *descriptor, const struct chain *c,
                     struct wire_message *out) MUST_CHECK;
void wire_message_deinit(struct wire_message *m);

/* Cursors over the arrays of one block; the block must have passed wire_check_blocks(). */
void wire_keys(const struct wire_message *m, const Paramd__Block *b, struct chain_cursor *out);
void wire_values(const struct wire_message *m, const Paramd__Block *b, struct chain_cursor *out);

struct wire_limits {
    const struct schema *schema;
    uint32_t first_partition, end_partition; /* what the shard owns */
};
/*
 * Checks all blocks of one list. `pushing`: ROWS and DENSE (values finite too: a non-finite one is
 * ERR_REFUSED naming table or parameter and key or index); else KEYS and DENSE_WANTED. At most one
 * ROWS or KEYS block a table; dense block ranges ascending and disjoint.
 */
enum err wire_check_blocks(const struct wire_message *m, Paramd__Block *const *blocks, size_t count,
                           const struct wire_limits *limits, bool pushing) MUST_CHECK;

/* XXH3 (64 bits) over the payload bytes of the blocks, in their order: keys, then values. */
uint64_t wire_checksum(const struct wire_message *m, Paramd__Block *const *blocks, size_t count);
uint64_t wire_checksum_payload(const struct wire_payload *p, Paramd__Block *const *blocks,
                               size_t count);

#endif
