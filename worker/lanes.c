#include "worker/lanes.h"

#include <inttypes.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

/* Between two looks at how much the GPUs do. */
#define LOOK_NS 1000000000u

struct lane {
    uint32_t index; /* of the GPU */
    struct device *device;
    struct network *network;
    uint64_t percent, looks, memory_used, memory_total; /* bytes */
};

struct lanes {
    struct lane lane[DEVICE_LIST_MAX];
    uint32_t count, rank_count;
    uint64_t looked_ns;
};

static enum err open_lane(const struct lanes_options *o, bool cuda, struct lane *lane)
{
    struct device_options device = {
        .cuda = cuda, .index = lane->index, .precision = o->job->train.precision, .pool = o->pool};
    enum err e = device_open(&device, &lane->device);
    struct network_options network = {.model = o->model,
                                      .device = lane->device,
                                      .max_examples = o->max_examples,
                                      .seed = o->job->seed};
    return e == ERR_NONE ? network_create(&network, &lane->network) : e;
}

enum err lanes_open(const struct lanes_options *o, struct lanes **out)
{
    static const struct device_list processor = {.count = 1};
    const struct device_list *list = o->devices != NULL ? o->devices : &processor;
    struct lanes *l = must_alloc(sizeof *l);
    enum err e = ERR_NONE;
    l->rank_count = o->rank_count;
    l->count = list->count < o->rank_count || o->rank_count == 0 ? list->count : o->rank_count;
    for (uint32_t i = 0; i < l->count && e == ERR_NONE; i++) {
        l->lane[i].index = list->indexes[i];
        e = open_lane(o, list->cuda, &l->lane[i]);
    }
    if (e != ERR_NONE) {
        lanes_close(l);
        return e;
    }
    *out = l;
    return ERR_NONE;
}

void lanes_close(struct lanes *l)
{
    for (uint32_t i = 0; l != NULL && i < l->count; i++) {
        network_destroy(l->lane[i].network);
        device_close(l->lane[i].device);
    }
    mem_free(l);
}

bool lanes_overlap(const struct lanes *l)
{
    return !l->lane[0].device->compute->shares_memory;
}

struct network *lanes_network(const struct lanes *l, uint32_t place)
{
    return l->lane[place % l->count].network;
}

bool lanes_next(const struct lanes *l, uint32_t place, uint32_t *place_out)
{
    bool wraps = place + l->count >= l->rank_count;
    *place_out = wraps ? place % l->count : place + l->count;
    return wraps;
}

void lanes_look(struct lanes *l)
{
    uint64_t now_ns = clock_ns();
    if (!lanes_overlap(l) || now_ns - l->looked_ns < LOOK_NS)
        return;
    l->looked_ns = now_ns;
    for (uint32_t i = 0; i < l->count; i++) {
        struct device_usage found;
        struct lane *lane = &l->lane[i];
        if (device_usage(lane->device, &found) != ERR_NONE)
            continue;
        if (found.utilization != DEVICE_NOT_KNOWN) {
            lane->percent += found.utilization;
            lane->looks++;
        }
        lane->memory_total = found.memory_total;
        if (found.memory_used > lane->memory_used)
            lane->memory_used = found.memory_used;
    }
}

void lanes_tell(const struct lanes *l)
{
    for (uint32_t i = 0; l != NULL && i < l->count; i++) {
        const struct lane *lane = &l->lane[i];
        if (lane->memory_total == 0)
            continue;
        log_info("lanes",
                 "GPU was used gpu=%" PRIu32 " utilization_percent=%" PRId64 " memory_mib=%" PRIu64
                 " memory_total_mib=%" PRIu64,
                 lane->index, lane->looks > 0 ? (int64_t)(lane->percent / lane->looks) : -1,
                 lane->memory_used >> 20, lane->memory_total >> 20);
    }
}
