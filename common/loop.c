#include "common/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>
#include <uv.h>

#include "common/check.h"
#include "common/mem.h"

#define POST_MAX 4096

struct post {
    loop_callback callback;
    void *context;
};

/*
 * Each handle is the first member of a structure of its own, which its close callback frees.
 * libuv's rule: the memory must stay until that callback.
 */
struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    pthread_mutex_t lock; /* of what follows */
    bool stopping;
    size_t post_first;
    size_t post_count;
    struct post posts[POST_MAX];
};

struct loop_timer {
    uv_timer_t uv;
    loop_callback callback;
    void *context;
};

struct loop_signal_watch {
    uv_signal_t uv;
    loop_signal_callback callback;
    void *context;
};

struct loop_end_watch {
    uv_poll_t uv;
    loop_callback callback;
    void *context;
};

static enum err fail(int code, const char *what)
{
    return err_set(code == UV_ENOMEM ? ERR_MEMORY : ERR_IO, "%s: %s", what, uv_strerror(code));
}

static bool take_post(struct loop *l, struct post *out)
{
    pthread_mutex_lock(&l->lock);
    bool found = l->post_count > 0;
    if (found) {
        *out = l->posts[l->post_first];
        l->post_first = (l->post_first + 1) % POST_MAX;
        l->post_count--;
    }
    pthread_mutex_unlock(&l->lock);
    return found;
}

/* Runs what waits now, not what these post in their turn: timers and signals get their share. */
static void on_wake(uv_async_t *wake)
{
    struct loop *l = wake->data;
    pthread_mutex_lock(&l->lock);
    size_t waiting = l->post_count;
    pthread_mutex_unlock(&l->lock);
    struct post post;
    for (; waiting > 0 && take_post(l, &post); waiting--)
        post.callback(post.context);

    pthread_mutex_lock(&l->lock);
    bool more = l->post_count > 0, stop = l->stopping;
    pthread_mutex_unlock(&l->lock);
    if (more)
        uv_async_send(&l->wake);
    else if (stop)
        uv_stop(&l->uv);
}

enum err loop_create(struct loop **out)
{
    struct loop *l = must_alloc(sizeof *l);
    int code = uv_loop_init(&l->uv);
    if (code != 0) {
        mem_free(l);
        return fail(code, "event loop");
    }
    code = uv_async_init(&l->uv, &l->wake, on_wake);
    if (code != 0) {
        uv_loop_close(&l->uv);
        mem_free(l);
        return fail(code, "event loop");
    }
    l->wake.data = l;
    CHECK(pthread_mutex_init(&l->lock, NULL) == 0);
    *out = l;
    return ERR_NONE;
}

static void free_handle(uv_handle_t *handle)
{
    mem_free(handle);
}

static void close_handle(uv_handle_t *handle, void *context)
{
    struct loop *l = context;
    if (!uv_is_closing(handle))
        uv_close(handle, handle == (uv_handle_t *)&l->wake ? NULL : free_handle);
}

void loop_destroy(struct loop *l)
{
    if (l == NULL)
        return;
    /* Closed handles call nothing of the user's; this run only completes the closing. */
    uv_walk(&l->uv, close_handle, l);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&l->uv) == 0);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

void loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_mutex_unlock(&l->lock);
    uv_async_send(&l->wake);
}

enum err loop_post(struct loop *l, loop_callback callback, void *context)
{
    enum err result = ERR_NONE;
    pthread_mutex_lock(&l->lock);
    if (l->stopping) {
        result = ERR_CANCELLED;
    } else if (l->post_count == POST_MAX) {
        result = ERR_LIMIT;
    } else {
        size_t last = (l->post_first + l->post_count++) % POST_MAX;
        l->posts[last] = (struct post){callback, context};
    }
    pthread_mutex_unlock(&l->lock);
    if (result == ERR_CANCELLED)
        return err_set(result, "the event loop is stopping");
    if (result == ERR_LIMIT)
        return err_set(result, "the event loop has %d posts waiting", POST_MAX);
    uv_async_send(&l->wake);
    return ERR_NONE;
}

static void on_timer(uv_timer_t *uv)
{
    struct loop_timer *t = (struct loop_timer *)uv;
    t->callback(t->context);
}

struct loop_timer *loop_timer_create(struct loop *l, uint32_t delay_ms, uint32_t period_ms,
                                     loop_callback callback, void *context)
{
    struct loop_timer *t = must_alloc(sizeof *t);
    t->callback = callback;
    t->context = context;
    CHECK(uv_timer_init(&l->uv, &t->uv) == 0);
    uv_update_time(&l->uv); /* delays count from now, not from when the loop last woke */
    CHECK(uv_timer_start(&t->uv, on_timer, delay_ms, period_ms) == 0);
    return t;
}

void loop_timer_destroy(struct loop_timer *t)
{
    if (t != NULL)
        uv_close((uv_handle_t *)&t->uv, free_handle);
}

static void on_signal(uv_signal_t *uv, int signal_number)
{
    struct loop_signal_watch *w = (struct loop_signal_watch *)uv;
    w->callback(w->context, signal_number);
}

enum err loop_signal(struct loop *l, int signal_number, loop_signal_callback callback,
                     void *context)
{
    struct loop_signal_watch *w = must_alloc(sizeof *w);
    w->callback = callback;
    w->context = context;
    CHECK(uv_signal_init(&l->uv, &w->uv) == 0);
    int code = uv_signal_start(&w->uv, on_signal, signal_number);
    if (code == 0)
        return ERR_NONE;
    uv_close((uv_handle_t *)&w->uv, free_handle);
    return err_set(ERR_IO, "cannot watch signal %d: %s", signal_number, uv_strerror(code));
}

/* What the parent writes is of no interest; only that it is gone. */
static void on_readable(uv_poll_t *uv, int status, int events)
{
    struct loop_end_watch *w = (struct loop_end_watch *)uv;
    char ignored[512];
    uv_os_fd_t descriptor;
    if (status == 0 && uv_fileno((uv_handle_t *)uv, &descriptor) == 0) {
        ssize_t size = read(descriptor, ignored, sizeof ignored);
        if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR)))
            return;
    }
    loop_callback callback = w->callback;
    void *context = w->context;
    uv_close((uv_handle_t *)uv, free_handle);
    callback(context);
}

enum err loop_watch_end(struct loop *l, int descriptor, loop_callback callback, void *context)
{
    struct loop_end_watch *w = mem_alloc(sizeof *w);
    if (w == NULL)
        return ERR_MEMORY;
    w->callback = callback;
    w->context = context;
    int code = uv_poll_init(&l->uv, &w->uv, descriptor);
    if (code != 0) {
        mem_free(w);
        return err_set(ERR_IO, "cannot watch descriptor %d: %s", descriptor, uv_strerror(code));
    }
    code = uv_poll_start(&w->uv, UV_READABLE | UV_DISCONNECT, on_readable);
    if (code == 0)
        return ERR_NONE;
    uv_close((uv_handle_t *)&w->uv, free_handle);
    return err_set(ERR_IO, "cannot watch descriptor %d: %s", descriptor, uv_strerror(code));
}
