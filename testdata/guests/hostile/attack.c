/* One process that attacks: threads that call, threads that pull the rug, children, signals, and an untimely end. */
#include "hostile.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#define CALLERS 4
/* Where an attacker has its sentinels: beside what is attacked. A witness has its own at the attacked numbers. */
#define OWN_SENTINELS 200

static uint64_t seed_of_all;
static atomic_bool executes;
static pid_t tids[CALLERS];
static struct sentinels *own;

static void nothing(int signal) {
    (void)signal;
}

static struct random own_random(int thread) {
    struct random random = {seed_of_all + (uint64_t)thread * 0x51ed270b};
    random_number(&random);
    return random;
}

static _Noreturn void execute(struct random *random) {
    char seed[32], program[] = "/proc/self/exe", role[] = "aftermath";
    snprintf(seed, sizeof seed, "%lu", random_number(random));
    char *arguments[] = {program, role, seed, NULL};
    execv(program, arguments);
    _exit(0);
}

static void *call_for_ever(void *arg) {
    int number = (int)(intptr_t)arg;
    struct random random = own_random(number);
    tids[number] = (pid_t)syscall(SYS_gettid);
    for (;;) {
        any_call(&random);
        if (one_in(&random, 4)) {
            any_change(&random);
        }
        if (number == 1 && atomic_load(&executes)) {
            execute(&random);
        }
    }
    return NULL;
}

static void *change_for_ever(void *arg) {
    struct random random = own_random((int)(intptr_t)arg);
    for (;;) {
        any_change(&random);
    }
    return NULL;
}

static void *shake_for_ever(void *arg) {
    struct random random = own_random((int)(intptr_t)arg);
    shake_arena(&random);
}

/* Has sentinels where others have what they attack, and makes calls itself, so that imsup knows it. */
static _Noreturn void bear_witness(void) {
    /* A signal that arrives before imsup has heard of a call ends it (seccomp_unotify(2)). */
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    struct sentinels *sentinels = post_sentinels(FIRST_SLOT);
    for (;;) {
        struct sockaddr_in name;
        socklen_t length = sizeof name;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (getsockname(fd, (void *)&name, &length) != 0 || name.sin_port != 0) {
            violation("a witness's own socket is bound");
        }
        close(fd);
        inspect_sentinels(sentinels);
    }
}

/* A thread with a table of descriptors of its own. */
static void *bear_witness_apart(void *arg) {
    (void)arg;
    if (unshare(CLONE_FILES) != 0) {
        violation("unshare");
    }
    bear_witness();
}

static void start(void *(*body)(void *), int number) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    if (pthread_create(&thread, &attributes, body, (void *)(intptr_t)number) != 0) {
        violation("pthread_create");
    }
    pthread_detach(thread);
}

static _Noreturn void be_child(struct random *random) {
    switch (below(random, 6)) {
    case 0:
        prctl(PR_SET_DUMPABLE, 0);
        break;
    case 1:
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
            /* Not allowed here. */
        }
        break;
    case 2:
        if (getuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
            violation("setresuid");
        }
        break;
    default:;
    }
    for (uint64_t left = below(random, 40); left > 0; left--) {
        any_call(random);
        any_change(random);
    }
    if (one_in(random, 3)) {
        execute(random);
    }
    _exit(0);
}

static void reap(void) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (WIFEXITED(status) ? WEXITSTATUS(status) != 0 : WTERMSIG(status) != SIGKILL && WTERMSIG(status) != SIGALRM) {
            violation("process %d ended with status %#x", pid, status);
        }
    }
}

static _Noreturn void end(struct random *random) {
    inspect_sentinels(own);
    reap();
    switch (below(random, 4)) {
    case 0:
        kill(getpid(), SIGKILL);
        break;
    case 1:
        kill(getpid(), SIGTERM);
        break;
    case 2:
        /* By a thread that is not the first, while the others are in calls; where that one waits, by this one. */
        atomic_store(&executes, true);
        pause_us(3000);
        execute(random);
    default:;
    }
    _exit(0);
}

void attack(uint64_t seed, long ms) {
    struct random random = {seed};
    int64_t over = now_ms() + ms;
    pid_t child = 0;
    seed_of_all = random_number(&random);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* Sockets of AF_UNIX get no names in the file system there. */
    if (chdir("/proc") != 0) {
        violation("/proc");
    }
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bear_witness();
    }
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    make_arena(&random);
    own = post_sentinels(OWN_SENTINELS);
    for (int i = 0; i < CALLERS; i++) {
        start(call_for_ever, i);
    }
    start(change_for_ever, CALLERS);
    start(shake_for_ever, CALLERS + 1);
    start(bear_witness_apart, CALLERS + 2);
    while (now_ms() < over) {
        struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
        pid_t tid = tids[below(&random, CALLERS)];
        switch (below(&random, 6)) {
        case 0:
            setitimer(ITIMER_REAL, one_in(&random, 2) ? &often : &never, NULL);
            break;
        case 1:
            if (tid > 0) {
                syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
            }
            break;
        case 2:
            child = fork();
            if (child == 0) {
                be_child(&random);
            }
            break;
        case 3:
            /* Not reaped yet, or nobody's: its number is this one's child's, or free. */
            if (child > 0 && waitpid(child, NULL, WNOHANG) == 0) {
                kill(child, SIGKILL);
            }
            child = 0;
            break;
        default:
            inspect_sentinels(own);
            pause_us((long)below(&random, 2000));
        }
        reap();
    }
    end(&random);
}

int aftermath(uint64_t seed) {
    struct random random = {seed};
    /* Nobody else ends it where a call waits; the timer of what it was before may end it sooner. */
    alarm(1);
    make_arena(&random);
    for (int i = 0; i < 20; i++) {
        any_change(&random);
        any_call(&random);
    }
    return 0;
}
