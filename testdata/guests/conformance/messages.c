/* sendmsg(2) and sendmmsg(2) with destinations, and datagram sockets on the wildcard and a port of the kernel's choice. */
#include "conformance.h"

#include <limits.h>
#include <linux/errqueue.h>

static int bound(const char *text, int offset) {
    struct address address = IP(text, offset);
    int fd = sock(address.any.sa_family, SOCK_DGRAM);
    if (bind(fd, &address.any, address.length) != 0) {
        broken("bind");
    }
    return fd;
}

/* What arrived, without waiting long: over loopback it is there when the send returns. */
static void show_arrived(const char *what, int fd) {
    static char buffer[65536];
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    poll(&polled, 1, 500);
    ssize_t count = recv(fd, buffer, sizeof buffer - 1, MSG_DONTWAIT);
    show(what, count);
    if (count > 0 && count < 100) {
        buffer[count] = 0;
        printf("  %s\n", buffer);
    }
}

static struct msghdr to(struct address *name, struct iovec *vectors, size_t count) {
    return (struct msghdr){.msg_name = &name->any, .msg_namelen = name->length, .msg_iov = vectors, .msg_iovlen = count};
}

static void scattered(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vectors[] = {{"one ", 4}, {NULL, 0}, {"two ", 4}, {"three", 5}};
    struct msghdr message = to(&name, vectors, 4);
    show("sendmsg", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
    message.msg_iovlen = 0;
    show("of nothing", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
    message.msg_namelen = 100;
    message.msg_iovlen = 1;
    show("with a long name", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
    message.msg_namelen = 1000;
    show("with a name that is cut", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
}

static void bad_arguments(void) {
    int client = sock(AF_INET, SOCK_DGRAM);
    static char large[65536];
    static struct iovec many[1025];
    struct address name = IP("127.0.0.1", 0), six = IP("::1", 0);
    struct iovec vector = {"x", 1}, nowhere = {(void *)8, 1}, too_long = {large, sizeof large};
    struct iovec huge[2] = {{large, SSIZE_MAX}, {large, SSIZE_MAX}};
    struct msghdr message = to(&name, &nowhere, 1);
    show("bytes nowhere", sendmsg(client, &message, 0));
    message = to(&name, &too_long, 1);
    show("too many bytes", sendmsg(client, &message, 0));
    message = to(&name, huge, 2);
    show("more than there is memory", sendmsg(client, &message, 0));
    message = to(&name, (struct iovec *)8, 1);
    show("vectors nowhere", sendmsg(client, &message, 0));
    message = to(&name, many, 1025);
    show("too many vectors", sendmsg(client, &message, 0));
    message = to(&name, &vector, 1);
    message.msg_namelen = 4;
    show("a short name", sendmsg(client, &message, 0));
    message.msg_namelen = -1;
    show("a negative name", sendmsg(client, &message, 0));
    message.msg_name = (void *)8;
    message.msg_namelen = 16;
    show("a name nowhere", sendmsg(client, &message, 0));
    message = to(&six, &vector, 1);
    show("a name of IPv6", sendmsg(client, &message, 0));
    struct address local = unix_path("/nowhere");
    message = to(&local, &vector, 1);
    show("a name of AF_UNIX", sendmsg(client, &message, 0));
    show("a message nowhere", sendmsg(client, (struct msghdr *)8, 0));
    message = to(&name, &vector, 1);
    show("a bad descriptor", sendmsg(-1, &message, 0));
    show("no socket", sendmsg(1, &message, 0));
    char control[CMSG_SPACE(0)] = {0};
    ((struct cmsghdr *)control)->cmsg_len = 3;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    show("control data that is too short", sendmsg(client, &message, 0));
    message.msg_controllen = 7;
    show("control data that is none", sendmsg(client, &message, 0));
    message.msg_control = (void *)8;
    message.msg_controllen = sizeof control;
    show("control data nowhere", sendmsg(client, &message, 0));
}

static void many(void) {
    int server = bound("127.0.0.1", 0), other = bound("127.0.0.1", 1), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0), second = IP("127.0.0.1", 1), port_zero = IP("127.0.0.1", -1);
    struct iovec vectors[] = {{"first", 5}, {"to another", 10}, {"third", 5}};
    struct mmsghdr messages[4] = {{.msg_hdr = to(&name, &vectors[0], 1)},
                                  {.msg_hdr = to(&second, &vectors[1], 1)},
                                  {.msg_hdr = to(&name, &vectors[2], 1)},
                                  {.msg_hdr = to(&port_zero, &vectors[2], 1)}};
    for (int i = 0; i < 4; i++) {
        messages[i].msg_len = 77;
    }
    show("sendmmsg", sendmmsg(client, messages, 4, 0));
    printf("lengths: %u %u %u %u\n", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len, messages[3].msg_len);
    show_arrived("arrived", server);
    show_arrived("arrived", server);
    show_arrived("at the other", other);
    show("the last alone", sendmmsg(client, messages + 3, 1, 0));
    show("none", sendmmsg(client, messages, 0, 0));
    show("nowhere", sendmmsg(client, (struct mmsghdr *)8, 1, 0));
}

static void many_end_at_a_fault(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec good = {"good", 4}, bad = {(void *)8, 4};
    struct mmsghdr messages[3] = {
        {.msg_hdr = to(&name, &good, 1)}, {.msg_hdr = to(&name, &bad, 1)}, {.msg_hdr = to(&name, &good, 1)}};
    show("sendmmsg", sendmmsg(client, messages, 3, 0));
    show_arrived("arrived", server);
    show("from the fault on", sendmmsg(client, messages + 1, 2, 0));
    show_arrived("nothing more", server);
}

static void more_than_fit_in_a_call(void) {
    static struct mmsghdr messages[1100];
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vector = {"x", 1};
    set_option(server, SOL_SOCKET, SO_RCVBUF, 4096);
    for (int i = 0; i < 1100; i++) {
        messages[i].msg_hdr = to(&name, &vector, 1);
    }
    show("sendmmsg", sendmmsg(client, messages, 1100, 0));
}

static void connected_peer_and_name(void) {
    int server = bound("127.0.0.1", 0), other = bound("127.0.0.1", 1), client = sock(AF_INET, SOCK_DGRAM);
    struct address second = IP("127.0.0.1", 1), none = {0};
    struct iovec to_peer = {"to the peer", 11}, to_name = {"to the name", 11};
    struct mmsghdr messages[2] = {{.msg_hdr = to(&none, &to_peer, 1)}, {.msg_hdr = to(&second, &to_name, 1)}};
    messages[0].msg_hdr.msg_name = NULL;
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("sendmmsg", sendmmsg(client, messages, 2, 0));
    show_arrived("the peer", server);
    show_arrived("the other", other);
    show("sendmsg to the peer", sendmsg(client, &messages[0].msg_hdr, 0));
    show_arrived("the peer", server);
}

static void segments(void) {
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vector = {"aaaabbbbcc", 10};
    struct msghdr message = to(&name, &vector, 1);
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
    } control = {.bytes = {0}};
    control.header.cmsg_len = CMSG_LEN(sizeof(uint16_t));
    control.header.cmsg_level = IPPROTO_UDP;
    control.header.cmsg_type = UDP_SEGMENT;
    uint16_t size = 4;
    memcpy(CMSG_DATA(&control.header), &size, sizeof size);
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    show("sendmsg", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
    show_arrived("arrived", server);
    show_arrived("arrived", server);
}

static void without_signal(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vector = {"ping", 4};
    struct msghdr message = to(&name, &vector, 1);
    show("sendmsg with MSG_NOSIGNAL", sendmsg(client, &message, MSG_NOSIGNAL));
    show_arrived("arrived", server);
    show("sendto with MSG_NOSIGNAL", sendto(client, "ping", 4, MSG_NOSIGNAL, &name.any, name.length));
    show_arrived("arrived", server);
}

static void many_without_signal(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vectors[] = {{"one", 3}, {"two", 3}};
    struct mmsghdr messages[] = {{.msg_hdr = to(&name, &vectors[0], 1)}, {.msg_hdr = to(&name, &vectors[1], 1)}};
    show("sendmmsg", sendmmsg(client, messages, 2, MSG_NOSIGNAL | MSG_DONTWAIT));
    show("sent", messages[1].msg_len);
    show_arrived("arrived", server);
    show_arrived("arrived", server);
}

/* The kernel says in the error queue when it needs the bytes no more (Documentation/networking/msg_zerocopy.rst). */
static void without_copy(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.0.0.1", 0);
    struct iovec vector = {"ping", 4};
    struct msghdr message = to(&name, &vector, 1);
    char control[256];
    struct msghdr told = {.msg_control = control, .msg_controllen = sizeof control};
    set_option(client, SOL_SOCKET, SO_ZEROCOPY, 1);
    show("sendmsg", sendmsg(client, &message, MSG_ZEROCOPY));
    show_arrived("arrived", server);
    show_poll("told", client, 0);
    show("error queue", recvmsg(client, &told, MSG_ERRQUEUE | MSG_DONTWAIT));
    struct cmsghdr *header = CMSG_FIRSTHDR(&told);
    if (header != NULL) {
        struct sock_extended_err *error = (struct sock_extended_err *)CMSG_DATA(header);
        printf("origin %d of %u to %u\n", error->ee_origin, error->ee_info, error->ee_data);
    }
    show("sendto", sendto(client, "pong", 4, MSG_ZEROCOPY, &name.any, name.length));
    show_arrived("arrived", server);
}

/* The source address as control data, of a socket that is connected or not. */
static void from_loopback6(void) {
    union {
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
        struct cmsghdr header;
    } control = {0};
    struct in6_pktinfo info = {.ipi6_addr = IN6ADDR_LOOPBACK_INIT};
    int server = bound("::1", 0), client = sock(AF_INET6, SOCK_DGRAM);
    struct address name = IP("::1", 0);
    struct iovec vector = {"ping", 4};
    struct msghdr message = to(&name, &vector, 1);
    control.header.cmsg_len = CMSG_LEN(sizeof info);
    control.header.cmsg_level = IPPROTO_IPV6;
    control.header.cmsg_type = IPV6_PKTINFO;
    memcpy(CMSG_DATA(&control.header), &info, sizeof info);
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    show("sendmsg", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
    show("connect", do_connect(client, "::1", 0));
    message.msg_name = NULL;
    message.msg_namelen = 0;
    show("sendmsg", sendmsg(client, &message, 0));
    show_arrived("arrived", server);
}

/* A server whose port the kernel chose, and a client that sends or connects to it over localhost. */
static void chosen_port(const char *any, const char *localhost, int connects) {
    int server = bound(any, -1), client = sock(IP(localhost, 0).any.sa_family, SOCK_DGRAM);
    struct address own = {.length = sizeof own.storage}, name = IP(localhost, 0), from = {.length = sizeof from.storage};
    char buffer[16] = {0};
    getsockname(server, &own.any, &own.length);
    show_address("server", &own);
    name.in.sin_port = own.in.sin_port; /* at the same place for both families */
    if (connects) {
        show("connect", connect(client, &name.any, name.length));
        show("send", send(client, "ping", 4, 0));
    } else {
        show("sendto", sendto(client, "ping", 4, 0, &name.any, name.length));
    }
    show("recvfrom", recvfrom(server, buffer, sizeof buffer, 0, &from.any, &from.length));
    show_address("from", &from);
    show("answer", sendto(server, "pong", 4, 0, &from.any, from.length));
    show_arrived("arrived", client);
    show_own("server", server);
}

static void chosen_port_any4(void) { chosen_port("0.0.0.0", "127.0.0.1", 0); }
static void chosen_port_any4_connected(void) { chosen_port("0.0.0.0", "127.0.0.1", 1); }
static void chosen_port_any6(void) { chosen_port("::", "::1", 0); }
static void chosen_port_any6_connected(void) { chosen_port("::", "::1", 1); }
static void chosen_port_any6_v4(void) { chosen_port("::", "127.0.0.1", 0); }

/* What Java and libuv do: bind to nothing in particular, then connect, disconnect and send elsewhere. */
static void bound_connected_and_not(void) {
    int server = bound("127.0.0.1", 0), other = bound("127.0.0.1", 1), client = bound("0.0.0.0", -1);
    struct address before = {.length = sizeof before.storage}, after = before, name = IP("127.0.0.1", 1);
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    getsockname(client, &before.any, &before.length);
    show("connect", do_connect(client, "127.0.0.1", 0));
    getsockname(client, &after.any, &after.length);
    show("keeps its port", before.in.sin_port == after.in.sin_port);
    show_address("own", &after);
    show("send", send(client, "ping", 4, 0));
    show_arrived("arrived", server);
    show("disconnect", connect(client, &unspec, sizeof unspec));
    show_peer("peer", client);
    show("sendto another", sendto(client, "ping", 4, 0, &name.any, name.length));
    show_arrived("arrived", other);
}

static void group(void) {
    int receiver = bound("239.77.1.2", 0), sender = sock(AF_INET, SOCK_DGRAM);
    struct ip_mreqn membership = {.imr_multiaddr = IP("239.77.1.2", 0).in.sin_addr, .imr_address = IP("127.0.0.1", 0).in.sin_addr};
    struct address name = IP("239.77.1.2", 0);
    struct iovec vector = {"to the group", 12};
    struct msghdr message = to(&name, &vector, 1);
    show("join", setsockopt(receiver, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership));
    show("interface", setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &membership, sizeof membership));
    show_own("receiver", receiver);
    show("sendto", sendto(sender, "to all", 6, 0, &name.any, name.length));
    show_arrived("arrived", receiver);
    show("sendmsg", sendmsg(sender, &message, 0));
    show_arrived("arrived", receiver);
}

static void group_at_the_wildcard(void) {
    int receiver = bound("0.0.0.0", 0), sender = sock(AF_INET, SOCK_DGRAM);
    struct ip_mreqn membership = {.imr_multiaddr = IP("239.77.1.2", 0).in.sin_addr, .imr_address = IP("127.0.0.1", 0).in.sin_addr};
    struct address name = IP("239.77.1.2", 0);
    show("join", setsockopt(receiver, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership));
    show("interface", setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &membership, sizeof membership));
    show("sendto", sendto(sender, "to all", 6, 0, &name.any, name.length));
    show_arrived("arrived", receiver);
}

static void broadcast(void) {
    int sender = sock(AF_INET, SOCK_DGRAM);
    struct address name = IP("127.255.255.255", 0);
    show("without permission", sendto(sender, "to all", 6, 0, &name.any, name.length));
    set_option(sender, SOL_SOCKET, SO_BROADCAST, 1);
    show("with permission", sendto(sender, "to all", 6, 0, &name.any, name.length));
    show_own("sender", sender);
}

const struct conformance_case message_cases[] = {
    {"message_scattered", scattered},
    {"message_bad_arguments", bad_arguments},
    {"message_many", many},
    {"message_many_end_at_a_fault", many_end_at_a_fault},
    {"message_more_than_fit_in_a_call", more_than_fit_in_a_call},
    {"message_connected_peer_and_name", connected_peer_and_name},
    {"message_segments", segments},
    {"message_without_signal", without_signal},
    {"message_many_without_signal", many_without_signal},
    {"message_without_copy", without_copy},
    {"message_from_loopback6", from_loopback6},
    {"udp_chosen_port_any4", chosen_port_any4},
    {"udp_chosen_port_any4_connected", chosen_port_any4_connected},
    {"udp_chosen_port_any6", chosen_port_any6},
    {"udp_chosen_port_any6_connected", chosen_port_any6_connected},
    {"udp_chosen_port_any6_v4", chosen_port_any6_v4},
    {"udp_bound_connected_and_not", bound_connected_and_not},
    {"udp_group", group},
    {"udp_group_at_the_wildcard", group_at_the_wildcard},
    {"udp_broadcast", broadcast},
    {NULL, NULL},
};
