/* Descriptors that nobody may touch: files with an offset and contents, sockets with states, flags and options, one of each kind. */
#include "hostile.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* What there is of a descriptor to see without a trapped call. */
struct look {
    ino_t inode;
    int flags, close_on_exec;
    off_t offset;
    int state, error, unread, reuse_address, reuse_port, v6only, no_port, nodelay;
    long long linger;
};

enum { FILE_AT, TCP_NEW, TCP_LATER, UDP_NEW, TCP6_NEW, CONNECTED, ACCEPTED, LISTENING, SENTINELS };

struct sentinels {
    int first;
    struct look looks[SENTINELS];
};

static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

static struct look look_at(int fd) {
    struct look look;
    struct stat status;
    struct tcp_info tcp = {0};
    socklen_t length = sizeof tcp;
    memset(&look, 0, sizeof look);
    look.inode = fstat(fd, &status) == 0 ? status.st_ino : 0;
    look.flags = fcntl(fd, F_GETFL);
    look.close_on_exec = fcntl(fd, F_GETFD);
    look.offset = lseek(fd, 0, SEEK_CUR);
    look.state = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &length) == 0 ? tcp.tcpi_state : -1;
    look.error = option(fd, SOL_SOCKET, SO_ERROR);
    look.reuse_address = option(fd, SOL_SOCKET, SO_REUSEADDR);
    look.reuse_port = option(fd, SOL_SOCKET, SO_REUSEPORT);
    look.v6only = option(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    look.no_port = option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    look.nodelay = option(fd, IPPROTO_TCP, TCP_NODELAY);
    length = sizeof look.linger;
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &look.linger, &length);
    if (ioctl(fd, FIONREAD, &look.unread) != 0) {
        look.unread = -1;
    }
    return look;
}

static void put(int fd, int number) {
    if (fd < 0 || dup3(fd, number, O_CLOEXEC) != number) {
        violation("no sentinel at %d", number);
    }
    close(fd);
}

struct sentinels *post_sentinels(int first) {
    struct sentinels *sentinels = malloc(sizeof *sentinels);
    int file = memfd_create("sentinel", MFD_CLOEXEC), one = 1;
    if (write(file, "do not touch", 12) != 12 || lseek(file, 7, SEEK_SET) != 7) {
        violation("memfd");
    }
    put(file, first + FILE_AT);
    put(socket(AF_INET, SOCK_STREAM, 0), first + TCP_NEW);
    put(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), first + TCP_LATER);
    put(socket(AF_INET, SOCK_DGRAM, 0), first + UDP_NEW);
    int six = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    put(six, first + TCP6_NEW);
    /* A connection to itself, outside the planes. */
    struct sockaddr_in there = at(htonl(0x7f010203), 0);
    socklen_t length = sizeof there;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&there, length) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (void *)&there, &length) != 0 || connect(client, (void *)&there, length) != 0) {
        violation("a sentinel's connection");
    }
    put(accept(listener, NULL, NULL), first + ACCEPTED);
    put(client, first + CONNECTED);
    put(listener, first + LISTENING);
    sentinels->first = first;
    for (int i = 0; i < SENTINELS; i++) {
        sentinels->looks[i] = look_at(first + i);
    }
    return sentinels;
}

static void expect_name(const struct sentinels *sentinels, int which, bool bound) {
    struct sockaddr_in6 name = {0};
    socklen_t length = sizeof name;
    int result;
    /* A signal that arrives before imsup has heard of the call ends it (seccomp_unotify(2)). */
    do {
        result = getsockname(sentinels->first + which, (void *)&name, &length);
    } while (result != 0 && errno == EINTR);
    /* The port is at the same place in both families. */
    if (result != 0 || (name.sin6_port != 0) != bound) {
        violation("sentinel %d is bound to port %d", which, ntohs(name.sin6_port));
    }
}

void inspect_sentinels(const struct sentinels *sentinels) {
    char text[13] = "";
    for (int i = 0; i < SENTINELS; i++) {
        struct look now = look_at(sentinels->first + i), then = sentinels->looks[i];
        if (memcmp(&now, &then, sizeof now) != 0) {
            violation("sentinel %d: flags %#x -> %#x, state %d -> %d, error %d, inode %s, unread %d -> %d, v6only %d -> %d, "
                      "source chosen %d -> %d, reuse %d%d -> %d%d",
                      i, then.flags, now.flags, then.state, now.state, now.error, now.inode == then.inode ? "same" : "other",
                      then.unread, now.unread, then.v6only, now.v6only, then.no_port, now.no_port, then.reuse_address,
                      then.reuse_port, now.reuse_address, now.reuse_port);
        }
    }
    if (pread(sentinels->first + FILE_AT, text, 12, 0) != 12 || strcmp(text, "do not touch") != 0) {
        violation("a sentinel's contents: '%s'", text);
    }
    for (int i = TCP_NEW; i <= TCP6_NEW; i++) {
        expect_name(sentinels, i, false);
    }
    expect_name(sentinels, LISTENING, true);
}
