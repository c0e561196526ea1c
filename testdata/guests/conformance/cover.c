/*
 * What the cases cover, measured: every socket call goes through a wrapper (ld --wrap) that, where asked to, notes the kind of the
 * socket, whether it blocks, and the kind of the address.
 */
#include "conformance.h"

#define CALLS(X)                                                                                                                      \
    X(bind) X(listen) X(connect) X(accept) X(accept4) X(getsockname) X(getpeername) X(getsockopt) X(setsockopt) X(shutdown)           \
    X(send) X(sendto) X(sendmsg) X(sendmmsg) X(write) X(recv) X(recvfrom) X(recvmsg) X(recvmmsg) X(read)                              \
    X(poll) X(ppoll) X(select) X(pselect) X(epoll_ctl) X(dup) X(dup2) X(dup3) X(fcntl)

enum call {
#define X(name) CALL_##name,
    CALLS(X) CALL_COUNT
#undef X
};

static const char *const call_names[] = {
#define X(name) #name,
    CALLS(X)
#undef X
};

static const char *const kinds[] = {"tcp4", "tcp6", "tcp6only", "udp4", "udp6", "udp6only", "unix", "other"};
static const char *const addresses[] = {"none", "wildcard", "localhost", "own", "elsewhere", "port 0", "AF_UNSPEC", "other family"};

#define KINDS (sizeof kinds / sizeof *kinds)
#define ADDRESSES (sizeof addresses / sizeof *addresses)

/* Shared with children; NULL where nothing is to be noted. */
static unsigned (*noted)[KINDS][2][ADDRESSES];
static FILE *report;

static int kind_of(int fd) {
    int domain, type, only6 = 0;
    socklen_t length = sizeof domain;
    int __real_getsockopt(int, int, int, void *, socklen_t *);
    if (__real_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 ||
        __real_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
        return -1;
    }
    if (domain == AF_INET6) {
        __real_getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, &length);
    }
    bool inet = domain == AF_INET || domain == AF_INET6;
    if (inet && (type == SOCK_STREAM || type == SOCK_DGRAM)) {
        return (type == SOCK_STREAM ? 0 : 3) + (domain == AF_INET ? 0 : 1 + (only6 != 0));
    }
    return domain == AF_UNIX ? 6 : 7;
}

/* Cases pass pointers to nowhere. */
static bool copy(void *to, const void *from, size_t length) {
    struct iovec here = {to, length}, there = {(void *)from, length};
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)length;
}

static int address_of(const struct sockaddr *address, socklen_t length) {
    if (address == NULL || length < sizeof(sa_family_t)) {
        return 0;
    }
    struct sockaddr_in6 any6 = {0};
    if (!copy(&any6, address, length < sizeof any6 ? length : sizeof any6)) {
        return 0;
    }
    const struct sockaddr_in *any4 = (const struct sockaddr_in *)&any6;
    struct in_addr ip = any4->sin_addr;
    const char *own = getenv("CONFORMANCE_OWN");
    sa_family_t family = any6.sin6_family;
    if (family == AF_UNSPEC) {
        return 6;
    }
    if (family != AF_INET && family != AF_INET6) {
        return 7;
    }
    if (any4->sin_port == 0) {
        return 5;
    }
    if (family == AF_INET6) {
        if (IN6_IS_ADDR_LOOPBACK(&any6.sin6_addr)) {
            return 2;
        }
        if (!IN6_IS_ADDR_UNSPECIFIED(&any6.sin6_addr) && !IN6_IS_ADDR_V4MAPPED(&any6.sin6_addr)) {
            return 4;
        }
        memcpy(&ip, any6.sin6_addr.s6_addr + 12, sizeof ip);
    }
    bool is_own = own != NULL && ip.s_addr == inet_addr(own);
    return ip.s_addr == 0 ? 1 : ip.s_addr == htonl(INADDR_LOOPBACK) ? 2 : is_own ? 3 : 4;
}

static void note_address(enum call call, int fd, const struct sockaddr *address, socklen_t length) {
    if (noted == NULL) {
        return;
    }
    int error = errno, kind = kind_of(fd);
    int __real_fcntl(int, int, long);
    if (kind >= 0) {
        int flags = __real_fcntl(fd, F_GETFL, 0);
        noted[call][kind][(flags & O_NONBLOCK) != 0][address_of(address, length)]++;
    }
    errno = error;
}

static void note(enum call call, int fd) { note_address(call, fd, NULL, 0); }

/* A wrapper of a call whose first argument is the descriptor `fd`. */
#define WRAP(type, name, parameters, arguments)                                                                                       \
    type __real_##name parameters;                                                                                                    \
    type __wrap_##name parameters;                                                                                                    \
    type __wrap_##name parameters {                                                                                                   \
        note(CALL_##name, fd);                                                                                                        \
        return __real_##name arguments;                                                                                               \
    }

#define WRAP_ADDRESS(type, name, parameters, arguments)                                                                               \
    type __real_##name parameters;                                                                                                    \
    type __wrap_##name parameters;                                                                                                    \
    type __wrap_##name parameters {                                                                                                   \
        note_address(CALL_##name, fd, address, length);                                                                               \
        return __real_##name arguments;                                                                                               \
    }

typedef struct sockaddr sa;

WRAP_ADDRESS(int, bind, (int fd, const sa *address, socklen_t length), (fd, address, length))
WRAP_ADDRESS(int, connect, (int fd, const sa *address, socklen_t length), (fd, address, length))
WRAP_ADDRESS(ssize_t, sendto, (int fd, const void *data, size_t count, int flags, const sa *address, socklen_t length),
             (fd, data, count, flags, address, length))
WRAP(int, listen, (int fd, int backlog), (fd, backlog))
WRAP(int, accept, (int fd, sa *address, socklen_t *length), (fd, address, length))
WRAP(int, accept4, (int fd, sa *address, socklen_t *length, int flags), (fd, address, length, flags))
WRAP(int, getsockname, (int fd, sa *address, socklen_t *length), (fd, address, length))
WRAP(int, getpeername, (int fd, sa *address, socklen_t *length), (fd, address, length))
WRAP(int, getsockopt, (int fd, int level, int option, void *value, socklen_t *length), (fd, level, option, value, length))
WRAP(int, setsockopt, (int fd, int level, int option, const void *value, socklen_t length), (fd, level, option, value, length))
WRAP(int, shutdown, (int fd, int how), (fd, how))
WRAP(ssize_t, send, (int fd, const void *data, size_t count, int flags), (fd, data, count, flags))
WRAP(ssize_t, write, (int fd, const void *data, size_t count), (fd, data, count))
WRAP(ssize_t, recv, (int fd, void *data, size_t count, int flags), (fd, data, count, flags))
WRAP(ssize_t, recvfrom, (int fd, void *data, size_t count, int flags, sa *address, socklen_t *length),
     (fd, data, count, flags, address, length))
WRAP(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
WRAP(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout),
     (fd, messages, count, flags, timeout))
WRAP(ssize_t, read, (int fd, void *data, size_t count), (fd, data, count))
WRAP(int, dup, (int fd), (fd))
WRAP(int, dup2, (int fd, int to), (fd, to))
WRAP(int, dup3, (int fd, int to, int flags), (fd, to, flags))
WRAP(int, fcntl, (int fd, int command, long argument), (fd, command, argument))

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
    struct msghdr header;
    if (noted != NULL && copy(&header, message, sizeof header)) {
        note_address(CALL_sendmsg, fd, header.msg_name, header.msg_namelen);
    }
    return __real_sendmsg(fd, message, flags);
}

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    struct mmsghdr first;
    if (noted != NULL && count > 0 && copy(&first, messages, sizeof first)) {
        note_address(CALL_sendmmsg, fd, first.msg_hdr.msg_name, first.msg_hdr.msg_namelen);
    }
    return __real_sendmmsg(fd, messages, count, flags);
}

int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout) {
    for (nfds_t i = 0; i < count; i++) {
        note(CALL_poll, fds[i].fd);
    }
    return __real_poll(fds, count, timeout);
}

int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    for (nfds_t i = 0; i < count; i++) {
        note(CALL_ppoll, fds[i].fd);
    }
    return __real_ppoll(fds, count, timeout, mask);
}

static void note_sets(enum call call, int count, const fd_set *in, const fd_set *out, const fd_set *exceptional) {
    for (int fd = 0; fd < count; fd++) {
        if ((in && FD_ISSET(fd, in)) || (out && FD_ISSET(fd, out)) || (exceptional && FD_ISSET(fd, exceptional))) {
            note(call, fd);
        }
    }
}

int __real_select(int count, fd_set *in, fd_set *out, fd_set *exceptional, struct timeval *timeout);
int __wrap_select(int count, fd_set *in, fd_set *out, fd_set *exceptional, struct timeval *timeout);
int __wrap_select(int count, fd_set *in, fd_set *out, fd_set *exceptional, struct timeval *timeout) {
    note_sets(CALL_select, count, in, out, exceptional);
    return __real_select(count, in, out, exceptional, timeout);
}

int __real_pselect(int count, fd_set *in, fd_set *out, fd_set *exceptional, const struct timespec *timeout, const sigset_t *mask);
int __wrap_pselect(int count, fd_set *in, fd_set *out, fd_set *exceptional, const struct timespec *timeout, const sigset_t *mask);
int __wrap_pselect(int count, fd_set *in, fd_set *out, fd_set *exceptional, const struct timespec *timeout, const sigset_t *mask) {
    note_sets(CALL_pselect, count, in, out, exceptional);
    return __real_pselect(count, in, out, exceptional, timeout, mask);
}

int __real_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    note(CALL_epoll_ctl, fd);
    return __real_epoll_ctl(epoll, operation, fd, event);
}

static pid_t noting;

static void tell(void) {
    if (getpid() != noting) {
        return;
    }
    for (int call = 0; call < CALL_COUNT; call++) {
        for (unsigned kind = 0; kind < KINDS; kind++) {
            for (int waits = 0; waits < 2; waits++) {
                for (unsigned address = 0; address < ADDRESSES; address++) {
                    if (noted[call][kind][waits][address] > 0) {
                        fprintf(report, "%s\t%s\t%s\t%s\n", call_names[call], kinds[kind], waits ? "nonblocking" : "blocking",
                                addresses[address]);
                    }
                }
            }
        }
    }
    fflush(report);
}

void cover(void) {
    size_t size = CALL_COUNT * sizeof *noted;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int __real_dup(int);
    report = fdopen(__real_dup(STDOUT_FILENO), "w");
    if (memory == MAP_FAILED || report == NULL || freopen("/dev/null", "w", stdout) == NULL) {
        broken("cover");
    }
    noting = getpid();
    noted = memory;
    atexit(tell);
}
