/*
 * families FAMILY MODE PORT [FILE]: listens at the wildcard of FAMILY (4, 6, or 6only), once there is such a file, accepts as MODE says, and answers each line
 * of a connection with what the program can see of that connection and of its listener, and with the end of it. A line "count" is answered with how many were accepted, and
 * how often the listener was said to be readable when nobody was there.
 *
 * What is printed is the same however often it runs: no port, and of the program's own address only the form.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "serving.h"

static struct shared {
    int accepted, spurious;
    pthread_mutex_t describing; /* one at a time: what is set of the listener all acceptors see */
} *shared;
static int listener;

static const char *outcome(int result) { return result == 0 ? "ok" : errno_name(errno); }

static void option(FILE *out, const char *name, int fd, int level, int number) {
    int value = -1;
    socklen_t length = sizeof value;
    int result = getsockopt(fd, level, number, &value, &length);
    if (result == 0) {
        fprintf(out, " %s=%d", name, value);
    } else {
        fprintf(out, " %s=%s", name, errno_name(errno));
    }
}

static void set_option(FILE *out, const char *name, int fd, int level, int number, int value) {
    fprintf(out, " set_%s=%s", name, outcome(setsockopt(fd, level, number, &value, sizeof value)));
}

static void address(FILE *out, const char *name, const struct sockaddr_storage *at, socklen_t length, int in_full) {
    char text[INET6_ADDRSTRLEN] = "?";
    const void *ip = at->ss_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)at)->sin6_addr
                                               : (const void *)&((const struct sockaddr_in *)at)->sin_addr;
    inet_ntop(at->ss_family, ip, text, sizeof text);
    fprintf(out, " %s=%d/%d/%s", name, at->ss_family, (int)length, in_full ? text : strncmp(text, "::ffff:", 7) == 0 ? "mapped" : "plain");
}

static void describe_one(FILE *out, int fd, const struct sockaddr_storage *peer, socklen_t length) {
    struct sockaddr_storage at;
    address(out, "accept", peer, length, 1);
    length = sizeof at;
    fprintf(out, " getpeername=%s", outcome(getpeername(fd, (struct sockaddr *)&at, &length)));
    address(out, "peer", &at, length, 1);
    length = sizeof at;
    fprintf(out, " getsockname=%s", outcome(getsockname(fd, (struct sockaddr *)&at, &length)));
    address(out, "own", &at, length, 0);
    length = sizeof at;
    getsockname(listener, (struct sockaddr *)&at, &length);
    address(out, "listener", &at, length, 1);
    fprintf(out, " flags=%#x cloexec=%d", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
    for (int i = 0; i < 2; i++) {
        int which = i == 0 ? listener : fd;
        fprintf(out, i == 0 ? " of the listener:" : " of the connection:");
        option(out, "domain", which, SOL_SOCKET, SO_DOMAIN);
        option(out, "v6only", which, IPPROTO_IPV6, IPV6_V6ONLY);
        option(out, "tclass", which, IPPROTO_IPV6, IPV6_TCLASS);
        option(out, "hops", which, IPPROTO_IPV6, IPV6_UNICAST_HOPS);
        option(out, "tos", which, IPPROTO_IP, IP_TOS);
        option(out, "keepalive", which, SOL_SOCKET, SO_KEEPALIVE);
        option(out, "nodelay", which, IPPROTO_TCP, TCP_NODELAY);
        option(out, "reuseport", which, SOL_SOCKET, SO_REUSEPORT);
        option(out, "reuseaddr", which, SOL_SOCKET, SO_REUSEADDR);
        set_option(out, "tclass", which, IPPROTO_IPV6, IPV6_TCLASS, 8);
        set_option(out, "hops", which, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33);
        set_option(out, "ttl", which, IPPROTO_IP, IP_TTL, 34);
        set_option(out, "tclass", which, IPPROTO_IPV6, IPV6_TCLASS, 0);
        set_option(out, "hops", which, IPPROTO_IPV6, IPV6_UNICAST_HOPS, -1);
    }
    fputc('\n', out);
}

static void describe(FILE *out, int fd, const struct sockaddr_storage *peer, socklen_t length) {
    pthread_mutex_lock(&shared->describing);
    describe_one(out, fd, peer, length);
    pthread_mutex_unlock(&shared->describing);
}

static void serve(int fd, const struct sockaddr_storage *peer, socklen_t length) {
    char line[64], *answer = NULL;
    size_t size = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    __atomic_add_fetch(&shared->accepted, 1, __ATOMIC_SEQ_CST);
    poll(&wait, 1, -1);
    ssize_t got = recv(fd, line, sizeof line - 1, 0);
    FILE *out = open_memstream(&answer, &size);
    if (got >= 5 && memcmp(line, "count", 5) == 0) {
        fprintf(out, "accepted=%d spurious=%d\n", shared->accepted, shared->spurious);
    } else {
        describe(out, fd, peer, length);
    }
    fclose(out);
    send(fd, answer, size, MSG_NOSIGNAL);
    free(answer);
    close(fd);
}

/* False where nobody was there. */
static int accept_one(int with4, int flags) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    memset(&peer, 0, sizeof peer);
    int fd = with4 ? accept4(listener, (struct sockaddr *)&peer, &length, flags) : accept(listener, (struct sockaddr *)&peer, &length);
    if (fd < 0 && errno == EAGAIN) {
        return 0;
    }
    if (fd < 0) {
        die("accept");
    }
    serve(fd, &peer, length);
    return 1;
}

static void *accept_for_ever(void *nothing) {
    for (;;) {
        accept_one(0, 0);
    }
    return nothing;
}

static void by_epoll(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        if (epoll_wait(epoll, &event, 1, -1) != 1) {
            die("epoll_wait");
        }
        int first = 1;
        while (accept_one(1, SOCK_NONBLOCK | SOCK_CLOEXEC)) {
            first = 0;
        }
        shared->spurious += first;
    }
}

static void by_poll(int once) {
    for (;;) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};
        if (poll(&wait, 1, -1) != 1) {
            die("poll");
        }
        int first = 1;
        while (accept_one(0, 0)) {
            first = 0;
            if (once) {
                break;
            }
        }
        shared->spurious += first;
    }
}

static void listen_at(const char *family, int port, int flags, int fast_open) {
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int is4 = family[0] == '4', one = 1, only = strcmp(family, "6only") == 0;
    listener = socket(is4 ? AF_INET : AF_INET6, SOCK_STREAM | flags, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) {
        die("socket");
    }
    setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fast_open) {
        setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &one, sizeof one);
    }
    if (only && setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) {
        die("IPV6_V6ONLY");
    }
    struct sockaddr *at = is4 ? (struct sockaddr *)&any4 : (struct sockaddr *)&any6;
    if (bind(listener, at, is4 ? sizeof any4 : sizeof any6) != 0 || listen(listener, 64) != 0) {
        die("bind or listen");
    }
    printf("listening\n");
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: families 4|6|6only block|pollblock|poll|edge|defer|threads|prefork PORT [FILE]\n");
        return 2;
    }
    const char *mode = arguments[2];
    int blocks = strcmp(mode, "poll") != 0 && strcmp(mode, "edge") != 0;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->describing, &attributes);
    while (count > 4 && access(arguments[4], F_OK) != 0) {
        usleep(10000);
    }
    listen_at(arguments[1], atoi(arguments[3]), blocks ? 0 : SOCK_NONBLOCK, strcmp(mode, "defer") == 0);
    if (strcmp(mode, "threads") == 0) {
        pthread_t thread;
        for (int i = 0; i < 3; i++) {
            pthread_create(&thread, NULL, accept_for_ever, NULL);
        }
    } else if (strcmp(mode, "prefork") == 0) {
        for (int i = 0; i < 3; i++) {
            if (fork() == 0) {
                accept_for_ever(NULL);
            }
        }
    } else if (strcmp(mode, "edge") == 0) {
        by_epoll();
    } else if (!blocks || strcmp(mode, "pollblock") == 0) {
        by_poll(blocks);
    }
    accept_for_ever(NULL);
}
