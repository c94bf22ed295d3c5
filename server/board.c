#include "server/board.h"

#include <pthread.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

struct entry {
    Paramd__Control__ShardState *message;  /* on the heap, whole, as if unpacked */
    Paramd__Control__RankReport **pending; /* of the snapshot under way */
    size_t pending_count;
    uint64_t memory;
};

struct board {
    void (*poke)(void *context);
    void *context;
    pthread_mutex_t lock;
    uint64_t serial;
    char *job;
    uint64_t generation;
    struct entry *entries;
    uint32_t count;
    Paramd__Control__Failure__Kind failure;
    char *failure_text;
    Paramd__Control__MemberState *described;
};

struct board *board_create(void (*poke)(void *context), void *context)
{
    struct board *b = must_alloc(sizeof *b);
    b->poke = poke;
    b->context = context;
    b->job = must_strdup("");
    b->failure_text = must_strdup("");
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

static void reports_free(Paramd__Control__RankReport **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        paramd__control__rank_report__free_unpacked(list[i], NULL);
    mem_free(list);
}

static void entries_free(struct board *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        reports_free(b->entries[i].pending, b->entries[i].pending_count);
        paramd__control__shard_state__free_unpacked(b->entries[i].message, NULL);
    }
    mem_free(b->entries);
    b->entries = NULL;
    b->count = 0;
}

void board_destroy(struct board *b)
{
    if (b == NULL)
        return;
    entries_free(b);
    if (b->described != NULL)
        paramd__control__member_state__free_unpacked(b->described, NULL);
    pthread_mutex_destroy(&b->lock);
    mem_free(b->job);
    mem_free(b->failure_text);
    mem_free(b);
}

static void set_text(char **place, const char *text)
{
    char *copy = must_strdup(text);
    if (*place != (char *)protobuf_c_empty_string)
        mem_free(*place);
    *place = copy;
}

void board_reset(struct board *b, uint64_t serial, const uint32_t *shards, uint32_t count)
{
    pthread_mutex_lock(&b->lock);
    entries_free(b);
    b->serial = serial;
    b->failure = PARAMD__CONTROL__FAILURE__KIND__NONE;
    set_text(&b->failure_text, "");
    b->entries = must_alloc((count + 1) * sizeof *b->entries);
    b->count = count;
    for (uint32_t i = 0; i < count; i++) {
        Paramd__Control__ShardState *m = must_alloc(sizeof *m);
        paramd__control__shard_state__init(m);
        m->shard = shards[i];
        b->entries[i].message = m;
    }
    pthread_mutex_unlock(&b->lock);
}

void board_set_job(struct board *b, const char *job, uint64_t generation)
{
    pthread_mutex_lock(&b->lock);
    set_text(&b->job, job);
    b->generation = generation;
    pthread_mutex_unlock(&b->lock);
}

/* ---- what owners say ---- */

/* Locks; NULL (and not locked) when the place is of an earlier serial. */
static struct entry *begin(const struct board_place *p)
{
    struct board *b = p->board;
    pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; b->serial == p->serial && i < b->count; i++)
        if (b->entries[i].message->shard == p->shard)
            return &b->entries[i];
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static void end(const struct board_place *p)
{
    pthread_mutex_unlock(&p->board->lock);
    p->board->poke(p->board->context);
}

static void copy_bytes(ProtobufCBinaryData *to, const ProtobufCBinaryData *from)
{
    to->len = from->len;
    to->data = from->len > 0 ? must_alloc(from->len) : NULL;
    if (from->len > 0)
        memcpy(to->data, from->data, from->len);
}

static void put_reports(Paramd__Control__ShardState *m, struct board_reports reports)
{
    reports_free(m->reports, m->n_reports);
    m->n_reports = 0;
    m->reports = must_alloc((reports.count + 1) * sizeof *m->reports);
    for (uint32_t r = 0; r < reports.count; r++) {
        const Paramd__Report *from = reports.list[r];
        if (from == NULL)
            continue;
        Paramd__Control__RankReport *to = must_alloc(sizeof *to);
        paramd__control__rank_report__init(to);
        to->rank = r;
        to->examples = from->examples;
        to->loss_sum = from->loss_sum;
        to->weight_sum = from->weight_sum;
        to->loss_scale = from->loss_scale;
        copy_bytes(&to->metrics, &from->metrics);
        m->reports[m->n_reports++] = to;
    }
}

void board_restored(const struct board_place *p, uint64_t step, struct board_reports reports)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    e->message->restored = true;
    e->message->applied = e->message->drained = step;
    put_reports(e->message, reports);
    end(p);
}

void board_applied(const struct board_place *p, uint64_t step)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    if (e->message->applied < step)
        e->message->applied = step;
    end(p);
}

void board_drained(const struct board_place *p, uint64_t step, struct board_reports reports)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    e->message->applied = e->message->drained = step;
    if (reports.count > 0)
        put_reports(e->message, reports);
    end(p);
}

void board_armed(const struct board_place *p, uint64_t step)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    Paramd__Control__ShardState *m = e->message;
    m->armed = step;
    if (step != 0 && m->durable == step)
        m->durable = 0;
    if (step != 0)
        m->refused_arm = m->abandoned = 0;
    end(p);
}

void board_arm_refused(const struct board_place *p, uint64_t step)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    e->message->refused_arm = step;
    end(p);
}

void board_snapshot_begun(const struct board_place *p)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    reports_free(e->pending, e->pending_count);
    const Paramd__Control__ShardState *m = e->message;
    e->pending = must_alloc((m->n_reports + 1) * sizeof *e->pending);
    e->pending_count = m->n_reports;
    for (size_t i = 0; i < m->n_reports; i++) {
        e->pending[i] = must_alloc(sizeof **e->pending);
        *e->pending[i] = *m->reports[i];
        copy_bytes(&e->pending[i]->metrics, &m->reports[i]->metrics);
    }
    end(p);
}

static void put_files(Paramd__Control__ShardState *m, const struct checkpoint_file *files,
                      uint32_t count)
{
    for (size_t i = 0; i < m->n_files; i++)
        paramd__control__checkpoint_file__free_unpacked(m->files[i], NULL);
    mem_free(m->files);
    m->files = must_alloc((count + 1) * sizeof *m->files);
    m->n_files = count;
    for (uint32_t i = 0; i < count; i++) {
        Paramd__Control__CheckpointFile *f = m->files[i] = must_alloc(sizeof *f);
        paramd__control__checkpoint_file__init(f);
        f->name = must_strdup(files[i].name);
        f->size = files[i].size;
        f->index_crc = files[i].index_crc;
        f->rows = files[i].rows;
    }
}

void board_durable(const struct board_place *p, uint64_t step, const struct checkpoint_file *files,
                   uint32_t count)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    Paramd__Control__ShardState *m = e->message;
    m->durable = step;
    m->armed = 0;
    put_files(m, files, count);
    reports_free(m->durable_reports, m->n_durable_reports);
    m->durable_reports = e->pending;
    m->n_durable_reports = e->pending_count;
    e->pending = NULL;
    e->pending_count = 0;
    end(p);
}

void board_abandoned(const struct board_place *p, uint64_t step, const char *why)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    e->message->abandoned = step;
    e->message->armed = 0;
    set_text(&e->message->abandoned_why, why);
    end(p);
}

void board_size(const struct board_place *p, uint64_t rows, uint64_t memory)
{
    struct entry *e = begin(p);
    if (e == NULL)
        return;
    e->message->rows = rows;
    e->memory = memory;
    pthread_mutex_unlock(&p->board->lock);
}

void board_fail(const struct board_place *p, Paramd__Control__Failure__Kind kind, const char *text)
{
    struct board *b = p->board;
    pthread_mutex_lock(&b->lock);
    if (b->serial == p->serial && b->failure == PARAMD__CONTROL__FAILURE__KIND__NONE) {
        b->failure = kind;
        set_text(&b->failure_text, text);
    }
    end(p);
}

/* ---- what is told ---- */

void board_describe(struct board *b, Paramd__Control__MemberState *state)
{
    Paramd__Control__ServerState server = PARAMD__CONTROL__SERVER_STATE__INIT;
    Paramd__Control__MemberState whole = PARAMD__CONTROL__MEMBER_STATE__INIT;
    Paramd__Control__Failure failure = PARAMD__CONTROL__FAILURE__INIT;
    pthread_mutex_lock(&b->lock);
    Paramd__Control__ShardState **list = must_alloc((b->count + 1) * sizeof *list);
    for (uint32_t i = 0; i < b->count; i++) {
        list[i] = b->entries[i].message;
        server.memory_used += b->entries[i].memory;
    }
    server.n_shards = b->count;
    server.shards = list;
    failure.kind = b->failure;
    failure.text = b->failure_text;
    whole.job = b->job;
    whole.generation = b->generation;
    whole.server = &server;
    if (b->failure != PARAMD__CONTROL__FAILURE__KIND__NONE)
        whole.failure = &failure;
    size_t size = paramd__control__member_state__get_packed_size(&whole);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_state__pack(&whole, bytes);
    pthread_mutex_unlock(&b->lock);
    mem_free(list);
    if (b->described != NULL)
        paramd__control__member_state__free_unpacked(b->described, NULL);
    b->described = paramd__control__member_state__unpack(NULL, size, bytes);
    CHECK(b->described != NULL);
    mem_free(bytes);
    state->job = b->described->job;
    state->generation = b->described->generation;
    state->failure = b->described->failure;
    state->server = b->described->server;
}
