/* File descriptions shared by dup(2), fork(2), SCM_RIGHTS and epoll(7); and UNIX sockets, which are none of imsup's business. */
#include "conformance.h"

static void dup_before_bind(void) {
    int fd = sock(AF_INET, SOCK_STREAM), copy = dup(fd), client = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "0.0.0.0", 0));
    show_own("the copy's", copy);
    show("listen on the copy", listen(copy, 5));
    close(fd);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_poll("the copy", copy, POLLIN);
    exchange(client, accept(copy, NULL, NULL));
}

static void dup2_over(void) {
    int fd = sock(AF_INET, SOCK_STREAM), high = dup2(fd, 100), client = sock(AF_INET, SOCK_STREAM);
    close(fd);
    show("bind", do_bind(high, "127.0.0.1", 0));
    show("listen", listen(high, 5));
    show("connect", do_connect(client, "127.0.0.1", 0));
    show_poll("listener", high, POLLIN);
}

static void wait_child(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    show("child's status", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
}

static void fork_after_listen(void) {
    int server = listener("0.0.0.0", 0, 5), client = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(client, "127.0.0.1", 0));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        int fd = accept(server, NULL, NULL);
        show_own("child: own", fd);
        recv(fd, &byte, 1, 0);
        send(fd, "y", 1, 0);
        fflush(stdout);
        _exit(byte == 'x' ? 7 : 8);
    }
    char byte = 0;
    if (send(client, "x", 1, 0) != 1) {
        broken("send");
    }
    wait_child(child);
    show("receive", recv(client, &byte, 1, 0));
    show_own("parent: own", server);
}

static void fork_before_bind(void) {
    int fd = sock(AF_INET, SOCK_STREAM);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        _exit(do_bind(fd, "0.0.0.0", 0) == 0 && listen(fd, 5) == 0 ? 0 : errno);
    }
    wait_child(child);
    show_own("parent: own", fd);
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    show_poll("parent: listener", fd, POLLIN);
}

static void child_listens(void) {
    int ready[2], stop[2];
    char byte;
    if (pipe(ready) != 0 || pipe(stop) != 0) {
        broken("pipe");
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        listener("127.0.0.1", 0, 5);
        write(ready[1], "x", 1);
        close(stop[1]);
        read(stop[0], &byte, 1);
        _exit(0);
    }
    read(ready[0], &byte, 1);
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    show("bind what the child holds", do_bind(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    close(stop[0]);
    close(stop[1]);
    wait_child(child);
    show("connect when it is gone", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    int again = sock(AF_INET, SOCK_STREAM);
    set_option(again, SOL_SOCKET, SO_REUSEADDR, 1);
    show("bind when it is gone", do_bind(again, "127.0.0.1", 0));
}

static void send_fd(int over, int fd) {
    char data = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {&data, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    show("send a descriptor", sendmsg(over, &message, 0));
}

static int receive_fd(int over) {
    char data, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&data, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd = -1;
    show("receive a descriptor", recvmsg(over, &message, 0));
    if (CMSG_FIRSTHDR(&message) != NULL) {
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    }
    return fd;
}

static void passed_listener(void) {
    int pair[2], server = listener("0.0.0.0", 0, 5), client = sock(AF_INET, SOCK_STREAM);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        broken("socketpair");
    }
    send_fd(pair[0], server);
    close(server);
    int passed = receive_fd(pair[1]);
    show_own("passed", passed);
    show("connect", do_connect(client, "127.0.0.1", 0));
    exchange(client, accept(passed, NULL, NULL));
}

static void passed_unbound(void) {
    int pair[2], fd = sock(AF_INET, SOCK_STREAM);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        broken("socketpair");
    }
    send_fd(pair[0], fd);
    int passed = receive_fd(pair[1]);
    show("bind the passed one", do_bind(passed, "127.0.0.1", 0));
    show_own("the original", fd);
    show("listen on the original", listen(fd, 5));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
}

static int wait_epoll(int epoll) {
    struct epoll_event event = {0};
    int count = epoll_wait(epoll, &event, 1, 5000);
    return count == 1 ? (int)event.events : -1;
}

static void epoll_before_bind(void) {
    int fd = sock(AF_INET, SOCK_STREAM), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    show("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    show("bind", do_bind(fd, "127.0.0.1", 0));
    show("listen", listen(fd, 5));
    event.data.u32 = 1;
    show("modify", epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    show("wait", wait_epoll(epoll));
    show("delete", epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event));
}

static void epoll_after_listen(void) {
    int fd = listener("0.0.0.0", 0, 5), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    show("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    show("connect", do_connect(sock(AF_INET, SOCK_STREAM), "127.0.0.1", 0));
    show("wait", wait_epoll(epoll));
    show("accept", accept(fd, NULL, NULL) >= 0);
}

static void epoll_before_connect(void) {
    int server = listener("127.0.0.1", 0, 5), fd = sock(AF_INET, SOCK_STREAM | SOCK_NONBLOCK), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLOUT};
    show("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    long result = do_connect(fd, "127.0.0.1", 0);
    show("connects at once or is in progress", result == 0 || errno == EINPROGRESS);
    show("wait", wait_epoll(epoll));
    event.events = EPOLLIN;
    show("modify", epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    int accepted = accept(server, NULL, NULL);
    send(accepted, "x", 1, 0);
    show("wait", wait_epoll(epoll));
}

static void flags_kept(void) {
    int fd = sock(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC), plain = sock(AF_INET, SOCK_STREAM);
    show("bind", do_bind(fd, "0.0.0.0", 0));
    show("listen", listen(fd, 5));
    show("non-blocking", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    show("close-on-exec", (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    show("bind", do_bind(plain, "0.0.0.0", 1));
    show("listen", listen(plain, 5));
    show("non-blocking", (fcntl(plain, F_GETFL) & O_NONBLOCK) != 0);
    show("close-on-exec", (fcntl(plain, F_GETFD) & FD_CLOEXEC) != 0);
    int client = sock(AF_INET, SOCK_STREAM | SOCK_CLOEXEC);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("non-blocking", (fcntl(client, F_GETFL) & O_NONBLOCK) != 0);
    show("close-on-exec", (fcntl(client, F_GETFD) & FD_CLOEXEC) != 0);
}

static void descriptors_unchanged(void) {
    int before = dup(STDOUT_FILENO);
    close(before);
    int server = listener("0.0.0.0", 0, 5), client = sock(AF_INET, SOCK_STREAM);
    show("connect", do_connect(client, "127.0.0.1", 0));
    show("server is the lowest", server - before);
    show("client is the next", client - before);
    show("nothing else was opened", dup(STDOUT_FILENO) - before);
}

static void unix_sockets(void) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/imsup-conformance-%d", (int)getpid());
    struct address address = unix_path(path);
    int server = sock(AF_UNIX, SOCK_STREAM), client = sock(AF_UNIX, SOCK_STREAM);
    show("connect before bind", connect(client, &address.any, address.length));
    show("bind", bind(server, &address.any, address.length));
    show("bind again", bind(sock(AF_UNIX, SOCK_STREAM), &address.any, address.length));
    show("listen", listen(server, 5));
    show("connect", connect(client, &address.any, address.length));
    exchange(client, accept(server, NULL, NULL));
    struct address own = {.length = sizeof own.storage};
    show("getsockname", getsockname(server, &own.any, &own.length));
    show("is the path", strcmp(own.un.sun_path, path) == 0);
    unlink(path);
}

static void unix_abstract(void) {
    struct address address = unix_path("");
    int length = snprintf(address.un.sun_path + 1, 64, "imsup-conformance-%d", (int)getpid());
    address.length = offsetof(struct sockaddr_un, sun_path) + 1 + length;
    int server = sock(AF_UNIX, SOCK_DGRAM), client = sock(AF_UNIX, SOCK_DGRAM);
    char buffer[8] = {0};
    show("bind", bind(server, &address.any, address.length));
    show("sendto", sendto(client, "ping", 4, 0, &address.any, address.length));
    show("recv", recv(server, buffer, sizeof buffer, 0));
    struct address autobound = {.length = sizeof(sa_family_t)};
    autobound.any.sa_family = AF_UNIX;
    show("autobind", bind(client, &autobound.any, autobound.length));
}

const struct conformance_case sharing_cases[] = {
    {"dup_before_bind", dup_before_bind},
    {"dup2_over", dup2_over},
    {"fork_after_listen", fork_after_listen},
    {"fork_before_bind", fork_before_bind},
    {"fork_child_listens", child_listens},
    {"scm_rights_listener", passed_listener},
    {"scm_rights_unbound", passed_unbound},
    {"epoll_before_bind", epoll_before_bind},
    {"epoll_after_listen", epoll_after_listen},
    {"epoll_before_connect", epoll_before_connect},
    {"flags_kept", flags_kept},
    {"descriptors_unchanged", descriptors_unchanged},
    {"unix_sockets", unix_sockets},
    {"unix_abstract", unix_abstract},
    {NULL, NULL},
};
