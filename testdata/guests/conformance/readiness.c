/* poll(2), select(2) and epoll(7): each way to wait, for each thing that can come. */
#include "conformance.h"

#include <sys/select.h>

static const char *const ways[] = {"poll", "ppoll", "select", "pselect", "epoll", "epoll_edge", "epoll_oneshot", NULL};
static const char *const events[] = {"connection", "data",     "urgent",  "end_of_file", "half_close", "reset",
                                     "connected",  "refused", "datagram", "icmp",        "nothing",    NULL};
static const char *const places[] = {"lo4", "any6", NULL};

enum event { CONNECTION, DATA, URGENT, END_OF_FILE, HALF_CLOSE, RESET, CONNECTED, REFUSED, DATAGRAM, ICMP, NOTHING };

/* Over loopback all has come when the call that sends it returns. */
#define LIMIT_MS 20

static void by_poll(int fd, bool with_mask) {
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP};
    struct timespec limit = {0, LIMIT_MS * 1000000};
    sigset_t none;
    sigemptyset(&none);
    if (!with_mask) {
        show("poll", poll(&polled, 1, LIMIT_MS));
    } else {
        show("ppoll", ppoll(&polled, 1, &limit, &none));
    }
    printf("  events %#x\n", polled.revents);
}

static void by_select(int fd, bool with_mask) {
    fd_set in, out, exceptional;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&exceptional);
    FD_SET(fd, &in);
    FD_SET(fd, &out);
    FD_SET(fd, &exceptional);
    struct timeval short_limit = {0, LIMIT_MS * 1000};
    struct timespec limit = {0, LIMIT_MS * 1000000};
    sigset_t none;
    sigemptyset(&none);
    if (!with_mask) {
        show("select", select(fd + 1, &in, &out, &exceptional, &short_limit));
    } else {
        show("pselect", pselect(fd + 1, &in, &out, &exceptional, &limit, &none));
    }
    printf("  in %d, out %d, exceptional %d\n", FD_ISSET(fd, &in) != 0, FD_ISSET(fd, &out) != 0, FD_ISSET(fd, &exceptional) != 0);
}

static void by_epoll(int epoll) {
    struct epoll_event event = {0};
    show("epoll_wait", epoll_wait(epoll, &event, 1, LIMIT_MS));
    printf("  events %#x\n", event.events);
}

/* Twice: what is level-triggered comes again, what is edge-triggered or one-shot does not. */
static void wait_for(int way, int fd, int epoll) {
    for (int i = 0; i < 2; i++) {
        if (way < 2) {
            by_poll(fd, way == 1);
        } else if (way < 4) {
            by_select(fd, way == 3);
        } else {
            by_epoll(epoll);
        }
    }
}

static int watched_by(int way, int fd) {
    static const uint32_t how[] = {0, EPOLLET, EPOLLONESHOT};
    if (way < 4) {
        return -1;
    }
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | how[way - 4]};
    show("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    return epoll;
}

/* The socket is watched before anything comes: before it is bound or connected, where it is. */
static void ready(const int *at) {
    int way = at[0], event = at[1];
    const char *here = at[2] == 0 ? "127.0.0.1" : "::", *there = at[2] == 0 ? "127.0.0.1" : "::1";
    int family = IP(here, 0).any.sa_family, epoll;
    if (event == DATAGRAM || event == ICMP) {
        int server = sock(family, SOCK_DGRAM), client = sock(family, SOCK_DGRAM);
        int watched = event == DATAGRAM ? server : client;
        epoll = watched_by(way, watched);
        if (event == DATAGRAM && do_bind(server, here, 0) != 0) {
            broken("bind");
        }
        show("connect", do_connect(client, there, 0));
        show("send", send(client, "x", 1, 0));
        wait_for(way, watched, epoll);
        char byte;
        show("receive", recv(watched, &byte, 1, MSG_DONTWAIT));
        return;
    }
    int server = sock(family, SOCK_STREAM), client = sock(family, SOCK_STREAM | SOCK_NONBLOCK);
    int watched = event == CONNECTION ? server : client;
    epoll = watched_by(way, watched);
    if (event != REFUSED && (do_bind(server, here, 0) != 0 || listen(server, 5) != 0)) {
        broken("listener");
    }
    if (event != NOTHING) {
        long result = do_connect(client, there, 0);
        show("connects", result == 0 || errno == EINPROGRESS || (event == REFUSED && errno == ECONNREFUSED));
    }
    if (event >= DATA && event <= RESET) {
        int accepted = accept(server, NULL, NULL);
        struct linger at_once = {1, 0};
        if (event == DATA || event == URGENT) {
            show("send", send(accepted, "x", 1, event == URGENT ? MSG_OOB : 0));
        } else if (event == HALF_CLOSE) {
            show("shutdown", shutdown(accepted, SHUT_WR));
        } else {
            if (event == RESET) {
                setsockopt(accepted, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            }
            close(accepted);
        }
    }
    wait_for(way, watched, epoll);
    if (event != CONNECTION && event != NOTHING && event != CONNECTED) {
        char byte;
        show("receive", recv(client, &byte, 1, MSG_DONTWAIT));
    }
    if (event != REFUSED && event != RESET) {
        show_error("error", watched);
    }
    if (epoll >= 0) {
        struct epoll_event again = {.events = EPOLLIN | EPOLLOUT};
        show("modify", epoll_ctl(epoll, EPOLL_CTL_MOD, watched, &again));
        by_epoll(epoll);
        show("delete", epoll_ctl(epoll, EPOLL_CTL_DEL, watched, &again));
    }
}

const struct conformance_matrix readiness_matrices[] = {
    {"ready", {ways, events, places}, NULL, ready},
    {NULL, {NULL}, NULL, NULL},
};
