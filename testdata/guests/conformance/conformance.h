/*
 * Conformance cases: small ordinary uses of sockets, each printing what it saw. The harness (supervisor/cli/tests/conformance/) runs every
 * case natively and under `imsup run`, and compares the outputs. Ports are printed relative to the base port, so that outputs of runs
 * on different ports are equal; ephemeral ones are printed as a word.
 */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

/* A socket address with its length. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    };
    socklen_t length;
};

/* A case; `run` prints. */
struct conformance_case {
    const char *name;
    void (*run)(void);
};

/*
 * A case for each combination of values of its axes, called NAME/VALUE/VALUE...; `run` gets the index of each value. Combinations that
 * make no sense are left out where `holds` says so.
 */
struct conformance_matrix {
    const char *name;
    const char *const *axes[5];
    bool (*holds)(const int *at);
    void (*run)(const int *at);
};

/* One table per file, each ended by a case without a name. */
extern const struct conformance_case bind_cases[], connect_cases[], names_cases[], sharing_cases[], options_cases[], udp_cases[],
    hostile_cases[], waiting_cases[], foreign_cases[], hosts_cases[],
    message_cases[];
extern const struct conformance_matrix address_matrices[], readiness_matrices[], handing_matrices[], transfer_matrices[],
    closing_matrices[], interrupt_matrices[];

/* The port that `IP(text, 0)` has; cases may use this and the nine after it. */
extern int base_port;

/* What this process is in a case of several programs, and the descriptor that it was given: "" and -1 for the first. */
extern const char *role;
extern int inherited;

/* From now on it is noted which calls are made on which sockets; told on standard output at the end, in place of what the case prints. */
void cover(void);

/* Ends the case where the preparation of what is tested fails. */
_Noreturn void broken(const char *what);

/* Prints "what: result" or "what: ERRNO" where result is -1; returns result. */
long show(const char *what, long result);

/*
 * An address from text and a port: base_port + offset, or port 0 where offset is negative. "own4" is the address that the machine's name
 * resolves to, "own6" the same, v4-mapped.
 */
struct address IP(const char *text, int offset);
struct address unix_path(const char *path);

/* Prints "what: ADDRESS:PORT". */
void show_address(const char *what, const struct address *address);
void show_own(const char *what, int fd);
void show_peer(const char *what, int fd);

/* socket(2), which must succeed. Types may carry SOCK_NONBLOCK and SOCK_CLOEXEC. */
int sock(int family, int type);
int do_bind(int fd, const char *text, int offset);
int do_connect(int fd, const char *text, int offset);

/* A TCP listener at the address, which must succeed. */
int listener(const char *text, int offset, int backlog);

/* The name of an errno; "0" for none. */
const char *error_name(int error);

/* SO_ERROR as a name. */
void show_error(const char *what, int fd);
int get_option(int fd, int level, int option);
void set_option(int fd, int level, int option, int value);

/* Which events come within five seconds. */
int poll_for(int fd, int events);

/* poll(2) for up to five seconds; prints which events came. */
void show_poll(const char *what, int fd, int events);

/* Sends "ping" one way and "pong" back, and prints what arrived. */
void exchange(int client, int server);

#endif
