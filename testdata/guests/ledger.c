/*
 * A server that writes each request down before it answers it, and the client that asks it.
 *
 *     ledger serve epoll|threads PORT FILE            one thread and epoll, AF_INET; a thread per connection, AF_INET6
 *     ledger forward PORT FILE NAME NEXT_PORT         a thread per connection, AF_INET; asks the next server before it answers
 *     ledger ask NAME PORT PREFIX COUNT               a connection for each request
 *
 * A request is a line, its id. The answer is `ID PID`, of `forward` also ` via PID`, or ` failed ERROR ADDRESS:PORT` with the
 * error of the next server and the forwarder's own address there.
 *
 * FILE gets a line for each step, appended by one write(2); NS is CLOCK_MONOTONIC in nanoseconds:
 *     listening PID NS
 *     accepting PID NS TID              before each accept(2)
 *     accepted PID NS TID ADDRESS:PORT  | declined PID NS TID
 *     id PID NS ID                      before the answer
 *
 * `ask` prints for each request: ID BEGIN_NS END_NS OWN_ADDRESS:PORT ANSWER-OR-!ERROR.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>

#include "serving.h"

#define ID_BYTES 64
#define SECONDS_TO_WAIT 60

static int ledger;
static const char *next_name, *next_port;

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long thread_id(void) { return syscall(SYS_gettid); }

__attribute__((format(printf, 1, 2))) static void record(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(ledger, line, length) != length) {
        die("the ledger");
    }
}

/* An address and port, IPv4-mapped ones as the IPv4 they are. */
static const char *spelled(const struct sockaddr_storage *address, char text[64]) {
    char host[INET6_ADDRSTRLEN] = "?";
    int port = 0;
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
        port = ntohs(four->sin_port);
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET, (const char *)&six->sin6_addr + 12, host, sizeof host);
        port = ntohs(six->sin6_port);
    }
    snprintf(text, 64, "%s:%d", host, port);
    return text;
}

/* Accepts, and writes down that it is about to and what came of it. */
static int accept_one(int listener) {
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    char text[64];
    record("accepting %d %lld %ld\n", getpid(), now(), thread_id());
    int fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);
    if (fd < 0) {
        record("declined %d %lld %ld\n", getpid(), now(), thread_id());
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            die("accept");
        }
        return -1;
    }
    record("accepted %d %lld %ld %s\n", getpid(), now(), thread_id(), spelled(&peer, text));
    return fd;
}

/* Connects; of a name server or a server that fails says why. */
static int connect_to(const char *name, const char *port, const char **error, char own[64]) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    struct timeval limit = {.tv_sec = SECONDS_TO_WAIT};
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    strcpy(own, "?:0");
    int code = getaddrinfo(name, port, &hints, &found);
    if (code != 0) {
        *error = code == EAI_AGAIN ? "EAI_AGAIN" : code == EAI_NONAME ? "EAI_NONAME" : "EAI";
        return -1;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        die("socket");
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int failed = connect(fd, found->ai_addr, found->ai_addrlen);
    int reason = errno;
    freeaddrinfo(found);
    getsockname(fd, (struct sockaddr *)&address, &length);
    spelled(&address, own);
    if (failed) {
        close(fd);
        *error = errno_name(reason);
        return -1;
    }
    return fd;
}

/* Reads a line of at most `size` bytes with its end; 0 at the end of the connection before that, negative for an error. */
static int read_line(int fd, char *line, int size) {
    int used = 0;
    while (used < size - 1) {
        ssize_t count = read(fd, line + used, 1);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return count;
        }
        if (line[used++] == '\n') {
            line[used - 1] = 0;
            return used;
        }
    }
    return 0;
}

/* Sends a line over a new connection and takes the answer; an error begins with '!'. */
static void ask(const char *name, const char *port, const char *id, char answer[256], char own[64], long long *connected) {
    const char *error = NULL;
    char line[ID_BYTES + 2];
    *connected = now();
    int fd = connect_to(name, port, &error, own);
    if (fd < 0) {
        snprintf(answer, 256, "!%s", error);
        return;
    }
    int length = snprintf(line, sizeof line, "%s\n", id);
    int count = send(fd, line, length, MSG_NOSIGNAL) == length ? read_line(fd, answer, 256) : -1;
    if (count <= 0) {
        snprintf(answer, 256, "!%s", count == 0 ? "closed" : errno_name(errno));
    }
    close(fd);
}

static bool answer(int fd, const char *id) {
    char line[512], next[256] = "", own[64];
    long long connected;
    record("id %d %lld %s\n", getpid(), now(), id);
    int length = snprintf(line, sizeof line, "%s %d\n", id, getpid());
    if (next_name != NULL) {
        ask(next_name, next_port, id, next, own, &connected);
        char *pid = strrchr(next, ' ');
        if (next[0] == '!') {
            length = snprintf(line, sizeof line, "%s %d failed %s %s\n", id, getpid(), next + 1, own);
        } else {
            length = snprintf(line, sizeof line, "%s %d via %s\n", id, getpid(), pid == NULL ? "?" : pid + 1);
        }
    }
    return send(fd, line, length, MSG_NOSIGNAL) == length;
}

static void *serve_one(void *argument) {
    int fd = (int)(long)argument;
    char id[ID_BYTES];
    while (read_line(fd, id, sizeof id) > 0 && answer(fd, id)) {
    }
    close(fd);
    return NULL;
}

static void serve_by_threads(int listener) {
    for (;;) {
        int fd = accept_one(listener);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, NULL, serve_one, (void *)(long)fd) != 0) {
            die("pthread_create");
        }
        if (fd >= 0) {
            pthread_detach(thread);
        }
    }
}

/* Whole lines are answered as they come; level-triggered, so that nothing else need be remembered. */
static bool serve_ready(struct connection *connection) {
    ssize_t count = recv(connection->fd, connection->line + connection->used, ID_BYTES - connection->used, MSG_DONTWAIT);
    if (count < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    connection->used += count;
    char *end = memchr(connection->line, '\n', connection->used);
    if (count == 0 || (end == NULL && connection->used == ID_BYTES)) {
        return false;
    }
    if (end == NULL) {
        return true;
    }
    *end = 0;
    connection->used = 0;
    return answer(connection->fd, connection->line);
}

static void serve_by_epoll(int listener) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
        die("epoll");
    }
    for (;;) {
        int count = epoll_wait(epoll, &event, 1, -1);
        if (count < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        if (count <= 0) {
            continue;
        }
        struct connection *connection = event.data.ptr;
        if (connection == NULL) {
            int fd = accept_one(listener);
            if (fd >= 0) {
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = new_connection(fd)};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            }
        } else if (!serve_ready(connection)) {
            end_connection(connection);
        }
    }
}

/* A listener on the wildcard of both families. */
static int open_dual_listener(int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) {
        die("socket");
    }
    if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 4096) != 0) {
        die("bind or listen");
    }
    return fd;
}

static void ask_often(const char *name, const char *port, const char *prefix, long count) {
    char id[ID_BYTES], line[256], own[64];
    long long connected;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (long number = 0; number < count; number++) {
        snprintf(id, sizeof id - 1, "%s.%ld", prefix, number);
        ask(name, port, id, line, own, &connected);
        printf("%s %lld %lld %s %s\n", id, connected, now(), own, line);
    }
}

int main(int count, char **words) {
    if (count == 6 && strcmp(words[1], "ask") == 0) {
        ask_often(words[2], words[3], words[4], strtol(words[5], NULL, 10));
        return 0;
    }
    bool forwards = count == 6 && strcmp(words[1], "forward") == 0;
    if (!forwards && (count != 5 || strcmp(words[1], "serve") != 0)) {
        fprintf(stderr, "usage: see ledger.c\n");
        return 2;
    }
    if (forwards) {
        next_name = words[4];
        next_port = words[5];
    }
    ledger = open(words[forwards ? 3 : 4], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (ledger < 0) {
        die(words[forwards ? 3 : 4]);
    }
    bool dual = !forwards && strcmp(words[2], "threads") == 0;
    int port = atoi(words[forwards ? 2 : 3]);
    int listener = dual ? open_dual_listener(port) : open_listener(port, forwards ? 0 : SOCK_NONBLOCK);
    record("listening %d %lld\n", getpid(), now());
    if (forwards || dual) {
        serve_by_threads(listener);
    }
    serve_by_epoll(listener);
}
