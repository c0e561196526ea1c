/*
 * A server, a thread for each connection, that does odd things: some all the time (options), some when a line asks for it, before the
 * line is answered. What is answered is said in serving.h.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "serving.h"

static const char usage[] =
    "oddities [OPTION]... PORT\n"
    "  --cron FILE MS BUSY_MS   every MS (counted from the start) append 'NUMBER LATE_US' to FILE, and compute for BUSY_MS\n"
    "  --limits FILE MS THREADS two threads wait for MS again and again, by epoll_wait(2) and by recv(2) on a socket with that limit, and\n"
    "                           append 'CALL BEGAN_MS_LATER WAITED_US' to FILE; so many others wait for ever, so that it takes long to look\n"
    "                           at all of them\n"
    "  --forks MS               every MS fork a process that exits at once\n"
    "  --fifo FIFO FILE         append to FILE what is written to FIFO\n"
    "  --watch DIRECTORY FILE   append to FILE the names of what is made in DIRECTORY (inotify)\n"
    "  --signal FILE            append a line to FILE for each SIGUSR1\n"
    "  --unix PATH              serve on a UNIX socket as well\n"
    "  --slow-term MS           after SIGTERM, reset whoever connects for so long, then exit\n"
    "  --ignore-term            ignore SIGTERM\n"
    "Lines:\n"
    "  stop          stop this process with SIGSTOP\n"
    "  burn MS       compute\n"
    "  fork MS       fork a process that lives so long, and do not wait for it\n"
    "  vfork MS      the same with vfork(2), which waits\n"
    "  zombies N     fork N processes that exit, and never wait for them\n"
    "  fill MIB      allocate memory and fill it\n"
    "  check         abort where memory that was filled is not as it was\n"
    "  map FILE      map a file and touch all its pages\n"
    "  flock FILE    lock a file with flock(2), and unlock it\n"
    "  lock FILE     lock a file with fcntl(2), and unlock it\n"
    "  open FIFO     open a FIFO for reading, which waits for a writer\n"
    "  threads N     start N threads that wait for each other\n";

static volatile sig_atomic_t ending;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_until(int64_t ns) {
    struct timespec end = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR) {
    }
}

static void sleep_ms(long ms) { sleep_until(now_ns() + ms * 1000000LL); }

static void burn_ms(long ms) {
    for (int64_t end = now_ns() + ms * 1000000LL; now_ns() < end;) {
    }
}

static void append(const char *file, const char *text, size_t size) {
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size) {
        die(file);
    }
    close(fd);
}

/* ---- lines ---- */

static void start_thread(void *(*run)(void *), void *argument) {
    pthread_attr_t detached;
    pthread_t thread;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 128 * 1024);
    if (pthread_create(&thread, &detached, run, argument) != 0) {
        die("pthread_create");
    }
}

static uint64_t *memory;
static size_t words;

static uint64_t pattern(size_t index) { return index * 0x9e3779b97f4a7c15ULL ^ 0x1234567; }

static void fill(size_t mib) {
    words = mib * 1024 * 1024 / sizeof *memory;
    memory = malloc(words * sizeof *memory);
    if (memory == NULL) {
        die("malloc");
    }
    for (size_t i = 0; i < words; i++) {
        memory[i] = pattern(i);
    }
}

static void check(void) {
    for (size_t i = 0; i < words; i++) {
        if (memory[i] != pattern(i)) {
            abort();
        }
    }
}

static void map_file(const char *name) {
    struct stat status;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        die(name);
    }
    const volatile char *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        die("mmap");
    }
    for (off_t at = 0; at < status.st_size; at += 4096) {
        (void)bytes[at];
    }
    close(fd);
}

static void lock_file(const char *name, bool by_fcntl) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(name, O_RDWR | O_CLOEXEC), result;
    do {
        result = by_fcntl ? fcntl(fd, F_SETLKW, &whole) : flock(fd, LOCK_EX);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        die(name);
    }
    close(fd);
}

static void open_fifo(const char *name) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        die(name);
    }
    close(fd);
}

static pthread_mutex_t never_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

static void *wait_for_nothing(void *unused) {
    pthread_mutex_lock(&never_lock);
    for (;;) {
        pthread_cond_wait(&never, &never_lock);
    }
    return unused;
}

static void fork_child(long ms) {
    if (fork() == 0) {
        sleep_ms(ms);
        _exit(0);
    }
}

static void obey(const char *line) {
    const char *space = strchr(line, ' ');
    long number = space == NULL ? 0 : atol(space);
    if (strcmp(line, "stop") == 0) {
        kill(getpid(), SIGSTOP);
    } else if (strcmp(line, "check") == 0) {
        check();
    } else if (strncmp(line, "burn ", 5) == 0) {
        burn_ms(number);
    } else if (strncmp(line, "fork ", 5) == 0) {
        fork_child(number);
    } else if (strncmp(line, "vfork ", 6) == 0) {
        if (vfork() == 0) {
            sleep_ms(number);
            _exit(0);
        }
    } else if (strncmp(line, "zombies ", 8) == 0) {
        for (long i = 0; i < number; i++) {
            fork_child(0);
        }
    } else if (strncmp(line, "fill ", 5) == 0) {
        fill(number);
    } else if (strncmp(line, "map ", 4) == 0) {
        map_file(space + 1);
    } else if (strncmp(line, "flock ", 6) == 0) {
        lock_file(space + 1, false);
    } else if (strncmp(line, "lock ", 5) == 0) {
        lock_file(space + 1, true);
    } else if (strncmp(line, "open ", 5) == 0) {
        open_fifo(space + 1);
    } else if (strncmp(line, "threads ", 8) == 0) {
        for (long i = 0; i < number; i++) {
            start_thread(wait_for_nothing, NULL);
        }
    }
}

/* ---- options ---- */

static void *cron(void *arguments) {
    char **argument = arguments, text[64];
    int64_t start = now_ns();
    for (long number = 1;; number++) {
        int64_t due = start + number * atol(argument[1]) * 1000000LL;
        sleep_until(due);
        int size = sprintf(text, "%ld %lld\n", number, (long long)(now_ns() - due) / 1000);
        append(argument[0], text, size);
        burn_ms(atol(argument[2]));
    }
    return NULL;
}

static long limit_ms;
static const char *limits_file;
static int limited[2];
/* How long after the last one ended the next calls with a limit begin: each time another while, of those that a look takes. */
static volatile long later_ms;

static void append_waited(const char *call, int64_t began) {
    char text[96];
    int size = sprintf(text, "%s %ld %lld\n", call, later_ms, (long long)(now_ns() - began) / 1000);
    append(limits_file, text, size);
}

/* A byte ends its call, and the next one is the same. */
static void *receive_limited(void *unused) {
    for (;;) {
        char byte;
        int64_t began = now_ns();
        if (recv(limited[0], &byte, 1, 0) < 0) {
            if (errno != EAGAIN) {
                die("recv");
            }
            append_waited("recv", began);
        }
    }
    return unused;
}

static void *wait_for_ever(void *unused) {
    for (;;) {
        pause();
    }
    return unused;
}

static void *limits(void *arguments) {
    char **argument = arguments;
    limits_file = argument[0];
    limit_ms = atol(argument[1]);
    for (long thread = atol(argument[2]); thread > 0; thread--) {
        start_thread(wait_for_ever, NULL);
    }
    struct timeval limit = {.tv_sec = limit_ms / 1000, .tv_usec = limit_ms % 1000 * 1000};
    struct epoll_event event;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, limited) != 0 ||
        setsockopt(limited[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0) {
        die("limits");
    }
    start_thread(receive_limited, NULL);
    for (;;) {
        later_ms = later_ms % 40 + 1;
        sleep_ms(later_ms);
        if (send(limited[1], "x", 1, MSG_NOSIGNAL) != 1) {
            die("send");
        }
        int64_t began = now_ns();
        if (epoll_wait(epoll, &event, 1, limit_ms) != 0) {
            die("epoll_wait");
        }
        append_waited("epoll_wait", began);
    }
    return NULL;
}

static void *forks(void *arguments) {
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        waitpid(child, NULL, 0);
        sleep_ms(atol(*(char **)arguments));
    }
    return NULL;
}

static void *read_fifo(void *arguments) {
    char **argument = arguments, text[4096];
    ssize_t count;
    /* Open for writing too, so that there is never an end of file. */
    int fd = open(argument[0], O_RDWR | O_CLOEXEC);
    while ((count = read(fd, text, sizeof text)) > 0 || (count < 0 && errno == EINTR)) {
        append(argument[1], text, count > 0 ? count : 0);
    }
    die("fifo");
}

static void *watch_directory(void *arguments) {
    char **argument = arguments;
    _Alignas(struct inotify_event) char events[4096];
    int fd = inotify_init1(IN_CLOEXEC);
    if (fd < 0 || inotify_add_watch(fd, argument[0], IN_CREATE) < 0) {
        die("inotify");
    }
    for (;;) {
        ssize_t count = read(fd, events, sizeof events);
        for (char *at = events; at < events + count;) {
            const struct inotify_event *event = (const void *)at;
            append(argument[1], event->name, strlen(event->name));
            append(argument[1], "\n", 1);
            at += sizeof *event + event->len;
        }
    }
    return NULL;
}

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

static void *count_signals(void *arguments) {
    sigset_t set = only(SIGUSR1);
    for (;;) {
        if (sigwaitinfo(&set, NULL) == SIGUSR1) {
            append(*(char **)arguments, "signal\n", 7);
        }
    }
    return NULL;
}

static void *end_slowly(void *arguments) {
    sigset_t set = only(SIGTERM);
    while (sigwaitinfo(&set, NULL) != SIGTERM) {
    }
    ending = 1;
    sleep_ms(atol(*(char **)arguments));
    _exit(0);
}

static void *serve_one(void *argument) {
    struct connection *connection = new_connection((int)(long)argument);
    serve_connection(connection);
    end_connection(connection);
    return NULL;
}

static void *serve(void *argument) {
    int listener = (int)(long)argument;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && ending) {
            struct linger reset = {.l_onoff = 1, .l_linger = 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            close(fd);
        } else if (fd >= 0) {
            start_thread(serve_one, (void *)(long)fd);
        }
    }
    return NULL;
}

static void serve_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 5) != 0) {
        die(path);
    }
    start_thread(serve, (void *)(long)fd);
}

static void block(int signal) {
    sigset_t set = only(signal);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static const struct {
    const char *name;
    int arguments, blocked;
    void *(*run)(void *);
} options[] = {
    {"--cron", 3, 0, cron},
    {"--limits", 3, 0, limits},
    {"--forks", 1, 0, forks},
    {"--fifo", 2, 0, read_fifo},
    {"--watch", 2, 0, watch_directory},
    {"--signal", 1, SIGUSR1, count_signals},
    {"--slow-term", 1, SIGTERM, end_slowly},
};

int main(int argc, char **argv) {
    const unsigned option_count = sizeof options / sizeof *options;
    int at = 1;
    signal(SIGPIPE, SIG_IGN);
    before_answer = obey;
    /* Before any thread is started: all inherit what is blocked. */
    for (int i = 1; i < argc; i++) {
        for (unsigned k = 0; k < option_count; k++) {
            if (options[k].blocked != 0 && strcmp(argv[i], options[k].name) == 0) {
                block(options[k].blocked);
            }
        }
    }
    while (at + 1 < argc) {
        unsigned k = 0;
        while (k < option_count && strcmp(argv[at], options[k].name) != 0) {
            k++;
        }
        if (k < option_count && at + 1 + options[k].arguments < argc) {
            start_thread(options[k].run, argv + at + 1);
            at += 1 + options[k].arguments;
        } else if (strcmp(argv[at], "--unix") == 0 && at + 2 < argc) {
            serve_unix(argv[at + 1]);
            at += 2;
        } else if (strcmp(argv[at], "--ignore-term") == 0) {
            signal(SIGTERM, SIG_IGN);
            at += 1;
        } else {
            break;
        }
    }
    if (at + 1 != argc) {
        fputs(usage, stderr);
        return 2;
    }
    serve((void *)(long)open_listener(atoi(argv[at]), 0));
}
