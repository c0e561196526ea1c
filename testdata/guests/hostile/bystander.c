/* An honest program, whose sockets must work whatever is done beside it. */
#include "hostile.h"

#include <poll.h>
#include <sys/utsname.h>

/* How long anything may take. An attack may take the processor, not more. */
#define PATIENCE_SECONDS 50

static const char *doing = "nothing";

static void too_long(int signal) {
    (void)signal;
    dprintf(2, "hostile: a bystander waits for %d s: %s\n", PATIENCE_SECONDS, doing);
    _exit(VIOLATION);
}

#define MUST(condition)                                              \
    do {                                                             \
        if (!(condition)) {                                          \
            violation("bystander: %s, line %d: %s", doing, __LINE__, #condition); \
        }                                                            \
    } while (0)

static void begin(const char *what) {
    doing = what;
    alarm(PATIENCE_SECONDS);
}

static struct sockaddr_in name_of(int fd) {
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (void *)&name, &length) == 0 && length == sizeof name && name.sin_family == AF_INET);
    return name;
}

static struct sockaddr_in peer_of(int fd) {
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    MUST(getpeername(fd, (void *)&peer, &length) == 0 && length == sizeof peer && peer.sin_family == AF_INET);
    return peer;
}

static bool same(struct sockaddr_in a, struct sockaddr_in b) {
    return a.sin_addr.s_addr == b.sin_addr.s_addr && a.sin_port == b.sin_port;
}

/* Another host answers, that one, and sees this one's own address. */
static void ask_peer(long number) {
    static in_addr_t own;
    char question[32], answer[256];
    begin("asking the peer");
    struct sockaddr_in to = at(peer.s_addr, SERVED_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0 && connect(fd, (void *)&to, sizeof to) == 0);
    MUST(same(peer_of(fd), to));
    in_addr_t name = name_of(fd).sin_addr.s_addr;
    own = own ? own : name;
    MUST(name == own && (ntohl(name) >> 16) == 0x7f4d);
    int length = snprintf(question, sizeof question, "%ld", number);
    MUST(dprintf(fd, "%s\n", question) == length + 1);
    size_t count = 0;
    do {
        ssize_t more = read(fd, answer + count, sizeof answer - 1 - count);
        MUST(more > 0);
        count += more;
    } while (answer[count - 1] != '\n');
    answer[count] = '\0';
    MUST(strncmp(answer, question, length) == 0 && strstr(answer, " host=peer ") != NULL);
    close(fd);
}

/* A listener and its client on the own localhost: what one says the other hears, and each sees the other where it is. */
static void talk_to_oneself(long number) {
    begin("talking to oneself");
    struct sockaddr_in any = at(htonl(INADDR_LOOPBACK), 0);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(listener, (void *)&any, sizeof any) == 0 && listen(listener, 5) == 0);
    struct sockaddr_in there = name_of(listener);
    MUST(there.sin_addr.s_addr == any.sin_addr.s_addr && there.sin_port != 0);
    MUST(connect(client, (void *)&there, sizeof there) == 0);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(server >= 0);
    MUST(same(peer_of(client), there) && same(name_of(server), there) && same(peer_of(server), name_of(client)));
    long heard = -1;
    MUST(write(client, &number, sizeof number) == sizeof number && read(server, &heard, sizeof heard) == sizeof heard);
    MUST(heard == number);
    close(server);
    close(client);
    close(listener);
}

static void send_datagrams(long number) {
    begin("sending datagrams");
    struct sockaddr_in any = at(htonl(INADDR_LOOPBACK), 0);
    int to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(bind(to, (void *)&any, sizeof any) == 0);
    struct sockaddr_in there = name_of(to);
    MUST(sendto(from, &number, sizeof number, 0, (void *)&there, sizeof there) == sizeof number);
    long heard = -1;
    MUST(read(to, &heard, sizeof heard) == sizeof heard && heard == number);
    close(to);
    close(from);
}

static void be_refused(void) {
    begin("being refused");
    struct sockaddr_in nobody = at(htonl(INADDR_LOOPBACK), NO_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(fd, (void *)&nobody, sizeof nobody) == -1 && errno == ECONNREFUSED);
    close(fd);
}

static void bind_twice(void) {
    begin("binding twice");
    struct sockaddr_in any = at(INADDR_ANY, BYSTANDER_PORT);
    int one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), two = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(one, (void *)&any, sizeof any) == 0);
    MUST(same(name_of(one), any));
    MUST(bind(two, (void *)&any, sizeof any) == -1 && errno == EADDRINUSE);
    close(one);
    close(two);
}

static void know_oneself(void) {
    static struct utsname first;
    struct utsname name;
    begin("asking for one's name");
    MUST(uname(&name) == 0);
    if (first.nodename[0] == '\0') {
        first = name;
    }
    MUST(memcmp(&first, &name, sizeof name) == 0);
}

long behave(int until) {
    struct pollfd over = {.fd = until, .events = POLLIN};
    struct sigaction action = {.sa_handler = too_long};
    sigaction(SIGALRM, &action, NULL);
    long number = 0;
    do {
        ask_peer(number);
        talk_to_oneself(number);
        send_datagrams(number);
        be_refused();
        bind_twice();
        know_oneself();
        number++;
    } while (poll(&over, 1, 0) == 0);
    alarm(0);
    return number;
}
