/* Sockets handed on, by every means and at every stage: what was begun through one descriptor goes on through another. */
#include "conformance.h"

#include <sched.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static const char *const means[] = {"same",   "dup",    "dup2", "dup3", "dupfd",      "dupfd_cloexec", "fork",
                                    "vfork",  "exec",   "scm_rights", "thread", "thread_own_files", NULL};
static const char *const stages[] = {"unbound", "bound", "listening", "unconnected", "connected", NULL};
static const char *const places[] = {"any4", "lo4", "any6", NULL};
static const char *const callers[] = {"itself", "thread", "fork", "vfork", "exec", "setuid", "non_dumpable", "thread_own_files", "no_new_privs",
                                      NULL};

enum means { SAME, DUP, DUP2, DUP3, DUPFD, DUPFD_CLOEXEC, FORK, VFORK, EXEC, PASSED, THREAD, THREAD_OWN_FILES };
enum stage { UNBOUND, BOUND, LISTENING, UNCONNECTED, CONNECTED, WHOLE };

static struct job {
    int stage, fd, server;
    const char *here, *there;
} job;

/* What is left to do with the socket. */
static void go_on(void) {
    int client = -1, accepted;
    show_own("own", job.fd);
    switch (job.stage) {
    case WHOLE:
        /* As many a server does; and the one before this may have had the port. */
        set_option(job.fd, SOL_SOCKET, SO_REUSEADDR, 1);
        /* fall through */
    case UNBOUND:
        show("bind", do_bind(job.fd, job.here, 0));
        show_own("own", job.fd);
        /* fall through */
    case BOUND:
        show("listen", listen(job.fd, 5));
        /* fall through */
    case LISTENING:
        client = sock(IP(job.there, 0).any.sa_family, SOCK_STREAM);
        show("connect", do_connect(client, job.there, 0));
        accepted = accept(job.fd, NULL, NULL);
        break;
    case UNCONNECTED:
        show("connect", do_connect(job.fd, job.there, 0));
        /* fall through */
    default:
        client = job.fd;
        accepted = accept(job.server, NULL, NULL);
        show_peer("peer", job.fd);
    }
    show_own("own", job.fd);
    if (job.stage == WHOLE) {
        show_own("accepted's own", accepted);
    }
    exchange(client, accepted);
    close(accepted);
}

/* Posted when a thread has descriptors of its own. */
static sem_t is_apart;

static void *in_thread(void *own_files) {
    if (own_files != NULL) {
        show("unshare", unshare(CLONE_FILES));
        /* From here on the numbers of this thread and of the others mean different things. */
        int high = dup(job.fd);
        close(job.fd);
        job.fd = high;
        sem_post(&is_apart);
    }
    if (own_files != NULL && job.stage == LISTENING) {
        /* Longer than imsup takes to find out that nobody has a listener. */
        sleep(3);
    }
    go_on();
    return NULL;
}

static void in_a_thread(bool own_files) {
    pthread_t thread;
    int fd = job.fd;
    sem_init(&is_apart, 0, 0);
    pthread_create(&thread, NULL, in_thread, own_files ? "" : NULL);
    if (own_files && job.stage == LISTENING) {
        sem_wait(&is_apart);
        close(fd);
    }
    pthread_join(thread, NULL);
}

static void ended(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    show("child's status", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
}

/* Executes this program again, which goes on. */
static void execute(const char *program, const char *name) {
    char port[16], numbers[64];
    snprintf(port, sizeof port, "%d", base_port);
    snprintf(numbers, sizeof numbers, "%d,%d", job.fd, job.server);
    setenv("CONFORMANCE_DESCRIPTORS", numbers, 1);
    execl(program, "conformance", name, port, "executed", NULL);
    _exit(127);
}

static int through_unix(int fd) {
    int pair[2], passed = -1;
    char data = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {&data, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        broken("socketpair");
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    show("sendmsg", sendmsg(pair[0], &message, 0));
    close(fd);
    show("recvmsg", recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC));
    memcpy(&passed, CMSG_DATA(header), sizeof passed);
    return passed;
}

static void hand(const int *at) {
    static const char *const heres[] = {"0.0.0.0", "127.0.0.1", "::"}, *const theres[] = {"127.0.0.1", "127.0.0.1", "::1"};
    char name[64];
    snprintf(name, sizeof name, "hand/%s/%s/%s", means[at[0]], stages[at[1]], places[at[2]]);
    job = (struct job){.stage = at[1], .server = -1, .here = heres[at[2]], .there = theres[at[2]]};
    if (strcmp(role, "executed") == 0) {
        sscanf(getenv("CONFORMANCE_DESCRIPTORS"), "%d,%d", &job.fd, &job.server);
        return go_on();
    }
    int family = IP(job.here, 0).any.sa_family;
    job.fd = sock(family, SOCK_STREAM);
    if (job.stage >= UNCONNECTED) {
        job.server = listener(job.here, 0, 5);
    } else if (job.stage >= BOUND && do_bind(job.fd, job.here, 0) != 0) {
        broken("bind");
    }
    if (job.stage == LISTENING && listen(job.fd, 5) != 0) {
        broken("listen");
    }
    if (job.stage == CONNECTED && do_connect(job.fd, job.there, 0) != 0) {
        broken("connect");
    }
    int old = job.fd;
    pid_t child;
    fflush(stdout);
    switch ((enum means)at[0]) {
    case SAME: break;
    case DUP: job.fd = dup(old); break;
    case DUP2: job.fd = dup2(old, 77); break;
    case DUP3: job.fd = dup3(old, 78, O_CLOEXEC); break;
    case DUPFD: job.fd = fcntl(old, F_DUPFD, 50); break;
    case DUPFD_CLOEXEC: job.fd = fcntl(old, F_DUPFD_CLOEXEC, 60); break;
    case PASSED: job.fd = through_unix(old); break;
    case THREAD: return in_a_thread(false);
    case THREAD_OWN_FILES: return in_a_thread(true);
    case FORK:
        if ((child = fork()) == 0) {
            go_on();
            fflush(stdout);
            _exit(0);
        }
        close(old);
        return ended(child);
    case EXEC:
        if ((child = fork()) == 0) {
            execute("/proc/self/exe", name);
        }
        close(old);
        return ended(child);
    case VFORK:
        if ((child = vfork()) == 0) {
            go_on();
            _exit(0);
        }
        return ended(child);
    }
    if (job.fd != old) {
        close(old);
    }
    go_on();
}

/* A copy of this program that is set-user-ID: as root of another user, where it may be. */
static const char *set_user_id_copy(void) {
    static char path[64];
    snprintf(path, sizeof path, "conformance-%d", (int)getpid());
    char command[128];
    snprintf(command, sizeof command, "cp /proc/%d/exe %s", (int)getpid(), path);
    if (system(command) != 0) {
        broken(command);
    }
    if (geteuid() == 0 && chown(path, 65534, 65534) != 0) {
        broken("chown");
    }
    if (chmod(path, 04755) != 0) {
        broken("chmod");
    }
    return path;
}

/* A whole life of a socket, made by an unusual caller. */
static void whole(void) {
    job = (struct job){.stage = WHOLE, .server = -1, .here = "0.0.0.0", .there = "127.0.0.1"};
    job.fd = sock(AF_INET, SOCK_STREAM);
    go_on();
    int udp = sock(AF_INET, SOCK_DGRAM), sender = sock(AF_INET, SOCK_DGRAM);
    struct address to = IP("127.0.0.1", 1);
    char byte = 0;
    show("bind", do_bind(udp, "127.0.0.1", 1));
    show("sendto", sendto(sender, "x", 1, 0, &to.any, to.length));
    poll_for(udp, POLLIN);
    show("receive", recv(udp, &byte, 1, MSG_DONTWAIT));
}

static void *whole_in_thread(void *own_files) {
    if (own_files != NULL) {
        show("unshare", unshare(CLONE_FILES));
        /* What the other threads have under the next numbers is something else. */
        for (int fd = 3; fd < 16; fd++) {
            close(fd);
        }
    }
    whole();
    return NULL;
}

static void call(const int *at) {
    char name[64];
    const char *program;
    pthread_t thread;
    pid_t child;
    snprintf(name, sizeof name, "caller/%s", callers[at[0]]);
    if (strcmp(role, "executed") == 0) {
        show("has another user's rights", geteuid() != getuid());
        return whole();
    }
    fflush(stdout);
    switch (at[0]) {
    case 0: return whole();
    case 1:
        pthread_create(&thread, NULL, whole_in_thread, NULL);
        pthread_join(thread, NULL);
        return;
    case 7:
        for (int i = 0; i < 8; i++) {
            sock(AF_INET, i % 2 == 0 ? SOCK_STREAM : SOCK_DGRAM);
        }
        pthread_create(&thread, NULL, whole_in_thread, "");
        pthread_join(thread, NULL);
        return;
    case 2:
        if ((child = fork()) == 0) {
            whole();
            fflush(stdout);
            _exit(0);
        }
        return ended(child);
    case 3:
        if ((child = vfork()) == 0) {
            whole();
            _exit(0);
        }
        return ended(child);
    case 4: execute("/proc/self/exe", name); return;
    case 5:
        program = set_user_id_copy();
        if ((child = fork()) == 0) {
            execute(program, name);
        }
        ended(child);
        unlink(program);
        return;
    case 6:
        show("prctl", prctl(PR_SET_DUMPABLE, 0));
        return whole();
    case 8:
        show("prctl", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        return whole();
    }
}

/* Where it is bound makes a difference to few of them. */
static bool is_worth_it(const int *at) { return at[2] == 0 || at[0] == SAME || at[0] == DUP || at[0] == FORK || at[0] == EXEC; }

const struct conformance_matrix handing_matrices[] = {
    {"hand", {means, stages, places}, is_worth_it, hand},
    {"caller", {callers}, NULL, call},
    {NULL, {NULL}, NULL, NULL},
};
