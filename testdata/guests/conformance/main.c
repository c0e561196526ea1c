/* Usage: conformance list | conformance CASE BASE_PORT [ROLE [DESCRIPTOR]] | conformance cover CASE BASE_PORT */
#include "conformance.h"

#include <netdb.h>

#include "../errno_name.h"

int base_port;

void broken(const char *what) {
    printf("broken: %s: %s\n", what, errno_name(errno));
    exit(3);
}

long show(const char *what, long result) {
    if (result == -1) {
        printf("%s: %s\n", what, errno_name(errno));
    } else {
        printf("%s: %ld\n", what, result);
    }
    return result;
}

const char *error_name(int error) { return error == 0 ? "0" : errno_name(error); }

/* Natively the harness says which: not every machine's name resolves to an address of its own. */
static struct in_addr own_address(void) {
    static struct in_addr known;
    const char *given = getenv("CONFORMANCE_OWN");
    struct addrinfo hints = {.ai_family = AF_INET}, *found;
    char name[256];
    if (known.s_addr == 0 && (given == NULL || inet_pton(AF_INET, given, &known) != 1)) {
        if (gethostname(name, sizeof name) != 0 || getaddrinfo(name, NULL, &hints, &found) != 0) {
            broken("the machine's own name");
        }
        known = ((struct sockaddr_in *)found->ai_addr)->sin_addr;
        freeaddrinfo(found);
    }
    return known;
}

struct address IP(const char *text, int offset) {
    struct address address = {0};
    char own[64] = "::ffff:";
    if (strncmp(text, "own", 3) == 0) {
        struct in_addr ip = own_address();
        inet_ntop(AF_INET, &ip, own + 7, sizeof own - 7);
        text = text[3] == '4' ? own + 7 : own;
    }
    in_port_t port = htons(offset < 0 ? 0 : base_port + offset);
    if (inet_pton(AF_INET, text, &address.in.sin_addr) == 1) {
        address.in.sin_family = AF_INET;
        address.in.sin_port = port;
        address.length = sizeof address.in;
    } else if (inet_pton(AF_INET6, text, &address.in6.sin6_addr) == 1) {
        address.in6.sin6_family = AF_INET6;
        address.in6.sin6_port = port;
        address.length = sizeof address.in6;
    } else {
        broken(text);
    }
    return address;
}

struct address unix_path(const char *path) {
    struct address address = {0};
    address.un.sun_family = AF_UNIX;
    snprintf(address.un.sun_path, sizeof address.un.sun_path, "%s", path);
    address.length = sizeof address.un;
    return address;
}

void show_address(const char *what, const struct address *address) {
    char ip[INET6_ADDRSTRLEN] = "?", port_text[16];
    int port;
    if (address->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->in.sin_addr, ip, sizeof ip);
        port = ntohs(address->in.sin_port);
    } else if (address->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &address->in6.sin6_addr, ip, sizeof ip);
        port = ntohs(address->in6.sin6_port);
    } else {
        printf("%s: family %d, %u bytes\n", what, address->any.sa_family, address->length);
        return;
    }
    if (port >= base_port && port < base_port + 10) {
        snprintf(port_text, sizeof port_text, "base+%d", port - base_port);
    } else {
        snprintf(port_text, sizeof port_text, "%s", port == 0 ? "0" : "ephemeral");
    }
    printf("%s: %s port %s, %u bytes\n", what, ip, port_text, address->length);
}

void show_own(const char *what, int fd) {
    struct address address = {.length = sizeof address.storage};
    if (getsockname(fd, &address.any, &address.length) != 0) {
        show(what, -1);
    } else {
        show_address(what, &address);
    }
}

void show_peer(const char *what, int fd) {
    struct address address = {.length = sizeof address.storage};
    if (getpeername(fd, &address.any, &address.length) != 0) {
        show(what, -1);
    } else {
        show_address(what, &address);
    }
}

int sock(int family, int type) {
    int fd = socket(family, type, 0);
    if (fd < 0) {
        broken("socket");
    }
    return fd;
}

int do_bind(int fd, const char *text, int offset) {
    struct address address = IP(text, offset);
    return bind(fd, &address.any, address.length);
}

int do_connect(int fd, const char *text, int offset) {
    struct address address = IP(text, offset);
    return connect(fd, &address.any, address.length);
}

int listener(const char *text, int offset, int backlog) {
    struct address address = IP(text, offset);
    int fd = sock(address.any.sa_family, SOCK_STREAM);
    if (bind(fd, &address.any, address.length) != 0) {
        broken("bind");
    }
    if (listen(fd, backlog) != 0) {
        broken("listen");
    }
    return fd;
}

void show_error(const char *what, int fd) {
    printf("%s: %s\n", what, error_name(get_option(fd, SOL_SOCKET, SO_ERROR)));
}

int get_option(int fd, int level, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, option, &value, &length) != 0) {
        broken("getsockopt");
    }
    return value;
}

void set_option(int fd, int level, int option, int value) {
    if (setsockopt(fd, level, option, &value, sizeof value) != 0) {
        broken("setsockopt");
    }
}

int poll_for(int fd, int events) {
    struct pollfd polled = {.fd = fd, .events = events};
    int count = poll(&polled, 1, 5000);
    return count < 0 ? -1 : polled.revents;
}

void show_poll(const char *what, int fd, int events) {
    int came = poll_for(fd, events);
    if (came < 0) {
        show(what, -1);
        return;
    }
    printf("%s:%s%s%s%s%s%s%s\n", what, came & POLLIN ? " in" : "", came & POLLPRI ? " pri" : "", came & POLLOUT ? " out" : "",
           came & POLLERR ? " err" : "", came & POLLHUP ? " hup" : "", came & POLLRDHUP ? " rdhup" : "", came == 0 ? " nothing" : "");
}

void exchange(int client, int server) {
    char buffer[16] = {0};
    show("client sends", send(client, "ping", 4, MSG_NOSIGNAL));
    show("server receives", recv(server, buffer, 4, MSG_WAITALL));
    show("server sends", send(server, "pong!", 5, MSG_NOSIGNAL));
    show("client receives", recv(client, buffer + 8, 5, MSG_WAITALL));
    printf("%s %s\n", buffer, buffer + 8);
}

static const struct conformance_case *const tables[] = {bind_cases, connect_cases, names_cases,   sharing_cases, options_cases,
                                                        udp_cases,  hostile_cases, waiting_cases, foreign_cases, hosts_cases,
                                                        message_cases};
static const struct conformance_matrix *const matrices[] = {address_matrices, readiness_matrices, handing_matrices,
                                                            transfer_matrices, closing_matrices,   interrupt_matrices};

const char *role = "";
int inherited = -1;
static const char *wanted;

/* Runs the case where it is the wanted one; prints its name where all are. */
static void visit_matrix(const struct conformance_matrix *matrix, const char *name, int depth, int *at) {
    char longer[128];
    if (depth < 5 && matrix->axes[depth] != NULL) {
        for (at[depth] = 0; matrix->axes[depth][at[depth]] != NULL; at[depth]++) {
            snprintf(longer, sizeof longer, "%s/%s", name, matrix->axes[depth][at[depth]]);
            visit_matrix(matrix, longer, depth + 1, at);
        }
    } else if (matrix->holds == NULL || matrix->holds(at)) {
        if (wanted == NULL) {
            puts(name);
        } else if (strcmp(wanted, name) == 0) {
            matrix->run(at);
            exit(0);
        }
    }
}

static void visit_all(void) {
    for (unsigned i = 0; i < sizeof tables / sizeof *tables; i++) {
        for (const struct conformance_case *one = tables[i]; one->name != NULL; one++) {
            if (wanted == NULL) {
                puts(one->name);
            } else if (strcmp(wanted, one->name) == 0) {
                one->run();
                exit(0);
            }
        }
    }
    for (unsigned i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        for (const struct conformance_matrix *one = matrices[i]; one->name != NULL; one++) {
            int at[5] = {0};
            visit_matrix(one, one->name, 0, at);
        }
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(100);
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        visit_all();
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "cover") == 0) {
        cover();
        argc--, argv++;
    }
    if (argc >= 3 && argc <= 5) {
        wanted = argv[1];
        base_port = atoi(argv[2]);
        role = argc > 3 ? argv[3] : role;
        inherited = argc > 4 ? atoi(argv[4]) : inherited;
        visit_all();
    }
    fprintf(stderr, "usage: conformance list | conformance CASE BASE_PORT [ROLE [DESCRIPTOR]] | conformance cover CASE BASE_PORT\n");
    return 2;
}
