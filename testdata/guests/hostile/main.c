/*
 * A hostile program, and the honest ones beside it.
 *
 * It serves on port 8080 what it is asked, one line after the other:
 *     attack SEED MS    processes attack the supervisor for so long, while one beside them goes on behaving: "ok PROCESSES CHECKS"
 *     stall MS          the same, with one process and one purpose: that the supervisor waits
 *     behave MS         nobody attacks: "ok 0 CHECKS"
 * The answer is "bad ..." where any of them saw what must not be, or came to an end that it did not choose.
 *
 * All that is random comes from SEED; how threads and processes interleave does not. No packet leaves the machine: addresses are
 * of 127/8, the wildcard and ::1, and what is sent is zeros. It uses nothing of imsup.
 */
#include "hostile.h"

#include "../errno_name.h"

#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define ATTACKERS 3

struct in_addr hosts[HOSTS], peer;

void violation(const char *format, ...) {
    char text[512];
    va_list arguments;
    int error = errno;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(2, "hostile: %.*s (errno %s)\n", length, text, errno_name(error));
    _exit(VIOLATION);
}

uint64_t random_number(struct random *random) {
    uint64_t mixed = random->state += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
}

uint64_t below(struct random *random, uint64_t end) {
    return random_number(random) % end;
}

void pause_us(long us) {
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether an attacker may end like that: by itself, killed by itself, or by this program when its time was over. */
static bool is_chosen_end(int status) {
    if (WIFEXITED(status)) {
        return WEXITSTATUS(status) == 0;
    }
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGALRM);
}

/* Keeps attackers going, all in one process group; gives how many there were, or -1. */
static long keep_attacking(uint64_t seed, long ms) {
    struct random random = {seed};
    int64_t end = now_ms() + ms;
    long started = 0;
    pid_t group = 0;
    int running = 0, status;
    bool good = true;
    while (good && now_ms() < end) {
        while (running < ATTACKERS) {
            uint64_t own_seed = random_number(&random);
            long life = 20 + (long)below(&random, 300);
            pid_t pid = fork();
            if (pid < 0) {
                violation("fork");
            }
            if (pid == 0) {
                setpgid(0, group);
                attack(own_seed, life);
            }
            setpgid(pid, group);
            group = group ? group : pid;
            running++;
            started++;
        }
        pid_t ended = waitpid(-group, &status, 0);
        if (ended > 0) {
            running--;
            good = is_chosen_end(status);
        }
        /* A group lives as long as any of its processes, zombies included: the number may be another's once all are reaped. */
        group = running > 0 ? group : 0;
    }
    if (running > 0) {
        kill(-group, SIGKILL);
    }
    while (running > 0 && waitpid(-group, &status, 0) > 0) {
        running--;
        good = good && is_chosen_end(status);
    }
    return good ? started : -1;
}

/* A process that behaves until the other end of `until` is closed, and then writes how often to `result`. */
static pid_t start_bystander(int until[2], int result[2]) {
    if (pipe2(until, O_CLOEXEC) != 0 || pipe2(result, O_CLOEXEC) != 0) {
        violation("pipe");
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(until[1]);
        long checks = behave(until[0]);
        _exit(write(result[1], &checks, sizeof checks) == sizeof checks ? 0 : 1);
    }
    return pid;
}

/* 1 where the process that did came to its end. */
static long keep_stalling(long ms) {
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        stall(ms);
    }
    waitpid(pid, &status, 0);
    return status == 0 ? 1 : -1;
}

static void carry_out(const char *line, FILE *answer) {
    uint64_t seed = 0;
    long ms = 0, processes = 0, checks = 0;
    int until[2], result[2], status = -1;
    bool attacks = sscanf(line, "attack %lu %ld", &seed, &ms) == 2, stalls = sscanf(line, "stall %ld", &ms) == 1;
    if (!attacks && !stalls && sscanf(line, "behave %ld", &ms) != 1) {
        fprintf(answer, "bad request\n");
        return;
    }
    pid_t bystander = start_bystander(until, result);
    if (attacks) {
        processes = keep_attacking(seed, ms);
    } else if (stalls) {
        processes = keep_stalling(ms);
    } else {
        pause_us(ms * 1000);
    }
    close(until[0]);
    close(until[1]);
    close(result[1]);
    bool told = read(result[0], &checks, sizeof checks) == sizeof checks;
    close(result[0]);
    waitpid(bystander, &status, 0);
    if (processes < 0) {
        fprintf(answer, "bad attack: a process ended as it should not\n");
    } else if (!told || status != 0) {
        fprintf(answer, "bad bystander: status %#x\n", status);
    } else {
        fprintf(answer, "ok %ld %ld\n", processes, checks);
    }
}

static void look_up(const char *name, struct in_addr *found) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *list;
    if (getaddrinfo(name, NULL, &hints, &list) != 0) {
        violation("no address of %s", name);
    }
    *found = ((struct sockaddr_in *)list->ai_addr)->sin_addr;
    freeaddrinfo(list);
}

int main(int argc, char **argv) {
    char line[128];
    if (argc == 3 && strcmp(argv[1], "aftermath") == 0) {
        const char *known = getenv("HOSTILE_HOSTS");
        if (known == NULL || sscanf(known, "%x %x %x %x", &hosts[0].s_addr, &hosts[1].s_addr, &hosts[2].s_addr, &hosts[3].s_addr) != HOSTS) {
            violation("HOSTILE_HOSTS: an environment was not passed on");
        }
        return aftermath(strtoull(argv[2], NULL, 10));
    }
    struct utsname name;
    uname(&name);
    look_up(name.nodename, &hosts[SELF]);
    look_up("peer", &peer);
    look_up("victim", &hosts[VICTIM]);
    look_up("slow", &hosts[SLOW]);
    look_up("flaky", &hosts[FLAKY]);
    snprintf(line, sizeof line, "%x %x %x %x", hosts[0].s_addr, hosts[1].s_addr, hosts[2].s_addr, hosts[3].s_addr);
    setenv("HOSTILE_HOSTS", line, 1);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in any = at(INADDR_ANY, SERVED_PORT);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (void *)&any, sizeof any) != 0 || listen(listener, 4096) != 0) {
        violation("cannot listen");
    }
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        FILE *from = fdopen(fd, "r"), *to = fdopen(dup(fd), "w");
        while (from != NULL && to != NULL && fgets(line, sizeof line, from) != NULL) {
            carry_out(line, to);
            fflush(to);
        }
        fclose(from);
        fclose(to);
    }
}
