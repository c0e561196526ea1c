/* shutdown(2), close(2) and resets, as each side sees them. */
#include "conformance.h"

static const char *const hows[] = {"read", "write", "both", "close", "reset", "close_unread", NULL};
static const char *const sides[] = {"client", "server", NULL};
static const char *const places[] = {"lo4", "own4", "lo6", NULL};

static void look(const char *who, int fd) {
    char byte;
    printf("-- %s\n", who);
    show_poll("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
    show("receive", recv(fd, &byte, 1, MSG_DONTWAIT));
    show("receive again", recv(fd, &byte, 1, MSG_DONTWAIT));
    show("send", send(fd, "x", 1, MSG_NOSIGNAL));
    show("send again", send(fd, "x", 1, MSG_NOSIGNAL));
    show_error("error", fd);
    show_peer("peer", fd);
}

static void closing(const int *at) {
    static const char *const texts[] = {"127.0.0.1", "own4", "::1"};
    const char *text = texts[at[2]];
    int server = listener(text, 0, 5), client = sock(IP(text, 0).any.sa_family, SOCK_STREAM);
    show("connect", do_connect(client, text, 0));
    int accepted = accept(server, NULL, NULL), one = at[1] == 0 ? client : accepted, other = at[1] == 0 ? accepted : client;
    struct linger at_once = {1, 0};
    if (at[0] == 5) {
        /* What is closed with bytes unread is reset (RFC 2525, 2.17). */
        show("send", send(other, "unread", 6, 0));
        poll_for(one, POLLIN);
    }
    if (at[0] < 3) {
        static const int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
        show("shutdown", shutdown(one, how[at[0]]));
        look("the other side", other);
        look("this side", one);
        show("shutdown again", shutdown(one, how[at[0]]));
        show("other side's shutdown", shutdown(other, SHUT_RDWR));
    } else {
        if (at[0] == 4) {
            setsockopt(one, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        }
        show("close", close(one));
        look("the other side", other);
    }
    int again = sock(IP(text, 0).any.sa_family, SOCK_STREAM);
    show("the listener goes on", do_connect(again, text, 0));
}

const struct conformance_matrix closing_matrices[] = {
    {"closing", {hows, sides, places}, NULL, closing},
    {NULL, {NULL}, NULL, NULL},
};
