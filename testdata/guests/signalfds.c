/*
 * Takes its signals from a signalfd, as supervisors of processes do (s6, bubblewrap), in each way there is to wait for one:
 *
 *     signalfds HOW FILE PORT
 *
 * HOW is read, poll, ppoll, select, pselect, epoll, edge, nested, or thread: read, in a thread that is not the first. Each SIGUSR1 appends
 * a line to FILE. Connections are served by another thread meanwhile: each line is answered with "LINE host=NAME pid=N".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/select.h>
#include <sys/signalfd.h>

#include "beside.h"

static const char *how, *file;
static int signals;

/* Waits until the signalfd is ready, but for the ways in which read(2) does. */
static void wait_for_signal(void) {
    static int instance = -1;
    struct pollfd polled = {.fd = signals, .events = POLLIN};
    struct epoll_event event;
    fd_set set;
    int count = 1;
    FD_ZERO(&set);
    FD_SET(signals, &set);
    if (strcmp(how, "poll") == 0) {
        count = poll(&polled, 1, -1);
    } else if (strcmp(how, "ppoll") == 0) {
        count = ppoll(&polled, 1, NULL, NULL);
    } else if (strcmp(how, "select") == 0) {
        count = select(signals + 1, &set, NULL, NULL, NULL);
    } else if (strcmp(how, "pselect") == 0) {
        count = pselect(signals + 1, &set, NULL, NULL, NULL, NULL);
    } else if (strcmp(how, "epoll") == 0 || strcmp(how, "edge") == 0 || strcmp(how, "nested") == 0) {
        if (instance < 0) {
            instance = epoll_of(signals, strcmp(how, "edge") == 0 ? EPOLLIN | EPOLLET : EPOLLIN);
            instance = strcmp(how, "nested") == 0 ? epoll_of(instance, EPOLLIN) : instance;
        }
        count = epoll_wait(instance, &event, 1, -1);
    }
    /* Whether a call that is restarted says so is another test's (sleep_calls.rs). */
    if (count != 1 && errno != EINTR) {
        die(how);
    }
}

static void *take_signals(void *unused) {
    for (;;) {
        struct signalfd_siginfo info;
        wait_for_signal();
        if (read(signals, &info, sizeof info) != sizeof info) {
            if (errno == EINTR) {
                continue;
            }
            die("read");
        }
        FILE *out = fopen(file, "a");
        fprintf(out, "signal %d\n", (int)info.ssi_signo);
        fclose(out);
    }
    return unused;
}

int main(int count, char **arguments) {
    sigset_t set;
    pthread_t thread;
    if (count != 4) {
        fprintf(stderr, "usage: signalfds HOW FILE PORT\n");
        return 2;
    }
    how = arguments[1];
    file = arguments[2];
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    long listener = open_listener(atoi(arguments[3]), 0);
    bool in_thread = strcmp(how, "thread") == 0;
    if (signals < 0 || pthread_create(&thread, NULL, in_thread ? take_signals : serve, (void *)listener) != 0) {
        die("signalfd or thread");
    }
    in_thread ? serve((void *)listener) : take_signals(NULL);
    return 0;
}
