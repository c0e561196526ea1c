/* bind(2) and listen(2): what does not depend on the address (matrix.c has that). */
#include "conformance.h"

static void only6_mapped(void) {
    int fd = sock(AF_INET6, SOCK_STREAM);
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    show("bind mapped", do_bind(fd, "::ffff:127.0.0.1", 0));
}

static void port_zero_distinct(void) {
    struct address first = {.length = sizeof first.storage}, second = {.length = sizeof second.storage};
    int a = sock(AF_INET, SOCK_STREAM), b = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(a, "127.0.0.1", -1));
    show("bind another", do_bind(b, "127.0.0.1", -1));
    getsockname(a, &first.any, &first.length);
    getsockname(b, &second.any, &second.length);
    show("same port", first.in.sin_port == second.in.sin_port);
}

static void conflict_only6_any4(void) {
    int six = sock(AF_INET6, SOCK_STREAM), four = sock(AF_INET, SOCK_STREAM), again = sock(AF_INET6, SOCK_STREAM);
    set_option(six, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set_option(again, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    show("bind v6only", do_bind(six, "::", 0));
    show("bind v4", do_bind(four, "0.0.0.0", 0));
    show("bind v6only again", do_bind(again, "::", 0));
    show("listen v6only", listen(six, 5));
    show("listen v4", listen(four, 5));
}

static void reuseport(void) {
    int fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = sock(AF_INET, SOCK_STREAM);
        if (i < 2) {
            set_option(fds[i], SOL_SOCKET, SO_REUSEPORT, 1);
        }
    }
    show("bind first", do_bind(fds[0], "0.0.0.0", 0));
    show("listen first", listen(fds[0], 5));
    show("bind second", do_bind(fds[1], "0.0.0.0", 0));
    show("listen second", listen(fds[1], 5));
    show("bind without the option", do_bind(fds[2], "0.0.0.0", 0));
}

static void double_bind(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "127.0.0.1", 0));
    show("bind to another port", do_bind(fd, "127.0.0.1", 1));
    show_own("bound", fd);
    show("listen", listen(fd, 5));
    show("bind while listening", do_bind(fd, "127.0.0.1", 2));
}

static void bind_after_failure(void) {
    int taken = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("bind a taken port", do_bind(fd, "127.0.0.1", 0));
    show("bind a free port", do_bind(fd, "127.0.0.1", 1));
    show("listen", listen(fd, 5));
    show_own("listening", fd);
    close(taken);
}

static void bind_again_after_close(void) {
    for (int i = 0; i < 3; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        show("bind", do_bind(fd, "0.0.0.0", 0));
        show("listen", listen(fd, 5));
        close(fd);
    }
}

static void bind_without_listen_twice(void) {
    for (int i = 0; i < 2; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        show("bind", do_bind(fd, "0.0.0.0", 0));
        show_own("bound", fd);
        close(fd);
    }
}

static void bind_connected(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("bind", do_bind(fd, "127.0.0.1", 1));
    show("listen", listen(fd, 5));
    close(server);
}

static void foreign_address(void) {
    int four = sock(AF_INET, SOCK_STREAM), six = sock(AF_INET6, SOCK_STREAM);
    show("bind documentation address", do_bind(four, "192.0.2.1", 0));
    show("bind documentation address, v6", do_bind(six, "2001:db8::1", 0));
    show("bind broadcast", do_bind(sock(AF_INET, SOCK_STREAM), "255.255.255.255", 0));
    show("bind multicast", do_bind(sock(AF_INET, SOCK_STREAM), "224.0.0.1", 0));
}

static void other_loopback(void) {
    int fd = sock(AF_INET, SOCK_STREAM), client = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "127.1.2.3", 0));
    show_own("bound", fd);
    show("listen", listen(fd, 5));
    show("connect", do_connect(client, "127.1.2.3", 0));
    show_peer("peer", client);
}

static void listen_unbound(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    show("listen", listen(fd, 5));
    show_own("listening", fd);
}

static void listen_twice(void) {
    int fd = sock(AF_INET, SOCK_STREAM), client = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "127.0.0.1", 0));
    show("listen", listen(fd, 1));
    show("listen again", listen(fd, 100));
    show("listen with a negative backlog", listen(fd, -1));
    show("connect", do_connect(client, "127.0.0.1", 0));
}

static void listen_conflict(void) {
    int one = sock(AF_INET, SOCK_STREAM), two = sock(AF_INET, SOCK_STREAM);
    set_option(one, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(two, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind", do_bind(one, "0.0.0.0", 0));
    show("bind another", do_bind(two, "0.0.0.0", 0));
    show("listen", listen(one, 5));
    show("listen another", listen(two, 5));
}

static void listen_wrong(void) {
    show("listen on a datagram socket", listen(sock(AF_INET, SOCK_DGRAM), 5));
    show("listen on a pipe", listen(STDOUT_FILENO, 5));
    show("listen on nothing", listen(-1, 5));
}

static void privileged_port(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    struct address address = IP("127.0.0.1", 0);
    address.in.sin_port = htons(7);
    long result = bind(fd, &address.any, address.length);
    show("as the user that runs this", geteuid() == 0 ? result == 0 || errno == EADDRINUSE : result == -1 && errno == EACCES);
}

const struct conformance_case bind_cases[] = {
    {"bind_only6_mapped", only6_mapped},
    {"bind_port_zero_distinct", port_zero_distinct},
    {"bind_conflict_only6_any4", conflict_only6_any4},
    {"bind_reuseport", reuseport},
    {"bind_double", double_bind},
    {"bind_after_failure", bind_after_failure},
    {"bind_again_after_close", bind_again_after_close},
    {"bind_without_listen_twice", bind_without_listen_twice},
    {"bind_connected", bind_connected},
    {"bind_foreign_address", foreign_address},
    {"bind_other_loopback", other_loopback},
    {"bind_privileged_port", privileged_port},
    {"listen_unbound", listen_unbound},
    {"listen_twice", listen_twice},
    {"listen_conflict", listen_conflict},
    {"listen_wrong", listen_wrong},
    {NULL, NULL},
};
