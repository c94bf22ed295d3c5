/*
 * lanes.h - the devices that the ranks of one trainer compute on: a device and a network each.
 *
 * The rank at place i of the trainer's list takes lane i % count, so two ranks share a device when
 * there are more ranks than devices, one after the other.
 *
 * Threads  one owner: the trainer's thread.
 * Errors   those of device_open() and network_create().
 */
#ifndef PARAMD_WORKER_LANES_H
#define PARAMD_WORKER_LANES_H

#include "worker/device.h"
#include "worker/network.h"

struct lanes;

struct lanes_options {
    const struct device_list *devices; /* borrowed; NULL: the processor */
    const struct job *job;             /* borrowed, as the model and the pool */
    const struct model *model;
    struct pool *pool;
    uint32_t rank_count, max_examples;
};
enum err lanes_open(const struct lanes_options *o, struct lanes **out) MUST_CHECK;
void lanes_close(struct lanes *l); /* accepts NULL */

bool lanes_overlap(const struct lanes *l); /* devices compute while the host does something else */
struct network *lanes_network(const struct lanes *l, uint32_t place);
/*
 * After the rank at a place, the one that its device computes next, when each rank makes a step in
 * turn: *place_out. true: it is another step by then.
 */
bool lanes_next(const struct lanes *l, uint32_t place, uint32_t *place_out);

/* Looks what GPUs do, at most once a second; logs the average, and the most memory. */
void lanes_look(struct lanes *l);
void lanes_tell(const struct lanes *l);

#endif
