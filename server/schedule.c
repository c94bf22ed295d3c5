#include "server/optimizer.h"

#include <math.h>

#define PI 3.14159265358979323846

/* The decay's factor after `done` of `span` steps. */
static double decay_factor(const struct schedule_spec *s, uint64_t done, uint64_t span)
{
    double part = span == 0 || done >= span ? 1.0 : (double)done / (double)span;
    switch (s->decay) {
    case DECAY_NONE:
        break;
    case DECAY_STEP:
        return span == 0 ? 1.0 : pow(s->decay_rate, (double)(done / span));
    case DECAY_COSINE:
        return s->final_fraction + (1.0 - s->final_fraction) * 0.5 * (1.0 + cos(PI * part));
    case DECAY_LINEAR:
        return 1.0 - (1.0 - s->final_fraction) * part;
    }
    return 1.0;
}

double schedule_factor(const struct schedule_spec *schedule, uint64_t step, uint64_t last_step)
{
    uint64_t warmup = schedule->warmup_steps;
    if (step < warmup)
        return (double)step / (double)warmup;
    uint64_t span = schedule->decay_steps;
    if (span == 0)
        span = last_step > warmup ? last_step - warmup : 0;
    return decay_factor(schedule, step - warmup, span);
}
