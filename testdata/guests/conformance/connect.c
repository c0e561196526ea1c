/* connect(2) and accept(2): what does not depend on the addresses (matrix.c has that). */
#include "conformance.h"

static void only6(void) {
    int server = sock(AF_INET6, SOCK_STREAM), four = sock(AF_INET, SOCK_STREAM), six = sock(AF_INET6, SOCK_STREAM);
    set_option(server, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    show("bind", do_bind(server, "::", 0));
    show("listen", listen(server, 5));
    show("connect v4", do_connect(four, "127.0.0.1", 0));
    show("connect v6", do_connect(six, "::1", 0));
    show_peer("peer", six);
}

static void refused(const char *text, int flags) {
    struct address to = IP(text, 0);
    int fd = sock(to.any.sa_family, SOCK_STREAM | flags);
    long result = connect(fd, &to.any, to.length);
    if (flags == 0) {
        show("connect", result);
    } else {
        show("refused at once or in progress", result == -1 && (errno == ECONNREFUSED || errno == EINPROGRESS));
        if (errno == EINPROGRESS) {
            show_poll("poll", fd, POLLOUT);
            show("refused", get_option(fd, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
        } else {
            printf("poll: out err hup\nrefused: 1\n");
        }
    }
    show_peer("peer", fd);
    show("send", send(fd, "x", 1, MSG_NOSIGNAL));
}

static void refused4(void) { refused("127.0.0.1", 0); }
static void refused6(void) { refused("::1", 0); }
static void refused_mapped(void) { refused("::ffff:127.0.0.1", 0); }
static void refused_nonblocking(void) { refused("127.0.0.1", SOCK_NONBLOCK); }

static void refused_then_connected(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    int server = listener("127.0.0.1", 0, 5);
    show("connect again", do_connect(fd, "127.0.0.1", 0));
    show_peer("peer", fd);
    close(server);
}

static void bound_not_listening(void) {
    int bound = sock(AF_INET, SOCK_STREAM), fd = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(bound, "127.0.0.1", 0));
    show("connect", do_connect(fd, "127.0.0.1", 0));
}

static void closed_listener(void) {
    int server = listener("127.0.0.1", 0, 5);
    close(server);
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
}

/* What waited in it is reset, sooner or later. */
static void closed_with_a_client(void) {
    int server = listener("0.0.0.0", 0, 5), client = sock(AF_INET, SOCK_STREAM);
    char byte;
    show("connect", do_connect(client, "127.0.0.1", 0));
    close(server);
    show("receive", recv(client, &byte, 1, 0));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    server = sock(AF_INET, SOCK_STREAM);
    set_option(server, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind", do_bind(server, "0.0.0.0", 0));
    show("listen", listen(server, 5));
    client = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(client, "127.0.0.1", 0));
    exchange(client, accept(server, NULL, NULL));
}

static void shut_listener(void) {
    int server = listener("0.0.0.0", 0, 5);
    show("shutdown", shutdown(server, SHUT_RDWR));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    show("listen again", listen(server, 5));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
}

static void already_connected(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("connect again", do_connect(fd, "127.0.0.1", 0));
    show("connect elsewhere", do_connect(fd, "127.0.0.1", 1));
    show_peer("peer", fd);
    close(server);
}

static void unspec_disconnect(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    show("connect", do_connect(fd, "127.0.0.1", 0));
    int accepted = accept(server, NULL, NULL);
    show("connect to AF_UNSPEC", connect(fd, &unspec, sizeof unspec));
    show_peer("peer", fd);
    show_own("own", fd);
    show_poll("accepted", accepted, POLLIN);
    show("connect again", do_connect(fd, "127.0.0.1", 0));
    show_peer("peer", fd);
}

static void unspec_fresh(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    show("connect to AF_UNSPEC", connect(fd, &unspec, sizeof unspec));
    show_own("own", fd);
    show("short", connect(fd, &unspec, sizeof unspec.sa_family));
}

static void from_bound(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    struct address peer = {.length = sizeof peer.storage};
    show("bind", do_bind(fd, "127.0.0.1", 1));
    show("connect", do_connect(fd, "127.0.0.1", 0));
    accept(server, &peer.any, &peer.length);
    show_address("accept's peer", &peer);
    show_own("own", fd);
}

static void from_bound_any(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    struct address peer = {.length = sizeof peer.storage};
    show("bind", do_bind(fd, "0.0.0.0", 1));
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show_own("own", fd);
    accept(server, &peer.any, &peer.length);
    show_address("accept's peer", &peer);
}

static void listening_socket(void) {
    int server = listener("127.0.0.1", 0, 5);
    show("connect a listener", do_connect(server, "127.0.0.1", 0));
    show_peer("peer", server);
}

static void wrong_family(void) {
    int four = sock(AF_INET, SOCK_STREAM), six = sock(AF_INET6, SOCK_STREAM), only6 = sock(AF_INET6, SOCK_STREAM);
    set_option(only6, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    show("v4 to v6", do_connect(four, "::1", 0));
    show("v6 to v4", do_connect(six, "127.0.0.1", 0));
    show("v6only to mapped", do_connect(only6, "::ffff:127.0.0.1", 0));
}

static void accept_empty(void) {
    int server = listener("0.0.0.0", 0, 5);
    fcntl(server, F_SETFL, O_NONBLOCK);
    show("accept", accept(server, NULL, NULL));
    show("accept not listening", accept(sock(AF_INET, SOCK_STREAM), NULL, NULL));
    show("accept datagram", accept(sock(AF_INET, SOCK_DGRAM), NULL, NULL));
}

static void accept_keeps_order(void) {
    int server = listener("127.0.0.1", 0, 5);
    for (int i = 1; i < 4; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        show("bind", do_bind(fd, "127.0.0.1", i));
        show("connect", do_connect(fd, "127.0.0.1", 0));
    }
    for (int i = 1; i < 4; i++) {
        show_peer("accepted", accept(server, NULL, NULL));
    }
}

static void many(void) {
    int server = listener("0.0.0.0", 0, 64), good = 0;
    for (int i = 0; i < 50; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        good += do_connect(fd, "127.0.0.1", 0) == 0;
        close(accept(server, NULL, NULL));
        close(fd);
    }
    show("connected", good);
}

static void half_close(void) {
    char byte;
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    int accepted = accept(server, NULL, NULL);
    show("shutdown", shutdown(fd, SHUT_WR));
    show("end of file", recv(accepted, &byte, 1, 0));
    show("back", send(accepted, "x", 1, 0));
    show("arrives", recv(fd, &byte, 1, 0));
    close(accepted);
    show("end of file", recv(fd, &byte, 1, 0));
}

static void close_releases_the_port(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    int accepted = accept(server, NULL, NULL);
    char byte;
    close(fd);
    show("the peer sees it at once", recv(accepted, &byte, 1, MSG_DONTWAIT));
    close(accepted);
    close(server);
    show("bind", do_bind(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 1));
}

static void fast_open(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    struct address to = IP("127.0.0.1", 0);
    char buffer[8] = {0};
    if (show("sendto with MSG_FASTOPEN", sendto(fd, "fast", 4, MSG_FASTOPEN, &to.any, to.length)) < 0) {
        /* What programs do where it is switched off. */
        printf("falls back\n");
        if (do_connect(fd, "127.0.0.1", 0) != 0 || send(fd, "fast", 4, 0) != 4) {
            broken("fall back");
        }
    }
    int accepted = accept(server, NULL, NULL);
    show("receives", recv(accepted, buffer, 4, MSG_WAITALL));
    show_peer("peer", fd);
}

const struct conformance_case connect_cases[] = {
    {"connect_only6", only6},
    {"connect_refused4", refused4},
    {"connect_refused6", refused6},
    {"connect_refused_mapped", refused_mapped},
    {"connect_refused_nonblocking", refused_nonblocking},
    {"connect_refused_then_connected", refused_then_connected},
    {"connect_bound_not_listening", bound_not_listening},
    {"connect_closed_listener", closed_listener},
    {"connect_closed_with_a_client", closed_with_a_client},
    {"connect_shut_listener", shut_listener},
    {"connect_already_connected", already_connected},
    {"connect_unspec_disconnect", unspec_disconnect},
    {"connect_unspec_fresh", unspec_fresh},
    {"connect_from_bound", from_bound},
    {"connect_from_bound_any", from_bound_any},
    {"connect_listening_socket", listening_socket},
    {"connect_wrong_family", wrong_family},
    {"connect_fast_open", fast_open},
    {"connect_many", many},
    {"connect_half_close", half_close},
    {"connect_close_releases_the_port", close_releases_the_port},
    {"accept_empty", accept_empty},
    {"accept_keeps_order", accept_keeps_order},
    {NULL, NULL},
};
