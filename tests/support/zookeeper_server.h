/*
 * zookeeper_server.h - a real ZooKeeper for tests: one server on a free port of 127.0.0.1, with its
 * data in a directory of its own under /tmp. A failure of the server itself fails the test at hand.
 *
 * Ticks are of 200 ms, so sessions last from 400 ms to 60 s. The process dies with the test's.
 */
#ifndef PARAMD_TESTS_SUPPORT_ZOOKEEPER_SERVER_H
#define PARAMD_TESTS_SUPPORT_ZOOKEEPER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct zookeeper_server {
    char directory[64];
    uint16_t port;
    pid_t pid; /* 0: does not run */
};

/* Whether the server and a Java to run it with are installed; tests/run.sh's words when not. */
bool zookeeper_is_installed(void);

void zookeeper_server_init(struct zookeeper_server *s);
/* Returns when it answers. */
void zookeeper_server_start(struct zookeeper_server *s);
/* With SIGKILL. */
void zookeeper_server_kill(struct zookeeper_server *s);
/* With SIGSTOP: it takes connections and answers nothing. */
void zookeeper_server_pause(struct zookeeper_server *s);
void zookeeper_server_resume(struct zookeeper_server *s);
/* These while it does not run: everything is lost; kept aside; and as it was when it was kept. */
void zookeeper_server_wipe(struct zookeeper_server *s);
void zookeeper_server_save(struct zookeeper_server *s);
void zookeeper_server_go_back(struct zookeeper_server *s);
void zookeeper_server_deinit(struct zookeeper_server *s);

#endif
