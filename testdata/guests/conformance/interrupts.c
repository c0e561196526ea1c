/* Calls that wait, interrupted by a signal with and without SA_RESTART, and by their own time-outs. */
#include "conformance.h"

#include <sys/select.h>

static const char *const calls[] = {"connect", "accept", "accept4", "recv",       "recvmsg",    "read",  "send",
                                    "poll",    "select", "pselect", "epoll_wait", "recv_wait", "udp_recv", NULL};
static const char *const endings[] = {"signal", "restart", "timeout", NULL};

enum call { CONNECT, ACCEPT, ACCEPT4, RECV, RECVMSG, READ, SEND, POLL, SELECT, PSELECT, EPOLL, RECV_WAIT, UDP_RECV };

static volatile sig_atomic_t alarms;
static int to_close = -1, to_accept = -1;
/* The alarm that brings what the call waits for. */
static int last_alarm;

/* A call that is restarted would wait for ever, were there no last alarm. */
static void on_alarm(int signal) {
    (void)signal;
    if (++alarms == last_alarm) {
        shutdown(to_close, SHUT_RDWR);
        accept(to_accept, NULL, NULL);
    }
}

static void limit(int fd) {
    struct timeval timeout = {0, 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

static long wait_in(enum call call, int fd, int wait_ms) {
    char bytes[16];
    struct iovec vector = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    struct timeval timeout = {5, 0};
    struct timespec precise = {5, 0};
    struct epoll_event event = {.events = EPOLLIN};
    static char large[1 << 16];
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    if (wait_ms >= 0) {
        timeout = (struct timeval){0, wait_ms * 1000};
        precise = (struct timespec){0, wait_ms * 1000000};
    }
    switch (call) {
    case CONNECT: return do_connect(fd, "127.0.0.1", 0);
    case ACCEPT: return accept(fd, NULL, NULL);
    case ACCEPT4: return accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    case RECV: return recv(fd, bytes, sizeof bytes, 0);
    case RECV_WAIT: return recv(fd, bytes, sizeof bytes, MSG_WAITALL);
    case UDP_RECV: return recvfrom(fd, bytes, sizeof bytes, 0, NULL, NULL);
    case RECVMSG: return recvmsg(fd, &message, 0);
    case READ: return read(fd, bytes, sizeof bytes);
    case POLL: return poll(&polled, 1, wait_ms < 0 ? 5000 : wait_ms);
    case SELECT: return select(fd + 1, &in, NULL, NULL, &timeout);
    case PSELECT: return pselect(fd + 1, &in, NULL, NULL, &precise, NULL);
    case EPOLL: return epoll_wait(epoll, &event, 1, wait_ms < 0 ? 5000 : wait_ms);
    case SEND: {
        /* Whether it took a part before it was interrupted is chance: only a call that took nothing tells how it ended. */
        long result;
        while ((result = send(fd, large, sizeof large, MSG_NOSIGNAL)) > 0 && (result == sizeof large || wait_ms < 0)) {
        }
        return result >= 0 || errno == EINTR || errno == EAGAIN ? 0 : result;
    }
    }
    return -1;
}

static void interrupt(const int *at) {
    enum call call = at[0];
    int server, fd = -1, other = -1;
    if (call == UDP_RECV) {
        fd = sock(AF_INET, SOCK_DGRAM);
        if (do_bind(fd, "127.0.0.1", 0) != 0) {
            broken("bind");
        }
        to_close = fd;
    } else if (call == CONNECT) {
        server = listener("127.0.0.1", 0, 0);
        other = sock(AF_INET, SOCK_STREAM);
        if (do_connect(other, "127.0.0.1", 0) != 0) {
            broken("connect");
        }
        fd = sock(AF_INET, SOCK_STREAM);
        to_accept = server;
    } else {
        server = listener("127.0.0.1", 0, 5);
        other = sock(AF_INET, SOCK_STREAM);
        to_close = fd = server;
        if (call != ACCEPT && call != ACCEPT4) {
            show("connect", do_connect(other, "127.0.0.1", 0));
            to_close = fd = accept(server, NULL, NULL);
        }
        if (call == RECV_WAIT) {
            show("send", send(other, "abc", 3, 0));
        }
    }
    if (at[1] == 2) {
        limit(fd);
        show("result", wait_in(call, fd, 200));
        return;
    }
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = at[1] == 1 ? SA_RESTART : 0};
    /* The first alarm mostly comes when the call waits. On a busy machine a later one does: none but the last changes anything. */
    last_alarm = at[1] == 1 ? 2 : 20;
    struct itimerval timer = {{0, 400000}, {0, 300000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    show("result", wait_in(call, fd, -1));
    show("restarted", alarms >= last_alarm);
    close(other);
}

/* A time-out of the call itself is no matter of SO_RCVTIMEO; one that is restarted ends by the second alarm, which poll(2) and its like are not. */
static bool is_told_apart(const int *at) { return at[1] != 1 || at[0] < POLL || at[0] > EPOLL; }

const struct conformance_matrix interrupt_matrices[] = {
    {"interrupt", {calls, endings}, is_told_apart, interrupt},
    {NULL, {NULL}, NULL, NULL},
};
