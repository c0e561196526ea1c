/*
 * One server in each of the shapes that servers have: how it waits for its clients. What it answers is said in serving.h.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>

#include "serving.h"

#define WORKERS 4
#define MAX_POLLED 1000
#define OTHER_SOCKETS 150

static const char usage[] =
    "servers KIND PORT\n"
    "  edge      one thread in epoll_wait, each connection registered once with EPOLLIN|EPOLLOUT|EPOLLRDHUP|EPOLLET\n"
    "  oneshot   four threads in epoll_wait on the same instance, EPOLLONESHOT\n"
    "  nested    the connections' epoll instance is watched by another one, beside the listener\n"
    "  prefork   four processes share the listener, each with an epoll instance of its own, EPOLLEXCLUSIVE\n"
    "  accept    four processes in accept(2), each serves one connection at a time, blocking\n"
    "  fork      a process for each connection, blocking\n"
    "  threads   a thread for each connection, blocking\n"
    "  pool      one thread in epoll_wait, four on a condition variable that serve what it found\n"
    "  poll      one thread in poll(2)\n"
    "  select    one thread in select(2)\n"
    "  sigio     one thread in sigwaitinfo(2), its sockets send SIGIO (F_SETOWN, O_ASYNC)\n"
    "  splice    a thread for each connection, in splice(2): echoes what it is sent\n"
    "  wide      as edge, with more than a hundred other descriptors open\n"
    "  datagrams one thread in recvfrom(2) on a UDP socket: answers each datagram as others do a line\n";

/* ---- epoll ---- */

static void watch(int epoll, int operation, int fd, unsigned events, void *data) {
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll, operation, fd, &event) != 0) {
        die("epoll_ctl");
    }
}

static int new_epoll(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) {
        die("epoll_create1");
    }
    return epoll;
}

static int wait_epoll(int epoll, struct epoll_event *events, int size) {
    int count;
    do {
        count = epoll_wait(epoll, events, size, -1);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        die("epoll_wait");
    }
    return count;
}

static void accept_all(int epoll, int listener, unsigned events) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        watch(epoll, EPOLL_CTL_ADD, fd, events, new_connection(fd));
    }
}

static void serve_epoll(int listener, unsigned listener_events, unsigned events) {
    struct epoll_event ready[64];
    int epoll = new_epoll();
    watch(epoll, EPOLL_CTL_ADD, listener, listener_events, NULL);
    for (;;) {
        int count = wait_epoll(epoll, ready, 64);
        for (int i = 0; i < count; i++) {
            struct connection *connection = ready[i].data.ptr;
            if (connection == NULL) {
                accept_all(epoll, listener, events);
            } else if (!serve_connection(connection)) {
                end_connection(connection);
            }
        }
    }
}

#define EDGE (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

static void serve_edge(int listener) { serve_epoll(listener, EPOLLIN | EPOLLET, EDGE); }

static void serve_wide(int listener) {
    for (int i = 0; i < OTHER_SOCKETS; i += 2) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
            die("socketpair");
        }
    }
    serve_edge(listener);
}

static void serve_nested(int listener) {
    struct epoll_event ready[64];
    int outer = new_epoll(), inner = new_epoll();
    watch(outer, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    watch(outer, EPOLL_CTL_ADD, inner, EPOLLIN, &inner);
    for (;;) {
        wait_epoll(outer, ready, 1);
        if (ready[0].data.ptr == NULL) {
            accept_all(inner, listener, EDGE);
            continue;
        }
        int count = epoll_wait(inner, ready, 64, 0);
        for (int i = 0; i < count; i++) {
            if (!serve_connection(ready[i].data.ptr)) {
                end_connection(ready[i].data.ptr);
            }
        }
    }
}

struct shared {
    int epoll, listener;
};

static void *serve_oneshot_thread(void *argument) {
    const struct shared *shared = argument;
    struct epoll_event ready;
    for (;;) {
        wait_epoll(shared->epoll, &ready, 1);
        struct connection *connection = ready.data.ptr;
        if (connection == NULL) {
            accept_all(shared->epoll, shared->listener, EPOLLIN | EPOLLONESHOT);
            watch(shared->epoll, EPOLL_CTL_MOD, shared->listener, EPOLLIN | EPOLLONESHOT, NULL);
        } else if (serve_connection(connection)) {
            unsigned events = has_output(connection) ? EPOLLOUT : EPOLLIN;
            watch(shared->epoll, EPOLL_CTL_MOD, connection->fd, events | EPOLLONESHOT, connection);
        } else {
            end_connection(connection);
        }
    }
    return NULL;
}

static void start_threads(int count, void *(*run)(void *), void *argument) {
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, argument) != 0) {
            die("pthread_create");
        }
    }
}

static void serve_oneshot(int listener) {
    struct shared shared = {.epoll = new_epoll(), .listener = listener};
    watch(shared.epoll, EPOLL_CTL_ADD, listener, EPOLLIN | EPOLLONESHOT, NULL);
    start_threads(WORKERS - 1, serve_oneshot_thread, &shared);
    serve_oneshot_thread(&shared);
}

/* ---- a pool of threads behind one that waits ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct connection *waiting[MAX_POLLED];
    int count, epoll;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};

static void *serve_pool_thread(void *unused) {
    for (;;) {
        pthread_mutex_lock(&queue.lock);
        while (queue.count == 0) {
            pthread_cond_wait(&queue.filled, &queue.lock);
        }
        struct connection *connection = queue.waiting[--queue.count];
        pthread_mutex_unlock(&queue.lock);
        if (serve_connection(connection)) {
            unsigned events = has_output(connection) ? EPOLLOUT : EPOLLIN;
            watch(queue.epoll, EPOLL_CTL_MOD, connection->fd, events | EPOLLONESHOT, connection);
        } else {
            end_connection(connection);
        }
    }
    return unused;
}

static void serve_pool(int listener) {
    struct epoll_event ready;
    queue.epoll = new_epoll();
    start_threads(WORKERS, serve_pool_thread, NULL);
    watch(queue.epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        wait_epoll(queue.epoll, &ready, 1);
        if (ready.data.ptr == NULL) {
            accept_all(queue.epoll, listener, EPOLLIN | EPOLLONESHOT);
            continue;
        }
        pthread_mutex_lock(&queue.lock);
        if (queue.count < MAX_POLLED) {
            queue.waiting[queue.count++] = ready.data.ptr;
        }
        pthread_cond_signal(&queue.filled);
        pthread_mutex_unlock(&queue.lock);
    }
}

/* ---- blocking calls ---- */

static int accept_one(int listener) {
    int fd;
    do {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EAGAIN));
    if (fd < 0) {
        die("accept");
    }
    return fd;
}

static void *serve_blocking(void *argument) {
    struct connection *connection = new_connection((int)(long)argument);
    serve_connection(connection);
    end_connection(connection);
    return NULL;
}

static void *serve_splice(void *argument) {
    int fd = (int)(long)argument, pipes[2];
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        die("pipe");
    }
    ssize_t count;
    while ((count = splice(fd, NULL, pipes[1], NULL, 65536, 0)) > 0 || (count < 0 && errno == EINTR)) {
        while (count > 0) {
            ssize_t sent = splice(pipes[0], NULL, fd, NULL, count, 0);
            if (sent <= 0 && errno != EINTR) {
                count = -1;
                break;
            }
            count -= sent > 0 ? sent : 0;
        }
    }
    close(pipes[0]);
    close(pipes[1]);
    close(fd);
    return NULL;
}

static void serve_threads(int listener, void *(*run)(void *)) {
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 128 * 1024);
    for (;;) {
        int fd = accept_one(listener);
        pthread_t thread;
        if (pthread_create(&thread, &detached, run, (void *)(long)fd) != 0) {
            close(fd);
        }
    }
}

static void serve_fork(int listener) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept_one(listener);
        if (fork() == 0) {
            close(listener);
            serve_blocking((void *)(long)fd);
            _exit(0);
        }
        close(fd);
    }
}

static void serve_accept(int listener) {
    for (;;) {
        serve_blocking((void *)(long)accept_one(listener));
    }
}

static void serve_prefork_worker(int listener) { serve_epoll(listener, EPOLLIN | EPOLLEXCLUSIVE, EDGE); }

static void serve_with_workers(int listener, void (*serve)(int)) {
    for (int i = 0; i < WORKERS; i++) {
        pid_t child = fork();
        if (child < 0) {
            die("fork");
        }
        if (child == 0) {
            serve(listener);
        }
    }
    while (wait(NULL) > 0 || errno == EINTR) {
    }
}

/* ---- poll, select, signals: a table of connections ---- */

static struct connection *table[MAX_POLLED];
static int table_used;

static int accept_into_table(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0 && table_used == MAX_POLLED) {
        close(fd);
        return -1;
    }
    if (fd >= 0) {
        table[table_used++] = new_connection(fd);
    }
    return fd;
}

static bool serve_in_table(int index) {
    if (serve_connection(table[index])) {
        return true;
    }
    end_connection(table[index]);
    table[index] = table[--table_used];
    return false;
}

static void serve_poll(int listener) {
    static struct pollfd polled[MAX_POLLED + 1];
    for (;;) {
        polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int i = 0; i < table_used; i++) {
            polled[i + 1] = (struct pollfd){.fd = table[i]->fd, .events = has_output(table[i]) ? POLLOUT : POLLIN};
        }
        if (poll(polled, table_used + 1, -1) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = table_used - 1; i >= 0; i--) {
            if (polled[i + 1].revents != 0) {
                serve_in_table(i);
            }
        }
        if (polled[0].revents != 0) {
            accept_into_table(listener);
        }
    }
}

static void serve_select(int listener) {
    for (;;) {
        fd_set in, out;
        int last = listener;
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_SET(listener, &in);
        for (int i = 0; i < table_used; i++) {
            FD_SET(table[i]->fd, has_output(table[i]) ? &out : &in);
            last = table[i]->fd > last ? table[i]->fd : last;
        }
        if (select(last + 1, &in, &out, NULL, NULL) < 0) {
            continue;
        }
        for (int i = table_used - 1; i >= 0; i--) {
            if (FD_ISSET(table[i]->fd, &in) || FD_ISSET(table[i]->fd, &out)) {
                serve_in_table(i);
            }
        }
        if (FD_ISSET(listener, &in)) {
            accept_into_table(listener);
        }
    }
}

static void send_signals(int fd) {
    if (fcntl(fd, F_SETOWN, getpid()) != 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) != 0) {
        die("F_SETOWN");
    }
}

static void serve_sigio(int listener) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    send_signals(listener);
    for (;;) {
        int fd;
        while ((fd = accept_into_table(listener)) >= 0) {
            send_signals(fd);
        }
        for (int i = table_used - 1; i >= 0; i--) {
            serve_in_table(i);
        }
        sigwaitinfo(&set, NULL);
    }
}

/* ---- datagrams ---- */

static void serve_datagrams(int port) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) != 0) {
        die("socket or bind");
    }
    char host[256], line[LINE_BYTES], answer[LINE_BYTES + sizeof host + 64];
    gethostname(host, sizeof host);
    for (;;) {
        struct sockaddr_in client;
        socklen_t size = sizeof client;
        ssize_t count = recvfrom(fd, line, sizeof line - 1, 0, (struct sockaddr *)&client, &size);
        if (count < 0) {
            die("recvfrom");
        }
        line[count] = 0;
        int length = sprintf(answer, "%s host=%s pid=%d", line, host, (int)getpid());
        if (sendto(fd, answer, length, 0, (struct sockaddr *)&client, size) != length) {
            die("sendto");
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs(usage, stderr);
        return 2;
    }
    const char *kind = argv[1];
    static const char *const waits_in_accept[] = {"accept", "fork", "threads", "splice"};
    int flags = SOCK_NONBLOCK;
    for (unsigned i = 0; i < sizeof waits_in_accept / sizeof *waits_in_accept; i++) {
        flags = strcmp(kind, waits_in_accept[i]) == 0 ? 0 : flags;
    }
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(kind, "datagrams") == 0) {
        serve_datagrams(atoi(argv[2]));
    }
    int listener = open_listener(atoi(argv[2]), flags);
    if (strcmp(kind, "edge") == 0) {
        serve_edge(listener);
    } else if (strcmp(kind, "wide") == 0) {
        serve_wide(listener);
    } else if (strcmp(kind, "oneshot") == 0) {
        serve_oneshot(listener);
    } else if (strcmp(kind, "nested") == 0) {
        serve_nested(listener);
    } else if (strcmp(kind, "prefork") == 0) {
        serve_with_workers(listener, serve_prefork_worker);
    } else if (strcmp(kind, "accept") == 0) {
        serve_with_workers(listener, serve_accept);
    } else if (strcmp(kind, "fork") == 0) {
        serve_fork(listener);
    } else if (strcmp(kind, "threads") == 0) {
        serve_threads(listener, serve_blocking);
    } else if (strcmp(kind, "splice") == 0) {
        serve_threads(listener, serve_splice);
    } else if (strcmp(kind, "pool") == 0) {
        serve_pool(listener);
    } else if (strcmp(kind, "poll") == 0) {
        serve_poll(listener);
    } else if (strcmp(kind, "select") == 0) {
        serve_select(listener);
    } else if (strcmp(kind, "sigio") == 0) {
        serve_sigio(listener);
    } else {
        fputs(usage, stderr);
        return 2;
    }
    return 1;
}
