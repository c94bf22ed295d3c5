#include "server/coordinator_internal.h"

/*
 * While the store is away, slow or full no checkpoint is made, and training goes on. How much of it
 * would be lost then is the age of the newest one: it is shown, warned of, and, past
 * checkpoint.max_age, training holds. A shard that holds at a drain point rests at exactly that
 * step, so that is where the next one is tried. Where some shards had let training pass before they
 * were told to hold, no step is common to all: then they go on to a drain point that is armed
 * before they get there, and hold again if that fails, too.
 */

#define WARN_MS 300000u /* the first warning, if max_age is not shorter; then at each doubling */

uint64_t age_of(const struct job_run *j, uint64_t now)
{
    bool counts = j->state == JOB_RUNNING && !j->eval_mode && j->fresh_ms != 0;
    return counts && now > j->fresh_ms ? now - j->fresh_ms : 0;
}

void age_reset(struct job_run *j, uint64_t now)
{
    j->fresh_ms = now;
    j->aged_ms = 0;
    j->is_paused = j->pause_lifted = false;
}

static void warn_of_age(struct coordinator *c, struct job_run *j, uint64_t age)
{
    uint64_t max = j->job->checkpoint.max_age_ms;
    uint64_t first = max > 0 && max / 2 < WARN_MS ? max / 2 : WARN_MS;
    if (j->snap_failures == 0 || age < (j->aged_ms > 0 ? 2 * j->aged_ms : first))
        return;
    j->aged_ms = age;
    job_warn(c, j, "the newest checkpoint is %llu s old; %llu attempts failed since",
             (unsigned long long)(age / 1000), (unsigned long long)j->snap_failures);
}

void age_step(struct coordinator *c, struct job_run *j, uint64_t now)
{
    if (j->fresh_ms == 0)
        age_reset(j, now > 0 ? now : 1);
    uint64_t max = j->job->checkpoint.max_age_ms, age = age_of(j, now);
    warn_of_age(c, j, age);
    bool pause = max > 0 && age > max && !j->pause_lifted;
    if (pause == j->is_paused)
        return;
    j->is_paused = pause;
    if (pause)
        job_warn(c, j,
                 "the newest checkpoint is %llu s old, more than checkpoint.max_age: training "
                 "holds at the next drain point until there is one",
                 (unsigned long long)(age / 1000));
}

uint64_t coordinator_checkpoint_age_ms(const struct coordinator *c, uint64_t now_ms)
{
    uint64_t oldest = 0;
    for (const struct job_run *j = c->jobs; j != NULL; j = j->next) {
        uint64_t age = age_of(j, now_ms);
        oldest = age > oldest ? age : oldest;
    }
    return oldest;
}
