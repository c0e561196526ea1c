/*
 * Clients that all come at the same moment. Usage: crowd ADDRESS PORT COUNT
 *
 * Each connects, sends its number as a line, and reads a line that must begin with it. Prints one line:
 *     served=N failed=N retransmitted=N came_within_ms=N
 * where `retransmitted` is the sum of what tcp(7) calls tcpi_total_retrans, lost SYNs included, and the last is how long the moment was.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <time.h>

#include "serving.h"

#define MAX_COUNT 15000

struct client {
    int fd;
    bool sent, done;
    size_t used;
    char line[LINE_BYTES];
};

static struct client clients[MAX_COUNT];

/* Goes on with one client as far as that is possible now. False where it failed. */
static bool advance(struct client *client, int number) {
    char question[32];
    if (!client->sent) {
        int error = 0, size = sprintf(question, "%d\n", number);
        socklen_t length = sizeof error;
        if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
            return false;
        }
        client->sent = send(client->fd, question, size, MSG_NOSIGNAL) == size;
        return client->sent || errno == EAGAIN || errno == ENOTCONN;
    }
    ssize_t count = read(client->fd, client->line + client->used, sizeof client->line - 1 - client->used);
    if (count <= 0) {
        return count < 0 && errno == EAGAIN;
    }
    client->used += count;
    client->done = memchr(client->line, '\n', client->used) != NULL;
    return !client->done || (atoi(client->line) == number && client->line[0] >= '0' && client->line[0] <= '9');
}

int main(int argc, char **argv) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    int count = argc == 4 ? atoi(argv[3]) : 0, served = 0, failed = 0;
    long retransmitted = 0;
    if (count <= 0 || count > MAX_COUNT || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
        fputs("crowd ADDRESS PORT COUNT\n", stderr);
        return 2;
    }
    to.sin_port = htons(atoi(argv[2]));
    raise_descriptor_limit();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = i};
        clients[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (clients[i].fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &event) != 0) {
            die("socket");
        }
    }
    struct timespec first, last;
    clock_gettime(CLOCK_MONOTONIC, &first);
    for (int i = 0; i < count; i++) {
        if (connect(clients[i].fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
            die("connect");
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &last);
    while (served + failed < count) {
        struct epoll_event ready[64];
        int found = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < found; i++) {
            struct client *client = &clients[ready[i].data.u32];
            bool good = true, before = client->sent;
            if (client->done) {
                continue;
            }
            /* Before a connect nothing can be sent, and an edge comes once it can. */
            if (before || (ready[i].events & EPOLLOUT)) {
                good = advance(client, ready[i].data.u32);
            }
            if (good && !before && client->sent) {
                good = advance(client, ready[i].data.u32);
            }
            if (!good) {
                client->done = true;
                failed++;
            } else if (client->done) {
                served++;
            }
        }
    }
    for (int i = 0; i < count; i++) {
        struct tcp_info info = {0};
        socklen_t length = sizeof info;
        if (getsockopt(clients[i].fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0) {
            retransmitted += info.tcpi_total_retrans;
        }
    }
    long took_ms = (last.tv_sec - first.tv_sec) * 1000 + (last.tv_nsec - first.tv_nsec) / 1000000;
    printf("served=%d failed=%d retransmitted=%ld came_within_ms=%ld\n", served, failed, retransmitted, took_ms);
    return failed != 0;
}
