/* Every call that sends with every call that receives, and what their flags do. */
#include "conformance.h"

static const char *const kinds[] = {"tcp4", "tcp6", "udp4", "udp6", NULL};
static const char *const senders[] = {"send", "sendto", "sendmsg", "sendmmsg", "write", "writev", NULL};
static const char *const receivers[] = {"recv", "recvfrom", "recvmsg", "recvmmsg", "read", "readv", NULL};
static const char *const blocking[] = {"blocking", "nonblocking", NULL};
static const char *const flags[] = {"peek", "waitall", "dontwait", "oob", "oob_inline", "trunc", "more", "nosignal", "timestamp", "pktinfo",
                                    "recverr", "class", NULL};

static void show_from(const struct address *from, socklen_t length) {
    if (length == 0) {
        printf("  from nobody said\n");
    } else {
        show_address("  from", from);
    }
}

static void send_by(int how, int fd) {
    char text[] = "abcdef";
    struct iovec vectors[2] = {{text, 3}, {text + 3, 3}};
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = 2};
    struct mmsghdr messages[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
    messages[0].msg_hdr.msg_iovlen = messages[1].msg_hdr.msg_iovlen = 1;
    messages[1].msg_hdr.msg_iov = vectors + 1;
    switch (how) {
    case 0: show("send", send(fd, text, 6, 0)); break;
    case 1: show("sendto", sendto(fd, text, 6, 0, NULL, 0)); break;
    case 2: show("sendmsg", sendmsg(fd, &message, 0)); break;
    case 3:
        show("sendmmsg", sendmmsg(fd, messages, 2, 0));
        printf("  %u %u bytes\n", messages[0].msg_len, messages[1].msg_len);
        break;
    case 4: show("write", write(fd, text, 6)); break;
    case 5: show("writev", writev(fd, vectors, 2)); break;
    }
}

static long receive_by(int how, int fd) {
    char text[17] = {0};
    struct address from = {.length = sizeof from.storage};
    struct iovec vectors[2] = {{text, 4}, {text + 4, 12}};
    struct msghdr message = {.msg_name = &from.any, .msg_namelen = sizeof from.storage, .msg_iov = vectors, .msg_iovlen = 2};
    struct mmsghdr many = {.msg_hdr = message};
    long count = -1;
    poll_for(fd, POLLIN);
    switch (how) {
    case 0: count = show("recv", recv(fd, text, 16, 0)); break;
    case 1:
        count = show("recvfrom", recvfrom(fd, text, 16, 0, &from.any, &from.length));
        show_from(&from, from.length);
        break;
    case 2:
        count = show("recvmsg", recvmsg(fd, &message, 0));
        from.length = message.msg_namelen;
        show_from(&from, message.msg_namelen);
        break;
    case 3:
        show("recvmmsg", recvmmsg(fd, &many, 1, 0, NULL));
        count = many.msg_len;
        from.length = many.msg_hdr.msg_namelen;
        show_from(&from, many.msg_hdr.msg_namelen);
        break;
    case 4: count = show("read", read(fd, text, 16)); break;
    case 5: count = show("readv", readv(fd, vectors, 2)); break;
    }
    printf("  %s\n", text);
    return count;
}

/* Two sockets that are connected with each other, the client bound by nobody but connect(2). */
static void connected_pair(int kind, int *client, int *server) {
    const char *text = kind % 2 == 0 ? "127.0.0.1" : "::1";
    int family = IP(text, 0).any.sa_family;
    *client = sock(family, kind < 2 ? SOCK_STREAM : SOCK_DGRAM);
    if (kind < 2) {
        int door = listener(text, 0, 5);
        show("connect", do_connect(*client, text, 0));
        *server = accept(door, NULL, NULL);
    } else {
        *server = sock(family, SOCK_DGRAM);
        show("bind", do_bind(*server, text, 0));
        show("connect", do_connect(*client, text, 0));
    }
}

/* All pairs of calls once for each transport; each call once more over IPv6, and on sockets that do not block. */
static bool is_worth_it(const int *at) { return at[1] == at[2] || (at[0] % 2 == 0 && at[3] == 0); }

static void transfer(const int *at) {
    int client, server;
    connected_pair(at[0], &client, &server);
    if (at[3] == 1) {
        fcntl(client, F_SETFL, O_NONBLOCK);
        fcntl(server, F_SETFL, O_NONBLOCK);
    }
    send_by(at[1], client);
    long total = 0;
    while (total < 6) {
        long count = receive_by(at[2], server);
        if (count <= 0) {
            break;
        }
        total += count;
    }
}

static long received_with(const char *what, int fd, int with) {
    char text[17] = {0};
    if ((with & MSG_DONTWAIT) == 0) {
        poll_for(fd, POLLIN | POLLPRI);
    }
    long count = show(what, recv(fd, text, 4, with));
    printf("  %s\n", text);
    return count;
}

static void *send_late(void *argument) {
    usleep(100000);
    send((int)(long)argument, "cd", 2, 0);
    return NULL;
}

static void show_control(int fd) {
    char data[8], control[512];
    struct iovec vector = {data, sizeof data};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    poll_for(fd, POLLIN);
    show("recvmsg", recvmsg(fd, &message, MSG_DONTWAIT));
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one != NULL; one = CMSG_NXTHDR(&message, one)) {
        printf("  level %d type %d length %zu\n", one->cmsg_level, one->cmsg_type, (size_t)one->cmsg_len);
        if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO) {
            struct address to = {.length = sizeof to.in};
            to.in.sin_family = AF_INET;
            to.in.sin_addr = ((struct in_pktinfo *)CMSG_DATA(one))->ipi_addr;
            show_address("  to", &to);
        }
    }
}

static void flag(const int *at) {
    int client, server, one = 1;
    bool stream = at[0] < 2;
    pthread_t thread;
    connected_pair(at[0], &client, &server);
    switch (at[1]) {
    case 0:
        show("send", send(client, "abcd", 4, 0));
        received_with("peek", server, MSG_PEEK);
        received_with("peek again", server, MSG_PEEK);
        received_with("receive", server, 0);
        received_with("nothing is left", server, MSG_DONTWAIT | MSG_PEEK);
        break;
    case 1:
        show("send", send(client, "ab", 2, 0));
        pthread_create(&thread, NULL, send_late, (void *)(long)client);
        received_with("receive", server, MSG_WAITALL);
        pthread_join(thread, NULL);
        received_with("receive more", server, MSG_DONTWAIT);
        break;
    case 2:
        show("nothing", recv(server, &one, 1, MSG_DONTWAIT));
        show("send", send(client, "ab", 2, MSG_DONTWAIT));
        received_with("receive", server, MSG_DONTWAIT);
        break;
    case 3:
    case 4:
        if (at[1] == 4) {
            set_option(server, SOL_SOCKET, SO_OOBINLINE, 1);
        }
        show("send", send(client, "a", 1, 0));
        show("send urgent", send(client, "b", 1, MSG_OOB));
        show("send", send(client, "c", 1, 0));
        received_with("receive", server, 0);
        received_with("urgent", server, MSG_OOB | MSG_DONTWAIT);
        received_with("receive", server, MSG_DONTWAIT);
        break;
    case 5:
        show("send", send(client, "abcdefgh", 8, 0));
        show("length", recv(server, NULL, 0, MSG_PEEK | (stream ? 0 : MSG_TRUNC)));
        received_with("receive", server, stream ? 0 : MSG_TRUNC);
        received_with("the rest", server, MSG_DONTWAIT);
        break;
    case 6:
        show("send", send(client, "ab", 2, MSG_MORE));
        show("send", send(client, "cd", 2, 0));
        received_with("receive", server, stream ? MSG_WAITALL : 0);
        break;
    case 7:
        close(server);
        show("send", send(client, "a", 1, MSG_NOSIGNAL));
        show("send again", send(client, "b", 1, MSG_NOSIGNAL));
        /* A datagram socket that imsup retains is closed at about this time: README, "What does not work". */
        if (stream) {
            show("send once more", send(client, "b", 1, MSG_NOSIGNAL));
        }
        break;
    case 8:
        set_option(server, SOL_SOCKET, SO_TIMESTAMP, 1);
        show("send", send(client, "a", 1, 0));
        show_control(server);
        break;
    case 9:
        set_option(server, IPPROTO_IP, IP_PKTINFO, 1);
        if (at[0] % 2 == 1) {
            set_option(server, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        }
        show("send", send(client, "a", 1, 0));
        show_control(server);
        break;
    case 10:
        set_option(client, IPPROTO_IP, IP_RECVERR, 1);
        close(server);
        show("send", send(client, "a", 1, MSG_NOSIGNAL));
        received_with("error queue", client, MSG_ERRQUEUE | MSG_DONTWAIT);
        received_with("receive", client, MSG_DONTWAIT);
        break;
    case 11:
        set_option(server, at[0] % 2 == 1 ? IPPROTO_IPV6 : IPPROTO_IP, at[0] % 2 == 1 ? IPV6_RECVTCLASS : IP_RECVTOS, 1);
        show("send", send(client, "a", 1, 0));
        show_control(server);
        break;
    }
}

/* TCP has time stamps where some other socket of the machine asked for them, and alone has urgent data. */
static bool is_defined(const int *at) { return at[0] < 2 ? at[1] != 8 && at[1] != 11 : at[1] != 3 && at[1] != 4; }

const struct conformance_matrix transfer_matrices[] = {
    {"transfer", {kinds, senders, receivers, blocking}, is_worth_it, transfer},
    {"flag", {kinds, flags}, is_defined, flag},
    {NULL, {NULL}, NULL, NULL},
};
