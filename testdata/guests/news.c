/*
 * Waits for news that a file tells whoever polls it first: a mount, by /proc/self/mountinfo, in each way there is to wait for it:
 *
 *     news HOW FILE PORT
 *
 * HOW is poll, ppoll, select, epoll, edge or nested. Each piece of news appends a line to FILE. Connections are served by another thread
 * meanwhile: each line is answered with "LINE host=NAME pid=N".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/select.h>

#include "beside.h"

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: news HOW FILE PORT\n");
        return 2;
    }
    const char *how = arguments[1];
    int file = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC), instance = -1;
    if (file < 0) {
        die("mountinfo");
    }
    if (strcmp(how, "epoll") == 0 || strcmp(how, "edge") == 0 || strcmp(how, "nested") == 0) {
        instance = epoll_of(file, strcmp(how, "edge") == 0 ? EPOLLPRI | EPOLLET : EPOLLPRI);
        instance = strcmp(how, "nested") == 0 ? epoll_of(instance, EPOLLIN) : instance;
    }
    pthread_t thread;
    long listener = open_listener(atoi(arguments[3]), 0);
    if (pthread_create(&thread, NULL, serve, (void *)listener) != 0) {
        die("thread");
    }
    for (;;) {
        struct pollfd polled = {.fd = file, .events = POLLPRI};
        struct epoll_event event;
        fd_set set;
        int ready;
        FD_ZERO(&set);
        FD_SET(file, &set);
        if (instance >= 0) {
            ready = epoll_wait(instance, &event, 1, -1);
        } else if (strcmp(how, "select") == 0) {
            ready = select(file + 1, NULL, NULL, &set, NULL);
        } else if (strcmp(how, "ppoll") == 0) {
            ready = ppoll(&polled, 1, NULL, NULL);
        } else {
            ready = poll(&polled, 1, -1);
        }
        if (ready == 1) {
            FILE *out = fopen(arguments[2], "a");
            fprintf(out, "news\n");
            fclose(out);
        } else if (ready != 0) {
            die(how);
        }
    }
}
