#include "tests/sim/sim_run.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/rng.h"
#include "tests/sim/sim_parts.h"

#define SEED_SECONDS 120u /* of real time: an event that never ends; a seed takes milliseconds */

struct progress *progress_create(uint32_t count)
{
    void *p = mmap(NULL, count * sizeof(struct progress), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

void progress_destroy(struct progress *p, uint32_t count)
{
    munmap(p, count * sizeof *p);
}

static void add(struct counters *to, const struct counters *from)
{
    for (size_t i = 0; i < sizeof *to / sizeof(uint64_t); i++)
        ((uint64_t *)to)[i] += ((const uint64_t *)from)[i];
}

static void note_found(struct progress *p, const char *text)
{
    if (p->found_count == FOUND_MAX)
        return;
    struct found *f = &p->found[p->found_count++];
    f->seed = p->seed;
    snprintf(f->text, sizeof f->text, "%s", text);
}

void run_seed(uint64_t seed, bool traced, struct progress *p)
{
    p->seed = seed;
    p->seeds++;
    world_begin(seed, traced);
    world_run();
    if (!sim.done && sim.violation[0] == '\0')
        sim_violation("nothing happens any more, and the job is not done");
    world_end();
    sim.count.seeds = 1;
    add(&p->count, &sim.count);
    p->hash += mix64(sim.hash ^ mix64(seed));
    if (sim.violation[0] != '\0')
        note_found(p, sim.violation);
}

/* What production code says before it aborts is told by the replay. */
static void be_silent(void)
{
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere < 0)
        return;
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
}

static void child(const struct part *part)
{
    struct progress *p = part->progress;
    uint32_t enough = part->stop_at_first ? 1 : FOUND_MAX;
    be_silent();
    plant_now = part->plant;
    for (uint64_t seed = part->first; seed <= part->last; seed += part->step) {
        alarm(SEED_SECONDS);
        run_seed(seed, false, p);
        if (p->found_count >= enough)
            break;
    }
    _exit(0);
}

int run_part(const struct part *part)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        child(part);
    return (int)pid;
}

int run_wait(struct progress *(*of)(void *context, int child), void *context)
{
    int status;
    pid_t pid = wait(&status);
    if (pid < 0)
        return -1;
    struct progress *p = of(context, (int)pid);
    if (p == NULL || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return (int)pid;
    char text[64];
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        snprintf(text, sizeof text, "an event does not end within %u s", SEED_SECONDS);
    else if (WIFSIGNALED(status))
        snprintf(text, sizeof text, "ended by signal %d: a CHECK that failed, or a wild pointer",
                 WTERMSIG(status));
    else
        snprintf(text, sizeof text, "exited with %d", WEXITSTATUS(status));
    note_found(p, text);
    return (int)pid;
}
