/*
 * answer_loser.h - a proxy in front of a ZooKeeper that, told to, lets the next write through and
 * loses its answer together with the connection.
 *
 * One thread, one connection at a time; the client connects anew by itself.
 */
#ifndef PARAMD_TESTS_SUPPORT_ANSWER_LOSER_H
#define PARAMD_TESTS_SUPPORT_ANSWER_LOSER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct answer_loser {
    uint16_t port, server_port;
    int listener;
    pthread_t thread;
    _Atomic bool stop, armed;
    _Atomic int lost; /* answers so far */
};

void answer_loser_start(struct answer_loser *l, uint16_t server_port);
/* The answer to the next write is lost. */
void answer_loser_arm(struct answer_loser *l);
void answer_loser_stop(struct answer_loser *l);

#endif
