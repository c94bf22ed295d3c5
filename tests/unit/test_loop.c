/*
 * Goal: posts run on the loop's thread in order, within their bound, also those accepted just
 * before the stop; timers, signals and the end of a pipe arrive; what is destroyed stays silent.
 * Method: a loop a test; each ends by loop_stop(). Nothing is asserted about how long a thing
 * takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#include "common/loop.h"

struct world {
    struct loop *loop;
    pthread_t thread;
    uint32_t count;
    uint32_t stop_at;
    uint32_t late;
    bool wrong_thread;
    struct loop_timer *timer;
    struct loop_timer *victim;
    int signal_number;
};

static void open_world(struct world *w)
{
    *w = (struct world){.thread = pthread_self()};
    assert_int_equal(loop_create(&w->loop), ERR_NONE);
}

static void count_and_stop(void *context)
{
    struct world *w = context;
    w->wrong_thread |= !pthread_equal(w->thread, pthread_self());
    if (++w->count == w->stop_at)
        loop_stop(w->loop);
}

static void count_late(void *context)
{
    ((struct world *)context)->late++;
}

static void test_post_bound_and_stop(void **state)
{
    struct world w;
    open_world(&w);
    w.stop_at = 10;
    for (int i = 0; i < 4096; i++)
        assert_int_equal(loop_post(w.loop, count_and_stop, &w), ERR_NONE);
    assert_int_equal(loop_post(w.loop, count_and_stop, &w), ERR_LIMIT);
    loop_run(w.loop);
    assert_int_equal(w.count, 4096); /* all that were accepted */
    assert_int_equal(loop_post(w.loop, count_and_stop, &w), ERR_CANCELLED);
    loop_destroy(w.loop);

    open_world(&w);
    assert_int_equal(loop_post(w.loop, count_late, &w), ERR_NONE);
    loop_destroy(w.loop); /* never ran: nothing is run */
    assert_int_equal(w.late, 0);
    loop_destroy(NULL);
}

static void *post_many(void *context)
{
    struct world *w = context;
    for (int i = 0; i < 3000;) {
        enum err error = loop_post(w->loop, count_and_stop, w);
        if (error == ERR_CANCELLED)
            return w;
        if (error == ERR_NONE)
            i++;
    }
    return NULL;
}

static void test_posts_from_threads(void **state)
{
    struct world w;
    open_world(&w);
    w.stop_at = 9000;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &w), 0);
    loop_run(w.loop);
    for (int i = 0; i < 3; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(w.count, 9000);
    assert_false(w.wrong_thread);
    loop_destroy(w.loop);
}

static void *stop_from_thread(void *context)
{
    loop_stop(context);
    return NULL;
}

static void test_stop_from_a_thread(void **state)
{
    struct world w;
    open_world(&w);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_from_thread, w.loop), 0);
    loop_run(w.loop);
    pthread_join(thread, NULL);
    loop_destroy(w.loop);
}

static void destroy_both(void *context)
{
    struct world *w = context;
    count_and_stop(w);
    if (w->count == 3) {
        loop_timer_destroy(w->victim); /* due now as well */
        loop_timer_destroy(w->timer);  /* from its own callback */
        loop_timer_create(w->loop, 3, 0, count_and_stop, w);
    }
}

static void test_timers(void **state)
{
    struct world w;
    open_world(&w);
    w.stop_at = 4;
    w.timer = loop_timer_create(w.loop, 0, 1, destroy_both, &w);
    w.victim = loop_timer_create(w.loop, 60000, 0, count_late, &w);
    loop_timer_create(w.loop, 60000, 0, count_late, &w); /* left to loop_destroy() */
    loop_run(w.loop);
    assert_int_equal(w.count, 4);
    assert_int_equal(w.late, 0);
    loop_timer_destroy(NULL);
    loop_destroy(w.loop);
    assert_int_equal(w.late, 0);
}

static void on_signal(void *context, int signal_number)
{
    struct world *w = context;
    w->signal_number = signal_number;
    loop_stop(w->loop);
}

static void raise_usr1(void *context)
{
    raise(SIGUSR1);
}

static void test_signals(void **state)
{
    struct world w;
    open_world(&w);
    assert_int_equal(loop_signal(w.loop, SIGUSR1, on_signal, &w), ERR_NONE);
    assert_int_equal(loop_signal(w.loop, SIGUSR2, on_signal, &w), ERR_NONE);
    assert_int_equal(loop_signal(w.loop, SIGKILL, on_signal, &w), ERR_IO);
    assert_int_equal(loop_post(w.loop, raise_usr1, NULL), ERR_NONE);
    loop_run(w.loop);
    assert_int_equal(w.signal_number, SIGUSR1);
    loop_destroy(w.loop);
}

static void close_end(void *context)
{
    close(*(int *)context);
}

static void test_end_of_a_pipe(void **state)
{
    struct world w;
    open_world(&w);
    w.stop_at = 1;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "ignored", 7), 7);
    assert_int_equal(loop_watch_end(w.loop, ends[0], count_and_stop, &w), ERR_NONE);
    loop_timer_create(w.loop, 5, 0, close_end, &ends[1]);
    loop_run(w.loop);
    assert_int_equal(w.count, 1);
    loop_destroy(w.loop);
    close(ends[0]);
    open_world(&w);
    assert_int_equal(loop_watch_end(w.loop, 12345, count_and_stop, &w), ERR_IO);
    loop_destroy(w.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_post_bound_and_stop),
        cmocka_unit_test(test_posts_from_threads),
        cmocka_unit_test(test_stop_from_a_thread),
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_end_of_a_pipe),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
