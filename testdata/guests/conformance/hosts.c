/*
 * Cases of two programs, which are two hosts when supervised: the harness runs the second with the role "other" and the same ports. They
 * meet at an abstract UNIX socket. And sockets that a program is born with, as from inetd: the harness passes one as standard input.
 */
#include "conformance.h"

static struct address meeting_point(void) {
    struct address address = unix_path("");
    int length = snprintf(address.un.sun_path + 1, 64, "imsup-conformance-meet-%d", base_port);
    address.length = offsetof(struct sockaddr_un, sun_path) + 1 + length;
    return address;
}

static int meet(void) {
    struct address at = meeting_point();
    int fd = sock(AF_UNIX, SOCK_STREAM);
    if (strcmp(role, "other") != 0) {
        if (bind(fd, &at.any, at.length) != 0 || listen(fd, 1) != 0) {
            broken("meeting point");
        }
        return accept(fd, NULL, NULL);
    }
    /* Whoever comes first waits for the other. */
    while (connect(fd, &at.any, at.length) != 0) {
        usleep(10000);
    }
    return fd;
}

static void give(int over, int fd) {
    struct address own = IP("own4", 0);
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {&own, sizeof own};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    show("sends all", sendmsg(over, &message, 0) == sizeof own);
}

/* The descriptor, and the address of who gave it. */
static int take(int over, struct address *from) {
    int fd = -1;
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {from, sizeof *from};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    show("receives all", recvmsg(over, &message, MSG_WAITALL) == sizeof *from);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void await(int over) {
    char byte;
    show("the other is done", recv(over, &byte, 1, 0));
}

static void passed_listener(void) {
    int over = meet();
    struct address to;
    if (strcmp(role, "other") != 0) {
        int fd = listener("0.0.0.0", 0, 5);
        give(over, fd);
        close(fd);
        return await(over);
    }
    int fd = take(over, &to), client = sock(AF_INET, SOCK_STREAM);
    show_own("passed", fd);
    /* Longer than imsup takes to find out that the host whose address it is has closed it. */
    sleep(3);
    show("connect", connect(client, &to.any, to.length));
    int accepted = accept(fd, NULL, NULL);
    show_peer("client's peer", client);
    show_own("accepted's own", accepted);
    exchange(client, accepted);
    send(over, "x", 1, 0);
}

static void passed_connection(void) {
    int over = meet();
    struct address to;
    char text[8] = {0};
    if (strcmp(role, "other") != 0) {
        int server = listener("0.0.0.0", 0, 5), client = sock(AF_INET, SOCK_STREAM);
        show("connect", do_connect(client, "127.0.0.1", 0));
        int accepted = accept(server, NULL, NULL);
        give(over, accepted);
        close(accepted);
        show("receive", recv(client, text, 4, MSG_WAITALL));
        show("send", send(client, "pong", 4, 0));
        return await(over);
    }
    int fd = take(over, &to);
    show_peer("peer", fd);
    show("send", send(fd, "ping", 4, 0));
    show("receive", recv(fd, text, 4, MSG_WAITALL));
    close(fd);
    send(over, "x", 1, 0);
}

static void passed_unbound(void) {
    int over = meet();
    struct address to;
    if (strcmp(role, "other") != 0) {
        int fd = sock(AF_INET, SOCK_STREAM);
        give(over, fd);
        await(over);
        show("bind what the other bound", do_bind(fd, "0.0.0.0", 1));
        show("listen", listen(fd, 5));
        return;
    }
    int fd = take(over, &to), client = sock(AF_INET, SOCK_STREAM);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind", do_bind(fd, "0.0.0.0", 0));
    show_own("own", fd);
    show("listen", listen(fd, 5));
    if (show("connect", do_connect(client, "127.0.0.1", 0)) == 0) {
        exchange(client, accept(fd, NULL, NULL));
    }
    send(over, "x", 1, 0);
}

static void inherited_listener(void) {
    char text[8] = {0};
    struct address own = {.length = sizeof own.storage};
    show("getsockname", getsockname(STDIN_FILENO, &own.any, &own.length));
    show("localhost", own.in.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    show("listen again", listen(STDIN_FILENO, 5));
    int fd = accept(STDIN_FILENO, NULL, NULL);
    show_peer("peer", fd);
    show("receive", recv(fd, text, 4, MSG_WAITALL));
    show("send", send(fd, "pong", 4, 0));
}

static void inherited_connection(void) {
    char text[8] = {0};
    show_own("own", STDIN_FILENO);
    show_peer("peer", STDIN_FILENO);
    show("connect again", do_connect(STDIN_FILENO, "127.0.0.1", 0));
    show("receive", recv(STDIN_FILENO, text, 4, MSG_WAITALL));
    show("send", send(STDIN_FILENO, "pong", 4, 0));
}

static void inherited_datagram(void) {
    char text[8] = {0};
    struct address from = {.length = sizeof from.storage};
    show_own("own", STDIN_FILENO);
    show("receive", recvfrom(STDIN_FILENO, text, 4, 0, &from.any, &from.length));
    show_address("from", &from);
    show("answer", sendto(STDIN_FILENO, "pong", 4, 0, &from.any, from.length));
}

const struct conformance_case hosts_cases[] = {
    {"hosts/passed_listener", passed_listener},
    {"hosts/passed_connection", passed_connection},
    {"hosts/passed_unbound", passed_unbound},
    {"inherited/listener", inherited_listener},
    {"inherited/connection", inherited_connection},
    {"inherited/datagram", inherited_datagram},
    {NULL, NULL},
};
