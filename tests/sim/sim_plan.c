#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/job.h"
#include "common/rng.h"
#include "tests/sim/sim_parts.h"

/* The job and the cluster. */
static void make_job(struct plan *p)
{
    static const char *const modes[] = {"bsp", "ssp", "asp"};
    static const char *const optimizers[] = {"{type: sgd, learning_rate: 0.125}",
                                             "{type: adagrad, learning_rate: 0.1}",
                                             "{type: ftrl, learning_rate: 0.1, l1: 0.01}"};
    p->servers = (uint32_t)sim_between(1, 3);
    p->workers = (uint32_t)sim_between(1, 3);
    p->ranks = p->workers + (uint32_t)sim_below(5 - p->workers);
    p->shards = sim_chance(250) ? 2 : 1;
    p->consistency = sim_chance(750)   ? CONSISTENCY_BSP
                     : sim_chance(500) ? CONSISTENCY_SSP
                                       : CONSISTENCY_ASP;
    p->depth = p->consistency == CONSISTENCY_BSP ? (uint32_t)sim_below(3) : 0;
    p->epochs = (uint32_t)sim_between(1, 3);
    p->steps_per_epoch = (uint32_t)sim_between(4, 36 / p->epochs);
    p->batch_size = p->ranks * (uint32_t)sim_between(1, 2);
    p->train_examples = p->steps_per_epoch * p->batch_size - (uint32_t)sim_below(p->batch_size);
    p->drain_every = (uint32_t)sim_between(2, 9);
    p->checkpoint_every = (uint32_t)sim_between(2, 16);
    p->keep = (uint32_t)sim_between(1, 3);
    p->eval_examples = sim_chance(500) ? 8 : 0;
    p->eval_every = sim_chance(500) ? (uint32_t)sim_between(4, 15) : 0;
    p->early_stopping = p->eval_examples > 0 && sim_chance(200);
    p->progressive = sim_chance(200);
    p->optimizer = (uint32_t)sim_below(3);
    p->salt = sim_random();
    bool counts = p->consistency != CONSISTENCY_BSP;
    const char *linear = counts ? "{type: sgd, learning_rate: 1}" : optimizers[p->optimizer];
    const char *embedding = counts              ? "{type: sgd, learning_rate: 1}"
                            : p->optimizer == 0 ? "{type: sgd, learning_rate: 0.0625}"
                                                : "{type: adagrad, learning_rate: 0.05}";
    char every[16], early[80] = "";
    snprintf(every, sizeof every, "%u", p->eval_every);
    if (p->early_stopping)
        snprintf(early, sizeof early,
                 "early_stopping: {metric: log_loss, patience: 1, restore: %s}\n",
                 sim_chance(500) ? "best" : "last");
    char mode[64];
    snprintf(mode, sizeof mode, "%s%s", modes[p->consistency],
             p->consistency == CONSISTENCY_SSP ? ", staleness: 2" : "");
    char depth[32] = "";
    if (p->consistency == CONSISTENCY_BSP)
        snprintf(depth, sizeof depth, ", pipeline_depth: %u", p->depth);
    int size = snprintf(
        p->yaml, sizeof p->yaml,
        "name: sim\n"
        "data: {format: csv, train: a.csv, eval: b.csv, label: y}\n"
        "features: {a: categorical}\n"
        "model: {type: fm, dim: 3}\n"
        "optimizer: {linear: %s, embedding: %s}\n"
        "train: {batch_size: %u, epochs: %u, ranks: %u, drain_every: %u, consistency: %s%s}\n"
        "eval: {metrics: [log_loss], every: %s, progressive: %s}\n"
        "%s"
        "checkpoint: {uri: \"file:c\", every_steps: %u, keep: %u, memory: 8GiB}\n"
        "resources: {servers: %u, workers: %u, shards: %u}\n",
        linear, embedding, p->batch_size, p->epochs, p->ranks, p->drain_every, mode, depth,
        p->eval_every > 0 ? every : "epoch", p->progressive ? "true" : "false", early,
        p->checkpoint_every, p->keep, p->servers, p->workers, p->shards);
    CHECK(size > 0 && (size_t)size < sizeof p->yaml);
}

/* Some seeds have no faults, some only one kind, most have several. */
static void make_faults(struct plan *p)
{
    bool calm = sim_chance(40);
    uint32_t level = calm ? 0 : (uint32_t)sim_between(1, 3);
    p->loss = sim_chance(600) ? 15 * level : 0;
    p->doubled = sim_chance(600) ? 20 * level : 0;
    p->reset = sim_chance(600) ? 15 * level : 0;
    p->slow = sim_chance(600) ? 20 * level : 0;
    p->store_fails = sim_chance(500) ? 3 * level : 0;
    p->store_slow = sim_chance(400) ? 40 * level : 0;
    p->registry_fails = sim_chance(500) ? 30 * level : 0;
    p->crashes = !calm && sim_chance(700);
    p->pauses = !calm && sim_chance(500);
    p->partitions = !calm && sim_chance(400);
    p->outages = !calm && sim_chance(400);
    p->damage = !calm && p->keep > 1 && sim_chance(500);
    p->drains = !calm && sim_chance(300);
    p->mangled = p->doubled > 0 && sim_chance(500) ? 300 : 0;
    p->held_budget = p->depth > 0 && sim_chance(300) ? (uint32_t)sim_between(100, 3000) : 0;
    p->bad_step = sim_chance(40) ? sim_between(1, (uint64_t)p->epochs * p->steps_per_epoch) : 0;
    p->bad_rank = (uint32_t)sim_below(p->ranks);
    p->stops = sim_chance(150) ? 1 : 0;
    p->checkpoints_now = (uint32_t)sim_below(4);
    p->spare_servers = (uint32_t)sim_below(2);
    p->spare_workers = (uint32_t)sim_below(2);
    p->heal_us = sim_between(500, 20000) * SIM_MS;
    p->bound_us = p->heal_us + 120 * SIM_S;
    p->session_timeout_ms = (uint32_t)sim_between(4, 20) * 100;
    p->peer_timeout_ms = (uint32_t)sim_between(25, 60) * 100;
    p->stall_timeout_ms = 30000;
    p->call_timeout_ms = (uint32_t)sim_between(4, 30) * 100;
    p->replace_wait_ms = (uint32_t)sim_between(1, 30) * 100;
}

void plan_make(uint64_t seed, struct plan *out)
{
    (void)seed;
    memset(out, 0, sizeof *out);
    make_job(out);
    make_faults(out);
}
