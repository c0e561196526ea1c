/* Bodies that are the same in many circumstances: a case for each combination of them. */
#include "conformance.h"

static const char *const transports[] = {"tcp", "udp", NULL};
static const char *const blocking[] = {"blocking", "nonblocking", NULL};
static const char *const ports[] = {"port", "port0", NULL};
static const char *const reuse[] = {"plain", "reuseaddr", "reuseport", NULL};
static const char *const stages[] = {"bound", "listening", NULL};

static const struct {
    const char *text;
    bool only6;
} places[] = {{"0.0.0.0", false}, {"127.0.0.1", false}, {"own4", false},           {"::", false},
              {"::1", false},     {"own6", false},      {"::ffff:0.0.0.0", false}, {"::ffff:127.0.0.1", false},
              {"::", true},       {"::1", true}};

/* In the order of `places`. */
static const char *const place_names[] = {"any4", "lo4",        "own4",      "any6",      "lo6",
                                          "own6", "mapped_any", "mapped_lo", "only6_any", "only6_lo", NULL};

/* Where one connects to: no v6-only socket makes a difference there. */
static const char *const target_names[] = {"any4", "lo4", "own4", "any6", "lo6", "own6", "mapped_any", "mapped_lo", NULL};

static int type_of(int transport) { return transport == 0 ? SOCK_STREAM : SOCK_DGRAM; }

static int socket_at(int place, int type) {
    int fd = sock(IP(places[place].text, 0).any.sa_family, type);
    if (places[place].only6) {
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    }
    return fd;
}

/* Descriptors that are not blocking take what they get when it is there. */
static int accepted_by(int server, bool waits, struct address *peer) {
    struct pollfd polled = {.fd = server, .events = POLLIN};
    peer->length = sizeof peer->storage;
    poll(&polled, 1, 5000);
    return waits ? accept(server, &peer->any, &peer->length) : accept4(server, &peer->any, &peer->length, SOCK_CLOEXEC);
}

static void stream_pair(int server, int client, const struct address *to, bool waits) {
    show("listen", listen(server, 5));
    long result = connect(client, &to->any, to->length);
    if (waits) {
        if (show("connect", result) != 0) {
            return;
        }
    } else {
        show("connects at once or is in progress", result == 0 || errno == EINPROGRESS || errno == ECONNREFUSED);
        bool at_once = result == 0 || errno != EINPROGRESS;
        int error = at_once ? (result == 0 ? 0 : errno) : (poll_for(client, POLLOUT), get_option(client, SOL_SOCKET, SO_ERROR));
        printf("comes to: %s\n", error_name(error));
        if (error != 0) {
            return;
        }
    }
    struct address peer, own = {.length = sizeof own.storage};
    int accepted = accepted_by(server, waits, &peer);
    if (accepted < 0) {
        show("accept", -1);
        return;
    }
    getsockname(client, &own.any, &own.length);
    show_address("accept's peer", &peer);
    show_own("client's own", client);
    show_peer("client's peer", client);
    show_own("accepted's own", accepted);
    show_peer("accepted's peer", accepted);
    show("ports agree", own.in.sin_port == peer.in.sin_port);
    fcntl(client, F_SETFL, fcntl(client, F_GETFL) & ~O_NONBLOCK);
    exchange(client, accepted);
}

/* What has come: over loopback it is there when sendto(2) returns. */
static ssize_t received(const char *what, int fd, struct address *from) {
    char buffer[16] = {0};
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    from->length = sizeof from->storage;
    poll(&polled, 1, 50);
    ssize_t count = recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, &from->any, &from->length);
    if (show(what, count) >= 0) {
        printf("  %s\n", buffer);
        show_address("  from", from);
    }
    return count;
}

static void datagram_pair(int server, int client, const struct address *to) {
    struct address from;
    show("sendto", sendto(client, "ping", 4, 0, &to->any, to->length));
    if (received("server receives", server, &from) < 0) {
        return;
    }
    show("answer", sendto(server, "pong", 4, 0, &from.any, from.length));
    received("client receives", client, &from);
    show_own("client's own", client);
    show("connect", connect(client, &to->any, to->length));
    show_peer("client's peer", client);
    show_own("client's own", client);
    show("send", send(client, "more", 4, 0));
    if (received("server receives", server, &from) < 0) {
        return;
    }
    show("answer", sendto(server, "pong", 4, 0, &from.any, from.length));
    received("client receives", client, &from);
}

static void pair(const int *at) {
    int type = type_of(at[0]) | (at[3] == 0 ? 0 : SOCK_NONBLOCK);
    int server = socket_at(at[1], type), client = socket_at(at[2], type);
    struct address here = IP(places[at[1]].text, 0), there = IP(places[at[2]].text, 0);
    if (show("bind", bind(server, &here.any, here.length)) != 0) {
        return;
    }
    show_own("server's own", server);
    if (at[0] == 0) {
        stream_pair(server, client, &there, at[3] == 0);
    } else {
        datagram_pair(server, client, &there);
    }
}

static void bind_once(const int *at) {
    int fd = socket_at(at[1], type_of(at[0]));
    struct address here = IP(places[at[1]].text, at[2] == 0 ? 0 : -1);
    show_own("before", fd);
    show("bind", bind(fd, &here.any, here.length));
    show_own("bound", fd);
    show("bind again", bind(fd, &here.any, here.length));
    show("listen", listen(fd, 5));
    show_own("listening", fd);
    show_peer("peer", fd);
    show("accepts connections", get_option(fd, SOL_SOCKET, SO_ACCEPTCONN));
    show("type", get_option(fd, SOL_SOCKET, SO_TYPE));
    show("blocks", (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
    show("v6 only", places[at[1]].only6 ? get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) : 0);
}

static void set_reuse(int fd, int how) {
    if (how > 0) {
        set_option(fd, SOL_SOCKET, how == 1 ? SO_REUSEADDR : SO_REUSEPORT, 1);
    }
}

/* A line for each pair of places. */
static void conflict(const int *at) {
    static const int some[] = {0, 1, 2, 3, 4, 8};
    bool listening = at[0] == 0 && at[2] == 1;
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        for (unsigned j = 0; j < sizeof some / sizeof *some; j++) {
            int a = some[i], b = some[j], one = socket_at(a, type_of(at[0])), two = socket_at(b, type_of(at[0]));
            struct address first = IP(places[a].text, 0), second = IP(places[b].text, 0);
            char what[64];
            set_reuse(one, at[1]);
            set_reuse(two, at[1]);
            if (bind(one, &first.any, first.length) != 0 || (listening && listen(one, 5) != 0)) {
                broken("the first bind");
            }
            long result = bind(two, &second.any, second.length);
            snprintf(what, sizeof what, "%s, then %s", place_names[a], place_names[b]);
            show(what, result == 0 && listening ? listen(two, 5) : result);
            close(one);
            close(two);
        }
    }
}

/* Whether sockets block makes a difference to connect(2) and accept(2), and no difference by address. */
static bool is_worth_it(const int *at) { return at[3] == 0 || (at[0] == 0 && at[1] < 5 && at[2] < 5); }

static bool is_listening_tcp(const int *at) { return at[0] == 0 || at[2] == 0; }

const struct conformance_matrix address_matrices[] = {
    {"pair", {transports, place_names, target_names, blocking}, is_worth_it, pair},
    {"bind", {transports, place_names, ports}, NULL, bind_once},
    {"conflict", {transports, reuse, stages}, is_listening_tcp, conflict},
    {NULL, {NULL}, NULL, NULL},
};
