#include "cli/watch.h"

#include "cli/interrupt.h"
#include "cli/messages.h"
#include "common/clock.h"

#define POLL_MS  200u
#define SLICE_MS 50u

static bool is_passing(enum err err)
{
    return err == ERR_UNAVAILABLE || err == ERR_TIMEOUT || err == ERR_CANCELLED ||
           err == ERR_LIMIT || err == ERR_IO;
}

bool patience_goes_on(struct patience *p, enum err err, struct display *display)
{
    uint64_t now = clock_ms();

    if (err && !is_passing(err))
        return false;
    if (!err && p->silent_ms) {
        display_say(display, "the cluster answers again after %.1f s",
                    (double)(now - p->silent_ms) / 1000);
        p->silent_ms = 0;
    } else if (err && !p->silent_ms) {
        display_say(display, "no answer, waiting for the cluster: %s", err_text());
        p->silent_ms = now;
    }
    return !err || now - p->silent_ms < WATCH_SILENCE_MS;
}

static void wait_a_little(void)
{
    for (uint32_t ms = 0; ms < POLL_MS && !interrupt_count(); ms += SLICE_MS)
        clock_sleep_ms(SLICE_MS);
}

static void take(const struct watch *w, Paramd__Control__StatusReply *s,
                 Paramd__Control__StatusReply **last)
{
    if (*last)
        paramd__control__status_reply__free_unpacked(*last, NULL);
    *last = s;
    display_update(w->display, s);
    if (w->seen)
        w->seen(w->context, s);
}

enum err watch_job(const struct watch *w, Paramd__Control__StatusReply **last_out)
{
    Paramd__Control__StatusReply *last = NULL, *s = NULL;
    uint64_t start = clock_ms(), limit_ms = (uint64_t)w->timeout_s * 1000;
    struct patience patience = {0};
    struct interrupt old;
    enum err err = ERR_NONE;

    interrupt_install(&old);
    for (;; wait_a_little()) {
        if (interrupt_count()) {
            err = err_set(ERR_CANCELLED, "interrupted");
            break;
        }
        err = cluster_status(w->cluster, w->job, &s);
        if (!patience_goes_on(&patience, err, w->display))
            break;
        if (!err)
            take(w, s, &last);
        if (!err && state_is_over(last->state))
            break;
        if (limit_ms && clock_ms() - start >= limit_ms) {
            err = err_set(ERR_TIMEOUT, "job '%s' is not over after %lld s: it is %s", w->job,
                          (long long)w->timeout_s, last ? last->state : "not known");
            break;
        }
    }
    interrupt_restore(&old);
    *last_out = last;
    return err;
}
