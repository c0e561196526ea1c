/*
 * What a trapped connect(2) costs at least, step by step. Usage: floor STEP ADDRESS PORT SOURCE [CPU]
 *
 * A program that connects to ADDRESS:PORT, where a server greets with one byte, and closes; kept on processor CPU where one is given.
 * It is supervised by the least supervisor there can be (seccomp_unotify(2)), which takes all steps up to the one named, each of
 * which imsup takes too, in this order:
 *     native     no supervisor, no filter
 *     continue   receives the call and leaves it to the kernel: the floor
 *     poll       polls the listener before it receives, as one must that waits for anything else besides
 *     read       reads the address (process_vm_readv(2))
 *     duplicate  duplicates the socket (pidfd_getfd(2)) and closes that
 *     valid      asks whether the call still waits (SECCOMP_IOCTL_NOTIF_ID_VALID)
 *     inspect    asks the socket for its own address and its protocol
 *     source     gives the socket the source address SOURCE, without a port
 *
 * Takes a batch for each number on the standard input, as bench/src/guest/control.rs does. Prints, each with as many times in ns,
 *     round-trip     connect(2) to a missing Unix socket
 *     connect+close  connect(2) and close(2), without what is between them
 *     whole          from the making of the socket until it is closed, the greeting included
 *     paced          connect+close again, 0.1 ms after the connection before: the server sleeps by then
 * then `end`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* linux/seccomp.h, 5.19 and 6.6. */
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#define IOCTL_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SYNC_WAKE_UP 1UL

#define MAX_COUNT 10000
#define PAUSE_NS 100000

enum step { NATIVE, CONTINUE, POLL, READ, DUPLICATE, VALID, INSPECT, SOURCE };
static const char *const steps[] = {"native", "continue", "poll", "read", "duplicate", "valid", "inspect", "source"};

static void require(bool done, const char *what) {
    if (!done) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_in address_of(const char *text, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1) {
        fprintf(stderr, "'%s' is no address\n", text);
        exit(2);
    }
    return address;
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

enum series { ROUND_TRIP, CONNECT_CLOSE, WHOLE, PACED, SERIES };
static const char *const names[] = {"round-trip", "connect+close", "whole", "paced"};
static long times[SERIES][MAX_COUNT];

static void call_nowhere(int i) {
    static const struct sockaddr_un nowhere = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/floor"};
    static int fd = -1;
    if (fd < 0) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    long start = now();
    require(connect(fd, (const void *)&nowhere, sizeof nowhere) < 0, "connect to nowhere");
    times[ROUND_TRIP][i] = now() - start;
}

/* One connection: the time of connect(2) and close(2), and of all of it in `whole`. */
static long call_server(const struct sockaddr_in *to, long *whole) {
    char greeting;
    long start = now();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(fd >= 0, "socket");
    long made = now();
    require(connect(fd, (const void *)to, sizeof *to) == 0, "connect");
    long connected = now();
    require(read(fd, &greeting, 1) == 1, "reading the greeting");
    long greeted = now();
    close(fd);
    long closed = now();
    *whole = closed - start;
    return connected - made + closed - greeted;
}

static int work(const struct sockaddr_in *to) {
    char line[32];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        int count = atoi(line);
        if (count <= 0 || count > MAX_COUNT) {
            fprintf(stderr, "no number from 1 to %d: %s", MAX_COUNT, line);
            return 2;
        }
        for (int i = 0; i < count; i++) {
            call_nowhere(i);
        }
        for (int i = 0; i < count; i++) {
            times[CONNECT_CLOSE][i] = call_server(to, &times[WHOLE][i]);
        }
        for (int i = 0; i < count; i++) {
            static const struct timespec pause = {.tv_nsec = PAUSE_NS};
            long whole;
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
            times[PACED][i] = call_server(to, &whole);
        }
        for (int series = 0; series < SERIES; series++) {
            fputs(names[series], stdout);
            for (int i = 0; i < count; i++) {
                printf(" %ld", times[series][i]);
            }
            putchar('\n');
        }
        puts("end");
        fflush(stdout);
    }
    return 0;
}

/* Has connect(2) go to a listener from now on, which is given to the other end of `channel`. */
static void become_supervised(int channel) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
    int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                           SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
    require(listener >= 0, "seccomp");
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof listener);
    memcpy(CMSG_DATA(header), &listener, sizeof listener);
    require(sendmsg(channel, &message, 0) == 1, "sending the listener");
    close(listener);
    close(channel);
}

static int listener_of_child(int channel) {
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int listener;
    require(recvmsg(channel, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != NULL, "taking the listener");
    memcpy(&listener, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof listener);
    close(channel);
    require(ioctl(listener, IOCTL_SET_FLAGS, SYNC_WAKE_UP) == 0, "synchronous wake-ups (Linux 6.6)");
    return listener;
}

/* Takes the steps after `read`, as far as `last`. */
static void handle(const struct seccomp_notif *call, enum step last, int listener, int child, const struct sockaddr_in *source) {
    const int on = 1;
    if (last < DUPLICATE) {
        return;
    }
    int socket = syscall(SYS_pidfd_getfd, child, call->data.args[0], 0);
    require(socket >= 0, "pidfd_getfd");
    if (last >= VALID) {
        require(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id) == 0, "ID_VALID");
    }
    if (last >= INSPECT) {
        struct sockaddr_storage own;
        socklen_t size = sizeof own, length = sizeof(int);
        int protocol;
        require(getsockname(socket, (void *)&own, &size) == 0, "getsockname");
        require(getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0, "SO_PROTOCOL");
    }
    if (last >= SOURCE) {
        require(setsockopt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) == 0, "IP_BIND_ADDRESS_NO_PORT");
        require(bind(socket, (const void *)source, sizeof *source) == 0, "bind");
    }
    close(socket);
}

/* Serves the calls of process `child`, whose pidfd is `pidfd`, until it ends. */
static void supervise(enum step last, int listener, pid_t child, int pidfd, const struct sockaddr_in *source) {
    for (;;) {
        struct pollfd polled = {.fd = listener, .events = POLLIN};
        if (last >= POLL) {
            require(poll(&polled, 1, -1) == 1, "poll");
            if ((polled.revents & POLLIN) == 0) {
                return;
            }
        }
        struct seccomp_notif call = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) {
            require(errno == ENOENT, "RECV");
            return;
        }
        struct sockaddr_storage address = {0};
        if (last >= READ) {
            struct iovec ours = {&address, call.data.args[2]}, theirs = {(void *)call.data.args[1], call.data.args[2]};
            require(process_vm_readv(child, &ours, 1, &theirs, 1, 0) == (ssize_t)call.data.args[2], "process_vm_readv");
        }
        /* A Unix socket is looked at no further, as by imsup. */
        if (address.ss_family == AF_INET) {
            handle(&call, last, listener, pidfd, source);
        }
        struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        require(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0, "SEND");
    }
}

int main(int argc, char **argv) {
    size_t step = 0, known = sizeof steps / sizeof *steps;
    while (argc > 1 && step < known && strcmp(argv[1], steps[step]) != 0) {
        step++;
    }
    if (argc < 5 || argc > 6 || step == known) {
        fputs("floor native|continue|poll|read|duplicate|valid|inspect|source ADDRESS PORT SOURCE [CPU]\n", stderr);
        return 2;
    }
    struct sockaddr_in to = address_of(argv[2], argv[3]), source = address_of(argv[4], "0");
    int channel[2] = {-1, -1};
    pid_t child = 0;
    if (step != NATIVE) {
        require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0, "socketpair");
        child = fork();
        require(child >= 0, "fork");
    }
    if (child != 0) {
        close(channel[1]);
        int pidfd = syscall(SYS_pidfd_open, child, 0);
        require(pidfd >= 0, "pidfd_open");
        supervise(step, listener_of_child(channel[0]), child, pidfd, &source);
        int status;
        require(waitpid(child, &status, 0) == child, "waitpid");
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    if (argc == 6) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(argv[5]), &set);
        require(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
    }
    if (step != NATIVE) {
        close(channel[0]);
        require(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "PR_SET_PDEATHSIG");
        become_supervised(channel[1]);
    }
    return work(&to);
}
