/* Blocks in one system call, and says what it returned: blocking CALL PORT.
 *
 * For each line "begin" on a connection to PORT a thread makes the call, and "begun" is answered once it is blocked. "end" lets what the call waits
 * for happen, unless it is a time limit; then "CALL = RESULT errno ERRNO detail DETAIL" is answered, and for a call with a limit " early" if it
 * returned before that. `blocking` alone lists the calls, those with a limit after a line "limits", those that are
 * many transfers after a line "races".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <limits.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "blocked.h"

#define LONG 3600       /* seconds: a limit that does not come */
#define LIMIT 3         /* seconds: one that does */
#define BIG (16 << 20)  /* more than any buffer holds */

static int a, b, c;            /* what the case works with: a is what the call is about */
static long detail;            /* what else the call said */
static pthread_t worker;
static atomic_int has_returned;  /* whether the call has */
static pid_t child;
static char directory[64], path[128];
static unsigned char *big;
static const struct timespec *limit; /* in memory that cannot be written to: no one may */

static void die(const char *what) { perror(what); exit(1); }
static long ok(long result, const char *what) { if (result < 0) die(what); return result; }
static void add(const void *bytes, long count) {
	for (long i = 0; i < count; i++)
		detail = (detail * 31 + ((const unsigned char *)bytes)[i]) & 0xffffff;
}
static struct timespec in(clockid_t clock, int seconds) {
	struct timespec t; clock_gettime(clock, &t); t.tv_sec += seconds; return t;
}
static void relative(int seconds) {
	struct timespec *t = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t == MAP_FAILED) die("mmap");
	t->tv_sec = seconds;
	ok(mprotect(t, 4096, PROT_READ), "mprotect");
	limit = t;
}
static void pair(int type) { int p[2]; ok(socketpair(AF_UNIX, type, 0, p), "socketpair"); a = p[0]; b = p[1]; }
static void tcp(void) {
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof at;
	c = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	ok(bind(c, (void *)&at, length), "bind"); ok(listen(c, 1), "listen");
	ok(getsockname(c, (void *)&at, &length), "getsockname");
	a = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	ok(connect(a, (void *)&at, length), "connect");
	b = ok(accept(c, 0, 0), "accept");
}
static void pipes(void) { int p[2]; ok(pipe(p), "pipe"); a = p[0]; b = p[1]; }
static void timeo(int option, int seconds) {
	struct timeval t = {.tv_sec = seconds};
	ok(setsockopt(a, SOL_SOCKET, option, &t, sizeof t), "setsockopt");
}
static void put(int fd, const char *text) { ok(write(fd, text, strlen(text)), "write"); }
static void fill(int fd) {
	int flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	char bytes[4096] = {0};
	for (int size = sizeof bytes; size; size /= 2)
		while (write(fd, bytes, size) > 0) {}
	fcntl(fd, F_SETFL, flags);
}
/* Reads so many bytes, slowly. */
static void drain(int fd, long count) {
	static char bytes[65536];
	while (count > 0) {
		long got = read(fd, bytes, sizeof bytes);
		if (got <= 0) die("drain");
		add(bytes, got); count -= got;
	}
}
static void make_big(void) {
	big = malloc(BIG);
	for (long i = 0; i < BIG; i++) big[i] = i * 2654435761u >> 24;
}
static void handler(int signal) { (void)signal; }
static void child_on(int fd_of_child_to_read) { /* a child that ends when it reads */
	char byte;
	child = ok(fork(), "fork");
	if (child == 0) { _exit(read(fd_of_child_to_read, &byte, 1) == 1 ? 7 : 8); }
}

/* read(2) and its like */
static void nothing(void) {}
static void end_race(void) {}
static void end_byte(void) { put(b, "x"); }
static void s_pipe(void) { pipes(); }
static void s_stream(void) { pair(SOCK_STREAM); }
static void s_tcp(void) { tcp(); }
static long c_read(void) { char bytes[100]; long n = read(a, bytes, sizeof bytes); add(bytes, n); return n; }
static long c_readv(void) { char bytes[100]; struct iovec v = {bytes, 100}; long n = readv(a, &v, 1); add(bytes, n); return n; }
static void s_tty(void) {
	struct termios raw;
	b = ok(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");
	ok(grantpt(b), "grantpt"); ok(unlockpt(b), "unlockpt");
	a = ok(open(ptsname(b), O_RDWR | O_NOCTTY), "open");
	ok(tcgetattr(a, &raw), "tcgetattr"); cfmakeraw(&raw); ok(tcsetattr(a, TCSANOW, &raw), "tcsetattr");
}
static void s_tty_min(void) {
	struct termios raw;
	s_tty(); ok(tcgetattr(a, &raw), "tcgetattr"); raw.c_cc[VMIN] = 10; ok(tcsetattr(a, TCSANOW, &raw), "tcsetattr");
	put(b, "abc");
}
static void end_seven(void) { put(b, "defghij"); }
static void s_line(void) { s_tty(); struct termios t; tcgetattr(a, &t); t.c_lflag |= ICANON; tcsetattr(a, TCSANOW, &t); put(b, "half a "); }
static void end_line(void) { put(b, "line\n"); }
static void s_tty_time(void) {
	struct termios raw;
	s_tty(); ok(tcgetattr(a, &raw), "tcgetattr"); raw.c_cc[VMIN] = 0; raw.c_cc[VTIME] = LIMIT * 10; ok(tcsetattr(a, TCSANOW, &raw), "tcsetattr");
}
static void s_eventfd(void) { a = b = ok(eventfd(0, 0), "eventfd"); }
static void end_eventfd(void) { eventfd_write(b, 42); }
static long c_eventfd(void) { eventfd_t v = 0; long n = read(a, &v, sizeof v); detail = v; return n; }
static void s_eventfd_full(void) { a = ok(eventfd(0, 0), "eventfd"); eventfd_write(a, 0xfffffffffffffffe); }
static long c_eventfd_write(void) { eventfd_t v = 5; return write(a, &v, sizeof v); }
static void end_eventfd_read(void) { eventfd_t v; eventfd_read(a, &v); }
static void s_inotify(void) { a = ok(inotify_init(), "inotify_init"); ok(inotify_add_watch(a, directory, IN_CREATE), "inotify_add_watch"); }
static long c_inotify(void) { char bytes[400]; return read(a, bytes, sizeof bytes); }
static void end_inotify(void) { char name[200]; snprintf(name, sizeof name, "%s/new-%d", directory, rand()); close(ok(open(name, O_CREAT | O_WRONLY, 0600), "open")); unlink(name); }
static void s_timerfd(void) { a = ok(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create"); }
static long c_timerfd(void) {
	struct itimerspec t = {.it_value = {.tv_sec = LIMIT}}; uint64_t v;
	ok(timerfd_settime(a, 0, &t, 0), "timerfd_settime"); /* here, since the time is taken from here on */
	return read(a, &v, sizeof v);
}

static long c_preadv2(void) { char bytes[100]; struct iovec v = {bytes, 100}; long n = preadv2(a, &v, 1, -1, 0); add(bytes, n); return n; }
static long c_splice_in(void) { int p[2]; ok(pipe(p), "pipe"); long n = splice(a, 0, p[1], 0, 4096, 0); int e = errno; close(p[0]); close(p[1]); errno = e; return n; }

/* write(2) and its like */
static void s_pipe_big(void) { pipes(); int t = a; a = b; b = t; make_big(); }
static void s_stream_big(void) { pair(SOCK_STREAM); make_big(); }
static void s_tcp_big(void) { tcp(); make_big(); }
static long c_write(void) { return write(a, big, BIG); }
static long c_writev(void) { struct iovec v[3] = {{big, 5}, {big + 5, 1000}, {big + 1005, BIG - 1005}}; return writev(a, v, 3); }
static long c_pwritev2(void) { struct iovec v[3] = {{big, 5}, {big + 5, 1000}, {big + 1005, BIG - 1005}}; return pwritev2(a, v, 3, -1, 0); }
static long c_send(void) { return send(a, big, BIG, 0); }
static long c_sendmsg(void) {
	struct iovec v[3] = {{big, 5}, {big + 5, BIG / 2}, {big + 5 + BIG / 2, BIG - 5 - BIG / 2}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
	return sendmsg(a, &m, MSG_NOSIGNAL);
}
static long c_sendmmsg(void) {
	struct iovec v[8];
	struct mmsghdr m[8] = {0};
	for (int i = 0; i < 8; i++) { v[i] = (struct iovec){big + i * (BIG / 8), BIG / 8}; m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1; }
	long n = sendmmsg(a, m, 8, 0);
	for (int i = 0; i < 8; i++) detail += m[i].msg_len;
	return n;
}
static void end_drain(void) { drain(b, BIG); }
static void s_sendfile(void) {
	tcp(); make_big();
	c = ok(open(directory, O_TMPFILE | O_RDWR, 0600), "open");
	ok(ftruncate(c, BIG), "ftruncate");
}
static long c_sendfile(void) { return sendfile(a, c, 0, BIG); }
#define PIPED (1 << 20) /* what a pipe can hold */
static int splices_from;
static void s_splice_out(void) {
	int p[2];
	tcp(); fill(a); make_big(); ok(pipe(p), "pipe");
	ok(fcntl(p[1], F_SETPIPE_SZ, PIPED), "F_SETPIPE_SZ");
	if (write(p[1], big, PIPED) != PIPED) die("write");
	splices_from = p[0];
}
static long c_splice_out(void) { return splice(splices_from, 0, a, 0, PIPED, 0); }
/* It is drained until the call has returned, however late its thread is let run: what filled the socket comes first. */
static void end_splice_out(void) {
	static char bytes[65536];
	struct timeval t = {.tv_usec = 500000};
	ok(setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), "SO_RCVTIMEO");
	while (!has_returned) while (read(b, bytes, sizeof bytes) > 0) {}
}
/* A close that waits for its peer, who reads nothing, and gives up. */
static void s_linger(void) {
	struct linger linger = {1, LIMIT};
	tcp(); fill(a);
	ok(setsockopt(a, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), "SO_LINGER");
}
static long c_close(void) { return close(a); }
static long c_dup2(void) { return dup2(c, a) < 0 ? -1 : 0; }
static void s_tty_write(void) { s_tty(); make_big(); }
static long c_tty_write(void) { return write(a, big, 1 << 20); }
static void end_drain_tty(void) { drain(b, 1 << 20); }

/* FIFOs */
static void s_fifo(void) { snprintf(path, sizeof path, "%s/fifo-%d", directory, rand()); ok(mkfifo(path, 0600), "mkfifo"); }
static long c_open_read(void) { long fd = open(path, O_RDONLY); if (fd < 0) return -1; close(fd); return 0; }
static long c_open_write(void) { long fd = open(path, O_WRONLY); if (fd < 0) return -1; close(fd); return 0; }
static long c_open_read_open(void) { long fd = syscall(SYS_open, path, O_RDONLY, 0); if (fd < 0) return -1; close(fd); return 0; }
static void end_open_write(void) { close(ok(open(path, O_WRONLY), "open")); }
static void end_open_read(void) { close(ok(open(path, O_RDONLY), "open")); }

/* children and locks */
static void s_child(void) { pipes(); child_on(a); }
static long c_wait4(void) { int status = 0; long n = wait4(child, &status, 0, 0) == child; detail = WEXITSTATUS(status); return n; }
static long c_waitid(void) { siginfo_t info; long n = waitid(P_PID, child, &info, WEXITED); detail = info.si_status; return n; }
static void s_lock(int (*lock)(int)) {
	pipes(); int q[2]; ok(pipe(q), "pipe");
	snprintf(path, sizeof path, "%s/lock-%d", directory, rand());
	c = ok(open(path, O_CREAT | O_RDWR, 0600), "open");
	child = ok(fork(), "fork");
	if (child == 0) {
		char byte; int fd = ok(open(path, O_RDWR), "open");
		ok(lock(fd), "lock"); put(q[1], "x"); _exit(read(a, &byte, 1) != 1);
	}
	char byte; ok(read(q[0], &byte, 1), "read");
}
static int l_flock(int fd) { return flock(fd, LOCK_EX); }
static int l_setlkw(int fd) { struct flock l = {.l_type = F_WRLCK}; return fcntl(fd, F_SETLKW, &l); }
static int l_ofd(int fd) { struct flock l = {.l_type = F_WRLCK}; return fcntl(fd, F_OFD_SETLKW, &l); }
static void s_flock(void) { s_lock(l_flock); }
static void s_setlkw(void) { s_lock(l_setlkw); }
static void s_ofd(void) { s_lock(l_ofd); }
static long c_flock(void) { return l_flock(c); }
static long c_setlkw(void) { return l_setlkw(c); }
static long c_ofd(void) { return l_ofd(c); }

/* sockets */
static struct sockaddr_un unix_address;
static void unix_listener(void) {
	unix_address.sun_family = AF_UNIX;
	snprintf(unix_address.sun_path + 1, 100, "blocking-%d-%d", getpid(), rand());
	c = ok(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	ok(bind(c, (void *)&unix_address, sizeof unix_address), "bind"); ok(listen(c, 0), "listen");
}
static void s_accept(void) { unix_listener(); a = c; b = ok(socket(AF_UNIX, SOCK_STREAM, 0), "socket"); }
static void s_accept_timeo(void) { s_accept(); timeo(SO_RCVTIMEO, LONG); }
static void s_accept_limit(void) { s_accept(); timeo(SO_RCVTIMEO, LIMIT); }
static long c_accept(void) { return accept(a, 0, 0) < 0 ? -1 : 0; }
static long c_accept4(void) { return accept4(a, 0, 0, SOCK_CLOEXEC) < 0 ? -1 : 0; }
static void end_connect(void) { ok(connect(b, (void *)&unix_address, sizeof unix_address), "connect"); }
static void s_connect(void) {
	unix_listener();
	b = ok(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	end_connect();
	a = ok(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
}
static void s_connect_timeo(void) { s_connect(); timeo(SO_SNDTIMEO, LONG); }
static void s_connect_limit(void) { s_connect(); timeo(SO_SNDTIMEO, LIMIT); }
static long c_connect(void) { return connect(a, (void *)&unix_address, sizeof unix_address); }
/* A listener whose queue is full, which answers no one until it accepts. */
static struct sockaddr_in full_address;
static void s_connect_tcp(void) {
	socklen_t length = sizeof full_address;
	full_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	c = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	ok(bind(c, (void *)&full_address, length), "bind"); ok(listen(c, 0), "listen");
	ok(getsockname(c, (void *)&full_address, &length), "getsockname");
	b = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	ok(connect(b, (void *)&full_address, length), "connect");
	a = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
}
static void s_connect_tcp_timeo(void) { s_connect_tcp(); timeo(SO_SNDTIMEO, LONG); }
static void s_connect_tcp_limit(void) { s_connect_tcp(); timeo(SO_SNDTIMEO, LIMIT); }
static long c_connect_tcp(void) { return connect(a, (void *)&full_address, sizeof full_address); }
static void end_accept(void) { ok(accept(c, 0, 0), "accept"); }
static void s_stream_timeo(void) { s_tcp(); timeo(SO_RCVTIMEO, LONG); }
static void s_stream_limit(void) { s_tcp(); timeo(SO_RCVTIMEO, LIMIT); }
static long c_recv(void) { char bytes[100]; long n = recv(a, bytes, sizeof bytes, 0); add(bytes, n); return n; }
static long c_recvfrom(void) { char bytes[100]; struct sockaddr_storage s; socklen_t l = sizeof s; long n = recvfrom(a, bytes, sizeof bytes, 0, (void *)&s, &l); add(bytes, n); return n; }
static long recvmsg_with(int flags) {
	char bytes[10]; struct iovec v[2] = {{bytes, 4}, {bytes + 4, 6}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
	long n = recvmsg(a, &m, flags); add(bytes, n); return n;
}
static long c_recvmsg(void) { return recvmsg_with(0); }
static void s_waitall(void) { tcp(); put(b, "abc"); }
static void s_waitall_unix(void) { pair(SOCK_STREAM); put(b, "abc"); }
static long c_waitall(void) { char bytes[10]; long n = recv(a, bytes, 10, MSG_WAITALL); add(bytes, n); return n; }
static long c_waitall_msg(void) { return recvmsg_with(MSG_WAITALL); }
static void s_datagrams(void) { pair(SOCK_DGRAM); put(b, "one"); put(b, "two"); put(b, "three"); }
static void s_datagrams_none(void) { pair(SOCK_DGRAM); }
static void end_datagrams(void) { put(b, "4"); put(b, "5"); put(b, "6"); put(b, "7"); put(b, "8"); put(b, "9"); put(b, "10"); }
static void end_ten(void) { put(b, "one"); put(b, "two"); put(b, "three"); end_datagrams(); }
/* One after the other: each comes when the one before was taken, and its taker waits for the next. */
static void end_ten_slowly(void) { for (int i = 0; i < 10; i++) { put(b, "x"); usleep(20000); } }
static long recvmmsg_with(int flags, struct timespec *t) {
	char bytes[10][20]; struct iovec v[10]; struct mmsghdr m[10] = {0};
	for (int i = 0; i < 10; i++) { v[i] = (struct iovec){bytes[i], 20}; m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1; }
	long n = recvmmsg(a, m, 10, flags, t);
	int e = errno;
	for (int i = 0; i < n; i++) add(bytes[i], m[i].msg_len);
	int error = 0; socklen_t l = sizeof error; getsockopt(a, SOL_SOCKET, SO_ERROR, &error, &l);
	detail += 1000000000l * error;
	errno = e;
	return n;
}
static long c_recvmmsg(void) { return recvmmsg_with(0, 0); }
static long c_recvmmsg_one(void) { return recvmmsg_with(MSG_WAITFORONE, 0); }
static long c_recvmmsg_timed(void) { struct timespec t = {.tv_sec = LONG}; return recvmmsg_with(0, &t); }
static void s_datagrams_timeo(void) { pair(SOCK_DGRAM); timeo(SO_RCVTIMEO, LONG); }
static void s_datagrams_limit(void) { pair(SOCK_DGRAM); timeo(SO_RCVTIMEO, LIMIT); }
static void s_full(void) { pair(SOCK_STREAM); make_big(); fill(a); }
static void s_full_limit(void) { s_full(); timeo(SO_SNDTIMEO, LIMIT); }
static void s_big_timeo(void) { s_tcp_big(); timeo(SO_SNDTIMEO, LONG); }

/* semaphores, futexes */
static sem_t semaphore;
static pthread_mutex_t mutex; static pthread_cond_t condition; static int flag;
static uint32_t word, words[2];
static void s_sem(void) { ok(sem_init(&semaphore, 0, 0), "sem_init"); }
static void s_sem_shared(void) { ok(sem_init(&semaphore, 1, 0), "sem_init"); }
static long c_sem(void) { return sem_wait(&semaphore); }
static long c_sem_timed(void) { struct timespec t = in(CLOCK_REALTIME, LONG); return sem_timedwait(&semaphore, &t); }
static long c_sem_limit(void) { struct timespec t = in(CLOCK_REALTIME, LIMIT); return sem_timedwait(&semaphore, &t); }
static void end_sem(void) { sem_post(&semaphore); }
static void s_mutex(void) {
	pthread_mutexattr_t m; pthread_mutexattr_init(&m);
	pthread_mutex_init(&mutex, &m); pthread_cond_init(&condition, 0); flag = 0;
}
static void s_locked(void) { s_mutex(); pthread_mutex_lock(&mutex); }
static void s_locked_pi(void) {
	pthread_mutexattr_t m; pthread_mutexattr_init(&m); pthread_mutexattr_setprotocol(&m, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&mutex, &m); pthread_mutex_lock(&mutex);
}
static long c_mutex(void) { errno = pthread_mutex_lock(&mutex); long n = errno ? -1 : 0; pthread_mutex_unlock(&mutex); return n; }
static long c_mutex_limit(void) { struct timespec t = in(CLOCK_REALTIME, LIMIT); errno = pthread_mutex_timedlock(&mutex, &t); return errno ? -1 : 0; }
static void end_unlock(void) { pthread_mutex_unlock(&mutex); }
static long c_cond(void) { pthread_mutex_lock(&mutex); while (!flag) pthread_cond_wait(&condition, &mutex); pthread_mutex_unlock(&mutex); return 0; }
static long cond_timed(int seconds) {
	struct timespec t = in(CLOCK_REALTIME, seconds); int e = 0;
	pthread_mutex_lock(&mutex);
	while (!flag && !e) e = pthread_cond_timedwait(&condition, &mutex, &t);
	pthread_mutex_unlock(&mutex);
	errno = e; return e ? -1 : 0;
}
static long c_cond_timed(void) { return cond_timed(LONG); }
static long c_cond_limit(void) { return cond_timed(LIMIT); }
static void end_cond(void) { pthread_mutex_lock(&mutex); flag = 1; pthread_cond_signal(&condition); pthread_mutex_unlock(&mutex); }
static void s_word(void) { word = words[0] = words[1] = 0; relative(LONG); }
static void s_word_limit(void) { s_word(); relative(LIMIT); }
/* Whoever waits for a futex asks whether it changed, since it may have before the call (futex(2)). */
static long changed(long result) { return result < 0 && errno == EAGAIN && (word || words[1]) ? 0 : result; }
static long c_futex(void) { return changed(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, limit, 0, 0)); }
static long c_futex_public(void) { return changed(syscall(SYS_futex, &word, FUTEX_WAIT, 0, limit, 0, 0)); }
static long c_bitset(void) { struct timespec t = in(CLOCK_MONOTONIC, limit->tv_sec); return changed(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, 0, 0xff)); }
static void end_futex(void) { word = 1; syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0); syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0, 0, 0); }
struct futex_wait { uint64_t val, address; uint32_t flags, reserved; };
static long c_waitv(void) {
	struct futex_wait w[2] = {{0, (uintptr_t)&words[0], 2, 0}, {0, (uintptr_t)&words[1], 2, 0}}; /* FUTEX_32 */
	struct timespec t = in(CLOCK_MONOTONIC, limit->tv_sec);
	long n = changed(syscall(449, w, 2, 0, &t, CLOCK_MONOTONIC)); /* futex_waitv */
	return n < 0 ? n : 0;
}
static void end_waitv(void) { words[1] = 1; syscall(SYS_futex, &words[1], FUTEX_WAKE, 1, 0, 0, 0); }

/* message queues and semaphores */
static mqd_t queue;
static void s_mq(void) {
	struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
	snprintf(path, sizeof path, "/blocking-%d-%d", getpid(), rand());
	queue = ok(mq_open(path, O_CREAT | O_RDWR, 0600, &attributes), "mq_open"); mq_unlink(path);
}
static void s_mq_full(void) { s_mq(); mq_send(queue, "1", 1, 1); mq_send(queue, "2", 1, 1); }
static long c_mq_receive(void) { char bytes[16]; long n = mq_receive(queue, bytes, 16, 0); add(bytes, n); return n; }
static long c_mq_receive_timed(void) { char bytes[16]; struct timespec t = in(CLOCK_REALTIME, LONG); long n = mq_timedreceive(queue, bytes, 16, 0, &t); add(bytes, n); return n; }
static long c_mq_receive_limit(void) { char bytes[16]; struct timespec t = in(CLOCK_REALTIME, LIMIT); return mq_timedreceive(queue, bytes, 16, 0, &t); }
static long c_mq_send(void) { return mq_send(queue, "3", 1, 1); }
static long c_mq_send_timed(void) { struct timespec t = in(CLOCK_REALTIME, LONG); return mq_timedsend(queue, "3", 1, 1, &t); }
static long c_mq_send_limit(void) { struct timespec t = in(CLOCK_REALTIME, LIMIT); return mq_timedsend(queue, "3", 1, 1, &t); }
static void end_mq_send(void) { mq_send(queue, "hello", 5, 1); }
static void end_mq_receive(void) { char bytes[16]; mq_receive(queue, bytes, 16, 0); }
struct message { long type; char text[4000]; };
static void s_msg(void) { a = ok(msgget(IPC_PRIVATE, 0600), "msgget"); }
static void x_msg(void) { msgctl(a, IPC_RMID, 0); }
static void s_msg_full(void) { s_msg(); struct message m = {.type = 1}; while (msgsnd(a, &m, sizeof m.text, IPC_NOWAIT) == 0) {} }
static long c_msgrcv(void) { struct message m; long n = msgrcv(a, &m, sizeof m.text, 0, 0); add(m.text, n); return n; }
static long c_msgsnd(void) { struct message m = {.type = 2}; return msgsnd(a, &m, sizeof m.text, 0); }
static void end_msgsnd(void) { struct message m = {.type = 3, .text = "hello"}; msgsnd(a, &m, 5, 0); }
static void end_msgrcv(void) { struct message m; msgrcv(a, &m, sizeof m.text, 0, 0); }
static void s_semop(void) { a = ok(semget(IPC_PRIVATE, 1, 0600), "semget"); semctl(a, 0, SETVAL, 0); relative(LONG); }
static void s_semop_limit(void) { s_semop(); relative(LIMIT); }
static void x_sem(void) { semctl(a, 0, IPC_RMID); }
static long c_semop(void) { struct sembuf down = {0, -1, 0}; return semop(a, &down, 1); }
static long c_semtimedop(void) { struct sembuf down = {0, -1, 0}; return semtimedop(a, &down, 1, limit); }
static void end_semop(void) { struct sembuf up = {0, 1, 0}; ok(semop(a, &up, 1), "semop"); }

/* signals */
static void s_signal(void) { struct sigaction s = {.sa_handler = handler}; sigaction(SIGUSR1, &s, 0); relative(LONG); }
static void block_usr2(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR2); pthread_sigmask(SIG_BLOCK, &set, 0); }
static void s_sigwait(void) { block_usr2(); relative(LONG); }
static void s_sigwait_limit(void) { block_usr2(); relative(LIMIT); }
static long c_pause(void) { return pause(); }
static long c_sigsuspend(void) { sigset_t none; sigemptyset(&none); return sigsuspend(&none); }
static long c_sigwaitinfo(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR2); return sigwaitinfo(&set, 0); }
static long c_sigtimedwait(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR2); return syscall(SYS_rt_sigtimedwait, &set, 0, limit, 8); }
static void end_usr1(void) { pthread_kill(worker, SIGUSR1); }
static void end_usr2(void) { pthread_kill(worker, SIGUSR2); }

/* many descriptors */
static void s_epoll(void) {
	pipes(); c = ok(epoll_create1(0), "epoll_create1");
	struct epoll_event e = {.events = EPOLLIN, .data.u32 = 5}; ok(epoll_ctl(c, EPOLL_CTL_ADD, a, &e), "epoll_ctl");
	relative(LONG);
}
static void s_epoll_limit(void) { s_epoll(); relative(LIMIT); }
static struct epoll_event event;
static long c_epoll(void) { return epoll_wait(c, &event, 1, -1); }
static long c_epoll_timed(void) { return epoll_wait(c, &event, 1, limit->tv_sec * 1000); }
static long c_epoll_pwait(void) { sigset_t set; sigfillset(&set); return epoll_pwait(c, &event, 1, limit->tv_sec * 1000, &set); }
static long c_epoll_pwait2(void) { return syscall(441, c, &event, 1, limit, 0, 8); }
static long c_poll(void) { struct pollfd p = {a, POLLIN, 0}; long n = poll(&p, 1, limit->tv_sec * 1000); detail = p.revents; return n; }
static long c_ppoll(void) { struct pollfd p = {a, POLLIN, 0}; long n = ppoll(&p, 1, limit, 0); detail = p.revents; return n; }
/* With the limit itself, which cannot be written to; the C library copies it. */
static long c_ppoll_raw(void) { struct pollfd p = {a, POLLIN, 0}; long n = syscall(SYS_ppoll, &p, 1, limit, 0, 8); detail = p.revents; return n; }
static long c_pselect_raw(void) { fd_set set; FD_ZERO(&set); FD_SET(a, &set); return syscall(SYS_pselect6, a + 1, &set, 0, 0, limit, 0); }
static long c_select(void) { fd_set set; FD_ZERO(&set); FD_SET(a, &set); struct timeval t = {.tv_sec = limit->tv_sec}; return select(a + 1, &set, 0, 0, &t); }
static long c_pselect(void) { fd_set set; FD_ZERO(&set); FD_SET(a, &set); return pselect(a + 1, &set, 0, 0, limit, 0); }
static aio_context_t context;
static struct iocb request;
static void s_aio(void) {
	pipes(); context = 0; ok(syscall(SYS_io_setup, 4, &context), "io_setup");
	request = (struct iocb){.aio_lio_opcode = 5 /* IOCB_CMD_POLL */, .aio_fildes = a, .aio_buf = POLLIN, .aio_data = 9};
	struct iocb *list[] = {&request};
	ok(syscall(SYS_io_submit, context, 1, list), "io_submit"); relative(LONG);
}
static void s_aio_limit(void) { s_aio(); relative(LIMIT); }
static long c_aio(void) { struct io_event e; return syscall(SYS_io_getevents, context, 1, 1, &e, 0); }
static long c_aio_timed(void) { struct io_event e; return syscall(SYS_io_getevents, context, 1, 1, &e, limit); }
static long c_aio_p(void) { struct io_event e; return syscall(SYS_io_pgetevents, context, 1, 1, &e, limit, 0); }
static void s_aio_two(void) {
	s_aio(); int p[2]; ok(pipe(p), "pipe"); c = p[1]; put(p[1], "x");
	static struct iocb second;
	second = (struct iocb){.aio_lio_opcode = 5, .aio_fildes = p[0], .aio_buf = POLLIN, .aio_data = 8};
	struct iocb *list[] = {&second};
	ok(syscall(SYS_io_submit, context, 1, list), "io_submit");
}
static long c_aio_two(void) { struct io_event e[2]; long n = syscall(SYS_io_getevents, context, 2, 2, e, 0); detail = e[0].data * 100 + e[1].data; return n; }
static void s_aio_two_slow(void) {
	s_aio(); int p[2]; ok(pipe(p), "pipe"); c = p[1];
	static struct iocb second;
	second = (struct iocb){.aio_lio_opcode = 5, .aio_fildes = p[0], .aio_buf = POLLIN, .aio_data = 8};
	struct iocb *list[] = {&second};
	ok(syscall(SYS_io_submit, context, 1, list), "io_submit");
}
static void end_aio_slowly(void) { put(c, "x"); usleep(50000); put(b, "x"); }
static long c_aio_two_timed(void) { struct io_event e[2]; long n = syscall(SYS_io_getevents, context, 2, 2, e, limit); detail = e[0].data * 100 + e[1].data; return n; }

/* sleeps */
static void s_sleep(void) { relative(LIMIT); }
static long left_ms(const struct timespec *t) { return t->tv_sec * 1000 + t->tv_nsec / 1000000; }
/* What these write only if a handler ends them is not to be written. */
static long c_nanosleep_own(void) { struct timespec t = {LIMIT, 0}; long r = nanosleep(&t, &t); detail = left_ms(&t); return r; }
static long c_nanosleep_left(void) { struct timespec t = {77, 0}; long r = nanosleep(limit, &t); detail = left_ms(&t); return r; }
static long c_clock_nanosleep_left(void) { struct timespec t = {77, 0}; long r = clock_nanosleep(CLOCK_MONOTONIC, 0, limit, &t); detail = left_ms(&t); return r; }
static long c_nanosleep(void) { return nanosleep(limit, 0); }
static long c_clock_nanosleep(void) { return clock_nanosleep(CLOCK_MONOTONIC, 0, limit, 0); }
static long c_clock_nanosleep_at(void) { struct timespec t = in(CLOCK_MONOTONIC, LIMIT); return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0); }

/* Many transfers, each of which is to be whole, while the other end takes or gives bits of them. */
#define ROUNDS 150
#define SIZE (256 << 10)
static int gives; /* whether the other end gives */
static long mismatches;
static unsigned char pattern(long at) { return at * 2654435761u >> 24; }
static void rest_a_moment(unsigned *seed) { if (rand_r(seed) % 4 == 0) usleep(rand_r(seed) % 1500); }
static void *other_end(void *unused) {
	(void)unused;
	static unsigned char bytes[70000];
	unsigned seed = getpid();
	for (long at = 0, total = (long)ROUNDS * SIZE; at < total;) {
		long part = 1 + rand_r(&seed) % 70000;
		if (part > total - at) part = total - at;
		if (gives) {
			for (long i = 0; i < part; i++) bytes[i] = pattern(at + i);
			for (long sent = 0; sent < part;) sent += ok(write(b, bytes + sent, part - sent), "write");
		} else {
			part = ok(read(b, bytes, part), "read");
			if (part == 0) die("an end");
			for (long i = 0; i < part; i++) mismatches += bytes[i] != pattern(at + i);
		}
		at += part;
		rest_a_moment(&seed);
	}
	return 0;
}
static long race(long (*once)(void *, long)) {
	static unsigned char bytes[SIZE];
	pthread_t other; long cut = 0;
	mismatches = 0;
	pthread_create(&other, 0, other_end, 0);
	for (long round = 0; round < ROUNDS; round++) {
		if (!gives) for (long i = 0; i < SIZE; i++) bytes[i] = pattern(round * SIZE + i);
		long done = once(bytes, SIZE);
		if (done != SIZE) { cut++; if (cut < 4) fprintf(stderr, "round %ld: %ld, %s\n", round, done, strerror(errno)); }
		while (!gives && done >= 0 && done < SIZE) done += ok(write(a, bytes + done, SIZE - done), "write");
		while (gives && done >= 0 && done < SIZE) done += ok(read(a, bytes + done, SIZE - done), "read");
		if (gives) for (long i = 0; i < SIZE; i++) mismatches += bytes[i] != pattern(round * SIZE + i);
	}
	pthread_join(other, 0);
	detail = mismatches;
	return cut;
}
static struct iovec *three(void *bytes, long size) {
	static struct iovec v[3]; v[0] = (struct iovec){bytes, 5}; v[1] = (struct iovec){(char *)bytes + 5, size / 2}; v[2] = (struct iovec){(char *)bytes + 5 + size / 2, size - 5 - size / 2};
	return v;
}
static long o_send(void *bytes, long size) { return send(a, bytes, size, 0); }
static long o_write(void *bytes, long size) { return write(a, bytes, size); }
static long o_writev(void *bytes, long size) { return writev(a, three(bytes, size), 3); }
static long o_pwritev2(void *bytes, long size) { return pwritev2(a, three(bytes, size), 3, -1, 0); }
static long o_sendmsg(void *bytes, long size) { struct msghdr m = {.msg_iov = three(bytes, size), .msg_iovlen = 3}; return sendmsg(a, &m, 0); }
static long o_sendmmsg(void *bytes, long size) {
	struct iovec *v = three(bytes, size); struct mmsghdr m[3] = {0}; long sent = 0;
	for (int i = 0; i < 3; i++) { m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1; }
	long n = sendmmsg(a, m, 3, 0);
	for (long i = 0; i < n; i++) sent += m[i].msg_len;
	return sent;
}
static long o_recv(void *bytes, long size) { return recv(a, bytes, size, MSG_WAITALL); }
static long o_recvmsg(void *bytes, long size) { struct msghdr m = {.msg_iov = three(bytes, size), .msg_iovlen = 3}; return recvmsg(a, &m, MSG_WAITALL); }
static void s_race_tcp(void) { tcp(); gives = 0; }
static void s_race_stream(void) { pair(SOCK_STREAM); gives = 0; }
static void s_race_pipe(void) { s_pipe_big(); gives = 0; }
static void s_race_give(void) { tcp(); gives = 1; }
static void s_race_give_unix(void) { pair(SOCK_STREAM); gives = 1; }
static long r_send(void) { return race(o_send); }
static long r_write(void) { return race(o_write); }
static long r_writev(void) { return race(o_writev); }
static long r_pwritev2(void) { return race(o_pwritev2); }
static long r_sendmsg(void) { return race(o_sendmsg); }
static long r_sendmmsg(void) { return race(o_sendmmsg); }
static long r_recv(void) { return race(o_recv); }
static long r_recvmsg(void) { return race(o_recvmsg); }
static void *datagrams_end(void *unused) {
	(void)unused; unsigned seed = getpid();
	for (uint32_t i = 0; i < ROUNDS * 10; i++) { ok(write(b, &i, sizeof i), "write"); rest_a_moment(&seed); }
	return 0;
}
static long r_recvmmsg(void) {
	pthread_t other; long cut = 0; uint32_t next = 0;
	pthread_create(&other, 0, datagrams_end, 0);
	for (long left = ROUNDS * 10; left > 0;) {
		uint32_t numbers[10]; struct iovec v[10]; struct mmsghdr m[10] = {0};
		for (int i = 0; i < 10; i++) { v[i] = (struct iovec){&numbers[i], 4}; m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1; }
		long got = recvmmsg(a, m, left < 10 ? left : 10, 0, 0);
		if (got != (left < 10 ? left : 10)) { cut++; fprintf(stderr, "recvmmsg: %ld, %s\n", got, strerror(errno)); }
		if (got <= 0) return -1;
		for (long i = 0; i < got; i++) detail += numbers[i] != next++;
		left -= got;
	}
	pthread_join(other, 0);
	return cut;
}

static const struct call { const char *name; void (*setup)(void); long (*call)(void); void (*end)(void); void (*clean)(void); } calls[] = {
	{"read-pipe", s_pipe, c_read, end_byte, 0}, {"read-stream", s_stream, c_read, end_byte, 0}, {"read-tcp", s_tcp, c_read, end_byte, 0},
	{"read-tcp-timeo", s_stream_timeo, c_read, end_byte, 0}, {"readv", s_pipe, c_readv, end_byte, 0},
	{"preadv2", s_tcp, c_preadv2, end_byte, 0}, {"preadv2-timeo", s_stream_timeo, c_preadv2, end_byte, 0}, {"splice", s_tcp, c_splice_in, end_byte, 0}, {"splice-timeo", s_stream_timeo, c_splice_in, end_byte, 0},
	{"read-tty", s_tty, c_read, end_byte, 0}, {"read-tty-min", s_tty_min, c_read, end_seven, 0}, {"read-tty-line", s_line, c_read, end_line, 0},
	{"read-eventfd", s_eventfd, c_eventfd, end_eventfd, 0}, {"read-inotify", s_inotify, c_inotify, end_inotify, 0},
	{"write-eventfd", s_eventfd_full, c_eventfd_write, end_eventfd_read, 0},
	{"write-pipe", s_pipe_big, c_write, end_drain, 0}, {"write-tcp", s_tcp_big, c_write, end_drain, 0}, {"write-tty", s_tty_write, c_tty_write, end_drain_tty, 0},
	{"writev-stream", s_stream_big, c_writev, end_drain, 0}, {"writev-tcp", s_tcp_big, c_writev, end_drain, 0}, {"writev-pipe", s_pipe_big, c_writev, end_drain, 0},
	{"pwritev2", s_tcp_big, c_pwritev2, end_drain, 0}, {"splice-out", s_splice_out, c_splice_out, end_splice_out, 0},
	{"send", s_tcp_big, c_send, end_drain, 0}, {"send-timeo", s_big_timeo, c_send, end_drain, 0}, {"send-stream", s_stream_big, c_send, end_drain, 0},
	{"sendmsg", s_tcp_big, c_sendmsg, end_drain, 0}, {"sendmsg-stream", s_stream_big, c_sendmsg, end_drain, 0},
	{"sendmmsg", s_tcp_big, c_sendmmsg, end_drain, 0}, {"sendfile", s_sendfile, c_sendfile, end_drain, 0},
	{"open-fifo-read", s_fifo, c_open_read, end_open_write, 0}, {"open-fifo-write", s_fifo, c_open_write, end_open_read, 0},
	{"open-fifo-open", s_fifo, c_open_read_open, end_open_write, 0},
	{"wait4", s_child, c_wait4, end_byte, 0}, {"waitid", s_child, c_waitid, end_byte, 0},
	{"flock", s_flock, c_flock, end_byte, 0}, {"setlkw", s_setlkw, c_setlkw, end_byte, 0}, {"ofd-setlkw", s_ofd, c_ofd, end_byte, 0},
	{"accept", s_accept, c_accept, end_connect, 0}, {"accept4", s_accept, c_accept4, end_connect, 0}, {"accept-timeo", s_accept_timeo, c_accept, end_connect, 0},
	{"connect", s_connect, c_connect, end_accept, 0}, {"connect-timeo", s_connect_timeo, c_connect, end_accept, 0},
	{"connect-tcp", s_connect_tcp, c_connect_tcp, end_accept, 0}, {"connect-tcp-timeo", s_connect_tcp_timeo, c_connect_tcp, end_accept, 0},
	{"recv", s_tcp, c_recv, end_byte, 0}, {"recv-timeo", s_stream_timeo, c_recv, end_byte, 0}, {"recvfrom-timeo", s_stream_timeo, c_recvfrom, end_byte, 0},
	{"recvmsg", s_tcp, c_recvmsg, end_byte, 0}, {"recvmsg-timeo", s_stream_timeo, c_recvmsg, end_byte, 0},
	{"recv-waitall", s_waitall, c_waitall, end_seven, 0}, {"recvmsg-waitall", s_waitall, c_waitall_msg, end_seven, 0}, {"recvmsg-waitall-unix", s_waitall_unix, c_waitall_msg, end_seven, 0},
	{"recvmmsg", s_datagrams, c_recvmmsg, end_datagrams, 0}, {"recvmmsg-none", s_datagrams_none, c_recvmmsg, end_ten, 0},
	{"recvmmsg-one", s_datagrams_none, c_recvmmsg_one, end_byte, 0}, {"recvmmsg-timed", s_datagrams, c_recvmmsg_timed, end_datagrams, 0},
	{"recvmmsg-timeo", s_datagrams_timeo, c_recvmmsg_one, end_byte, 0}, {"recvmmsg-timeo-slow", s_datagrams_timeo, c_recvmmsg, end_ten_slowly, 0},
	{"sem", s_sem, c_sem, end_sem, 0}, {"sem-shared", s_sem_shared, c_sem, end_sem, 0}, {"sem-timed", s_sem, c_sem_timed, end_sem, 0},
	{"mutex", s_locked, c_mutex, end_unlock, 0}, {"mutex-pi", s_locked_pi, c_mutex, end_unlock, 0},
	{"cond", s_mutex, c_cond, end_cond, 0}, {"cond-timed", s_mutex, c_cond_timed, end_cond, 0},
	{"futex", s_word, c_futex, end_futex, 0}, {"futex-public", s_word, c_futex_public, end_futex, 0}, {"futex-bitset", s_word, c_bitset, end_futex, 0}, {"futex-waitv", s_word, c_waitv, end_waitv, 0},
	{"mq-receive", s_mq, c_mq_receive, end_mq_send, 0}, {"mq-receive-timed", s_mq, c_mq_receive_timed, end_mq_send, 0},
	{"mq-send", s_mq_full, c_mq_send, end_mq_receive, 0}, {"mq-send-timed", s_mq_full, c_mq_send_timed, end_mq_receive, 0},
	{"msgrcv", s_msg, c_msgrcv, end_msgsnd, x_msg}, {"msgsnd", s_msg_full, c_msgsnd, end_msgrcv, x_msg},
	{"semop", s_semop, c_semop, end_semop, x_sem}, {"semtimedop", s_semop, c_semtimedop, end_semop, x_sem},
	{"pause", s_signal, c_pause, end_usr1, 0}, {"sigsuspend", s_signal, c_sigsuspend, end_usr1, 0},
	{"sigwaitinfo", s_sigwait, c_sigwaitinfo, end_usr2, 0}, {"sigtimedwait", s_sigwait, c_sigtimedwait, end_usr2, 0},
	{"epoll-wait", s_epoll, c_epoll, end_byte, 0}, {"epoll-wait-timed", s_epoll, c_epoll_timed, end_byte, 0}, {"epoll-pwait", s_epoll, c_epoll_pwait, end_byte, 0}, {"epoll-pwait2", s_epoll, c_epoll_pwait2, end_byte, 0},
	{"poll", s_epoll, c_poll, end_byte, 0}, {"ppoll", s_epoll, c_ppoll, end_byte, 0}, {"select", s_epoll, c_select, end_byte, 0}, {"pselect", s_epoll, c_pselect, end_byte, 0},
	{"ppoll-raw", s_epoll, c_ppoll_raw, end_byte, 0}, {"pselect-raw", s_epoll, c_pselect_raw, end_byte, 0},
	{"io-getevents", s_aio, c_aio, end_byte, 0}, {"io-getevents-timed", s_aio, c_aio_timed, end_byte, 0}, {"io-pgetevents", s_aio, c_aio_p, end_byte, 0}, {"io-getevents-two", s_aio_two, c_aio_two, end_byte, 0},
	{"io-getevents-timed-slow", s_aio_two_slow, c_aio_two_timed, end_aio_slowly, 0},
	{0, 0, 0, 0, 0},
	/* These end by their limit. */
	{"read-timerfd-limit", s_timerfd, c_timerfd, nothing, 0}, {"read-tty-limit", s_tty_time, c_read, nothing, 0},
	{"read-timeo-limit", s_stream_limit, c_read, nothing, 0}, {"recv-limit", s_stream_limit, c_recv, nothing, 0}, {"recvmsg-limit", s_stream_limit, c_recvmsg, nothing, 0}, {"recvmmsg-limit", s_datagrams_limit, c_recvmmsg, nothing, 0},
	{"preadv2-limit", s_stream_limit, c_preadv2, nothing, 0}, {"splice-limit", s_stream_limit, c_splice_in, nothing, 0},
	{"close-limit", s_linger, c_close, nothing, 0}, {"dup2-limit", s_linger, c_dup2, nothing, 0},
	{"accept-limit", s_accept_limit, c_accept, nothing, 0}, {"connect-limit", s_connect_limit, c_connect, nothing, 0}, {"connect-tcp-limit", s_connect_tcp_limit, c_connect_tcp, nothing, 0}, {"send-limit", s_full_limit, c_send, nothing, 0},
	{"sem-limit", s_sem, c_sem_limit, nothing, 0}, {"cond-limit", s_mutex, c_cond_limit, nothing, 0}, {"mutex-pi-limit", s_locked_pi, c_mutex_limit, nothing, 0},
	{"futex-limit", s_word_limit, c_futex, nothing, 0}, {"futex-bitset-limit", s_word_limit, c_bitset, nothing, 0}, {"futex-waitv-limit", s_word_limit, c_waitv, nothing, 0},
	{"mq-receive-limit", s_mq, c_mq_receive_limit, nothing, 0}, {"mq-send-limit", s_mq_full, c_mq_send_limit, nothing, 0},
	{"semtimedop-limit", s_semop_limit, c_semtimedop, nothing, x_sem}, {"sigtimedwait-limit", s_sigwait_limit, c_sigtimedwait, nothing, 0},
	{"epoll-wait-limit", s_epoll_limit, c_epoll_timed, nothing, 0}, {"epoll-pwait-limit", s_epoll_limit, c_epoll_pwait, nothing, 0}, {"epoll-pwait2-limit", s_epoll_limit, c_epoll_pwait2, nothing, 0},
	{"poll-limit", s_epoll_limit, c_poll, nothing, 0}, {"ppoll-limit", s_epoll_limit, c_ppoll, nothing, 0}, {"select-limit", s_epoll_limit, c_select, nothing, 0}, {"pselect-limit", s_epoll_limit, c_pselect, nothing, 0}, {"ppoll-raw-limit", s_epoll_limit, c_ppoll_raw, nothing, 0},
	{"io-getevents-limit", s_aio_limit, c_aio_timed, nothing, 0}, {"io-pgetevents-limit", s_aio_limit, c_aio_p, nothing, 0},
	{"nanosleep-own-limit", s_sleep, c_nanosleep_own, nothing, 0}, {"nanosleep-left-limit", s_sleep, c_nanosleep_left, nothing, 0}, {"clock-nanosleep-left-limit", s_sleep, c_clock_nanosleep_left, nothing, 0},
	{"nanosleep-limit", s_sleep, c_nanosleep, nothing, 0}, {"clock-nanosleep-limit", s_sleep, c_clock_nanosleep, nothing, 0}, {"clock-nanosleep-at-limit", s_sleep, c_clock_nanosleep_at, nothing, 0},
	{0, 0, 0, 0, 0},
	/* These say how many of their calls were cut short. */
	{"race-send", s_race_tcp, r_send, end_race, 0}, {"race-write", s_race_tcp, r_write, end_race, 0}, {"race-write-pipe", s_race_pipe, r_write, end_race, 0},
	{"race-writev", s_race_stream, r_writev, end_race, 0}, {"race-pwritev2", s_race_tcp, r_pwritev2, end_race, 0}, {"race-sendmsg", s_race_tcp, r_sendmsg, end_race, 0}, {"race-sendmsg-unix", s_race_stream, r_sendmsg, end_race, 0},
	{"race-sendmmsg", s_race_tcp, r_sendmmsg, end_race, 0}, {"race-recv", s_race_give, r_recv, end_race, 0}, {"race-recvmsg", s_race_give_unix, r_recvmsg, end_race, 0}, {"race-recvmmsg", s_datagrams_none, r_recvmmsg, end_race, 0},
};

static volatile pid_t worker_tid;
static const struct call *chosen;
static long returned;
static int failed, early;

static void *work(void *unused) {
	(void)unused;
	worker_tid = gettid();
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	errno = 0;
	long result = chosen->call();
	int error = result < 0 ? errno : 0;
	clock_gettime(CLOCK_MONOTONIC, &after);
	long waited_ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
	early = chosen->end == nothing && waited_ms < LIMIT * 1000 - 1;
	returned = result;
	failed = error;
	has_returned = 1;
	if (getenv("BLOCKING_TIMES")) fprintf(stderr, "%s took %ld ms\n", chosen->name, waited_ms);
	return 0;
}

static void converse(int client) {
	char line[100];
	FILE *stream = fdopen(client, "r+");
	setbuf(stream, 0);
	while (fgets(line, sizeof line, stream)) {
		if (!strcmp(line, "begin\n")) {
			detail = 0; worker_tid = 0; has_returned = 0;
			chosen->setup();
			pthread_create(&worker, 0, work, 0);
			for (int seen = 0; seen < 20 && chosen->end != end_race; usleep(1000))
				seen = worker_tid && sleeps(worker_tid) ? seen + 1 : 0;
			fputs("begun\n", stream);
		} else if (!strcmp(line, "end\n")) {
			chosen->end();
			pthread_join(worker, 0);
			if (chosen->clean) chosen->clean();
			fprintf(stream, "%s = %ld errno %d detail %ld%s\n", chosen->name, returned, failed, detail, early ? " early" : "");
		}
	}
	fclose(stream);
}

int main(int count, char **arguments) {
	setvbuf(stdout, 0, _IOLBF, 0);
	if (count < 3) {
		for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) puts(calls[i].name ? calls[i].name : calls[i - 1].end == nothing ? "races" : "limits");
		return count != 1;
	}
	for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
		if (calls[i].name && !strcmp(calls[i].name, arguments[1])) chosen = &calls[i];
	if (!chosen) { fprintf(stderr, "no call %s\n", arguments[1]); return 2; }
	srand(getpid());
	strcpy(directory, "blocking-XXXXXX"); /* in the working directory, which is removed by who chose it */
	if (!mkdtemp(directory)) die("mkdtemp");
	signal(SIGPIPE, SIG_IGN);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
	socklen_t length = sizeof at;
	int one = 1, listener = ok(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	ok(bind(listener, (void *)&at, length), "bind"); ok(listen(listener, 5), "listen");
	ok(getsockname(listener, (void *)&at, &length), "getsockname");
	printf("%d\n", ntohs(at.sin_port));
	for (;;) converse(ok(accept(listener, 0, 0), "accept"));
}
