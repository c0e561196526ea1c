/* Calls that wait: full queues, signals, time-outs, threads. */
#include "conformance.h"

static volatile sig_atomic_t alarms;

static void on_alarm(int signal) {
    (void)signal;
    alarms++;
}

/* Alarms come again and again: on a busy machine the first may come before the call waits, which would then wait for ever. */
static void arm(int flags) {
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = flags};
    struct itimerval timer = {{0, 100000}, {0, 100000}};
    alarms = 0;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* A listener whose queue is full, so that further connects wait. */
static int full_listener(void) {
    int server = listener("127.0.0.1", 0, 0), fd = sock(AF_INET, SOCK_STREAM);
    if (do_connect(fd, "127.0.0.1", 0) != 0) {
        broken("connect");
    }
    return server;
}

static void alarm_interrupts_connect(void) {
    int server = full_listener(), fd = sock(AF_INET, SOCK_STREAM);
    arm(0);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("alarms came", alarms > 0);
    arm(0);
    show("connect again", do_connect(fd, "127.0.0.1", 0));
    show("alarms came", alarms > 0);
    close(server);
}

static void alarm_restarts_connect(void) {
    int server = full_listener(), fd = sock(AF_INET, SOCK_STREAM);
    struct timeval timeout = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    arm(SA_RESTART);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("alarms came", alarms > 0);
    close(server);
}

static void send_timeout_bounds_connect(void) {
    int server = full_listener(), fd = sock(AF_INET, SOCK_STREAM);
    struct timeval timeout = {0, 200000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    close(server);
}

static void in_progress(void) {
    int server = full_listener(), fd = sock(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("connect again", do_connect(fd, "127.0.0.1", 0));
    show_error("error", fd);
    show_peer("peer", fd);
    show("send", send(fd, "x", 1, MSG_NOSIGNAL));
    show("bind", do_bind(fd, "127.0.0.1", 1));
    close(server);
}

static void nonblocking_twice(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    long result = do_connect(fd, "127.0.0.1", 0);
    show("connects at once or is in progress", result == 0 || errno == EINPROGRESS);
    show_poll("client", fd, POLLOUT);
    result = do_connect(fd, "127.0.0.1", 0);
    show("is then connected", result == 0 || errno == EISCONN);
    show("connect once more", do_connect(fd, "127.0.0.1", 0));
    close(server);
}

static void *late_accept(void *argument) {
    usleep(200000);
    int fd = accept((int)(long)argument, NULL, NULL);
    (void)fd;
    return NULL;
}

static void full_queue_drains(void) {
    int server = full_listener(), fd = sock(AF_INET, SOCK_STREAM);
    pthread_t thread;
    pthread_create(&thread, NULL, late_accept, (void *)(long)server);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    pthread_join(thread, NULL);
    show_peer("peer", fd);
}

static void killed_while_connecting(void) {
    int server = full_listener(), status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0);
        _exit(1);
    }
    usleep(100000);
    show("kill", kill(child, SIGKILL));
    waitpid(child, &status, 0);
    show("ended by", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    close(server);
}

static void accept_interrupted(void) {
    int server = listener("0.0.0.0", 0, 5);
    arm(0);
    show("accept", accept(server, NULL, NULL));
    show("alarms came", alarms > 0);
}

static void accept_timeout(void) {
    int server = listener("0.0.0.0", 0, 5);
    struct timeval timeout = {0, 100000};
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    show("accept", accept(server, NULL, NULL));
}

static void *one_connect(void *argument) {
    int fd = sock(AF_INET, SOCK_STREAM);
    (void)argument;
    return (void *)(long)(do_connect(fd, "127.0.0.1", 0) == 0);
}

static void threads_connect(void) {
    int server = listener("0.0.0.0", 0, 64);
    pthread_t threads[16];
    long good = 0;
    for (int i = 0; i < 16; i++) {
        pthread_create(&threads[i], NULL, one_connect, NULL);
    }
    for (int i = 0; i < 16; i++) {
        void *result;
        pthread_join(threads[i], &result);
        good += (long)result;
    }
    show("connected", good);
    close(server);
}

static void signals_during_calls(void) {
    int server = listener("0.0.0.0", 0, 64), good = 0, calls = 0;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval timer = {{0, 500}, {0, 500}}, off = {0};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    for (int i = 0; i < 300 || alarms <= 10; i++) {
        int fd = sock(AF_INET, SOCK_STREAM), accepted;
        struct address own = {.length = sizeof own.storage};
        int result = do_connect(fd, "127.0.0.1", 0);
        calls++;
        good += result == 0 && getsockname(fd, &own.any, &own.length) == 0;
        do {
            accepted = accept(server, NULL, NULL);
        } while (accepted < 0 && errno == EINTR);
        close(accepted);
        close(fd);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    show("all connected", good == calls);
    show("signals came", alarms > 10);
}

const struct conformance_case waiting_cases[] = {
    {"waiting_alarm_interrupts_connect", alarm_interrupts_connect},
    {"waiting_alarm_restarts_connect", alarm_restarts_connect},
    {"waiting_send_timeout_bounds_connect", send_timeout_bounds_connect},
    {"waiting_in_progress", in_progress},
    {"waiting_nonblocking_twice", nonblocking_twice},
    {"waiting_full_queue_drains", full_queue_drains},
    {"waiting_killed_while_connecting", killed_while_connecting},
    {"waiting_accept_interrupted", accept_interrupted},
    {"waiting_accept_timeout", accept_timeout},
    {"waiting_threads_connect", threads_connect},
    {"waiting_signals_during_calls", signals_during_calls},
    {NULL, NULL},
};
