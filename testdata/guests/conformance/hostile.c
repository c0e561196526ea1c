/* Arguments that no honest program passes: the same errno as natively, and the supervisor unharmed. */
#include "conformance.h"

static const struct {
    const char *name;
    uintptr_t value;
} pointers[] = {
    {"NULL", 0},
    {"1", 1},
    {"an unmapped page", 0x10000},
    {"the kernel's half", 0xffff800000000000},
    {"no address at all", 0x0123456789abcdef},
    {"-1", UINTPTR_MAX},
};

static const long lengths[] = {0, 1, 2, 3, 8, 15, 16, 17, 28, 110, 128, 129, 65536, 0x7fffffff, -1, -16, INT32_MIN};

#define POINTERS (sizeof pointers / sizeof *pointers)
#define LENGTHS (sizeof lengths / sizeof *lengths)

/* A last ordinary use, to see that everything still works. */
static void still_works(void) {
    int server = listener("127.0.0.1", 9, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("still works", do_connect(fd, "127.0.0.1", 9));
    close(server);
}

static void sweep_pointers(long number, bool by_length) {
    for (unsigned i = 0; i < POINTERS; i++) {
        printf("%s: ", pointers[i].name);
        int fd = sock(AF_INET, SOCK_STREAM);
        show("v4", syscall(number, fd, pointers[i].value, by_length ? sizeof(struct sockaddr_in) : 0));
        close(fd);
        printf("%s: ", pointers[i].name);
        fd = sock(AF_INET6, SOCK_DGRAM);
        show("v6", syscall(number, fd, pointers[i].value, by_length ? sizeof(struct sockaddr_in6) : 0));
        close(fd);
    }
    still_works();
}

static void bind_pointers(void) { sweep_pointers(SYS_bind, true); }
static void connect_pointers(void) { sweep_pointers(SYS_connect, true); }
static void bind_pointers_empty(void) { sweep_pointers(SYS_bind, false); }
static void connect_pointers_empty(void) { sweep_pointers(SYS_connect, false); }

static void sweep_lengths(long number, const char *text) {
    struct address address = IP(text, 0);
    for (unsigned i = 0; i < LENGTHS; i++) {
        int fd = sock(address.any.sa_family, SOCK_STREAM);
        printf("length %ld: ", lengths[i]);
        show("result", syscall(number, fd, &address.any, lengths[i]));
        close(fd);
    }
    still_works();
}

static void bind_lengths4(void) { sweep_lengths(SYS_bind, "127.0.0.1"); }
static void bind_lengths6(void) { sweep_lengths(SYS_bind, "::1"); }
static void bind_lengths_any6(void) { sweep_lengths(SYS_bind, "::"); }

static void connect_lengths(const char *text) {
    int server = listener(text, 0, 64);
    sweep_lengths(SYS_connect, text);
    close(server);
}

static void connect_lengths4(void) { connect_lengths("127.0.0.1"); }
static void connect_lengths6(void) { connect_lengths("::1"); }

static void descriptors(void) {
    int closed = dup(STDOUT_FILENO), file = open("/dev/null", O_RDWR), path = open("/", O_PATH), pipes[2];
    struct address address = IP("127.0.0.1", 0);
    close(closed);
    if (pipe(pipes) != 0) {
        broken("pipe");
    }
    const struct {
        const char *name;
        int fd;
    } some[] = {{"-1", -1},     {"INT_MIN", INT32_MIN}, {"INT_MAX", INT32_MAX},      {"closed", closed},
                {"file", file}, {"O_PATH", path},       {"pipe", pipes[0]}, {"epoll", epoll_create1(0)}};
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        struct address out = {.length = sizeof out.storage};
        printf("-- %s\n", some[i].name);
        show("bind", bind(some[i].fd, &address.any, address.length));
        show("connect", connect(some[i].fd, &address.any, address.length));
        show("listen", listen(some[i].fd, 5));
        show("getsockname", getsockname(some[i].fd, &out.any, &out.length));
        show("getpeername", getpeername(some[i].fd, &out.any, &out.length));
        show("sendto", sendto(some[i].fd, "x", 1, MSG_NOSIGNAL, &address.any, address.length));
    }
    still_works();
}

/* The kernel looks at the descriptor's low half only. */
static void wide_descriptors(void) {
    struct address address = IP("127.0.0.1", 0);
    int fd = sock(AF_INET, SOCK_STREAM);
    show("bind with high bits", syscall(SYS_bind, 0x100000000L | fd, &address.any, address.length));
    show("listen with high bits", syscall(SYS_listen, 0x7fff00000000L | fd, 0x100000005L));
    show("connect with high bits", syscall(SYS_connect, 0x100000000L | sock(AF_INET, SOCK_STREAM), &address.any, address.length));
    show("bind with a wide length", syscall(SYS_bind, sock(AF_INET, SOCK_STREAM), &address.any, 0x100000010L));
    still_works();
}

static void both_wrong(void) {
    show("bind: closed and NULL", syscall(SYS_bind, -1, 0, 16));
    show("bind: closed and negative", syscall(SYS_bind, -1, 0, -1));
    show("connect: closed and NULL", syscall(SYS_connect, -1, 0, 16));
    show("connect: no socket and NULL", syscall(SYS_connect, STDOUT_FILENO, 0, 16));
    show("connect: no socket and negative", syscall(SYS_connect, STDOUT_FILENO, 0, -1));
    show("getsockname: closed and NULL", syscall(SYS_getsockname, -1, 0, 0));
    show("getsockname: no socket and NULL", syscall(SYS_getsockname, STDOUT_FILENO, 0, 0));
}

static void families(void) {
    static const sa_family_t some[] = {AF_UNSPEC, AF_UNIX, AF_INET6, AF_NETLINK, AF_PACKET, 99, 0xffff};
    struct address address = IP("127.0.0.1", 0);
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        address.any.sa_family = some[i];
        printf("-- family %d\n", some[i]);
        show("bind v4", bind(sock(AF_INET, SOCK_STREAM), &address.any, sizeof(struct sockaddr_in)));
        show("bind v6", bind(sock(AF_INET6, SOCK_STREAM), &address.any, sizeof(struct sockaddr_in6)));
        show("connect v4", connect(sock(AF_INET, SOCK_STREAM), &address.any, sizeof(struct sockaddr_in)));
        show("connect v6", connect(sock(AF_INET6, SOCK_STREAM), &address.any, sizeof(struct sockaddr_in6)));
        show("bind v4 datagram", bind(sock(AF_INET, SOCK_DGRAM), &address.any, sizeof(struct sockaddr_in)));
        show("sendto v4", sendto(sock(AF_INET, SOCK_DGRAM), "x", 1, 0, &address.any, sizeof(struct sockaddr_in)));
        show("sendto v6", sendto(sock(AF_INET6, SOCK_DGRAM), "x", 1, 0, &address.any, sizeof(struct sockaddr_in6)));
    }
    address = IP("0.0.0.0", 0);
    address.any.sa_family = AF_UNSPEC;
    show("bind wildcard as AF_UNSPEC", bind(sock(AF_INET, SOCK_STREAM), &address.any, sizeof(struct sockaddr_in)));
    still_works();
}

static void across_a_page(void) {
    long page = sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct address address = IP("127.0.0.1", 0);
    munmap(memory + page, page);
    char *cut = memory + page - 8, *fits = memory + page - sizeof(struct sockaddr_in);
    memcpy(cut, &address.any, 8);
    show("bind across the end", syscall(SYS_bind, sock(AF_INET, SOCK_STREAM), cut, 16));
    show("connect across the end", syscall(SYS_connect, sock(AF_INET, SOCK_STREAM), cut, 16));
    memcpy(fits, &address.any, sizeof(struct sockaddr_in));
    int fd = sock(AF_INET, SOCK_STREAM);
    show("bind at the end", syscall(SYS_bind, fd, fits, 16));
    socklen_t length = 16;
    show("getsockname at the end", syscall(SYS_getsockname, fd, fits, &length));
    length = 16;
    show("getsockname across the end", syscall(SYS_getsockname, fd, cut, &length));
    length = 8;
    show("getsockname of eight bytes", syscall(SYS_getsockname, fd, cut, &length));
    still_works();
}

static void read_only_memory(void) {
    long page = sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct address address = IP("127.0.0.1", 0);
    memcpy(memory, &address.any, address.length);
    memory[64] = sizeof(struct sockaddr_in);
    mprotect(memory, page, PROT_READ);
    int fd = sock(AF_INET, SOCK_STREAM);
    socklen_t length = 16;
    show("bind from read-only memory", bind(fd, (struct sockaddr *)memory, address.length));
    show("getsockname into it", getsockname(fd, (struct sockaddr *)memory, &length));
    show("length there", syscall(SYS_getsockname, fd, &address.any, memory + 64));
    show("uname into it", syscall(SYS_uname, memory));
    mprotect(memory, page, PROT_NONE);
    show("bind from forbidden memory", bind(sock(AF_INET, SOCK_STREAM), (struct sockaddr *)memory, address.length));
    still_works();
}

static void name_pointers(long number) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    if (do_connect(fd, "127.0.0.1", 0) != 0) {
        broken("connect");
    }
    for (unsigned i = 0; i < POINTERS; i++) {
        struct address out;
        socklen_t length = sizeof out.storage, zero = 0;
        printf("-- %s\n", pointers[i].name);
        show("address", syscall(number, fd, pointers[i].value, &length));
        show("address, length 0", syscall(number, fd, pointers[i].value, &zero));
        show("length", syscall(number, fd, &out.any, pointers[i].value));
        show("both", syscall(number, fd, pointers[i].value, pointers[i].value));
    }
    static const int32_t said[] = {-1, INT32_MIN, INT32_MAX, 65536};
    for (unsigned i = 0; i < sizeof said / sizeof *said; i++) {
        struct address out;
        int32_t length = said[i];
        printf("length %d: ", said[i]);
        show("result", syscall(number, fd, &out.any, &length));
        printf("  says %d\n", length);
    }
    still_works();
    close(server);
}

static void getsockname_pointers(void) { name_pointers(SYS_getsockname); }
static void getpeername_pointers(void) { name_pointers(SYS_getpeername); }

static void send_pointers(void) {
    struct address to = IP("127.0.0.1", 0);
    for (unsigned i = 0; i < POINTERS; i++) {
        int fd = sock(AF_INET, SOCK_DGRAM);
        printf("-- %s\n", pointers[i].name);
        show("sendto: address", syscall(SYS_sendto, fd, "x", 1, 0, pointers[i].value, to.length));
        show("sendto: data", syscall(SYS_sendto, fd, pointers[i].value, 1, 0, &to.any, to.length));
        show("sendmsg", syscall(SYS_sendmsg, fd, pointers[i].value, 0));
        struct msghdr message = {.msg_name = (void *)pointers[i].value, .msg_namelen = to.length};
        show("sendmsg: name", syscall(SYS_sendmsg, fd, &message, 0));
        struct msghdr vectors = {.msg_name = &to.any, .msg_namelen = to.length, .msg_iov = (void *)pointers[i].value, .msg_iovlen = 1};
        show("sendmsg: vector", syscall(SYS_sendmsg, fd, &vectors, 0));
        show("sendmmsg", syscall(SYS_sendmmsg, fd, pointers[i].value, 1, 0));
        close(fd);
    }
    still_works();
}

static void send_lengths(void) {
    struct address to = IP("127.0.0.1", 0);
    for (unsigned i = 0; i < LENGTHS; i++) {
        int fd = sock(AF_INET, SOCK_DGRAM);
        printf("length %ld: ", lengths[i]);
        show("sendto", syscall(SYS_sendto, fd, "x", 1, 0, &to.any, lengths[i]));
        struct iovec vector = {"x", 1};
        struct msghdr message = {.msg_name = &to.any, .msg_namelen = (socklen_t)lengths[i], .msg_iov = &vector, .msg_iovlen = 1};
        printf("length %ld: ", lengths[i]);
        show("sendmsg", syscall(SYS_sendmsg, fd, &message, 0));
        close(fd);
    }
    still_works();
}

static void uname_pointers(void) {
    for (unsigned i = 0; i < POINTERS; i++) {
        printf("%s: ", pointers[i].name);
        show("uname", syscall(SYS_uname, pointers[i].value));
    }
    still_works();
}

static void open_pointers(void) {
    for (unsigned i = 0; i < POINTERS; i++) {
        printf("%s: ", pointers[i].name);
        show("open", syscall(SYS_open, pointers[i].value, O_RDONLY | O_CLOEXEC | 0100000));
    }
    show("a path that never ends", syscall(SYS_open, memset(malloc(8192), 'a', 8192), O_RDONLY | O_CLOEXEC | 0100000));
    show("a missing file", syscall(SYS_open, "/nowhere", O_RDONLY | O_CLOEXEC | 0100000));
    show("an empty path", syscall(SYS_open, "", O_RDONLY | O_CLOEXEC | 0100000));
    show("another file", syscall(SYS_open, "/proc/self/status", O_RDONLY | O_CLOEXEC | 0100000) >= 0);
    still_works();
}

static void *scribble(void *shared) {
    struct address *address = shared;
    for (int i = 0; i < 500000; i++) {
        address->in.sin_family = i & 1 ? AF_INET : AF_INET6;
        address->in.sin_addr.s_addr = i & 2 ? htonl(INADDR_LOOPBACK) : htonl(INADDR_ANY);
    }
    return NULL;
}

/* Memory that changes while the call is looked at. */
static void changing_memory(void) {
    static struct address address;
    address = IP("127.0.0.1", 0);
    pthread_t thread;
    pthread_create(&thread, NULL, scribble, &address);
    for (int i = 0; i < 500; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        if (bind(fd, &address.any, sizeof(struct sockaddr_in)) == 0) {
            listen(fd, 1);
        }
        close(fd);
        fd = sock(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
        connect(fd, &address.any, sizeof(struct sockaddr_in));
        close(fd);
    }
    pthread_join(thread, NULL);
    still_works();
}

static void *churn(void *unused) {
    for (int i = 0; i < 20000; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        close(fd);
    }
    return unused;
}

/* Descriptors that are closed and reused by another thread while the call is looked at. */
static void changing_descriptors(void) {
    pthread_t thread;
    int lowest = dup(STDOUT_FILENO);
    close(lowest);
    pthread_create(&thread, NULL, churn, NULL);
    for (int i = 0; i < 500; i++) {
        struct address out = {.length = sizeof out.storage};
        do_bind(lowest, "127.0.0.1", 0);
        do_connect(lowest, "127.0.0.1", 1);
        listen(lowest, 1);
        getsockname(lowest, &out.any, &out.length);
    }
    pthread_join(thread, NULL);
    still_works();
}

/* What the filter refuses on purpose. */
static void io_uring(void) {
    char parameters[256] = {0};
    long result = syscall(SYS_io_uring_setup, 4, parameters);
    show("io_uring_setup without entries", result >= 0 ? 0 : result);
    show("io_uring_enter on nothing", syscall(SYS_io_uring_enter, -1, 0, 0, 0, 0, 0));
    show("io_uring_register on nothing", syscall(SYS_io_uring_register, -1, 0, 0, 0));
}

const struct conformance_case hostile_cases[] = {
    {"hostile_bind_pointers", bind_pointers},
    {"hostile_bind_pointers_empty", bind_pointers_empty},
    {"hostile_connect_pointers", connect_pointers},
    {"hostile_connect_pointers_empty", connect_pointers_empty},
    {"hostile_bind_lengths4", bind_lengths4},
    {"hostile_bind_lengths6", bind_lengths6},
    {"hostile_bind_lengths_any6", bind_lengths_any6},
    {"hostile_connect_lengths4", connect_lengths4},
    {"hostile_connect_lengths6", connect_lengths6},
    {"hostile_descriptors", descriptors},
    {"hostile_wide_descriptors", wide_descriptors},
    {"hostile_both_wrong", both_wrong},
    {"hostile_families", families},
    {"hostile_across_a_page", across_a_page},
    {"hostile_read_only_memory", read_only_memory},
    {"hostile_getsockname_pointers", getsockname_pointers},
    {"hostile_getpeername_pointers", getpeername_pointers},
    {"hostile_send_pointers", send_pointers},
    {"hostile_send_lengths", send_lengths},
    {"hostile_uname_pointers", uname_pointers},
    {"hostile_open_pointers", open_pointers},
    {"hostile_changing_memory", changing_memory},
    {"hostile_changing_descriptors", changing_descriptors},
    {"hostile_io_uring", io_uring},
    {NULL, NULL},
};
