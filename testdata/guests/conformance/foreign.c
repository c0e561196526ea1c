/* Sockets that are none of imsup's business, calls of other architectures, and options that concern addresses. */
#include "conformance.h"

#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <netinet/ip_icmp.h>

static struct address unix_name(bool abstract) {
    char name[64];
    snprintf(name, sizeof name, "conformance-%d", base_port);
    struct address address = unix_path(abstract ? "" : name);
    if (abstract) {
        memcpy(address.un.sun_path + 1, name, strlen(name));
        address.length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    }
    return address;
}

static void unix_whole(int type, bool abstract) {
    int server = sock(AF_UNIX, type), client = sock(AF_UNIX, type), accepted = server;
    struct address name = unix_name(abstract), own = {.length = sizeof own.storage};
    char buffer[8] = {0};
    show("connect to nobody", connect(client, &name.any, name.length));
    show("bind", bind(server, &name.any, name.length));
    show("bind another", bind(sock(AF_UNIX, type), &name.any, name.length));
    show("getsockname", getsockname(server, &own.any, &own.length));
    show("is its name", memcmp(own.un.sun_path, name.un.sun_path, own.length - offsetof(struct sockaddr_un, sun_path)) == 0);
    show("listen", listen(server, 5));
    show("connect", connect(client, &name.any, name.length));
    if (type != SOCK_DGRAM) {
        struct ucred credentials;
        socklen_t length = sizeof credentials;
        accepted = accept(server, NULL, NULL);
        show("credentials", getsockopt(client, SOL_SOCKET, SO_PEERCRED, &credentials, &length));
        show("are its own", credentials.pid == getpid());
        show_own("accepted's own", accepted);
    }
    show_peer("peer", client);
    show("send", send(client, "ping", 4, 0));
    show("receive", recv(accepted, buffer, sizeof buffer, 0));
    show("sendto", sendto(client, "pong", 4, MSG_NOSIGNAL, &name.any, name.length));
    show("shutdown", shutdown(client, SHUT_RDWR));
    unlink(name.un.sun_path);
}

static void unix_stream(void) { unix_whole(SOCK_STREAM, false); }
static void unix_datagram(void) { unix_whole(SOCK_DGRAM, false); }
static void unix_seqpacket(void) { unix_whole(SOCK_SEQPACKET, false); }
static void unix_stream_abstract(void) { unix_whole(SOCK_STREAM, true); }
static void unix_datagram_abstract(void) { unix_whole(SOCK_DGRAM, true); }
static void unix_seqpacket_abstract(void) { unix_whole(SOCK_SEQPACKET, true); }

static void netlink(void) {
    int fd = sock(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC);
    struct sockaddr_nl own = {.nl_family = AF_NETLINK}, kernel = {.nl_family = AF_NETLINK};
    socklen_t length = sizeof own;
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {{.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}, {AF_UNSPEC}};
    char answer[8192];
    show("bind", bind(fd, (struct sockaddr *)&own, sizeof own));
    show("getsockname", getsockname(fd, (struct sockaddr *)&own, &length));
    show("has a port", own.nl_pid != 0);
    show("sendto", sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&kernel, sizeof kernel));
    show("answers", recv(fd, answer, sizeof answer, 0) > (long)sizeof(struct nlmsghdr));
    show("connect", connect(fd, (struct sockaddr *)&kernel, sizeof kernel));
    length = sizeof kernel;
    show("getpeername", getpeername(fd, (struct sockaddr *)&kernel, &length));
}

/* As far as privileges go: the same either way. */
static void packet(void) {
    int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
    if (show("may have one", fd >= 0 ? 0 : -1) < 0) {
        return;
    }
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = 1};
    socklen_t length = sizeof address;
    show("bind", bind(fd, (struct sockaddr *)&address, sizeof address));
    show("getsockname", getsockname(fd, (struct sockaddr *)&address, &length));
    show("interface", address.sll_ifindex);
    show("getpeername", getpeername(fd, (struct sockaddr *)&address, &length));
}

static void vsock(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (show("may have one", fd >= 0 ? 0 : -1) < 0) {
        return;
    }
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 40000 + base_port};
    socklen_t length = sizeof address;
    show("bind", bind(fd, (struct sockaddr *)&address, sizeof address));
    show("listen", listen(fd, 5));
    show("getsockname", getsockname(fd, (struct sockaddr *)&address, &length));
    show("its family", address.svm_family);
}

static void echo(int type) {
    int fd = socket(AF_INET, type, IPPROTO_ICMP);
    if (show("may have one", fd >= 0 ? 0 : -1) < 0) {
        return;
    }
    struct address to = IP("127.0.0.1", -1);
    struct icmphdr request = {.type = ICMP_ECHO, .un.echo.id = htons(base_port), .un.echo.sequence = htons(1)};
    unsigned sum = 0;
    uint16_t words[sizeof request / 2];
    memcpy(words, &request, sizeof request);
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
        sum += words[i];
    }
    request.checksum = ~((sum & 0xffff) + (sum >> 16));
    show("sendto", sendto(fd, &request, sizeof request, 0, &to.any, to.length));
    show_poll("answer", fd, POLLIN);
    show("connect", connect(fd, &to.any, to.length));
    show_peer("peer", fd);
    show("send", send(fd, &request, sizeof request, 0));
}

static void ping(void) { echo(SOCK_DGRAM); }
static void raw(void) { echo(SOCK_RAW); }

static void mptcp(void) {
    int server = socket(AF_INET, SOCK_STREAM, 262), client = socket(AF_INET, SOCK_STREAM, 262);
    if (show("may have one", server >= 0 ? 0 : -1) < 0) {
        return;
    }
    show("bind", do_bind(server, "127.0.0.1", 0));
    show("listen", listen(server, 5));
    show_own("own", server);
    show("connect", do_connect(client, "127.0.0.1", 0));
    exchange(client, accept(server, NULL, NULL));
}

#ifdef __x86_64__
static long i386(long number, long first, long second, long third) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0 && result > -4096) {
        errno = -result;
        return -1;
    }
    return result;
}

/* Calls of 32-bit programs from a 64-bit one, which any program can make; pointers must fit. */
static void i386_calls(void) {
    struct address *address = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    int fd = sock(AF_INET, SOCK_STREAM);
    *address = IP("127.0.0.1", 0);
    long pid = i386(20, 0, 0, 0);
    show("getpid", pid == getpid() ? 0 : pid);
    show("bind", i386(361, fd, (long)address, address->length));
    show("listen", i386(363, fd, 5, 0));
    show_own("own", fd);
    uint32_t *arguments = (uint32_t *)(address + 1);
    arguments[0] = AF_INET, arguments[1] = SOCK_STREAM, arguments[2] = 0;
    show("socketcall", i386(102, 1, (long)arguments, 0) >= 0 ? 0 : -1);
}

static void x32_calls(void) {
    struct address address = IP("127.0.0.1", 0);
    int fd = sock(AF_INET, SOCK_STREAM);
    show("getpid", syscall(0x40000000 | SYS_getpid));
    show("bind", syscall(0x40000000 | SYS_bind, fd, &address.any, address.length));
    show("listen", syscall(0x40000000 | SYS_listen, fd, 5));
}
#endif

static void with_option(int option, const char *text) {
    int fd = sock(AF_INET, SOCK_STREAM), one = 1;
    show("set", setsockopt(fd, IPPROTO_IP, option, &one, sizeof one));
    show("bind", do_bind(fd, text, 0));
    show("listen", listen(fd, 5));
    show_own("own", fd);
}

static void freebind(void) { with_option(IP_FREEBIND, "192.0.2.1"); }
static void freebind_wildcard(void) { with_option(IP_FREEBIND, "0.0.0.0"); }
static void transparent(void) { with_option(IP_TRANSPARENT, "192.0.2.1"); }
static void transparent_wildcard(void) { with_option(IP_TRANSPARENT, "0.0.0.0"); }

static void no_port(const char *text, int offset) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM);
    set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    show("bind", do_bind(fd, text, offset));
    show_own("bound", fd);
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show("is bound now", get_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT));
    exchange(fd, accept(server, NULL, NULL));
}

static void no_port_localhost(void) { no_port("127.0.0.1", -1); }
static void no_port_wildcard(void) { no_port("0.0.0.0", -1); }
static void no_port_with_port(void) { no_port("127.0.0.1", 1); }

static void probe_port_zero(const char *text) {
    int tcp = sock(AF_INET, SOCK_STREAM), udp = sock(AF_INET, SOCK_DGRAM);
    show("tcp", do_connect(tcp, text, -1));
    show_own("own", tcp);
    show("udp", do_connect(udp, text, -1));
    show_peer("peer", udp);
    show("send", send(udp, "x", 1, 0));
    show("listens later", do_bind(tcp, "0.0.0.0", 0));
    show("listen", listen(tcp, 5));
}

static void probe_localhost(void) { probe_port_zero("127.0.0.1"); }
static void probe_own(void) { probe_port_zero("own4"); }

/* A socket that connects to itself: the only simultaneous open that one program can count on. */
static void self_connect(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "127.0.0.1", 0));
    show("connect", do_connect(fd, "127.0.0.1", 0));
    show_own("own", fd);
    show_peer("peer", fd);
    exchange(fd, fd);
}

static void accept4_flags(void) {
    int server = listener("0.0.0.0", 0, 5);
    for (int i = 0; i < 4; i++) {
        int flags = (i & 1 ? SOCK_NONBLOCK : 0) | (i & 2 ? SOCK_CLOEXEC : 0);
        show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
        int fd = accept4(server, NULL, NULL, flags);
        show("non-blocking", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
        show("close-on-exec", fcntl(fd, F_GETFD));
    }
    show("other flags", accept4(server, NULL, NULL, 1));
}

const struct conformance_case foreign_cases[] = {
    {"foreign_unix_stream", unix_stream},
    {"foreign_unix_datagram", unix_datagram},
    {"foreign_unix_seqpacket", unix_seqpacket},
    {"foreign_unix_stream_abstract", unix_stream_abstract},
    {"foreign_unix_datagram_abstract", unix_datagram_abstract},
    {"foreign_unix_seqpacket_abstract", unix_seqpacket_abstract},
    {"foreign_netlink", netlink},
    {"foreign_packet", packet},
    {"foreign_vsock", vsock},
    {"foreign_ping", ping},
    {"foreign_raw", raw},
    {"foreign_mptcp", mptcp},
#ifdef __x86_64__
    {"foreign_i386", i386_calls},
    {"foreign_x32", x32_calls},
#endif
    {"address_freebind", freebind},
    {"address_freebind_wildcard", freebind_wildcard},
    {"address_transparent", transparent},
    {"address_transparent_wildcard", transparent_wildcard},
    {"address_no_port_localhost", no_port_localhost},
    {"address_no_port_wildcard", no_port_wildcard},
    {"address_no_port_with_port", no_port_with_port},
    {"address_probe_localhost", probe_localhost},
    {"address_probe_own", probe_own},
    {"connect_self", self_connect},
    {"accept4_flags", accept4_flags},
    {NULL, NULL},
};
