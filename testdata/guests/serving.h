/*
 * What the sleeping guests share: a listener, and connections that answer each line with one line:
 *     LINE host=NAME pid=N
 * "big N" is answered with N bytes before that, "bye" with the end of the connection.
 */
#ifndef SERVING_H
#define SERVING_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "errno_name.h"

#define LINE_BYTES 512

/* Where a guest does something about a line before it is answered. */
static void (*before_answer)(const char *line);

struct connection {
    int fd;
    size_t used;            /* bytes of `line` that were received and not answered yet */
    char *out;              /* what is still to be sent: the bytes from `sent` to `length` */
    size_t sent, length;
    char line[LINE_BYTES];
};

__attribute__((noreturn)) static inline void die(const char *what) {
    fprintf(stderr, "guest: %s: %s\n", what, errno_name(errno));
    exit(111);
}

static inline void raise_descriptor_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline int open_listener(int port, int flags) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) {
        die("socket");
    }
    if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 4096) != 0) {
        die("bind or listen");
    }
    printf("listening\n");
    fflush(stdout);
    return fd;
}

static inline struct connection *new_connection(int fd) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        die("calloc");
    }
    connection->fd = fd;
    return connection;
}

static inline void end_connection(struct connection *connection) {
    close(connection->fd);
    free(connection->out);
    free(connection);
}

static inline bool has_output(const struct connection *connection) { return connection->sent < connection->length; }

/* Makes the answer to the first line received. False where there is no whole line. */
static inline bool answer_line(struct connection *connection, bool *bye) {
    char host[256];
    char *end = memchr(connection->line, '\n', connection->used);
    if (end == NULL) {
        return false;
    }
    *end = 0;
    *bye = strcmp(connection->line, "bye") == 0;
    if (before_answer != NULL) {
        before_answer(connection->line);
    }
    size_t filling = strncmp(connection->line, "big ", 4) == 0 ? strtoul(connection->line + 4, NULL, 10) : 0;
    gethostname(host, sizeof host);
    connection->out = realloc(connection->out, filling + LINE_BYTES + sizeof host + 64);
    if (connection->out == NULL) {
        die("realloc");
    }
    memset(connection->out, 'x', filling);
    connection->sent = 0;
    connection->length =
        filling + sprintf(connection->out + filling, "%s host=%s pid=%d\n", connection->line, host, (int)getpid());
    connection->used -= end + 1 - connection->line;
    memmove(connection->line, end + 1, connection->used);
    return true;
}

/* Sends and receives until that would block (a blocking socket: until the end). False at the end of the connection. */
static inline bool serve_connection(struct connection *connection) {
    bool bye = false;
    for (;;) {
        while (has_output(connection)) {
            ssize_t count = send(connection->fd, connection->out + connection->sent,
                                 connection->length - connection->sent, MSG_NOSIGNAL);
            if (count < 0 && errno == EAGAIN) {
                return true;
            }
            if (count < 0 && errno != EINTR) {
                return false;
            }
            connection->sent += count > 0 ? count : 0;
        }
        if (bye) {
            return false;
        }
        if (answer_line(connection, &bye)) {
            continue;
        }
        if (connection->used == LINE_BYTES) {
            return false;
        }
        ssize_t count = read(connection->fd, connection->line + connection->used, LINE_BYTES - connection->used);
        if (count < 0 && errno == EAGAIN) {
            return true;
        }
        if (count == 0 || (count < 0 && errno != EINTR)) {
            return false;
        }
        connection->used += count > 0 ? count : 0;
    }
}

#endif
