/*
 * The guest with dials: one ordinary program that behaves as its command line says, for all of imsup's test suites.
 *
 * Options are carried out in the order of `usage`, whatever their order on the command line: first it waits, looks names up and calls
 * others (the client half), then it listens and serves (the server half). It uses nothing of imsup.
 *
 * The server answers each line it is sent with one line, and a line beginning with "GET " as an HTTP/1.0 request:
 *     host=NAME pid=N peer=ADDRESS:PORT own=ADDRESS:PORT [upstream=<the upstream's answer>]
 * With --reply echo the answer is the line itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "errno_name.h"

#define MAX_LISTENERS 64
#define MAX_ITEMS 32
#define LINE_BYTES 4096

static const char usage[] =
    "guest [OPTION]...\n"
    "  --ignore-term          ignore SIGTERM\n"
    "  --start-delay MS       sleep first\n"
    "  --start-busy MS        then use the processor for so long\n"
    "  --start-once FILE      then wait until there is such a file\n"
    "  --exit-now STATUS      then exit, before listening\n"
    "  --crash-now            then abort, before listening\n"
    "  --who                  print hostname, uname and pid\n"
    "  --lookup NAME          print NAME's addresses (repeatable); of an IPv4 ADDRESS its name, too\n"
    "  --alarm MS             have SIGALRM interrupt the calls that follow, again and again (no SA_RESTART)\n"
    "  --non-blocking         connect with a non-blocking socket and epoll\n"
    "  --udp-call             call with a datagram\n"
    "  --call HOST:PORT       connect, send a line, print the answer (repeatable)\n"
    "  --calls N              do all calls N times\n"
    "  --bind HOW             any4 (default), any6, only6, lo4, lo6 or an address; for the ports that follow\n"
    "  --tcp PORT[-PORT]      listen (repeatable)\n"
    "  --listening FD         accept on a socket that listens already\n"
    "  --udp PORT[-PORT]      receive datagrams (repeatable)\n"
    "  --backlog N            default 128\n"
    "  --listen-delay MS      between bind and listen\n"
    "  --port-delay MS        between a port and the next\n"
    "  --workers N            fork so many processes that share the listeners\n"
    "  --threads N            accept in so many threads (default 1)\n"
    "  --busy                 use the processor all the time, in a thread\n"
    "  --reply echo|who       what is answered (default who)\n"
    "  --reply-delay MS       sleep before each answer\n"
    "  --upstream HOST:PORT   ask there before each answer, and append what it said\n"
    "  --exit-after N         exit after N answers (see --exit-status)\n"
    "  --crash-after N        abort after N answers\n"
    "  --exit-status N        default 0\n"
    "Without a port it exits after its calls: with --exit-status, or with 1 where a call failed.\n";

struct port {
    const char *how;
    int type, first, last;
};

static struct {
    long start_delay, start_busy, alarm, listen_delay, port_delay, reply_delay;
    int exit_now, backlog, workers, threads, exit_after, crash_after, exit_status, calls_times;
    bool ignore_term, crash_now, who, non_blocking, udp_call, busy, echo;
    const char *start_once, *lookups[MAX_ITEMS], *calls[MAX_ITEMS], *upstream;
    int lookup_count, call_count, port_count;
    struct port ports[MAX_ITEMS];
} dial = {.exit_now = -1, .backlog = 128, .threads = 1, .calls_times = 1};

static struct {
    int fd, type;
} listeners[MAX_LISTENERS];
static int listener_count;
static atomic_int *answers; /* shared with the workers */

static void die(const char *what) {
    fprintf(stderr, "guest: %s: %s\n", what, errno_name(errno));
    exit(111);
}

static void pause_ms(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (ms > 0 && nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void burn_ms(long ms) {
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += ms % 1000 * 1000000;
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
}

static const char *address_text(const struct sockaddr_storage *address, char *out, size_t size) {
    char ip[INET6_ADDRSTRLEN] = "?";
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
        snprintf(out, size, "%s:%d", ip, ntohs(in->sin_port));
    } else {
        const struct sockaddr_in6 *in6 = (const void *)address;
        inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
        snprintf(out, size, "[%s]:%d", ip, ntohs(in6->sin6_port));
    }
    return out;
}

/* ---- the client half ---- */

static int wait_epoll(int fd, unsigned events) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = events};
    int count;
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        die("epoll");
    }
    do {
        count = epoll_wait(epoll, &event, 1, -1);
    } while (count < 0 && errno == EINTR);
    close(epoll);
    return count;
}

static int connect_to(const struct addrinfo *to, bool non_blocking) {
    int fd = socket(to->ai_family, to->ai_socktype | SOCK_CLOEXEC | (non_blocking ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0) {
        die("socket");
    }
    int result = connect(fd, to->ai_addr, to->ai_addrlen);
    int error = result == 0 ? 0 : errno;
    if (non_blocking && error == EINPROGRESS) {
        socklen_t length = sizeof error;
        wait_epoll(fd, EPOLLOUT);
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (non_blocking && error == 0) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    }
    if (error != 0) {
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Calls HOST:PORT and writes its answer, or the step that failed and how, to `answer`. */
static bool call(const char *target, char *answer, size_t size) {
    char host[256];
    const char *colon = strrchr(target, ':');
    if (colon == NULL) {
        snprintf(answer, size, "a target is HOST:PORT");
        return false;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - target), target);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = dial.udp_call ? SOCK_DGRAM : SOCK_STREAM}, *found;
    int failure = getaddrinfo(host, colon + 1, &hints, &found);
    if (failure != 0) {
        snprintf(answer, size, "getaddrinfo: %s", gai_strerror(failure));
        return false;
    }
    int fd = connect_to(found, dial.non_blocking);
    freeaddrinfo(found);
    if (fd < 0) {
        snprintf(answer, size, "connect: %s", errno_name(errno));
        return false;
    }
    static const char question[] = "hello\n";
    if (send(fd, question, sizeof question - 1, MSG_NOSIGNAL) < 0) {
        snprintf(answer, size, "send: %s", errno_name(errno));
        close(fd);
        return false;
    }
    size_t used = 0;
    ssize_t count = 0;
    while (used + 1 < size && (count = recv(fd, answer + used, size - 1 - used, 0)) > 0) {
        used += count;
        if (memchr(answer, '\n', used) != NULL) {
            break;
        }
    }
    int error = errno;
    close(fd);
    answer[used] = 0;
    char *end = strchr(answer, '\n');
    if (end != NULL) {
        *end = 0;
        return true;
    }
    snprintf(answer, size, "recv: %s", count < 0 ? errno_name(error) : "end of file");
    return false;
}

static void look_up(const char *name) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int failure = getaddrinfo(name, NULL, &hints, &found);
    if (failure != 0) {
        printf("lookup %s: %s\n", name, gai_strerror(failure));
        return;
    }
    for (struct addrinfo *one = found; one != NULL; one = one->ai_next) {
        char ip[INET6_ADDRSTRLEN];
        getnameinfo(one->ai_addr, one->ai_addrlen, ip, sizeof ip, NULL, 0, NI_NUMERICHOST);
        printf("lookup %s: %s\n", name, ip);
    }
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (inet_pton(AF_INET, name, &address.sin_addr) == 1) {
        char host[NI_MAXHOST];
        failure = getnameinfo((void *)&address, sizeof address, host, sizeof host, NULL, 0, NI_NAMEREQD);
        printf("lookup %s: %s\n", name, failure != 0 ? gai_strerror(failure) : host);
    }
    freeaddrinfo(found);
}

/* ---- the server half ---- */

static void bind_address(const char *how, int port, struct sockaddr_storage *address, socklen_t *length, bool *only6) {
    struct sockaddr_in *in = (void *)address;
    struct sockaddr_in6 *in6 = (void *)address;
    memset(address, 0, sizeof *address);
    *only6 = strcmp(how, "only6") == 0;
    if (*only6 || strcmp(how, "any6") == 0 || strcmp(how, "lo6") == 0 || inet_pton(AF_INET6, how, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        if (strcmp(how, "lo6") == 0) {
            in6->sin6_addr = in6addr_loopback;
        }
        *length = sizeof *in6;
        return;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    in->sin_addr.s_addr = htonl(strcmp(how, "lo4") == 0 ? INADDR_LOOPBACK : INADDR_ANY);
    if (strcmp(how, "any4") != 0 && strcmp(how, "lo4") != 0 && inet_pton(AF_INET, how, &in->sin_addr) != 1) {
        fprintf(stderr, "guest: --bind %s?\n", how);
        exit(2);
    }
    *length = sizeof *in;
}

static void add_listener(int fd, int type) {
    if (listener_count == MAX_LISTENERS) {
        fprintf(stderr, "guest: more than %d ports\n", MAX_LISTENERS);
        exit(2);
    }
    listeners[listener_count].fd = fd;
    listeners[listener_count++].type = type;
}

static void open_port(const char *how, int type, int port) {
    struct sockaddr_storage address;
    socklen_t length;
    bool only6;
    int one = 1, zero = 0;
    bind_address(how, port, &address, &length, &only6);
    int fd = socket(address.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        die("socket");
    }
    if (type == SOCK_STREAM) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (address.ss_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, only6 ? &one : &zero, sizeof one);
    }
    if (bind(fd, (struct sockaddr *)&address, length) != 0) {
        die("bind");
    }
    pause_ms(dial.listen_delay);
    if (type == SOCK_STREAM && listen(fd, dial.backlog) != 0) {
        die("listen");
    }
    add_listener(fd, type);
}

static void answer_text(int fd, const struct sockaddr_storage *peer, const char *line, char *out, size_t size) {
    pause_ms(dial.reply_delay);
    if (dial.echo) {
        snprintf(out, size, "%s", line);
        return;
    }
    struct sockaddr_storage own = {0};
    socklen_t length = sizeof own;
    char host[256], peer_text[80], own_text[80];
    getsockname(fd, (struct sockaddr *)&own, &length);
    gethostname(host, sizeof host);
    int used = snprintf(out, size, "host=%s pid=%d peer=%s own=%s", host, (int)getpid(),
                        address_text(peer, peer_text, sizeof peer_text), address_text(&own, own_text, sizeof own_text));
    if (dial.upstream != NULL) {
        char upstream[LINE_BYTES / 2];
        call(dial.upstream, upstream, sizeof upstream);
        snprintf(out + used, size - used, " upstream=<%s>", upstream);
    }
}

static void count_answer(void) {
    int count = atomic_fetch_add(answers, 1) + 1;
    if (dial.crash_after > 0 && count >= dial.crash_after) {
        abort();
    }
    if (dial.exit_after > 0 && count >= dial.exit_after) {
        if (dial.workers > 0) {
            kill(getppid(), SIGTERM);
        }
        _exit(dial.exit_status);
    }
}

static bool send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t count = send(fd, data, size, MSG_NOSIGNAL);
        if (count <= 0) {
            return false;
        }
        data += count;
        size -= count;
    }
    return true;
}

static void *serve_connection(void *argument) {
    int fd = (int)(long)argument;
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    char line[LINE_BYTES], text[LINE_BYTES], reply[LINE_BYTES + 256];
    FILE *in = fdopen(dup(fd), "r");
    getpeername(fd, (struct sockaddr *)&peer, &length);
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        bool http = strncmp(line, "GET ", 4) == 0;
        line[strcspn(line, "\r\n")] = 0;
        char header[LINE_BYTES];
        while (http && fgets(header, sizeof header, in) != NULL && header[0] != '\r' && header[0] != '\n') {
        }
        answer_text(fd, &peer, line, text, sizeof text);
        int size = http ? snprintf(reply, sizeof reply,
                                   "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s\n",
                                   strlen(text) + 1, text)
                        : snprintf(reply, sizeof reply, "%s\n", text);
        if (!send_all(fd, reply, size)) {
            break;
        }
        if (http) {
            shutdown(fd, SHUT_WR);
        }
        count_answer();
    }
    if (in != NULL) {
        fclose(in);
    }
    close(fd);
    return NULL;
}

static void serve_datagram(int fd) {
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    char line[LINE_BYTES], text[LINE_BYTES];
    ssize_t count = recvfrom(fd, line, sizeof line - 1, 0, (struct sockaddr *)&peer, &length);
    if (count < 0) {
        return;
    }
    line[count] = 0;
    line[strcspn(line, "\r\n")] = 0;
    answer_text(fd, &peer, line, text, sizeof text - 1);
    strcat(text, "\n");
    sendto(fd, text, strlen(text), 0, (struct sockaddr *)&peer, length);
    count_answer();
}

static void *accept_loop(void *unused) {
    struct pollfd polled[MAX_LISTENERS];
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 256 * 1024);
    for (int i = 0; i < listener_count; i++) {
        polled[i] = (struct pollfd){.fd = listeners[i].fd, .events = POLLIN};
    }
    for (;;) {
        if (poll(polled, listener_count, -1) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = 0; i < listener_count; i++) {
            if ((polled[i].revents & POLLIN) == 0) {
                continue;
            }
            if (listeners[i].type == SOCK_DGRAM) {
                serve_datagram(listeners[i].fd);
                continue;
            }
            int fd = accept4(listeners[i].fd, NULL, NULL, SOCK_CLOEXEC);
            pthread_t thread;
            if (fd >= 0 && pthread_create(&thread, &detached, serve_connection, (void *)(long)fd) != 0) {
                close(fd);
            }
        }
    }
    return unused;
}

static void *busy_loop(void *unused) {
    for (volatile unsigned long i = 0;; i++) {
    }
    return unused;
}

static void serve(void) {
    pthread_t thread;
    if (dial.busy) {
        pthread_create(&thread, NULL, busy_loop, NULL);
    }
    for (int i = 1; i < dial.threads; i++) {
        pthread_create(&thread, NULL, accept_loop, NULL);
    }
    accept_loop(NULL);
}

static void serve_with_workers(void) {
    for (int i = 0; i < dial.workers; i++) {
        pid_t child = fork();
        if (child < 0) {
            die("fork");
        }
        if (child == 0) {
            serve();
        }
    }
    while (wait(NULL) > 0 || errno == EINTR) {
    }
    exit(dial.exit_status);
}

/* ---- the command line ---- */

static void on_alarm(int signal) { (void)signal; }

static void add_port(const char *how, int type, const char *text) {
    char *rest;
    struct port *port = &dial.ports[dial.port_count++];
    port->how = how;
    port->type = type;
    port->first = port->last = (int)strtol(text, &rest, 10);
    if (*rest == '-') {
        port->last = (int)strtol(rest + 1, &rest, 10);
    }
    if (*rest != 0 || dial.port_count == MAX_ITEMS) {
        fprintf(stderr, "guest: port %s?\n", text);
        exit(2);
    }
}

enum option_id { IGNORE_TERM = 1, START_DELAY, START_BUSY, START_ONCE, EXIT_NOW, CRASH_NOW, WHO, LOOKUP, ALARM, NON_BLOCKING, UDP_CALL,
                 CALL, CALLS, BIND, TCP, LISTENING, UDP, BACKLOG, LISTEN_DELAY, PORT_DELAY, WORKERS, THREADS, BUSY, REPLY, REPLY_DELAY,
                 UPSTREAM, EXIT_AFTER, CRASH_AFTER, EXIT_STATUS, HELP };

static const struct option options[] = {
    {"ignore-term", no_argument, 0, IGNORE_TERM},    {"start-delay", required_argument, 0, START_DELAY},
    {"start-busy", required_argument, 0, START_BUSY}, {"start-once", required_argument, 0, START_ONCE},
    {"exit-now", required_argument, 0, EXIT_NOW},
    {"crash-now", no_argument, 0, CRASH_NOW},        {"who", no_argument, 0, WHO},
    {"lookup", required_argument, 0, LOOKUP},        {"alarm", required_argument, 0, ALARM},
    {"non-blocking", no_argument, 0, NON_BLOCKING},  {"udp-call", no_argument, 0, UDP_CALL},
    {"call", required_argument, 0, CALL},            {"calls", required_argument, 0, CALLS},
    {"bind", required_argument, 0, BIND},            {"tcp", required_argument, 0, TCP},
    {"listening", required_argument, 0, LISTENING},  {"udp", required_argument, 0, UDP},              {"backlog", required_argument, 0, BACKLOG},
    {"listen-delay", required_argument, 0, LISTEN_DELAY}, {"port-delay", required_argument, 0, PORT_DELAY},
    {"workers", required_argument, 0, WORKERS},      {"threads", required_argument, 0, THREADS},
    {"busy", no_argument, 0, BUSY},                  {"reply", required_argument, 0, REPLY},
    {"reply-delay", required_argument, 0, REPLY_DELAY}, {"upstream", required_argument, 0, UPSTREAM},
    {"exit-after", required_argument, 0, EXIT_AFTER}, {"crash-after", required_argument, 0, CRASH_AFTER},
    {"exit-status", required_argument, 0, EXIT_STATUS}, {"help", no_argument, 0, HELP}, {0, 0, 0, 0}};

static void parse(int argc, char **argv) {
    const char *how = "any4";
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case IGNORE_TERM: dial.ignore_term = true; break;
        case START_DELAY: dial.start_delay = atol(optarg); break;
        case START_BUSY: dial.start_busy = atol(optarg); break;
        case START_ONCE: dial.start_once = optarg; break;
        case EXIT_NOW: dial.exit_now = atoi(optarg); break;
        case CRASH_NOW: dial.crash_now = true; break;
        case WHO: dial.who = true; break;
        case LOOKUP: dial.lookups[dial.lookup_count++ % MAX_ITEMS] = optarg; break;
        case ALARM: dial.alarm = atol(optarg); break;
        case NON_BLOCKING: dial.non_blocking = true; break;
        case UDP_CALL: dial.udp_call = true; break;
        case CALL: dial.calls[dial.call_count++ % MAX_ITEMS] = optarg; break;
        case CALLS: dial.calls_times = atoi(optarg); break;
        case BIND: how = optarg; break;
        case TCP: add_port(how, SOCK_STREAM, optarg); break;
        case LISTENING: add_listener(atoi(optarg), SOCK_STREAM); break;
        case UDP: add_port(how, SOCK_DGRAM, optarg); break;
        case BACKLOG: dial.backlog = atoi(optarg); break;
        case LISTEN_DELAY: dial.listen_delay = atol(optarg); break;
        case PORT_DELAY: dial.port_delay = atol(optarg); break;
        case WORKERS: dial.workers = atoi(optarg); break;
        case THREADS: dial.threads = atoi(optarg); break;
        case BUSY: dial.busy = true; break;
        case REPLY: dial.echo = strcmp(optarg, "echo") == 0; break;
        case REPLY_DELAY: dial.reply_delay = atol(optarg); break;
        case UPSTREAM: dial.upstream = optarg; break;
        case EXIT_AFTER: dial.exit_after = atoi(optarg); break;
        case CRASH_AFTER: dial.crash_after = atoi(optarg); break;
        case EXIT_STATUS: dial.exit_status = atoi(optarg); break;
        case HELP: fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    }
    if (optind != argc) {
        fputs(usage, stderr);
        exit(2);
    }
}

static bool act_as_client(void) {
    bool good = true;
    if (dial.who) {
        char host[256];
        struct utsname node;
        gethostname(host, sizeof host);
        uname(&node);
        printf("who hostname=%s nodename=%s sysname=%s pid=%d\n", host, node.nodename, node.sysname, (int)getpid());
    }
    for (int i = 0; i < dial.lookup_count; i++) {
        look_up(dial.lookups[i]);
    }
    if (dial.alarm > 0) {
        struct sigaction action = {.sa_handler = on_alarm};
        /* Not once: it may be over before the call begins. */
        const struct timeval interval = {dial.alarm / 1000, dial.alarm % 1000 * 1000};
        struct itimerval timer = {interval, interval};
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &timer, NULL);
    }
    for (int round = 0; round < dial.calls_times; round++) {
        for (int i = 0; i < dial.call_count; i++) {
            char answer[LINE_BYTES];
            bool answered = call(dial.calls[i], answer, sizeof answer);
            printf("call %s: %s\n", dial.calls[i], answer);
            good = good && answered;
        }
    }
    return good;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (dial.ignore_term) {
        signal(SIGTERM, SIG_IGN);
    }
    pause_ms(dial.start_delay);
    burn_ms(dial.start_busy);
    while (dial.start_once != NULL && access(dial.start_once, F_OK) != 0) {
        pause_ms(10);
    }
    if (dial.exit_now >= 0) {
        return dial.exit_now;
    }
    if (dial.crash_now) {
        abort();
    }
    bool good = act_as_client();
    if (dial.port_count == 0 && listener_count == 0) {
        return good ? dial.exit_status : 1;
    }
    answers = mmap(NULL, sizeof *answers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (answers == MAP_FAILED) {
        die("mmap");
    }
    for (int i = 0; i < dial.port_count; i++) {
        for (int port = dial.ports[i].first; port <= dial.ports[i].last; port++) {
            if (listener_count > 0) {
                pause_ms(dial.port_delay);
            }
            open_port(dial.ports[i].how, dial.ports[i].type, port);
        }
    }
    printf("listening\n");
    if (dial.workers > 0) {
        serve_with_workers();
    }
    serve();
}
