/*
 * What a program of an image must not do to the machine, tried from within its root. Usage: escape FILE PID
 *
 * FILE is a file of the machine, and PID the number of a process of the machine. Prints a line for each attempt: its name, and the
 * error by which it was refused, or "done". No attempt harms the machine if it succeeds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "errno_name.h"

static void report(const char *name, long result) {
    printf("%s %s\n", name, result < 0 ? errno_name(errno) : "done");
}

/* The file is opened for writing, and nothing is written. */
static void may_write(const char *path) {
    report(path, open(path, O_WRONLY | O_CLOEXEC));
}

static long read_some(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fd;
    }
    long count = read(fd, &byte, 1);
    close(fd);
    if (count == 0) {
        errno = ENODEV;
        return -1;
    }
    return count;
}

/* chroot(2), NOTES: a directory that was open before, or the working directory, leads out of a root that was changed only so. */
static long leave_by_chroot(const char *file) {
    mkdir("/escape", 0700);
    if (chroot("/escape") < 0) {
        return -1;
    }
    for (int i = 0; i < 64; i++) {
        if (chdir("..") < 0) {
            return -1;
        }
    }
    if (chroot(".") < 0) {
        return -1;
    }
    return access(file, F_OK);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: escape FILE PID\n");
        return 2;
    }
    const char *file = argv[1];
    pid_t pid = atoi(argv[2]);
    setvbuf(stdout, NULL, _IONBF, 0);

    report("mknod", mknod("/disk", S_IFBLK | 0600, makedev(8, 0)));
    report("mount", mount("none", "/bin", "tmpfs", 0, NULL));
    report("remount", mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    report("umount", umount2("/proc", MNT_DETACH));
    report("unshare", unshare(CLONE_NEWNS));
    report("setns", setns(open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC), CLONE_NEWNET));
    report("reboot", reboot(RB_DISABLE_CAD));
    report("init_module", syscall(SYS_init_module, "", 0UL, ""));
    report("sethostname", sethostname("escaped", 7));
    may_write("/proc/sysrq-trigger");
    may_write("/proc/sys/kernel/core_pattern");
    may_write("/proc/irq/default_smp_affinity");
    may_write("/sys/kernel/uevent_helper");
    may_write("/sys/kernel/mm/transparent_hugepage/enabled");
    may_write("/sys/fs/cgroup/cgroup.procs");
    report("kcore", read_some("/proc/kcore"));
    report("file", access(file, F_OK));
    char handle_space[sizeof(struct file_handle) + 8] = {0};
    struct file_handle *handle = (struct file_handle *)handle_space;
    handle->handle_bytes = 8;
    handle->handle_type = 1;
    report("open_by_handle_at", open_by_handle_at(open("/", O_RDONLY | O_CLOEXEC), handle, O_RDONLY));
    report("kill", kill(pid, 0));
    report("ptrace", ptrace(PTRACE_SEIZE, pid, NULL, NULL));
    report("raw", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    report("packet", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    report("chroot", leave_by_chroot(file));
    return 0;
}
