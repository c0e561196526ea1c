/* Waits for what another process does to memory, a lock or a queue that both share: sharing KIND NAME PORT.
 *
 * NAME is the same for all that share, and begins with "/". On a connection to PORT "take" is answered "taken" (locks are taken, everything is made),
 * "begin" is answered "begun" once a thread waits, and "ended RESULT" once it does not wait any more; "act" is answered "acted" when what the thread of
 * another such program waits for was done. `sharing` alone lists the kinds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "blocked.h"

static const char *name;
static struct shared {
	sem_t semaphore;
	pthread_mutex_t mutex, pi, robust;
	pthread_cond_t condition;
	pthread_rwlock_t rwlock;
	pthread_barrier_t barrier;
	uint32_t up, down, words[2];
	int flag, signalled;
} *shared;

static void die(const char *what) { perror(what); exit(1); }
static long ok(long result, const char *what) { if (result < 0) die(what); return result; }
static key_t key(void) { unsigned k = 5381; for (const char *c = name; *c; c++) k = k * 33 + *c; return k & 0x7fffffff; }
static struct timespec later(clockid_t clock) { struct timespec t; clock_gettime(clock, &t); t.tv_sec += 3600; return t; }

/* Who takes makes everything; who begins finds it there. */
static void map(int make, int system_v) {
	if (shared) return;
	if (system_v) {
		shared = shmat(ok(shmget(key(), sizeof *shared, 0666 | (make ? IPC_CREAT : 0)), "shmget"), 0, 0);
	} else {
		int fd = ok(shm_open(name, O_RDWR | (make ? O_CREAT : 0), 0666), "shm_open");
		if (make) { fchmod(fd, 0666); ok(ftruncate(fd, sizeof *shared), "ftruncate"); }
		shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	if (shared == MAP_FAILED) die("mmap");
	if (!make) return;
	sem_init(&shared->semaphore, 1, 0);
	pthread_mutexattr_t m; pthread_mutexattr_init(&m); pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->mutex, &m);
	pthread_mutexattr_setrobust(&m, PTHREAD_MUTEX_ROBUST); pthread_mutex_init(&shared->robust, &m);
	pthread_mutexattr_setrobust(&m, PTHREAD_MUTEX_STALLED); pthread_mutexattr_setprotocol(&m, PTHREAD_PRIO_INHERIT); pthread_mutex_init(&shared->pi, &m);
	pthread_condattr_t c; pthread_condattr_init(&c); pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED); pthread_cond_init(&shared->condition, &c);
	pthread_rwlockattr_t r; pthread_rwlockattr_init(&r); pthread_rwlockattr_setpshared(&r, PTHREAD_PROCESS_SHARED); pthread_rwlock_init(&shared->rwlock, &r);
	pthread_barrierattr_t b; pthread_barrierattr_init(&b); pthread_barrierattr_setpshared(&b, PTHREAD_PROCESS_SHARED); pthread_barrier_init(&shared->barrier, &b, 2);
	shared->up = 0; shared->down = 1;
}
static void t_memory(void) { map(1, 0); }
static void w_memory(void) { map(0, 0); }
static void x_memory(void) { shm_unlink(name); }
static void t_system_v(void) { map(1, 1); }
static void w_system_v(void) { map(0, 1); }
static void x_system_v(void) { shmctl(shmget(key(), 0, 0), IPC_RMID, 0); }

static long b_sem(void) { return sem_wait(&shared->semaphore); }
static long b_sem_timed(void) { struct timespec t = later(CLOCK_REALTIME); return sem_timedwait(&shared->semaphore, &t); }
static void a_sem(void) { sem_post(&shared->semaphore); }
static void t_mutex(void) { t_memory(); pthread_mutex_lock(&shared->mutex); }
static long b_mutex(void) { return pthread_mutex_lock(&shared->mutex); }
static void a_mutex(void) { pthread_mutex_unlock(&shared->mutex); }
static void t_robust(void) { t_memory(); pthread_mutex_lock(&shared->robust); }
static long b_robust(void) { return pthread_mutex_lock(&shared->robust); }
static void a_robust(void) { pthread_mutex_unlock(&shared->robust); }
static void a_exit(void) {} /* it ends without unlocking: see converse */
static void t_pi(void) { t_memory(); pthread_mutex_lock(&shared->pi); }
static long b_pi(void) { return pthread_mutex_lock(&shared->pi); }
static void a_pi(void) { pthread_mutex_unlock(&shared->pi); }
static long b_cond(void) {
	pthread_mutex_lock(&shared->mutex);
	while (!shared->signalled) pthread_cond_wait(&shared->condition, &shared->mutex);
	return pthread_mutex_unlock(&shared->mutex);
}
static void a_cond(void) { pthread_mutex_lock(&shared->mutex); shared->signalled = 1; pthread_cond_broadcast(&shared->condition); pthread_mutex_unlock(&shared->mutex); }
static void t_rwlock(void) { t_memory(); pthread_rwlock_wrlock(&shared->rwlock); }
static long b_rwlock(void) { return pthread_rwlock_rdlock(&shared->rwlock); }
static void a_rwlock(void) { pthread_rwlock_unlock(&shared->rwlock); }
static long b_barrier(void) { pthread_barrier_wait(&shared->barrier); return 0; }
static void a_barrier(void) { pthread_barrier_wait(&shared->barrier); }
static long b_futex_while(uint32_t *word, uint32_t value, int operation) {
	struct timespec t = later(CLOCK_MONOTONIC);
	while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == value)
		if (syscall(SYS_futex, word, operation, value, operation == FUTEX_WAIT ? 0 : &t, 0, ~0u) < 0 && errno != EAGAIN) return -errno;
	return 0;
}
static void change(uint32_t *word, uint32_t value) {
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
}
static long b_up(void) { return b_futex_while(&shared->up, 0, FUTEX_WAIT); }
static void a_up(void) { change(&shared->up, 1); }
static long b_down(void) { return b_futex_while(&shared->down, 1, FUTEX_WAIT_BITSET); }
static void a_down(void) { change(&shared->down, 0); }
struct futex_wait { uint64_t val, address; uint32_t flags, reserved; };
static long b_waitv(void) {
	struct futex_wait w[2] = {{0, (uintptr_t)&shared->words[0], 2, 0}, {0, (uintptr_t)&shared->words[1], 2, 0}};
	while (!__atomic_load_n(&shared->words[1], __ATOMIC_SEQ_CST))
		if (syscall(449, w, 2, 0, 0, 0) < 0 && errno != EAGAIN) return -errno;
	return 0;
}
static void a_waitv(void) { change(&shared->words[1], 1); }

/* not memory */
static int id, fd; static mqd_t queue;
struct message { long type; char text[4000]; };
static void t_semop(void) { id = ok(semget(key(), 1, IPC_CREAT | 0666), "semget"); semctl(id, 0, SETVAL, 0); }
static void w_semop(void) { id = ok(semget(key(), 1, 0), "semget"); }
static void x_semop(void) { semctl(id, 0, IPC_RMID); }
static long b_semop(void) { struct sembuf d = {0, -1, 0}; return semop(id, &d, 1); }
static long b_semtimedop(void) { struct sembuf d = {0, -1, 0}; struct timespec t = {.tv_sec = 3600}; return semtimedop(id, &d, 1, &t); }
static void a_semop(void) { struct sembuf u = {0, 1, 0}; ok(semop(id, &u, 1), "semop"); }
static void t_msg(void) { id = ok(msgget(key(), IPC_CREAT | 0666), "msgget"); }
static void w_msg(void) { id = ok(msgget(key(), 0), "msgget"); }
static void x_msg(void) { msgctl(id, IPC_RMID, 0); }
static void t_msg_full(void) { t_msg(); struct message m = {.type = 1}; while (msgsnd(id, &m, sizeof m.text, IPC_NOWAIT) == 0) {} }
static long b_msgrcv(void) { struct message m; return msgrcv(id, &m, sizeof m.text, 0, 0); }
static void a_msgrcv(void) { struct message m = {.type = 3}; ok(msgsnd(id, &m, 5, 0), "msgsnd"); }
static long b_msgsnd(void) { struct message m = {.type = 2}; return msgsnd(id, &m, sizeof m.text, 0); }
static void a_msgsnd(void) { struct message m; ok(msgrcv(id, &m, sizeof m.text, 0, 0), "msgrcv"); }
static void queue_open(int flags) {
	struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
	mode_t before = umask(0);
	queue = ok(mq_open(name, O_RDWR | flags, 0666, &attributes), "mq_open");
	umask(before);
}
static void t_mq(void) { queue_open(O_CREAT); }
static void w_mq(void) { queue_open(0); }
static void x_mq(void) { mq_unlink(name); }
static void t_mq_full(void) { t_mq(); mq_send(queue, "1", 1, 1); mq_send(queue, "2", 1, 1); }
static long b_mq_receive(void) { char bytes[16]; return mq_receive(queue, bytes, 16, 0); }
static void a_mq_receive(void) { mq_send(queue, "hello", 5, 1); }
static long b_mq_send(void) { return mq_send(queue, "3", 1, 1); }
static void a_mq_send(void) { char bytes[16]; mq_receive(queue, bytes, 16, 0); }
static const char *file(void) { static char path[200]; snprintf(path, sizeof path, "/dev/shm%s.file", name); return path; }
static void open_file(void) { fd = ok(open(file(), O_RDWR | O_CREAT, 0666), "open"); fchmod(fd, 0666); }
static void x_file(void) { unlink(file()); }
static long lock(int command, int type) { struct flock l = {.l_type = type}; return fcntl(fd, command, &l); }
static void t_flock(void) { open_file(); ok(flock(fd, LOCK_EX), "flock"); }
static long b_flock(void) { return flock(fd, LOCK_EX); }
static void a_flock(void) { flock(fd, LOCK_UN); }
static void t_fcntl(void) { open_file(); ok(lock(F_SETLKW, F_WRLCK), "fcntl"); }
static long b_fcntl(void) { return lock(F_SETLKW, F_WRLCK); }
static void a_fcntl(void) { lock(F_SETLK, F_UNLCK); }
static void t_ofd(void) { open_file(); ok(lock(F_OFD_SETLKW, F_WRLCK), "fcntl"); }
static long b_ofd(void) { return lock(F_OFD_SETLKW, F_WRLCK); }
static void a_ofd(void) { lock(F_OFD_SETLK, F_UNLCK); }
static void t_fifo(void) { mode_t before = umask(0); ok(mkfifo(file(), 0666), "mkfifo"); umask(before); }
static void nothing(void) {}
static long b_fifo_read(void) { long f = open(file(), O_RDONLY); close(f); return f < 0 ? -1 : 0; }
static void a_fifo_read(void) { close(ok(open(file(), O_WRONLY), "open")); }
static long b_fifo_write(void) { long f = open(file(), O_WRONLY); close(f); return f < 0 ? -1 : 0; }
static void a_fifo_write(void) { close(ok(open(file(), O_RDONLY), "open")); }
static void w_fifo_both(void) { fd = ok(open(file(), O_RDWR), "open"); }
static long b_fifo_data(void) { char byte; return read(fd, &byte, 1); }
static void a_fifo_data(void) { int f = ok(open(file(), O_WRONLY), "open"); ok(write(f, "x", 1), "write"); close(f); }

static const struct kind { const char *name; void (*take)(void), (*map)(void); long (*begin)(void); void (*act)(void), (*clean)(void); } kinds[] = {
	{"sem", t_memory, w_memory, b_sem, a_sem, x_memory}, {"sem-timed", t_memory, w_memory, b_sem_timed, a_sem, x_memory},
	{"sem-system-v", t_system_v, w_system_v, b_sem, a_sem, x_system_v},
	{"mutex", t_mutex, w_memory, b_mutex, a_mutex, x_memory}, {"mutex-robust", t_robust, w_memory, b_robust, a_robust, x_memory},
	{"mutex-pi", t_pi, w_memory, b_pi, a_pi, x_memory}, {"cond", t_memory, w_memory, b_cond, a_cond, x_memory},
	{"rwlock", t_rwlock, w_memory, b_rwlock, a_rwlock, x_memory}, {"barrier", t_memory, w_memory, b_barrier, a_barrier, x_memory},
	{"futex-up", t_memory, w_memory, b_up, a_up, x_memory}, {"futex-down", t_memory, w_memory, b_down, a_down, x_memory},
	{"futex-waitv", t_memory, w_memory, b_waitv, a_waitv, x_memory},
	{"robust-death", t_robust, w_memory, b_robust, a_exit, x_memory},
	{"semop", t_semop, w_semop, b_semop, a_semop, x_semop}, {"semtimedop", t_semop, w_semop, b_semtimedop, a_semop, x_semop},
	{"msgrcv", t_msg, w_msg, b_msgrcv, a_msgrcv, x_msg}, {"msgsnd", t_msg_full, w_msg, b_msgsnd, a_msgsnd, x_msg},
	{"mq-receive", t_mq, w_mq, b_mq_receive, a_mq_receive, x_mq}, {"mq-send", t_mq_full, w_mq, b_mq_send, a_mq_send, x_mq},
	{"flock", t_flock, open_file, b_flock, a_flock, x_file}, {"fcntl", t_fcntl, open_file, b_fcntl, a_fcntl, x_file}, {"ofd", t_ofd, open_file, b_ofd, a_ofd, x_file},
	{"fifo-read", t_fifo, nothing, b_fifo_read, a_fifo_read, x_file}, {"fifo-write", t_fifo, nothing, b_fifo_write, a_fifo_write, x_file},
	{"fifo-data", t_fifo, w_fifo_both, b_fifo_data, a_fifo_data, x_file},
};
static const struct kind *chosen;
static FILE *stream;
static volatile pid_t waiter;

static void *wait_for_it(void *unused) {
	(void)unused;
	waiter = gettid();
	long result = chosen->begin();
	dprintf(fileno(stream), "ended %ld\n", result); /* the stream is being read */
	return 0;
}
static void converse(int client) {
	char line[100];
	pthread_t thread;
	stream = fdopen(client, "r+");
	setbuf(stream, 0);
	while (fgets(line, sizeof line, stream)) {
		if (!strcmp(line, "take\n")) {
			chosen->take(); fputs("taken\n", stream);
		} else if (!strcmp(line, "begin\n")) {
			chosen->map(); waiter = 0;
			pthread_create(&thread, 0, wait_for_it, 0); pthread_detach(thread);
			for (int seen = 0; seen < 20; usleep(1000)) seen = waiter && sleeps(waiter) ? seen + 1 : 0;
			fputs("begun\n", stream);
		} else if (!strcmp(line, "act\n")) {
			if (chosen->act == a_exit) { fputs("acted\n", stream); chosen->clean(); _exit(0); }
			chosen->act(); fputs("acted\n", stream);
		} else if (!strcmp(line, "clean\n")) {
			chosen->clean(); fputs("cleaned\n", stream);
		}
	}
	fclose(stream);
}

int main(int count, char **arguments) {
	setvbuf(stdout, 0, _IOLBF, 0);
	if (count < 4) { for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) puts(kinds[i].name); return count != 1; }
	for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) if (!strcmp(kinds[i].name, arguments[1])) chosen = &kinds[i];
	if (!chosen) { fprintf(stderr, "no kind %s\n", arguments[1]); return 2; }
	name = arguments[2];
	signal(SIGPIPE, SIG_IGN);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[3]))};
	socklen_t length = sizeof at;
	int one = 1, listener = ok(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	ok(bind(listener, (void *)&at, length), "bind"); ok(listen(listener, 5), "listen");
	ok(getsockname(listener, (void *)&at, &length), "getsockname");
	printf("%d\n", ntohs(at.sin_port));
	for (;;) converse(ok(accept(listener, 0, 0), "accept"));
}
