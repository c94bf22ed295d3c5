#include "common/storage_ahead.h"

#include <pthread.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/storage_internal.h"
#include "common/storage_pool.h"

/* So far may the next read be from the end of the last one and still count as in order. */
#define GAP_BYTES     ((uint64_t)1 << 20)
#define ORDERLY_READS 2u /* in a row, before anything is fetched ahead */
#define SPLIT_BYTES   (2 * AHEAD_PIECE_BYTES)
#define SIDE_BY_SIDE  4u

enum piece_state { PIECE_EMPTY, PIECE_LOADING, PIECE_READY, PIECE_FAILED };

struct piece {
    struct storage_ahead *owner;
    enum piece_state state;
    uint64_t number; /* it holds bytes from number * AHEAD_PIECE_BYTES on */
    uint64_t used;   /* a count: the smallest is the longest unused */
    uint32_t readers;
    uint8_t *data;
    size_t size;
};

struct storage_ahead {
    struct storage_reader *reader;
    pthread_mutex_t lock;
    pthread_cond_t has_changed;
    struct piece pieces[AHEAD_PIECES];
    uint64_t last_end, use_count;
    uint32_t orderly; /* reads in a row */
};

static pthread_mutex_t total_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t total_bytes; /* of all pieces that have memory */

struct storage_ahead *storage_ahead_create(struct storage_reader *r)
{
    struct storage_ahead *a = must_alloc(sizeof *a);
    a->reader = r;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->has_changed, NULL);
    for (size_t i = 0; i < AHEAD_PIECES; i++)
        a->pieces[i].owner = a;
    return a;
}

static bool take_memory(void)
{
    pthread_mutex_lock(&total_lock);
    bool has_room = total_bytes + AHEAD_PIECE_BYTES <= AHEAD_TOTAL_BYTES;
    total_bytes += has_room ? AHEAD_PIECE_BYTES : 0;
    pthread_mutex_unlock(&total_lock);
    return has_room;
}

static void give_memory(struct piece *p)
{
    if (p->data == NULL)
        return;
    mem_free(p->data);
    p->data = NULL;
    pthread_mutex_lock(&total_lock);
    total_bytes -= AHEAD_PIECE_BYTES;
    pthread_mutex_unlock(&total_lock);
}

void storage_ahead_destroy(struct storage_ahead *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < AHEAD_PIECES; i++) {
        while (a->pieces[i].state == PIECE_LOADING) /* it ends by the store's own deadlines */
            pthread_cond_wait(&a->has_changed, &a->lock);
        give_memory(&a->pieces[i]);
    }
    pthread_mutex_unlock(&a->lock);
    pthread_cond_destroy(&a->has_changed);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

static enum err read_plain(struct storage_ahead *a, uint64_t offset, void *out, size_t size)
{
    return a->reader->backend->read_at(a->reader, offset, out, size);
}

/* ---- pieces; the lock is held, but in load() ---- */

static void load(void *context)
{
    struct piece *p = context;
    struct storage_ahead *a = p->owner;
    enum err e = read_plain(a, p->number * AHEAD_PIECE_BYTES, p->data, p->size);
    pthread_mutex_lock(&a->lock);
    p->state = e == ERR_NONE ? PIECE_READY : PIECE_FAILED;
    pthread_cond_broadcast(&a->has_changed);
    pthread_mutex_unlock(&a->lock);
}

static struct piece *find_piece(struct storage_ahead *a, uint64_t number)
{
    for (size_t i = 0; i < AHEAD_PIECES; i++) {
        if (a->pieces[i].state != PIECE_EMPTY && a->pieces[i].number == number)
            return &a->pieces[i];
    }
    return NULL;
}

/* One that nobody needs: empty, or the longest unused outside [first, end). NULL: none. */
static struct piece *free_piece(struct storage_ahead *a, uint64_t first, uint64_t end)
{
    struct piece *best = NULL;
    for (size_t i = 0; i < AHEAD_PIECES; i++) {
        struct piece *p = &a->pieces[i];
        if (p->state == PIECE_EMPTY)
            return p;
        if (p->state == PIECE_LOADING || p->readers > 0 ||
            (p->number >= first && p->number < end && p->state == PIECE_READY))
            continue;
        if (best == NULL || p->used < best->used)
            best = p;
    }
    return best;
}

/* Has pieces [first, end) fetched, as far as there is room. */
static void fetch(struct storage_ahead *a, uint64_t first, uint64_t end)
{
    uint64_t size = a->reader->size;
    for (uint64_t n = first; n < end && n * AHEAD_PIECE_BYTES < size; n++) {
        struct piece *p = find_piece(a, n);
        if (p != NULL && p->state != PIECE_FAILED)
            continue;
        if (p == NULL)
            p = free_piece(a, first, end);
        if (p == NULL || (p->data == NULL && !take_memory()))
            return;
        if (p->data == NULL)
            p->data = mem_alloc(AHEAD_PIECE_BYTES);
        if (p->data == NULL) {
            pthread_mutex_lock(&total_lock);
            total_bytes -= AHEAD_PIECE_BYTES;
            pthread_mutex_unlock(&total_lock);
            p->state = PIECE_EMPTY;
            return;
        }
        uint64_t left = size - n * AHEAD_PIECE_BYTES;
        p->number = n;
        p->size = left < AHEAD_PIECE_BYTES ? (size_t)left : AHEAD_PIECE_BYTES;
        p->state = PIECE_LOADING;
        p->used = ++a->use_count;
        pthread_mutex_unlock(&a->lock); /* the pool may make us wait, or run it here */
        storage_pool_run(load, p);
        pthread_mutex_lock(&a->lock);
    }
}

/* Copies from a piece; false: it is not there, and not on its way. */
static bool copy_out(struct storage_ahead *a, uint64_t offset, void *out, size_t size)
{
    struct piece *p = find_piece(a, offset / AHEAD_PIECE_BYTES);
    size_t within = (size_t)(offset % AHEAD_PIECE_BYTES);
    if (p == NULL)
        return false;
    p->readers++; /* it keeps its number */
    while (p->state == PIECE_LOADING)
        pthread_cond_wait(&a->has_changed, &a->lock);
    bool is_good = p->state == PIECE_READY;
    p->used = ++a->use_count;
    pthread_mutex_unlock(&a->lock);
    if (is_good)
        memcpy(out, p->data + within, size);
    pthread_mutex_lock(&a->lock);
    p->readers--;
    return is_good;
}

/* ---- large reads, side by side ---- */

struct split {
    struct storage_ahead *ahead;
    uint64_t offset;
    uint8_t *out;
    size_t size, next; /* taken so far */
    uint32_t running;
    enum err failure;
    char text[1024];
    pthread_mutex_t lock;
    pthread_cond_t has_ended;
};

static void read_parts(void *context)
{
    struct split *s = context;
    pthread_mutex_lock(&s->lock);
    while (s->failure == ERR_NONE && s->next < s->size) {
        size_t at = s->next, left = s->size - at;
        size_t size = left < AHEAD_PIECE_BYTES ? left : AHEAD_PIECE_BYTES;
        s->next += size;
        pthread_mutex_unlock(&s->lock);
        enum err e = read_plain(s->ahead, s->offset + at, s->out + at, size);
        pthread_mutex_lock(&s->lock);
        if (e != ERR_NONE && s->failure == ERR_NONE) {
            s->failure = e;
            strncpy(s->text, err_text(), sizeof s->text - 1);
        }
    }
    s->running--;
    pthread_cond_signal(&s->has_ended);
    pthread_mutex_unlock(&s->lock);
}

static enum err read_split(struct storage_ahead *a, uint64_t offset, void *out, size_t size)
{
    struct split s = {
        .ahead = a, .offset = offset, .out = out, .size = size, .running = SIDE_BY_SIDE};
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.has_ended, NULL);
    for (uint32_t i = 1; i < SIDE_BY_SIDE; i++)
        storage_pool_run(read_parts, &s);
    read_parts(&s);
    pthread_mutex_lock(&s.lock);
    while (s.running > 0)
        pthread_cond_wait(&s.has_ended, &s.lock);
    pthread_mutex_unlock(&s.lock);
    pthread_cond_destroy(&s.has_ended);
    pthread_mutex_destroy(&s.lock);
    return s.failure != ERR_NONE ? err_set(s.failure, "%s", s.text) : ERR_NONE;
}

/* ---- */

/* In order are reads that follow the last one closely; a file's beginning is no proof. */
static bool note_read(struct storage_ahead *a, uint64_t offset, size_t size)
{
    bool follows =
        a->last_end > 0 && offset + GAP_BYTES >= a->last_end && offset <= a->last_end + GAP_BYTES;
    a->orderly = follows ? a->orderly + 1 : 0;
    a->last_end = offset + size;
    return a->orderly >= ORDERLY_READS;
}

enum err storage_ahead_read(struct storage_ahead *a, uint64_t offset, void *out, size_t size)
{
    uint8_t *to = out;
    if (offset > a->reader->size || size > a->reader->size - offset)
        return read_plain(a, offset, out, size); /* says what is wrong */
    pthread_mutex_lock(&a->lock);
    if (note_read(a, offset, size)) {
        uint64_t first = offset / AHEAD_PIECE_BYTES;
        fetch(a, first, first + AHEAD_PIECES);
    }
    while (size > 0) {
        size_t within = (size_t)(offset % AHEAD_PIECE_BYTES);
        size_t part = AHEAD_PIECE_BYTES - within;
        part = part < size ? part : size;
        if (!copy_out(a, offset, to, part))
            break;
        to += part;
        offset += part;
        size -= part;
    }
    pthread_mutex_unlock(&a->lock);
    if (size == 0)
        return ERR_NONE;
    return size >= SPLIT_BYTES ? read_split(a, offset, to, size) : read_plain(a, offset, to, size);
}
