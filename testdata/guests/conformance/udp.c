/* Datagram sockets. */
#include "conformance.h"

static int bound(const char *text, int offset) {
    struct address address = IP(text, offset);
    int fd = sock(address.any.sa_family, SOCK_DGRAM);
    if (bind(fd, &address.any, address.length) != 0) {
        broken("bind");
    }
    return fd;
}

static void show_received(const char *what, int fd) {
    struct address from = {.length = sizeof from.storage};
    char buffer[16] = {0};
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    poll(&polled, 1, 50); /* over loopback it is there when sendto(2) returns */
    ssize_t count = recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, &from.any, &from.length);
    if (show(what, count) >= 0) {
        printf("  %s\n", buffer);
        show_address("  from", &from);
    }
}

static void connected(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM), stranger = bound("127.0.0.1", 1);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_peer("peer", client);
    show("send", send(client, "ping", 4, 0));
    struct address from = {.length = sizeof from.storage};
    char buffer[16];
    show("recvfrom", recvfrom(server, buffer, sizeof buffer, 0, &from.any, &from.length));
    show_address("from", &from);
    show("the stranger sends", sendto(stranger, "hey", 3, 0, &from.any, from.length));
    show("the server sends", sendto(server, "pong", 4, 0, &from.any, from.length));
    show_received("client receives", client);
    show("and nothing else", recv(client, buffer, sizeof buffer, MSG_DONTWAIT));
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    show("disconnect", connect(client, &unspec, sizeof unspec));
    show_peer("peer", client);
    show("connect again", do_connect(client, "127.0.0.1", 1));
    show_peer("peer", client);
}

static void connect_elsewhere(void) {
    int client = sock(AF_INET, SOCK_DGRAM);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("connect to another", do_connect(client, "127.0.0.1", 1));
    show_peer("peer", client);
}

static void nobody_there(void) {
    int client = sock(AF_INET, SOCK_DGRAM);
    char byte;
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("send", send(client, "x", 1, 0));
    show("receive", recv(client, &byte, 1, 0));
}

static void send_connected_with_address(void) {
    int server = bound("127.0.0.1", 0), other = bound("127.0.0.1", 1), client = sock(AF_INET, SOCK_DGRAM);
    struct address to = IP("127.0.0.1", 1);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("sendto another", sendto(client, "ping", 4, 0, &to.any, to.length));
    show_received("other receives", other);
    close(server);
}

static void message_calls(void) {
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address to = IP("127.0.0.1", 0);
    struct iovec vector = {"ping", 4};
    struct msghdr message = {.msg_name = &to.any, .msg_namelen = to.length, .msg_iov = &vector, .msg_iovlen = 1};
    show("sendmsg", sendmsg(client, &message, 0));
    show_received("server receives", server);
    struct mmsghdr messages[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
    show("sendmmsg", sendmmsg(client, messages, 2, 0));
    show_received("server receives", server);
    show_received("server receives", server);
}

static void two_planes(void) {
    int any = sock(AF_INET, SOCK_DGRAM), lo = sock(AF_INET, SOCK_DGRAM), again = sock(AF_INET, SOCK_DGRAM);
    show("bind wildcard", do_bind(any, "0.0.0.0", 0));
    show("bind localhost", do_bind(lo, "127.0.0.1", 0));
    set_option(again, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind with reuse", do_bind(again, "0.0.0.0", 0));
}

static void reuse_both(void) {
    int one = sock(AF_INET, SOCK_DGRAM), two = sock(AF_INET, SOCK_DGRAM);
    set_option(one, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(two, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind", do_bind(one, "0.0.0.0", 0));
    show("bind another", do_bind(two, "0.0.0.0", 0));
}

static void tcp_and_udp(void) {
    int udp = bound("0.0.0.0", 0), tcp = listener("0.0.0.0", 0, 5);
    show_own("udp", udp);
    show_own("tcp", tcp);
}

static void large(void) {
    static char data[65507];
    int server = bound("127.0.0.1", 0), client = sock(AF_INET, SOCK_DGRAM);
    struct address to = IP("127.0.0.1", 0);
    show("largest", sendto(client, data, sizeof data, 0, &to.any, to.length));
    show("received", recv(server, data, sizeof data, 0));
    show("too large", sendto(client, data, sizeof data + 1, 0, &to.any, to.length));
    show("empty", sendto(client, data, 0, 0, &to.any, to.length));
    show("received", recv(server, data, sizeof data, 0));
}

static void port_zero(void) {
    int fd = bound("0.0.0.0", -1), six = bound("::1", -1);
    show_own("v4", fd);
    show_own("v6", six);
    struct address to = IP("127.0.0.1", -1);
    show("send to port 0", sendto(fd, "x", 1, 0, &to.any, to.length));
}

static void packet_info(void) {
    int server = sock(AF_INET, SOCK_DGRAM), client = sock(AF_INET, SOCK_DGRAM);
    set_option(server, IPPROTO_IP, IP_PKTINFO, 1);
    set_option(server, SOL_SOCKET, SO_RCVBUF, 40000);
    show("bind", do_bind(server, "127.0.0.1", 0));
    show("SO_RCVBUF", get_option(server, SOL_SOCKET, SO_RCVBUF));
    show("IP_PKTINFO", get_option(server, IPPROTO_IP, IP_PKTINFO));
    struct address to = IP("127.0.0.1", 0);
    show("sendto", sendto(client, "x", 1, 0, &to.any, to.length));
    show_poll("server", server, POLLIN);
}

const struct conformance_case udp_cases[] = {
    {"udp_connected", connected},
    {"udp_connect_elsewhere", connect_elsewhere},
    {"udp_nobody_there", nobody_there},
    {"udp_send_connected_with_address", send_connected_with_address},
    {"udp_message_calls", message_calls},
    {"udp_two_planes", two_planes},
    {"udp_reuse_both", reuse_both},
    {"udp_tcp_and_udp", tcp_and_udp},
    {"udp_large", large},
    {"udp_port_zero", port_zero},
    {"udp_packet_info", packet_info},
    {NULL, NULL},
};
