/*
 * Attempts to have the supervisor wait for something that does not come, while it carries out a call on its duplicate of a descriptor:
 * a connect that is made blocking again behind its back, and a last close(2) of a socket that lingers.
 */
#include "hostile.h"

#include <pthread.h>
#include <sys/wait.h>

static atomic_int victim_fd;

#define MUST(condition)                                    \
    do {                                                   \
        if (!(condition)) {                                \
            violation("line %d: %s", __LINE__, #condition); \
        }                                                  \
    } while (0)

static void start(void *(*body)(void *)) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, body, NULL) == 0);
    pthread_detach(thread);
}

static void *make_blocking_for_ever(void *arg) {
    (void)arg;
    for (;;) {
        fcntl(atomic_load(&victim_fd), F_SETFL, 0);
    }
    return NULL;
}

static void *ask_for_ever(void *arg) {
    (void)arg;
    for (;;) {
        struct sockaddr_in name;
        socklen_t length = sizeof name;
        getsockname(atomic_load(&victim_fd), (void *)&name, &length);
    }
    return NULL;
}

static int listen_somewhere(struct sockaddr_in *where, int backlog) {
    socklen_t length = sizeof *where;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *where = at(htonl(INADDR_LOOPBACK), 0);
    MUST(bind(fd, (void *)where, length) == 0 && listen(fd, backlog) == 0);
    MUST(getsockname(fd, (void *)where, &length) == 0);
    return fd;
}

/* A child connects to a listener that takes nobody any more, and is killed. */
static void connect_in_vain(const struct sockaddr_in *where) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        atomic_store(&victim_fd, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        start(make_blocking_for_ever);
        connect(victim_fd, (const void *)where, sizeof *where);
        pause();
    }
    pause_us(5000);
    kill(child, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
}

/* A connection whose bytes nobody reads is closed while its name is asked for. */
static void close_lingering(int listener, const struct sockaddr_in *where) {
    static char bytes[1 << 16];
    struct linger for_long = {.l_onoff = 1, .l_linger = 1000};
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(client, (const void *)where, sizeof *where) == 0);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(server >= 0 && setsockopt(client, SOL_SOCKET, SO_LINGER, &for_long, sizeof for_long) == 0);
    while (send(client, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
    /* Only the child has it then, and is killed while it asks: what it asked with is the last. */
    int gone[2];
    MUST(pipe2(gone, O_CLOEXEC) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        char none;
        close(server);
        close(gone[1]);
        MUST(read(gone[0], &none, 1) == 0);
        atomic_store(&victim_fd, client);
        start(ask_for_ever);
        pause_us(2000);
        kill(getpid(), SIGKILL);
    }
    close(client);
    close(gone[0]);
    close(gone[1]);
    MUST(waitpid(child, NULL, 0) == child);
    close(server);
}

void stall(long ms) {
    int64_t over = now_ms() + ms;
    struct sockaddr_in full, open;
    int listener = listen_somewhere(&open, 5);
    listen_somewhere(&full, 0);
    for (int i = 0; i < 4; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        MUST(connect(fd, (void *)&full, sizeof full) == 0 || errno == EINPROGRESS);
    }
    while (now_ms() < over) {
        connect_in_vain(&full);
        close_lingering(listener, &open);
    }
    _exit(0);
}
