/*
 * A server that lets some time pass before each answer, in one of the ways in which programs do that. One process, one thread (but for
 * the methods that have a second one by their nature), one connection at a time. With TICK_MS there is another thread that wakes up so
 * often and does nothing. It answers a line with:
 *     LINE method=METHOD waited_us=N          by CLOCK_MONOTONIC
 */
#define _GNU_SOURCE
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

#include "serving.h"

static int listener;

static int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct timespec from_ns(int64_t ns) {
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static struct timespec in_ms(clockid_t clock, long ms) { return from_ns(now_ns(clock) + ms * 1000000LL); }

static void must(bool held, const char *what) {
    if (!held) {
        die(what);
    }
}

/* ---- sleeping calls ---- */

static void by_nanosleep(long ms) {
    struct timespec left = from_ns(ms * 1000000LL);
    while (nanosleep(&left, &left) != 0) {
        must(errno == EINTR, "nanosleep");
    }
}

static void until(clockid_t clock, long ms) {
    struct timespec end = in_ms(clock, ms);
    while (clock_nanosleep(clock, TIMER_ABSTIME, &end, NULL) == EINTR) {
    }
}

static void by_monotonic(long ms) { until(CLOCK_MONOTONIC, ms); }
static void by_realtime(long ms) { until(CLOCK_REALTIME, ms); }
static void by_boottime(long ms) { until(CLOCK_BOOTTIME, ms); }

/* ---- waiting calls: what is left is waited for again ---- */

static long left_ms(int64_t end_ns) {
    int64_t left = end_ns - now_ns(CLOCK_MONOTONIC);
    return left > 0 ? (left + 999999) / 1000000 : 0;
}

static void by_poll(long ms) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    while (poll(NULL, 0, left_ms(end)) < 0) {
        must(errno == EINTR, "poll");
    }
}

static void by_ppoll(long ms) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    struct timespec left = from_ns(ms * 1000000LL);
    while (ppoll(NULL, 0, &left, NULL) < 0) {
        must(errno == EINTR, "ppoll");
        left = from_ns(left_ms(end) * 1000000LL);
    }
}

static void by_select(long ms) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    struct timeval left = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    while (select(0, NULL, NULL, NULL, &left) < 0) {
        must(errno == EINTR, "select");
        left = (struct timeval){.tv_sec = left_ms(end) / 1000, .tv_usec = left_ms(end) % 1000 * 1000};
    }
}

static int empty_epoll(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    must(epoll >= 0, "epoll_create1");
    return epoll;
}

static void by_epoll(long ms) {
    struct epoll_event event;
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    int epoll = empty_epoll();
    while (epoll_wait(epoll, &event, 1, left_ms(end)) < 0) {
        must(errno == EINTR, "epoll_wait");
    }
    close(epoll);
}

static void by_epoll_pwait2(long ms) {
    struct epoll_event event;
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    struct timespec left = from_ns(ms * 1000000LL);
    int epoll = empty_epoll();
    while (syscall(SYS_epoll_pwait2, epoll, &event, 1, &left, NULL, 0) < 0) {
        must(errno == EINTR, "epoll_pwait2");
        left = from_ns(left_ms(end) * 1000000LL);
    }
    close(epoll);
}

/* ---- waiting calls: after EINTR the whole time is waited for again, as many programs do ---- */

static void by_epoll_anew(long ms) {
    struct epoll_event event;
    int epoll = empty_epoll();
    while (epoll_wait(epoll, &event, 1, ms) < 0) {
        must(errno == EINTR, "epoll_wait");
    }
    close(epoll);
}

static void receive_timeout(int fd, long ms) {
    struct timeval timeout = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0, "SO_RCVTIMEO");
}

static void by_receive_timeout(long ms) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char byte;
    receive_timeout(fd, ms);
    while (recv(fd, &byte, 1, 0) < 0 && errno == EINTR) {
    }
    must(errno == EAGAIN, "recv");
    close(fd);
}

static void by_accept_timeout(long ms) {
    receive_timeout(listener, ms);
    int fd;
    while ((fd = accept(listener, NULL, NULL)) < 0 && errno == EINTR) {
    }
    must(fd < 0 && errno == EAGAIN, "accept");
    receive_timeout(listener, 0);
}

/* ---- futexes ---- */

static void by_condition(clockid_t clock, long ms) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_t attributes;
    pthread_cond_t never;
    struct timespec end = in_ms(clock, ms);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, clock);
    pthread_cond_init(&never, &attributes);
    pthread_mutex_lock(&lock);
    while (pthread_cond_timedwait(&never, &lock, &end) != ETIMEDOUT) {
    }
}

static void by_condition_realtime(long ms) { by_condition(CLOCK_REALTIME, ms); }
static void by_condition_monotonic(long ms) { by_condition(CLOCK_MONOTONIC, ms); }

static void by_semaphore(long ms) {
    sem_t never;
    struct timespec end = in_ms(CLOCK_REALTIME, ms);
    sem_init(&never, 0, 0);
    while (sem_timedwait(&never, &end) != 0 && errno == EINTR) {
    }
}

static void by_relative_futex(long ms) {
    uint32_t word = 0;
    struct timespec time = from_ns(ms * 1000000LL);
    /* FUTEX_WAIT with FUTEX_PRIVATE_FLAG: restarted by the kernel with what is left. */
    while (syscall(SYS_futex, &word, 128, 0, &time, NULL, 0) != 0 && errno == EINTR) {
    }
}

/* ---- timers ---- */

static int new_timerfd(clockid_t clock, int flags, struct timespec expires) {
    struct itimerspec timer = {.it_value = expires};
    int fd = timerfd_create(clock, TFD_CLOEXEC);
    must(fd >= 0 && timerfd_settime(fd, flags, &timer, NULL) == 0, "timerfd");
    return fd;
}

static void read_timerfd(int fd) {
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0) {
        must(errno == EINTR, "timerfd");
    }
    close(fd);
}

static void by_timerfd(long ms) { read_timerfd(new_timerfd(CLOCK_MONOTONIC, 0, from_ns(ms * 1000000LL))); }

static void by_timerfd_realtime(long ms) {
    read_timerfd(new_timerfd(CLOCK_REALTIME, TFD_TIMER_ABSTIME, in_ms(CLOCK_REALTIME, ms)));
}

static void by_timerfd_epoll(long ms) {
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = empty_epoll(), timer = new_timerfd(CLOCK_BOOTTIME, 0, from_ns(ms * 1000000LL));
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) == 0, "epoll_ctl");
    while (epoll_wait(epoll, &event, 1, -1) < 0) {
        must(errno == EINTR, "epoll_wait");
    }
    read_timerfd(timer);
    close(epoll);
}

static void block(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void start_timer(struct sigevent *event, long ms) {
    timer_t timer;
    struct itimerspec time = {.it_value = from_ns(ms * 1000000LL)};
    must(timer_create(CLOCK_MONOTONIC, event, &timer) == 0 && timer_settime(timer, 0, &time, NULL) == 0, "timer");
}

static void wait_signal(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    while (sigwaitinfo(&set, NULL) < 0) {
        must(errno == EINTR, "sigwaitinfo");
    }
}

static void by_timer_signal(long ms) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    block(SIGUSR1);
    start_timer(&event, ms);
    wait_signal(SIGUSR1);
}

static sem_t expired;

static void on_timer(union sigval unused) {
    (void)unused;
    sem_post(&expired);
}

static void by_timer_thread(long ms) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_timer};
    sem_init(&expired, 0, 0);
    start_timer(&event, ms);
    while (sem_wait(&expired) != 0 && errno == EINTR) {
    }
}

static volatile sig_atomic_t alarmed;

static void on_alarm(int signal) {
    (void)signal;
    alarmed = 1;
}

/* pause(2) as it is used safely: the signal is let in by sigsuspend alone. */
static void pause_until_alarm(void) {
    sigset_t none;
    sigemptyset(&none);
    while (!alarmed) {
        sigsuspend(&none);
    }
}

static void prepare_alarm(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    block(SIGALRM);
    sigaction(SIGALRM, &action, NULL);
    alarmed = 0;
}

static void by_interval_timer(long ms) {
    struct itimerval timer = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    prepare_alarm();
    setitimer(ITIMER_REAL, &timer, NULL);
    pause_until_alarm();
}

static void by_alarm(long ms) {
    prepare_alarm();
    alarm((ms + 999) / 1000);
    pause_until_alarm();
}

/* A handler that interrupts a read that would never end. */
static void by_alarm_in_read(long ms) {
    struct itimerval timer = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    struct sigaction action = {.sa_handler = on_alarm};
    int pipes[2];
    char byte;
    must(pipe2(pipes, O_CLOEXEC) == 0, "pipe");
    sigaction(SIGALRM, &action, NULL);
    alarmed = 0;
    setitimer(ITIMER_REAL, &timer, NULL);
    while (!alarmed && read(pipes[0], &byte, 1) < 0 && errno == EINTR) {
    }
    close(pipes[0]);
    close(pipes[1]);
}

static void by_sigtimedwait(long ms) {
    sigset_t set;
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    struct timespec left = from_ns(ms * 1000000LL);
    block(SIGUSR2);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    while (sigtimedwait(&set, NULL, &left) < 0 && errno == EINTR) {
        left = from_ns(left_ms(end) * 1000000LL);
    }
}

static void by_message_queue(long ms) {
    char name[64], message[16];
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = sizeof message};
    struct timespec end = in_ms(CLOCK_REALTIME, ms);
    snprintf(name, sizeof name, "/imsup-guest-%d", (int)getpid());
    mqd_t queue = mq_open(name, O_RDONLY | O_CREAT | O_CLOEXEC, 0600, &attributes);
    must(queue != (mqd_t)-1 && mq_unlink(name) == 0, "mq_open");
    while (mq_timedreceive(queue, message, sizeof message, NULL, &end) < 0 && errno == EINTR) {
    }
    mq_close(queue);
}

static const struct {
    const char *name;
    void (*wait)(long ms);
} methods[] = {
    {"nanosleep", by_nanosleep},
    {"monotonic", by_monotonic},
    {"realtime", by_realtime},
    {"boottime", by_boottime},
    {"poll", by_poll},
    {"ppoll", by_ppoll},
    {"select", by_select},
    {"epoll", by_epoll},
    {"epoll-pwait2", by_epoll_pwait2},
    {"epoll-anew", by_epoll_anew},
    {"receive-timeout", by_receive_timeout},
    {"accept-timeout", by_accept_timeout},
    {"condition-realtime", by_condition_realtime},
    {"condition-monotonic", by_condition_monotonic},
    {"semaphore", by_semaphore},
    {"relative-futex", by_relative_futex},
    {"timerfd", by_timerfd},
    {"timerfd-realtime", by_timerfd_realtime},
    {"timerfd-epoll", by_timerfd_epoll},
    {"timer-signal", by_timer_signal},
    {"timer-thread", by_timer_thread},
    {"interval-timer", by_interval_timer},
    {"alarm", by_alarm},
    {"alarm-in-read", by_alarm_in_read},
    {"sigtimedwait", by_sigtimedwait},
    {"message-queue", by_message_queue},
};

static const unsigned method_count = sizeof methods / sizeof *methods;

static bool receive_line(int fd, char *line, size_t size) {
    size_t used = 0;
    while (used + 1 < size) {
        ssize_t count = recv(fd, line + used, 1, 0);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        if (line[used] == '\n') {
            line[used] = 0;
            return true;
        }
        used++;
    }
    return false;
}

static void *tick(void *argument) {
    for (;;) {
        by_nanosleep((long)argument);
    }
    return NULL;
}

int main(int argc, char **argv) {
    void (*wait)(long) = NULL;
    for (unsigned i = 0; argc >= 4 && argc <= 5 && i < method_count; i++) {
        wait = strcmp(argv[1], methods[i].name) == 0 ? methods[i].wait : wait;
    }
    if (wait == NULL) {
        fputs("delays METHOD MS PORT [TICK_MS]\n", stderr);
        for (unsigned i = 0; i < method_count; i++) {
            fprintf(stderr, "  %s\n", methods[i].name);
        }
        return 2;
    }
    long ms = atol(argv[2]);
    pthread_t ticking;
    if (argc == 5 && pthread_create(&ticking, NULL, tick, (void *)atol(argv[4])) != 0) {
        die("pthread_create");
    }
    listener = open_listener(atoi(argv[3]), 0);
    for (;;) {
        char line[LINE_BYTES], reply[LINE_BYTES + 128];
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        while (fd >= 0 && receive_line(fd, line, sizeof line)) {
            int64_t began = now_ns(CLOCK_MONOTONIC);
            wait(ms);
            long long waited = (now_ns(CLOCK_MONOTONIC) - began) / 1000;
            int size = snprintf(reply, sizeof reply, "%s method=%s waited_us=%lld\n", line, argv[1], waited);
            if (send(fd, reply, size, MSG_NOSIGNAL) != size) {
                break;
            }
        }
        if (fd >= 0) {
            close(fd);
        }
    }
}
