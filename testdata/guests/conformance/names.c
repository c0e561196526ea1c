/* getsockname(2), getpeername(2), uname(2). */
#include "conformance.h"

/* Asks with a buffer of `length` bytes and prints what was written, how much was said to be, and whether the rest was left alone. */
static void ask(const char *what, int (*call)(int, struct sockaddr *, socklen_t *), int fd, socklen_t length) {
    unsigned char buffer[64];
    socklen_t said = length;
    memset(buffer, 0xa5, sizeof buffer);
    if (show(what, call(fd, (struct sockaddr *)buffer, &said)) != 0) {
        return;
    }
    printf("  said %u, family", said);
    for (socklen_t i = 0; i < 2; i++) {
        printf(" %02x", buffer[i]);
    }
    printf(", address");
    for (socklen_t i = 4; i < 8; i++) {
        printf(" %02x", buffer[i]);
    }
    unsigned end = sizeof buffer;
    while (end > 0 && buffer[end - 1] == 0xa5) {
        end--;
    }
    /* Only bytes that cannot be an address byte by accident count: those past what was asked for. */
    printf(", past the end %s\n", end <= length ? "untouched" : "TOUCHED");
}

static void lengths(const char *text) {
    static const socklen_t some[] = {0, 1, 2, 4, 6, 8, 15, 16, 17, 27, 28, 29, 64};
    int server = listener(text, 0, 5);
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        char what[64];
        snprintf(what, sizeof what, "getsockname with %u", some[i]);
        ask(what, getsockname, server, some[i]);
    }
    struct address to = IP(text, 0);
    int fd = sock(to.any.sa_family, SOCK_STREAM);
    show("connect", connect(fd, &to.any, to.length));
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        char what[64];
        snprintf(what, sizeof what, "getpeername with %u", some[i]);
        ask(what, getpeername, fd, some[i]);
    }
}

static void lengths4(void) { lengths("127.0.0.1"); }
static void lengths6(void) { lengths("::1"); }
static void lengths_any4(void) { lengths("0.0.0.0"); }
static void lengths_any6(void) { lengths("::"); }

static void unconnected(void) {
    show_own("own, v4", sock(AF_INET, SOCK_STREAM));
    show_own("own, v6", sock(AF_INET6, SOCK_STREAM));
    show_own("own, datagram", sock(AF_INET, SOCK_DGRAM));
    show_peer("peer, v4", sock(AF_INET, SOCK_STREAM));
    show_peer("peer, v6", sock(AF_INET6, SOCK_STREAM));
    show_peer("peer, datagram", sock(AF_INET, SOCK_DGRAM));
}

static void after_peer_closed(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    char byte;
    show("connect", do_connect(fd, "127.0.0.1", 0));
    close(accept(server, NULL, NULL));
    show("end of file", recv(fd, &byte, 1, 0));
    show_own("own", fd);
    show_peer("peer", fd);
    shutdown(fd, SHUT_RDWR);
    show_peer("peer after shutdown", fd);
}

static void node_name(void) {
    struct utsname name;
    char host[256];
    show("uname", uname(&name));
    show("gethostname", gethostname(host, sizeof host));
    show("they agree", strcmp(name.nodename, host) == 0);
    printf("%s %s\n", name.sysname, name.machine);
    show("short buffer", gethostname(host, 1));
}

const struct conformance_case names_cases[] = {
    {"names_lengths4", lengths4},
    {"names_lengths6", lengths6},
    {"names_lengths_any4", lengths_any4},
    {"names_lengths_any6", lengths_any6},
    {"names_unconnected", unconnected},
    {"names_after_peer_closed", after_peer_closed},
    {"names_uname", node_name},
    {NULL, NULL},
};
