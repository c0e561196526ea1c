/*
 * A program that connects and forks for as long as it is told, and checks what it sees each time.
 *
 *     endure serve PORT           accept on the wildcard and close, echo datagrams, in two threads each
 *     endure work VIP PORT HELD   carry out the lines of standard input, each with a count:
 *                                     connects N    N connects, of every kind there is
 *                                     forks N       N children that make trapped calls and end, in every way there is
 *                                 and print "done N" after each. VIP:PORT is served by the above, HELD:PORT by nobody yet.
 *
 * Whatever is not as it must be is printed, and ends it with status 1. It uses nothing of imsup.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "errno_name.h"

#define WORKERS 4
#define ANY_PORT 7000   /* own listener on the wildcard */
#define LOCAL_PORT 7001 /* own listener on 127.0.0.1 */
#define SIX_PORT 7002   /* own listener on ::1 */
#define NO_PORT 9       /* nobody listens */

static struct in_addr vip, held_vip;
static uint16_t port;
static atomic_long left;

static _Noreturn void fail(const char *what, int line) {
    dprintf(2, "endure: line %d: %s: %s\n", line, what, errno_name(errno));
    _exit(1);
}

#define MUST(condition)                 \
    do {                                \
        if (!(condition)) {             \
            fail(#condition, __LINE__); \
        }                               \
    } while (0)

static struct sockaddr_in at(in_addr_t ip, uint16_t number) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = ip, .sin_port = htons(number)};
}

static struct sockaddr_in local(uint16_t number) {
    return at(htonl(INADDR_LOOPBACK), number);
}

/* ---- serving ---- */

static void *accept_all(void *arg) {
    int listener = (int)(intptr_t)arg;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            close(fd);
        }
    }
    return NULL;
}

static void *echo_all(void *arg) {
    int fd = (int)(intptr_t)arg;
    char bytes[64];
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t count = recvfrom(fd, bytes, sizeof bytes, 0, (void *)&from, &length);
        if (count > 0) {
            sendto(fd, bytes, count, 0, (void *)&from, length);
        }
    }
    return NULL;
}

static void start(void *(*body)(void *), int fd) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    MUST(pthread_create(&thread, &attributes, body, (void *)(intptr_t)fd) == 0);
    pthread_detach(thread);
}

static void listen_at(const void *address, socklen_t length, int family) {
    int on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0);
    if (family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    MUST(bind(fd, address, length) == 0);
    MUST(listen(fd, 4096) == 0);
    start(accept_all, fd);
}

static int receive_at(struct sockaddr_in address) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0 && bind(fd, (void *)&address, sizeof address) == 0);
    start(echo_all, fd);
    return fd;
}

static int serve(uint16_t number) {
    struct sockaddr_in any = at(INADDR_ANY, number);
    int datagrams = receive_at(any);
    listen_at(&any, sizeof any, AF_INET);
    echo_all((void *)(intptr_t)datagrams);
    return 0;
}

/* ---- connecting ---- */

/* Closes with a reset, so that no ephemeral port is left in TIME-WAIT. */
static void reset(int fd) {
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    MUST(close(fd) == 0);
}

static void expect_peer(int fd, struct sockaddr_in expected) {
    struct sockaddr_in seen;
    socklen_t length = sizeof seen;
    int result = getpeername(fd, (void *)&seen, &length);
    /* The other side has accepted and closed; a reset of its own is natural, too. */
    if (result != 0 && errno == ENOTCONN) {
        return;
    }
    MUST(result == 0 && length == sizeof seen);
    MUST(seen.sin_addr.s_addr == expected.sin_addr.s_addr && seen.sin_port == expected.sin_port);
}

static void expect_name(int fd, in_addr_t ip) {
    struct sockaddr_in seen;
    socklen_t length = sizeof seen;
    MUST(getsockname(fd, (void *)&seen, &length) == 0 && length == sizeof seen);
    MUST(seen.sin_port != 0);
    MUST(ip == 0 || seen.sin_addr.s_addr == ip);
}

static int stream(int flags) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    MUST(fd >= 0);
    return fd;
}

static void connected(int fd, struct sockaddr_in to) {
    MUST(connect(fd, (void *)&to, sizeof to) == 0);
    expect_peer(fd, to);
}

static void blocking(struct sockaddr_in to, const struct sockaddr_in *from) {
    int fd = stream(0);
    if (from != NULL) {
        MUST(bind(fd, (void *)from, sizeof *from) == 0);
    }
    connected(fd, to);
    expect_name(fd, to.sin_addr.s_addr == htonl(INADDR_LOOPBACK) ? to.sin_addr.s_addr : 0);
    reset(fd);
}

static void non_blocking(struct sockaddr_in to) {
    int fd = stream(SOCK_NONBLOCK), error = 0;
    socklen_t length = sizeof error;
    if (connect(fd, (void *)&to, sizeof to) != 0) {
        struct pollfd polled = {.fd = fd, .events = POLLOUT};
        MUST(errno == EINPROGRESS && poll(&polled, 1, 60000) == 1);
        MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    }
    expect_peer(fd, to);
    reset(fd);
}

static void refused(struct sockaddr_in to, int flags) {
    int fd = stream(flags), error = 0;
    socklen_t length = sizeof error;
    MUST(connect(fd, (void *)&to, sizeof to) != 0);
    if (errno == EINPROGRESS) {
        struct pollfd polled = {.fd = fd, .events = POLLOUT};
        MUST(poll(&polled, 1, 60000) == 1);
        MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0);
        errno = error;
    }
    MUST(errno == ECONNREFUSED);
    close(fd);
}

static void six(void) {
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons(SIX_PORT)}, seen;
    socklen_t length = sizeof seen;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0 && connect(fd, (void *)&to, sizeof to) == 0);
    if (getpeername(fd, (void *)&seen, &length) == 0) {
        MUST(IN6_IS_ADDR_LOOPBACK(&seen.sin6_addr) && seen.sin6_port == to.sin6_port);
    }
    reset(fd);
}

/* As a resolver does: the peer that is shown is the one that was asked for. */
static void name_server(void) {
    struct sockaddr_in to = at(htonl(0x7f000035), 53);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0);
    connected(fd, to);
    close(fd);
}

static void datagram(struct sockaddr_in to, bool connects) {
    char answer[8] = "";
    struct pollfd polled = {.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), .events = POLLIN};
    MUST(polled.fd >= 0);
    if (connects) {
        connected(polled.fd, to);
        MUST(send(polled.fd, "ping", 4, 0) == 4);
    } else {
        MUST(sendto(polled.fd, "ping", 4, 0, (void *)&to, sizeof to) == 4);
    }
    MUST(poll(&polled, 1, 60000) == 1);
    MUST(recv(polled.fd, answer, sizeof answer, 0) == 4 && memcmp(answer, "ping", 4) == 0);
    close(polled.fd);
}

static void listen_anywhere(void) {
    struct sockaddr_in any = at(INADDR_ANY, 0);
    int fd = stream(0);
    MUST(bind(fd, (void *)&any, sizeof any) == 0 && listen(fd, 5) == 0);
    expect_name(fd, 0);
    close(fd);
}

static void connect_once(long number) {
    struct sockaddr_in host = at(vip.s_addr, port), any = at(INADDR_ANY, 0), own = local(0);
    long kind = number % 100;
    if (kind < 45) {
        blocking(host, NULL);
    } else if (kind < 60) {
        non_blocking(host);
    } else if (kind < 65) {
        blocking(host, &any);
    } else if (kind < 75) {
        blocking(local(LOCAL_PORT), NULL);
    } else if (kind < 80) {
        blocking(local(ANY_PORT), NULL);
    } else if (kind < 83) {
        blocking(local(LOCAL_PORT), &own);
    } else if (kind < 88) {
        six();
    } else if (kind < 90) {
        refused(local(NO_PORT), kind % 2 ? SOCK_NONBLOCK : 0);
    } else if (kind < 92) {
        refused(at(vip.s_addr, NO_PORT), 0);
    } else if (kind < 95) {
        name_server();
    } else if (kind < 97) {
        datagram(host, kind % 2);
    } else if (kind < 99) {
        datagram(local(ANY_PORT), kind % 2);
    } else {
        listen_anywhere();
    }
}

/* ---- forking ---- */

static void *call_once(void *arg) {
    struct utsname name;
    (void)arg;
    MUST(uname(&name) == 0);
    return NULL;
}

static void child(long kind) {
    struct sockaddr_in to = local(kind % 2 ? LOCAL_PORT : NO_PORT);
    int fd = stream(0);
    switch (kind) {
    case 0: /* Killed by its parent, in the middle of a call that waits. */
        to = at(held_vip.s_addr, port);
        connect(fd, (void *)&to, sizeof to);
        pause();
        break;
    case 1: /* Ends by itself while a thread is in a call. */
        start(call_once, 0);
        kill(getpid(), SIGKILL);
        break;
    case 2: /* Leaves an orphan, which the supervisor reaps. */
        if (fork() == 0) {
            connect(fd, (void *)&to, sizeof to);
            _exit(0);
        }
        break;
    default:
        connect(fd, (void *)&to, sizeof to);
        call_once(NULL);
    }
    _exit(0);
}

static __attribute__((noinline)) pid_t fork_quickly(void) {
    pid_t pid = vfork();
    if (pid == 0) {
        _exit(0);
    }
    return pid;
}

static void fork_once(long number) {
    long kind = number % 20;
    int status = 0;
    pid_t pid = kind == 19 ? fork_quickly() : fork();
    MUST(pid >= 0);
    if (pid == 0) {
        child(kind);
    }
    if (kind == 0) {
        struct timespec moment = {.tv_nsec = number * 7919 % 400000};
        nanosleep(&moment, NULL);
        MUST(kill(pid, SIGKILL) == 0);
    }
    MUST(waitpid(pid, &status, 0) == pid);
    MUST(kind < 2 ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- work ---- */

static void *work(void *arg) {
    void (*once)(long) = *(void (**)(long))arg;
    long number;
    while ((number = atomic_fetch_sub(&left, 1)) > 0) {
        once(number);
    }
    return NULL;
}

static void all(void (*once)(long), long count) {
    pthread_t threads[WORKERS];
    atomic_store(&left, count);
    for (int i = 0; i < WORKERS; i++) {
        MUST(pthread_create(&threads[i], NULL, work, &once) == 0);
    }
    for (int i = 0; i < WORKERS; i++) {
        MUST(pthread_join(threads[i], NULL) == 0);
    }
    printf("done %ld\n", count);
    fflush(stdout);
}

int main(int argc, char **argv) {
    char what[16];
    long count;
    if (argc == 3 && strcmp(argv[1], "serve") == 0) {
        return serve((uint16_t)atoi(argv[2]));
    }
    if (argc != 5 || strcmp(argv[1], "work") != 0 || inet_aton(argv[2], &vip) == 0 || inet_aton(argv[4], &held_vip) == 0) {
        fprintf(stderr, "usage: endure serve PORT | endure work VIP PORT HELD\n");
        return 2;
    }
    port = (uint16_t)atoi(argv[3]);
    struct sockaddr_in any = at(INADDR_ANY, ANY_PORT), own = local(LOCAL_PORT);
    struct sockaddr_in6 own6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons(SIX_PORT)};
    receive_at(any);
    listen_at(&any, sizeof any, AF_INET);
    listen_at(&own, sizeof own, AF_INET);
    listen_at(&own6, sizeof own6, AF_INET6);
    while (scanf("%15s %ld", what, &count) == 2) {
        all(strcmp(what, "forks") == 0 ? fork_once : connect_once, count);
    }
    return 0;
}
