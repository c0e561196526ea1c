/*
 * A debugger, as far as others can tell: attaches to a process and lets it run (PTRACE_SEIZE), says "attached", and detaches when its
 * standard input ends. Usage: tracer PID
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    pid_t pid = argc == 2 ? atoi(argv[1]) : 0;
    char byte;
    int status;
    if (pid <= 0 || ptrace(PTRACE_SEIZE, pid, 0, 0) != 0) {
        perror("tracer: PTRACE_SEIZE");
        return 1;
    }
    printf("attached\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
    /* Only a stopped tracee can be detached from. */
    if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) != 0 || waitpid(pid, &status, __WALL) != pid ||
        ptrace(PTRACE_DETACH, pid, 0, 0) != 0) {
        perror("tracer: PTRACE_DETACH");
        return 1;
    }
    printf("detached\n");
    return 0;
}
