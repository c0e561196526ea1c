/* Socket options: kept across bind(2), listen(2) and connect(2), and inherited by accepted sockets as natively. */
#include "conformance.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* Linux 5.14, asm-generic/socket.h */
#endif
#ifndef SOCK_SNDBUF_LOCK
#define SOCK_SNDBUF_LOCK 1 /* linux/socket.h */
#define SOCK_RCVBUF_LOCK 2
#endif

static const struct {
    const char *name;
    int level, option, value;
} kept[] = {
    {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1},
    {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1},
    {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 20000},
    {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 30000},
    {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 3},
    {"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1},
    {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3},
    {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1},
    {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 77},
    {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 11},
    {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 5},
    {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 12345},
    {"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, 0},
    {"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG, 1000},
    {"TCP_QUICKACK", IPPROTO_TCP, TCP_QUICKACK, 0},
    {"TCP_FASTOPEN", IPPROTO_TCP, TCP_FASTOPEN, 16},
    {"IP_TTL", IPPROTO_IP, IP_TTL, 33},
    {"IP_TOS", IPPROTO_IP, IP_TOS, 0x10},
    {"IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, 1},
};

#define KEPT (sizeof kept / sizeof *kept)

static void show_kept(const char *when, int fd) {
    printf("-- %s\n", when);
    for (unsigned i = 0; i < KEPT; i++) {
        show(kept[i].name, get_option(fd, kept[i].level, kept[i].option));
    }
    struct linger linger;
    socklen_t length = sizeof linger;
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length);
    printf("SO_LINGER: %d %d\n", linger.l_onoff, linger.l_linger);
    struct timeval timeout;
    length = sizeof timeout;
    getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length);
    printf("SO_RCVTIMEO: %ld\n", (long)timeout.tv_sec);
    length = sizeof timeout;
    getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length);
    printf("SO_SNDTIMEO: %ld\n", (long)timeout.tv_sec);
}

static void set_kept(int fd) {
    struct linger linger = {1, 9};
    struct timeval timeout = {7, 0};
    for (unsigned i = 0; i < KEPT; i++) {
        set_option(fd, kept[i].level, kept[i].option, kept[i].value);
    }
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

static void before_bind(const char *text) {
    struct address address = IP(text, 0);
    int fd = sock(address.any.sa_family, SOCK_STREAM), client = sock(AF_INET, SOCK_STREAM);
    set_kept(fd);
    show("bind", bind(fd, &address.any, address.length));
    show_kept("bound", fd);
    show("listen", listen(fd, 5));
    show_kept("listening", fd);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_kept("accepted", accept(fd, NULL, NULL));
}

static void before_bind4(void) { before_bind("0.0.0.0"); }
static void before_bind_lo(void) { before_bind("127.0.0.1"); }
static void before_bind6(void) { before_bind("::"); }

static void between_bind_and_listen(void) {
    int fd = sock(AF_INET, SOCK_STREAM), client = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "0.0.0.0", 0));
    set_kept(fd);
    show("listen", listen(fd, 5));
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_kept("accepted", accept(fd, NULL, NULL));
}

/* A port bound a second time is, under imsup, a retained socket: it must not keep what the first program set. */
static void second_socket_is_fresh(void) {
    int first = sock(AF_INET, SOCK_STREAM);
    for (unsigned i = 0; i < KEPT; i++) {
        if (kept[i].option != SO_SNDBUF && kept[i].option != SO_RCVBUF && kept[i].option != TCP_MAXSEG) {
            set_option(first, kept[i].level, kept[i].option, kept[i].value);
        }
    }
    show("bind", do_bind(first, "0.0.0.0", 0));
    show("listen", listen(first, 5));
    close(first);
    int second = sock(AF_INET, SOCK_STREAM);
    show("bind again", do_bind(second, "0.0.0.0", 0));
    show("listen again", listen(second, 5));
    show_kept("listening again", second);
    int client = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_kept("accepted", accept(second, NULL, NULL));
}

/* The same for what the kernel has no call to take back: told as yes or no, since the values differ from machine to machine. */
static void second_socket_keeps_sizes(void) {
    int first = sock(AF_INET, SOCK_STREAM), second = sock(AF_INET, SOCK_STREAM);
    set_kept(first);
    show("bind", do_bind(first, "0.0.0.0", 0));
    show("listen", listen(first, 5));
    close(first);
    show("bind again", do_bind(second, "0.0.0.0", 0));
    show("listen again", listen(second, 5));
    struct linger linger;
    socklen_t length = sizeof linger;
    getsockopt(second, SOL_SOCKET, SO_LINGER, &linger, &length);
    show("lingers", linger.l_onoff);
    show("the first's linger time", linger.l_linger == 9);
    show("the first's segment size", get_option(second, IPPROTO_TCP, TCP_MAXSEG) == 1000);
    show("the send buffer is fixed", get_option(second, SOL_SOCKET, SO_BUF_LOCK) & SOCK_SNDBUF_LOCK);
    show("the receive buffer is fixed", get_option(second, SOL_SOCKET, SO_BUF_LOCK) & SOCK_RCVBUF_LOCK);
}

static void connecting(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    set_kept(fd);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show_kept("connected", fd);
    close(server);
}

static void domain_and_type(void) {
    static const char *const places[] = {"0.0.0.0", "127.0.0.1", "::", "::1"};
    for (int i = 0; i < 4; i++) {
        int fd = listener(places[i], i, 5);
        printf("%s: domain %d type %d protocol %d\n", places[i], get_option(fd, SOL_SOCKET, SO_DOMAIN),
               get_option(fd, SOL_SOCKET, SO_TYPE), get_option(fd, SOL_SOCKET, SO_PROTOCOL));
    }
}

static void v6only_default(void) {
    int fd = sock(AF_INET6, SOCK_STREAM);
    show("v6only", get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    show("bind", do_bind(fd, "::", 0));
    show("v6only", get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    int one = 1;
    show("set when bound", setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
}

static void defer_accept(void) {
    int fd = sock(AF_INET, SOCK_STREAM), client = sock(AF_INET, SOCK_STREAM);
    /* Far longer than the moment until it is asked: when the time is over the connection is accepted without data. */
    set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 60);
    show("bind", do_bind(fd, "0.0.0.0", 0));
    show("listen", listen(fd, 5));
    show("connect", do_connect(client, "127.0.0.1", 0));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    show("accept before data", accept(fd, NULL, NULL));
    show("send", send(client, "x", 1, 0));
    show_poll("listener", fd, POLLIN);
    show("accept", accept(fd, NULL, NULL) >= 0);
}

const struct conformance_case options_cases[] = {
    {"options_before_bind4", before_bind4},
    {"options_before_bind_lo", before_bind_lo},
    {"options_before_bind6", before_bind6},
    {"options_between_bind_and_listen", between_bind_and_listen},
    {"options_second_socket_is_fresh", second_socket_is_fresh},
    {"options_second_socket_keeps_sizes", second_socket_keeps_sizes},
    {"options_connecting", connecting},
    {"options_domain_and_type", domain_and_type},
    {"options_v6only_default", v6only_default},
    {"options_defer_accept", defer_accept},
    {NULL, NULL},
};
