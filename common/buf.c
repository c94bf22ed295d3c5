#include "common/buf.h"

#include <stdatomic.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

struct buf {
    _Atomic uint32_t references;
    void *data;
    size_t size;
    void (*release)(void *context); /* NULL: the bytes are part of this allocation */
    void *context;
};

/* Behind the header, at the next 64-byte border. */
#define DATA_OFFSET 64
_Static_assert(sizeof(struct buf) <= DATA_OFFSET, "the header fits in front of the data");

static struct buf *buf_init(struct buf *b, void *data, size_t size)
{
    *b = (struct buf){.data = data, .size = size};
    atomic_init(&b->references, 1);
    return b;
}

struct buf *buf_create(size_t size)
{
    size_t total;
    if (__builtin_add_overflow(size, DATA_OFFSET, &total))
        total = SIZE_MAX; /* refused below, with its text */
    uint8_t *memory = mem_alloc_array(total, 1);
    return memory != NULL ? buf_init((struct buf *)memory, memory + DATA_OFFSET, size) : NULL;
}

struct buf *buf_wrap(const void *data, size_t size, void (*release)(void *context), void *context)
{
    struct buf *b = mem_alloc(sizeof *b);
    if (b == NULL)
        return NULL;
    buf_init(b, (void *)(uintptr_t)data, size);
    b->release = release;
    b->context = context;
    return b;
}

void *buf_data(struct buf *b)
{
    return b->data;
}

size_t buf_size(const struct buf *b)
{
    return b->size;
}

struct buf *buf_ref(struct buf *b)
{
    atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed);
    return b;
}

void buf_unref(struct buf *b)
{
    if (b == NULL)
        return;
    /*
     * All that other owners read happened before the memory goes: release, then acquire by the
     * last.
     */
    uint32_t before = atomic_fetch_sub_explicit(&b->references, 1, memory_order_acq_rel);
    CHECK(before > 0);
    if (before > 1)
        return;
    if (b->release != NULL)
        b->release(b->context);
    mem_free(b);
}

static void chain_reserve(struct chain *c, size_t more)
{
    size_t needed = c->count + more;
    if (needed <= c->capacity)
        return;
    size_t capacity = c->capacity + c->capacity / 2;
    if (capacity < 8)
        capacity = 8;
    if (capacity < needed)
        capacity = needed;
    c->slices = must_realloc(c->slices, capacity, sizeof *c->slices);
    c->capacity = capacity;
}

static void chain_put(struct chain *c, struct buf *owner, const void *data, size_t size)
{
    chain_reserve(c, 1);
    c->slices[c->count++] = (struct slice){.data = data, .size = size, .owner = owner};
    c->size += size;
}

void chain_append(struct chain *c, struct buf *owner, const void *data, size_t size)
{
    if (size > 0)
        chain_put(c, owner != NULL ? buf_ref(owner) : NULL, data, size);
}

void chain_append_take(struct chain *c, struct buf *b)
{
    if (b->size > 0)
        chain_put(c, b, b->data, b->size);
    else
        buf_unref(b);
}

void chain_append_copy(struct chain *c, const void *data, size_t size)
{
    if (size == 0)
        return;
    CHECK(size <= SIZE_MAX - sizeof(struct buf));
    struct buf *b = must_alloc(sizeof *b + size);
    buf_init(b, b + 1, size);
    memcpy(b->data, data, size);
    chain_put(c, b, b->data, size);
}

void chain_move(struct chain *to, struct chain *from)
{
    CHECK(to != from);
    if (from->count > 0) {
        chain_reserve(to, from->count);
        memcpy(to->slices + to->count, from->slices, from->count * sizeof *from->slices);
        to->count += from->count;
        to->size += from->size;
    }
    mem_free(from->slices);
    *from = (struct chain){0};
}

void chain_share(struct chain *to, const struct chain *from, size_t offset, size_t size)
{
    CHECK(to != from);
    CHECK(offset <= from->size && size <= from->size - offset);
    for (size_t i = 0; i < from->count && size > 0; i++) {
        const struct slice *s = &from->slices[i];
        if (offset >= s->size) {
            offset -= s->size;
            continue;
        }
        size_t part = s->size - offset < size ? s->size - offset : size;
        chain_append(to, s->owner, s->data + offset, part);
        offset = 0;
        size -= part;
    }
}

void chain_deinit(struct chain *c)
{
    for (size_t i = 0; i < c->count; i++)
        buf_unref(c->slices[i].owner);
    mem_free(c->slices);
    *c = (struct chain){0};
}

void chain_copy_out(const struct chain *c, size_t offset, void *out, size_t size)
{
    struct chain_cursor cursor;
    chain_cursor_init(&cursor, c, offset, size);
    CHECK(chain_cursor_read(&cursor, out, size));
}

/*
 * Steps over `size` bytes, which are there. A cursor with bytes left never rests at a slice's end.
 */
static void advance(struct chain_cursor *cursor, size_t size)
{
    cursor->left -= size;
    while (cursor->index < cursor->chain->count) {
        size_t here = cursor->chain->slices[cursor->index].size - cursor->offset;
        if (size < here) {
            cursor->offset += size;
            return;
        }
        size -= here;
        cursor->index++;
        cursor->offset = 0;
    }
}

void chain_cursor_init(struct chain_cursor *cursor, const struct chain *c, size_t offset,
                       size_t size)
{
    CHECK(offset <= c->size && size <= c->size - offset);
    *cursor = (struct chain_cursor){.chain = c, .left = offset + size};
    advance(cursor, offset);
}

const void *chain_cursor_next(struct chain_cursor *cursor, size_t size, void *carry)
{
    if (size > cursor->left)
        return NULL;
    if (size == 0)
        return carry;
    const struct slice *s = &cursor->chain->slices[cursor->index];
    if (s->size - cursor->offset > size) { /* the usual case: all here, and more */
        const void *piece = s->data + cursor->offset;
        cursor->offset += size;
        cursor->left -= size;
        return piece;
    }
    if (s->size - cursor->offset == size) {
        const void *piece = s->data + cursor->offset;
        advance(cursor, size);
        return piece;
    }
    CHECK(chain_cursor_read(cursor, carry, size));
    return carry;
}

const void *chain_cursor_run(struct chain_cursor *cursor, size_t max, size_t *size_out)
{
    if (max > cursor->left)
        max = cursor->left;
    *size_out = 0;
    if (max == 0)
        return NULL;
    const struct slice *s = &cursor->chain->slices[cursor->index];
    const void *run = s->data + cursor->offset;
    *size_out = s->size - cursor->offset < max ? s->size - cursor->offset : max;
    advance(cursor, *size_out);
    return run;
}

bool chain_cursor_read(struct chain_cursor *cursor, void *out, size_t size)
{
    if (size > cursor->left)
        return false;
    uint8_t *to = out;
    while (size > 0) {
        size_t part;
        const void *run = chain_cursor_run(cursor, size, &part);
        memcpy(to, run, part);
        to += part;
        size -= part;
    }
    return true;
}

bool chain_cursor_skip(struct chain_cursor *cursor, size_t size)
{
    if (size > cursor->left)
        return false;
    advance(cursor, size);
    return true;
}
