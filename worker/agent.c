#include "worker/agent.h"

#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/mem.h"
#include "worker/agent_internal.h"
#include "worker/compute.h"
#include "worker/network.h"

#define LOOK_MS 200u /* at the trainer and the task, beside being woken */
#define LOCAL   "local:"

static void *run(void *context);

/* Where blocks are cached: the setting, or beside the local registry, which is in the run
 * directory. */
static char *cache_directory(const struct daemon_settings *s)
{
    if (s->scratch != NULL)
        return must_strdup(s->scratch);
    if (strncmp(s->registry, LOCAL, strlen(LOCAL)) == 0)
        return must_format("%s/cache", s->registry + strlen(LOCAL));
    return must_strdup("/var/tmp/paramd-cache");
}

static void init_clock_condition(pthread_cond_t *c)
{
    pthread_condattr_t monotonic;
    CHECK(pthread_condattr_init(&monotonic) == 0);
    CHECK(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(c, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
}

enum err agent_start(const struct daemon_settings *settings, void (*poke)(void *context),
                     void *context, struct agent **out)
{
    struct device_list devices;
    enum err err = device_list_find(settings->device, &devices);
    if (err != ERR_NONE)
        return err_prefix(err == ERR_UNAVAILABLE ? ERR_NOT_FOUND : err, "setting device");
    struct agent *a = must_alloc(sizeof *a);
    a->settings = settings;
    a->poke = poke;
    a->context = context;
    a->cache_directory = cache_directory(settings);
    char *class = device_class_text(&devices);
    a->devices = devices;
    a->device_class = must_format("%s paramd %s", class, PARAMD_VERSION);
    mem_free(class);
    a->cores = machine_cores();
    CHECK(pthread_mutex_init(&a->lock, NULL) == 0);
    init_clock_condition(&a->changed);
    CHECK(pthread_create(&a->thread, NULL, run, a) == 0);
    *out = a;
    return ERR_NONE;
}

uint32_t agent_gpus(const struct agent *a)
{
    return a->devices.cuda ? a->devices.count : 0;
}

const char *agent_device_class(const struct agent *a)
{
    return a->device_class;
}

bool agent_is_idle(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    bool is_idle = a->state.job == NULL;
    pthread_mutex_unlock(&a->lock);
    return is_idle;
}

static struct timespec after_ms(uint32_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

int agent_wait(struct agent *a, uint32_t timeout_ms)
{
    struct timespec until = after_ms(timeout_ms);
    pthread_mutex_lock(&a->lock);
    int late = 0;
    while (!a->has_ended && late == 0)
        late = pthread_cond_timedwait(&a->changed, &a->lock, &until);
    int code = a->has_ended ? a->exit_code : -1;
    pthread_mutex_unlock(&a->lock);
    return code;
}

void agent_wake(void *agent)
{
    struct agent *a = agent;
    pthread_mutex_lock(&a->lock);
    a->is_woken = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void agent_stop(struct agent *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->is_stopping = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
}

void agent_destroy(struct agent *a)
{
    if (a == NULL)
        return;
    if (a->arrived != NULL)
        paramd__control__member_orders__free_unpacked(a->arrived, NULL);
    if (a->orders != NULL)
        paramd__control__member_orders__free_unpacked(a->orders, NULL);
    agent_state_clear(&a->state);
    agent_state_clear(&a->told);
    mem_free(a->rank_messages);
    mem_free(a->rank_pointers);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    mem_free(a->cache_directory);
    mem_free(a->device_class);
    mem_free(a);
}

struct evaluation_key agent_evaluation_of(const Paramd__Control__WorkerOrders *w)
{
    uint32_t count = w->evaluate_part_count;
    if (count == 0 && w->n_ranks > 0)
        count = 1;
    return (struct evaluation_key){
        .is_set = w->evaluate,
        .step = w->evaluate_step,
        .first = w->evaluate_part,
        .count = count,
        .parts = w->evaluate_parts > 0 ? w->evaluate_parts : 1,
    };
}

bool agent_same_evaluation(const struct evaluation_key *a, const struct evaluation_key *b)
{
    return a->is_set == b->is_set && a->step == b->step && a->first == b->first &&
           a->count == b->count && a->parts == b->parts;
}

void agent_follow(void *agent, const Paramd__Control__MemberOrders *orders)
{
    struct agent *a = agent;
    size_t size = paramd__control__member_orders__get_packed_size(orders);
    uint8_t *bytes = must_alloc(size + 1);
    paramd__control__member_orders__pack(orders, bytes);
    Paramd__Control__MemberOrders *copy = paramd__control__member_orders__unpack(NULL, size, bytes);
    mem_free(bytes);
    CHECK(copy != NULL);
    pthread_mutex_lock(&a->lock);
    Paramd__Control__MemberOrders *before = a->arrived;
    a->arrived = copy;
    /* From now on states say that they reflect these orders: nothing of another evaluation may be
     * in them. */
    if (copy->worker != NULL && copy->worker->evaluate) {
        struct evaluation_key key = agent_evaluation_of(copy->worker);
        if (!agent_same_evaluation(&a->state.evaluated, &key))
            a->state.evaluated = (struct evaluation_key){0};
    }
    a->is_woken = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (before != NULL)
        paramd__control__member_orders__free_unpacked(before, NULL);
}

/* ---- the thread ---- */

/* Waits to be woken, or a while; false: the end. Takes over the newest orders. */
static bool wait_for_news(struct agent *a)
{
    struct timespec until = after_ms(LOOK_MS);
    pthread_mutex_lock(&a->lock);
    int late = 0;
    while (!a->is_woken && !a->is_stopping && late == 0)
        late = pthread_cond_timedwait(&a->changed, &a->lock, &until);
    a->is_woken = false;
    if (a->arrived != NULL) {
        if (a->orders != NULL)
            paramd__control__member_orders__free_unpacked(a->orders, NULL);
        a->orders = a->arrived;
        a->arrived = NULL;
    }
    bool goes_on = !a->is_stopping && !a->has_ended;
    pthread_mutex_unlock(&a->lock);
    return goes_on;
}

static void end(struct agent *a, int exit_code)
{
    pthread_mutex_lock(&a->lock);
    a->has_ended = true;
    a->exit_code = exit_code;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static bool is_other_job(const struct agent *a, const Paramd__Control__MemberOrders *o)
{
    return a->job == NULL || strcmp(a->job->id, o->job) != 0 || a->job->generation != o->generation;
}

#define EXIT_RESTART 75 /* EX_TEMPFAIL, as where something outside is not there yet */

/*
 * A GPU has failed so that only another process can use it. The leader knows of the failure once it
 * orders something else; then whoever started this worker starts it again.
 */
static bool has_to_restart(struct agent *a, const Paramd__Control__MemberOrders *o)
{
    if (!device_is_lost() || (o->job[0] != '\0' && !is_other_job(a, o)))
        return false;
    agent_job_drop(a);
    log_error("agent", "ends, as this process can use its GPU no more: start it again");
    end(a, EXIT_RESTART);
    return true;
}

/* One step towards what the orders say. */
static void conduct(struct agent *a, const Paramd__Control__MemberOrders *o)
{
    if (!o->shutdown && has_to_restart(a, o))
        return;
    if (o->job[0] == '\0' || is_other_job(a, o)) {
        if (a->job != NULL)
            log_info("agent", "drops the job job='%s' generation=%llu", a->job->id,
                     (unsigned long long)a->job->generation);
        agent_job_drop(a);
    }
    if (o->shutdown) {
        agent_job_drop(a);
        log_info("agent", "told to leave");
        end(a, 0);
        return;
    }
    if (o->job[0] == '\0')
        return;
    if (a->job == NULL) {
        if (o->job_yaml[0] == '\0')
            return; /* it comes until our state names the job */
        enum err e = agent_job_adopt(a, o);
        if (e != ERR_NONE)
            agent_fail(a, agent_failure_of(e), err_text());
        a->poke(a->context);
    }
    agent_job_step(a, o);
}

static void *run(void *context)
{
    struct agent *a = context;
    while (wait_for_news(a)) {
        if (a->orders != NULL)
            conduct(a, a->orders);
    }
    agent_job_drop(a);
    end(a, a->has_ended ? a->exit_code : 0);
    return NULL;
}
