/*
 * What the guests share that wait in ways of their own beside serving: a thread that serves, and an epoll instance with one member.
 */
#ifndef BESIDE_H
#define BESIDE_H

#include <sys/epoll.h>

#include "serving.h"

static inline void *serve(void *listener) {
    for (;;) {
        int fd = accept((int)(long)listener, NULL, NULL);
        if (fd < 0) {
            die("accept");
        }
        struct connection *connection = new_connection(fd);
        while (serve_connection(connection)) {
        }
        end_connection(connection);
    }
    return NULL;
}

static inline int epoll_of(int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    int instance = epoll_create1(EPOLL_CLOEXEC);
    if (instance < 0 || epoll_ctl(instance, EPOLL_CTL_ADD, fd, &event) != 0) {
        die("epoll");
    }
    return instance;
}

#endif
