#include "cli/display.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"

#define PLAIN_EVERY_MS  10000u
#define SAMPLE_EVERY_MS 1000u
#define RATE_OVER_MS    2000u

struct display {
    int metrics; /* descriptor, or -1 */
    bool is_terminal, quiet, live;
    size_t evals_shown, warnings_shown;
    uint64_t plain_ms, sample_ms; /* of the last ones */
    uint64_t last_step;
    char state[32];
    /* What was lost and has not come back to work yet, and what was seen of it before. */
    bool seen, recovers;
    uint64_t lost_ms, floor_step;
    uint32_t recoveries, moves;
    /* For the rate now: the step at some moment before. */
    uint64_t rate_examples, rate_ms;
    double rate;
};

enum err display_create(const char *metrics_path, bool quiet, struct display **out)
{
    int descriptor = -1;

    if (metrics_path) {
        descriptor = open(metrics_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (descriptor < 0)
            return err_set_errno(ERR_IO, errno, "cannot open %s", metrics_path);
    }
    struct display *p = must_alloc(sizeof *p);
    p->metrics = descriptor;
    p->is_terminal = isatty(STDERR_FILENO);
    p->quiet = quiet;
    *out = p;
    return ERR_NONE;
}

static void end_live_line(struct display *p)
{
    if (p->live)
        fprintf(stderr, "\r\033[K");
    p->live = false;
}

void display_destroy(struct display *p)
{
    if (!p)
        return;
    end_live_line(p);
    if (p->metrics >= 0)
        close(p->metrics);
    mem_free(p);
}

void display_say(struct display *p, const char *format, ...)
{
    va_list arguments;

    end_live_line(p);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void write_metrics(struct display *p, struct json *line)
{
    struct str text = {0};

    if (p->metrics >= 0) {
        json_set_int(line, "time_ms", (int64_t)clock_wall_ms());
        json_write(line, false, &text);
        str_append(&text, "\n");
        if (write(p->metrics, text.data, text.size) != (ssize_t)text.size)
            display_say(p, "warning: cannot write metrics.jsonl: %s", strerror(errno));
        str_deinit(&text);
    }
    json_destroy(line);
}

/* ---- evaluations ---- */

struct json *display_metrics(const Paramd__Control__EvalRecord *e)
{
    struct json *j = json_object();

    for (size_t i = 0; e && i < e->n_metrics; i++)
        json_set_number(j, e->metrics[i]->name, e->metrics[i]->value);
    return j;
}

const Paramd__Control__EvalRecord *display_final_eval(const Paramd__Control__StatusReply *status)
{
    const Paramd__Control__EvalRecord *last = NULL;

    for (size_t i = 0; i < status->n_evals; i++) {
        const Paramd__Control__EvalRecord *e = status->evals[i];
        if (e->progressive)
            continue;
        if (!last || last->step != status->checkpoint_step)
            last = e;
    }
    return last;
}

static void append_metrics(struct str *out, const Paramd__Control__EvalRecord *e)
{
    for (size_t i = 0; i < e->n_metrics; i++)
        str_append_format(out, "  %s %.5f", e->metrics[i]->name, e->metrics[i]->value);
}

static void show_eval(struct display *p, const Paramd__Control__EvalRecord *e)
{
    struct str text = {0};
    struct json *line = json_object();

    append_metrics(&text, e);
    display_say(p, "%-11s step %-8llu epoch %-3u %6.1f s%s",
                e->progressive ? "progressive" : "evaluation", (unsigned long long)e->step,
                e->epoch, e->seconds, text.data ? text.data : "");
    str_deinit(&text);
    json_set_text(line, "kind", e->progressive ? "progressive" : "eval");
    json_set_int(line, "step", (int64_t)e->step);
    json_set_int(line, "epoch", e->epoch);
    json_set_number(line, "seconds", e->seconds);
    json_set_int(line, "examples", (int64_t)e->examples);
    json_set(line, "metrics", display_metrics(e));
    write_metrics(p, line);
}

/* ---- recovery ---- */

static const char *last_part(const char *uri)
{
    const char *slash = strrchr(uri, '/');

    return slash ? slash + 1 : uri;
}

void display_lost(struct display *p, const char *text)
{
    struct json *line = json_object();

    p->lost_ms = clock_ms();
    display_say(p, "%s", text);
    json_set_text(line, "kind", "lost");
    json_set_text(line, "text", text);
    write_metrics(p, line);
}

static void begin_recovery(struct display *p, uint64_t floor_step, uint64_t now)
{
    if (!p->lost_ms)
        p->lost_ms = now;
    p->recovers = true;
    p->floor_step = floor_step;
}

/* The first step beyond what the loss undid or held up: the job trains again. */
static void end_recovery(struct display *p, const Paramd__Control__StatusReply *s, uint64_t now)
{
    double seconds = (double)(now - p->lost_ms) / 1000;
    struct json *line = json_object();

    display_say(p, "goes on at step %llu after %.1f s", (unsigned long long)s->step, seconds);
    json_set_text(line, "kind", "recovery");
    json_set_int(line, "step", (int64_t)s->step);
    json_set_number(line, "seconds", seconds);
    json_set_int(line, "generation", (int64_t)s->generation);
    json_set_int(line, "recoveries", s->recoveries);
    json_set_int(line, "moves", s->moves);
    write_metrics(p, line);
    p->recovers = false;
    p->lost_ms = 0;
}

static void show_recovery(struct display *p, const Paramd__Control__StatusReply *s, uint64_t now)
{
    bool runs = strcmp(s->state, "RUNNING") == 0;

    if (p->seen && s->recoveries > p->recoveries) {
        begin_recovery(p, s->checkpoint_step, now);
        if (s->checkpoint_step)
            display_say(p, "recovering from checkpoint %s, generation %llu",
                        last_part(s->checkpoint), (unsigned long long)s->generation);
        else
            display_say(p, "recovering from the beginning, generation %llu",
                        (unsigned long long)s->generation);
    }
    if (p->seen && s->moves > p->moves) {
        begin_recovery(p, p->recovers ? p->floor_step : s->step, now);
        display_say(p, "%u rank%s moved to another worker", s->moves - p->moves,
                    s->moves - p->moves > 1 ? "s" : "");
    }
    p->seen = true;
    p->recoveries = s->recoveries;
    p->moves = s->moves;
    if (p->recovers && ((runs && s->step > p->floor_step) || strcmp(s->state, "FINISHING") == 0 ||
                        strcmp(s->state, "DONE") == 0))
        end_recovery(p, s, now);
}

/* ---- the line ---- */

/* Workers report now and then: the rate is that between two reports, not between two questions. */
static void update_rate(struct display *p, const Paramd__Control__StatusReply *s, uint64_t now)
{
    if (!p->rate_ms || s->examples < p->rate_examples) {
        p->rate = 0;
        p->rate_ms = now;
        p->rate_examples = s->examples;
    } else if (now - p->rate_ms >= RATE_OVER_MS && s->examples > p->rate_examples) {
        p->rate = (double)(s->examples - p->rate_examples) * 1000 / (double)(now - p->rate_ms);
        p->rate_ms = now;
        p->rate_examples = s->examples;
    }
}

static void describe(const struct display *p, const Paramd__Control__StatusReply *s,
                     struct str *out)
{
    double rate = p->rate > 0            ? p->rate
                  : s->train_seconds > 0 ? (double)s->examples / s->train_seconds
                                         : 0;

    if (strcmp(s->state, "RUNNING") != 0) {
        str_append_format(out, "%s", s->state);
        if (s->why && *s->why)
            str_append_format(out, ": %s", s->why);
        return;
    }
    str_append_format(out, "step %llu/%llu  epoch %u/%u", (unsigned long long)s->step,
                      (unsigned long long)s->last_step,
                      s->epoch < s->epochs ? s->epoch + 1 : s->epochs, s->epochs);
    if (s->examples) /* before the first report there is neither a rate nor a loss */
        str_append_format(out, "  %.0f examples/s", rate);
    if (s->examples && s->objective != 0) /* nor, after a recovery, a loss of this epoch */
        str_append_format(out, "  loss %.5f", s->objective);
    if (s->step && s->train_seconds > 0 && s->last_step > s->step && s->examples) {
        double per_step = s->train_seconds / (double)s->step;
        double left = per_step * (double)(s->last_step - s->step);
        str_append_format(out, "  %.0f:%02.0f left", floor(left / 60), fmod(left, 60));
    }
}

static int terminal_width(void)
{
    struct winsize size;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

static void show_line(struct display *p, const Paramd__Control__StatusReply *s, uint64_t now)
{
    struct str text = {0};
    bool changed = strncmp(p->state, s->state, sizeof p->state - 1) != 0;

    describe(p, s, &text);
    if (p->is_terminal) {
        fprintf(stderr, "\r\033[K%.*s", terminal_width() - 1, text.data);
        fflush(stderr);
        p->live = true;
    } else if (changed || now - p->plain_ms >= PLAIN_EVERY_MS) {
        fprintf(stderr, "%s\n", text.data);
        p->plain_ms = now;
    }
    strncpy(p->state, s->state, sizeof p->state - 1);
    str_deinit(&text);
}

static void sample(struct display *p, const Paramd__Control__StatusReply *s, uint64_t now)
{
    if (now - p->sample_ms < SAMPLE_EVERY_MS || s->step == p->last_step)
        return;
    struct json *line = json_object();
    json_set_text(line, "kind", "train");
    json_set_int(line, "step", (int64_t)s->step);
    json_set_int(line, "epoch", s->epoch);
    json_set_int(line, "examples", (int64_t)s->examples);
    json_set_number(line, "seconds", s->train_seconds);
    json_set_number(line, "examples_per_second", p->rate);
    json_set_number(line, "objective", s->objective);
    write_metrics(p, line);
    p->sample_ms = now;
    p->last_step = s->step;
}

void display_update(struct display *p, const Paramd__Control__StatusReply *s)
{
    uint64_t now = clock_ms();

    show_recovery(p, s, now);
    /* A recovery takes back what came after its checkpoint; a new leader first has to read it. */
    bool runs = strcmp(s->state, "RUNNING") == 0;
    if (runs && p->evals_shown > s->n_evals)
        p->evals_shown = s->n_evals;
    if (runs && p->warnings_shown > s->n_warnings)
        p->warnings_shown = s->n_warnings;
    for (; p->evals_shown < s->n_evals; p->evals_shown++)
        show_eval(p, s->evals[p->evals_shown]);
    for (; p->warnings_shown < s->n_warnings; p->warnings_shown++) {
        struct json *line = json_object();
        display_say(p, "warning: %s", s->warnings[p->warnings_shown]);
        json_set_text(line, "kind", "warning");
        json_set_text(line, "text", s->warnings[p->warnings_shown]);
        write_metrics(p, line);
    }
    update_rate(p, s, now);
    sample(p, s, now);
    if (!p->quiet)
        show_line(p, s, now);
}

/* ---- the end ---- */

static double share(uint64_t part, uint64_t total)
{
    return total ? 100.0 * (double)part / (double)total : 0;
}

void display_summary(const Paramd__Control__StatusReply *s, const char *digest,
                     uint32_t pipeline_depth)
{
    const Paramd__Control__EvalRecord *e = display_final_eval(s);
    const Paramd__Control__TimeShares *t = s->shares;

    fprintf(stderr, "\njob         %s: %s%s\n", s->job, s->state,
            s->stopped_early ? " (stopped early)" : "");
    fprintf(stderr, "trained     %llu steps, %u epochs", (unsigned long long)s->step, s->epoch);
    if (s->examples && s->train_seconds > 0)
        fprintf(stderr, ", %llu examples in %.2f s: %.0f examples/s\n",
                (unsigned long long)s->examples, s->train_seconds,
                (double)s->examples / s->train_seconds);
    else
        fprintf(stderr, "; nothing by this run\n");
    if (pipeline_depth)
        fprintf(stderr, "pipeline    gradients are %u step%s late\n", pipeline_depth,
                pipeline_depth > 1 ? "s" : "");
    if (t && t->total)
        fprintf(stderr,
                "time        read %.0f %%  push-pull %.0f %%  upload %.0f %%  compute %.0f %%  "
                "wait %.0f %%\n",
                share(t->read, t->total), share(t->exchange, t->total), share(t->upload, t->total),
                share(t->compute, t->total), share(t->wait, t->total));
    if (s->examples)
        fprintf(stderr, "objective   %.6f\n", s->objective);
    if (e) {
        struct str text = {0};
        append_metrics(&text, e);
        fprintf(stderr, "evaluation%s\n", text.data ? text.data : "");
        str_deinit(&text);
    }
    if (s->recoveries || s->moves)
        fprintf(stderr, "recovered   %u times from a checkpoint; %u moves of ranks\n",
                s->recoveries, s->moves);
    if (s->checkpoint && *s->checkpoint)
        fprintf(stderr, "checkpoint  %s\n", s->checkpoint);
    if (digest && *digest)
        fprintf(stderr, "digest      %s\n", digest);
}
