/* Every trapped call (bpf-filters/src/table.rs), with arguments that make sense about as often as not. */
#include "hostile.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

/* Larger than any errno; what the kernel keeps to itself (ERESTARTSYS, 512) begins above. */
#define LAST_ERRNO 133

static long any_slot(struct random *random) {
    uint64_t kind = below(random, 50);
    if (kind == 0) {
        return one_in(random, 2) ? -1 : 1000000;
    }
    long number = FIRST_SLOT + (long)below(random, SLOTS);
    /* The upper half of the register is anybody's. */
    return kind == 1 ? number | (long)(random_number(random) << 32) : number;
}

static long any_length(struct random *random) {
    static const long lengths[] = {0, 1, 2, 8, 15, 110, 128, 129, 4096, 0x7fffffff, -1, 0x10000001cL};
    return one_in(random, 5) ? lengths[below(random, 12)] : one_in(random, 2) ? 16 : 28;
}

static long any_count(struct random *random) {
    static const long counts[] = {0, 1, 12, 512, 1472, 4096, 65507, 65508, 1 << 20, -1};
    return counts[below(random, 10)];
}

static long any_flags(struct random *random) {
    switch (below(random, 8)) {
    case 0:
        return MSG_FASTOPEN;
    case 1:
        return MSG_FASTOPEN | MSG_DONTWAIT;
    case 2:
        return (long)(uint32_t)random_number(random) | MSG_DONTWAIT;
    case 3:
        return 0;
    default:
        return MSG_DONTWAIT | MSG_NOSIGNAL;
    }
}

/* Room for an address, and how much there is. */
static int *any_room(struct random *random) {
    static const int rooms[] = {0, 4, 16, 28, 128, -1, 0x7fffffff};
    int *room = any_place(random);
    /* Written by the kernel, which survives where it is not there. */
    int value = rooms[below(random, 7)], pipes[2];
    if (pipe2(pipes, O_CLOEXEC) == 0) {
        if (write(pipes[1], &value, sizeof value) == sizeof value && read(pipes[0], room, sizeof value) < 0) {
            /* Unmapped: the call is made all the same. */
        }
        close(pipes[0]);
        close(pipes[1]);
    }
    return room;
}

#define VECTORS 4

static void any_message(struct random *random, struct msghdr *message, struct iovec *vectors) {
    for (int i = 0; i < VECTORS; i++) {
        vectors[i] = (struct iovec){any_bytes(random), (size_t)any_count(random)};
    }
    *message = (struct msghdr){
        .msg_name = any_address(random),
        .msg_namelen = (socklen_t)any_length(random),
        .msg_iov = one_in(random, 10) ? any_bytes(random) : vectors,
        .msg_iovlen = one_in(random, 10) ? (size_t)any_count(random) : below(random, VECTORS + 1),
        .msg_control = one_in(random, 4) ? any_bytes(random) : NULL,
        .msg_controllen = one_in(random, 4) ? (size_t)any_count(random) : 0,
        .msg_flags = (int)random_number(random),
    };
    if (one_in(random, 3)) {
        message->msg_name = NULL;
    }
}

static long send_message(struct random *random) {
    struct msghdr message;
    struct iovec vectors[VECTORS];
    any_message(random, &message, vectors);
    return syscall(SYS_sendmsg, any_slot(random), one_in(random, 12) ? any_bytes(random) : &message, any_flags(random));
}

static long send_messages(struct random *random) {
    struct mmsghdr messages[8];
    struct iovec vectors[8][VECTORS];
    static const unsigned long counts[] = {0, 1, 8, 8, 8, 8, 1024, 1025, 0x7fffffff, -1UL};
    for (int i = 0; i < 8; i++) {
        any_message(random, &messages[i].msg_hdr, vectors[i]);
    }
    void *vector = one_in(random, 12) ? any_bytes(random) : messages;
    return syscall(SYS_sendmmsg, any_slot(random), vector, counts[below(random, vector == messages ? 6 : 10)], any_flags(random));
}

static long open_as_musl(struct random *random) {
    const char *path = one_in(random, 3) ? any_bytes(random) : "/etc/hosts";
    long fd = syscall(SYS_open, path, O_RDONLY | O_CLOEXEC | 0100000, 0);
    if (fd >= 0) {
        close((int)fd);
        return 0;
    }
    return fd;
}

void any_call(struct random *random) {
    uint64_t kind = below(random, 100);
    long result;
    errno = 0;
    if (kind < 30) {
        result = syscall(SYS_connect, any_slot(random), any_address(random), any_length(random));
    } else if (kind < 45) {
        result = syscall(SYS_bind, any_slot(random), any_address(random), any_length(random));
    } else if (kind < 52) {
        result = syscall(SYS_listen, any_slot(random), one_in(random, 4) ? (long)random_number(random) : 1);
    } else if (kind < 62) {
        result = syscall(SYS_getsockname, any_slot(random), any_place(random), any_room(random));
    } else if (kind < 70) {
        result = syscall(SYS_getpeername, any_slot(random), any_place(random), any_room(random));
    } else if (kind < 80) {
        result = syscall(SYS_sendto, any_slot(random), any_bytes(random), any_count(random), any_flags(random),
                         any_address(random), any_length(random));
    } else if (kind < 87) {
        result = send_message(random);
    } else if (kind < 93) {
        result = send_messages(random);
    } else if (kind < 95) {
        result = syscall(SYS_uname, any_place(random));
    } else if (kind < 96) {
        result = syscall(SYS_getsockopt, any_slot(random), SOL_SOCKET, SO_ACCEPTCONN, any_place(random), any_room(random));
    } else if (kind < 99) {
        result = open_as_musl(random);
    } else {
        result = syscall(SYS_io_uring_setup, below(random, 8), any_place(random));
    }
    if (result == -1 && errno > LAST_ERRNO) {
        violation("a call of kind %lu failed with errno %d", kind, errno);
    }
}

static int any_file(struct random *random) {
    static const int families[] = {AF_INET, AF_INET, AF_INET, AF_INET6, AF_INET6, AF_UNIX, AF_NETLINK};
    int pair[2];
    switch (below(random, 16)) {
    case 0:
        return eventfd(0, EFD_CLOEXEC);
    case 1:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 2:
        if (pipe(pair) != 0) {
            return -1;
        }
        close(pair[1]);
        return pair[0];
    case 3:
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
            return -1;
        }
        close(pair[1]);
        return pair[0];
    default:
        return socket(families[below(random, 7)], (one_in(random, 3) ? SOCK_DGRAM : SOCK_STREAM) | (one_in(random, 2) ? SOCK_NONBLOCK : 0), 0);
    }
}

static void put(int fd, struct random *random) {
    if (fd >= 0) {
        dup3(fd, FIRST_SLOT + (int)below(random, SLOTS), one_in(random, 2) ? O_CLOEXEC : 0);
        close(fd);
    }
}

static void any_option(struct random *random, int slot) {
    static const int options[][2] = {
        {SOL_SOCKET, SO_REUSEADDR}, {SOL_SOCKET, SO_REUSEPORT}, {IPPROTO_IPV6, IPV6_V6ONLY}, {SOL_SOCKET, SO_ZEROCOPY},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT}, {SOL_SOCKET, SO_BROADCAST}, {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    };
    int value = (int)below(random, 2);
    if (one_in(random, 4)) {
        struct linger linger = {value, (int)below(random, 2) * 1000};
        setsockopt(slot, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    } else if (one_in(random, 4)) {
        struct timeval limit = {0, (long)below(random, 20000)};
        setsockopt(slot, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    } else {
        const int *option = options[below(random, 7)];
        setsockopt(slot, option[0], option[1], &value, sizeof value);
    }
}

void any_change(struct random *random) {
    int slot = FIRST_SLOT + (int)below(random, SLOTS), other = FIRST_SLOT + (int)below(random, SLOTS);
    struct pollfd polled = {.fd = slot, .events = POLLIN};
    switch (below(random, 12)) {
    case 0:
        close(slot);
        break;
    case 1:
        dup2(slot, other);
        break;
    case 2:
        fcntl(slot, F_SETFL, one_in(random, 2) ? O_NONBLOCK : 0);
        break;
    case 3:
    case 4:
        any_option(random, slot);
        break;
    case 5:
        shutdown(slot, (int)below(random, 3));
        break;
    case 6:
        if (poll(&polled, 1, 0) == 1 && (fcntl(slot, F_GETFL) & O_NONBLOCK) != 0) {
            put(accept4(slot, NULL, NULL, SOCK_CLOEXEC), random);
        }
        break;
    default:
        put(any_file(random), random);
    }
}
