/*
 * A server that closes sockets without EPOLL_CTL_DEL and runs on. It does what it is told by lines on a connection to its control port, and answers each
 * with a line: an error's name, or what is said below.
 *
 *   closer CONTROL-PORT [COMMAND]...   does these first, in this order
 *
 *   listen tcp|udp PORT [reuseport|reuseaddr|localhost]...  makes a socket, watches it with epoll: its number
 *   probe PORT         binds a TCP socket, does not listen, closes it: "ok"
 *   close NUMBER       close(2), and nothing else: "ok"
 *   move NUMBER        dup(2) and close(2): the new number
 *   underway NUMBER    puts it into a UNIX socket (SCM_RIGHTS) and closes it: "ok"
 *   arrived            takes it out again: its new number
 *   take NUMBER        accept(2) or recv(2), without waiting: "taken", or EAGAIN
 *   connect PORT       connects to 127.0.0.1: "ok"
 *   knock PORT         sends 127.0.0.1 a datagram over a socket that has connected: "ok", or what comes back
 *   dial KIND PORT N   as often: watches a socket, connects it to 127.0.0.1, closes it: "ok"
 *   child COMMAND      a child does the command, answers, and ends
 *   stay COMMAND       a child does the command, answers, and stays
 *   crowd CHILDREN N   that many children with N descriptors each stay: "ok"
 *   range COUNT PORT   listens on as many ports from this one on: "ok"
 *   close-range        closes them: "ok"
 *   hide               nobody without CAP_SYS_PTRACE may look into it: "ok"
 *   end, die           ends, kills itself: no answer
 *   last               the number of what it listened on last
 *   events             how many events came of sockets that were closed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "errno_name.h"

#define MAX_RANGE 2000

static int poller, open_at[65536], range[MAX_RANGE], ranged, way[2] = {-1, -1};
static int last = -1;
static unsigned long stale;

static int address_at(int port, unsigned ip, struct sockaddr_in *address)
{
	memset(address, 0, sizeof *address);
	address->sin_family = AF_INET;
	address->sin_port = htons(port);
	address->sin_addr.s_addr = htonl(ip);
	return sizeof *address;
}

/* Each socket that was made has a number for life in the events: its descriptor's number says nothing after a close. */
static void watch_for(int fd, unsigned events)
{
	static unsigned long made;
	struct epoll_event event = {.events = events, .data.u64 = (++made << 32) | (unsigned)fd};

	open_at[fd] = made;
	epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void watch(int fd)
{
	watch_for(fd, EPOLLIN);
}

static int listen_on(const char *kind, int port, const char *options)
{
	int tcp = !strcmp(kind, "tcp"), one = 1, fd = socket(AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
	struct sockaddr_in address;
	in_addr_t ip = strstr(options, "localhost") ? INADDR_LOOPBACK : INADDR_ANY;

	if (strstr(options, "reuseport"))
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (strstr(options, "reuseaddr"))
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (void *)&address, address_at(port, ip, &address)) || (tcp && listen(fd, 64))) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	watch(fd);
	return last = fd;
}

static void close_watched(int fd)
{
	open_at[fd] = 0;
	close(fd);
}

static int take(int fd)
{
	char byte[64];
	int kind = 0, taken;
	socklen_t length = sizeof kind;

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length);
	if (kind != SOCK_STREAM)
		return recv(fd, byte, sizeof byte, MSG_DONTWAIT) < 0 ? -1 : 0;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	taken = accept(fd, NULL, NULL);
	if (taken < 0)
		return -1;
	close(taken);
	return 0;
}

static int pass(int fd)
{
	char byte = 0, space[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (fd < 0) {
		if (recvmsg(way[1], &message, 0) < 0)
			return -1;
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
		return fd;
	}
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, way))
		return -1;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	return sendmsg(way[0], &message, 0) < 0 ? -1 : 0;
}

static void stay(void)
{
	for (;;)
		pause();
}

static int crowd(int children, int descriptors)
{
	for (int child = 0; child < children; child++) {
		int ready[2];
		char byte;

		if (pipe(ready))
			return -1;
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(ready[0]);
			for (int number = 0; number < descriptors; number++)
				socket(AF_INET, SOCK_STREAM, 0);
			close(ready[1]);
			stay();
		}
		close(ready[1]);
		read(ready[0], &byte, 1);
		close(ready[0]);
	}
	return 0;
}

/* What the answer is; NULL where errno says it. */
static const char *answer(char *line)
{
	static char text[64];
	char kind[8] = "", options[64] = "";
	int number = 0, other = 0, result = 0;
	struct sockaddr_in address;

	if (!strncmp(line, "child ", 6) || !strncmp(line, "stay ", 5)) {
		int stays = line[0] == 's', back[2];
		ssize_t length;

		if (pipe(back))
			return NULL;
		if (!fork()) {
			const char *said;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			poller = epoll_create1(EPOLL_CLOEXEC);
			said = answer(line + (stays ? 5 : 6));
			dprintf(back[1], "%s", said ? said : errno_name(errno));
			close(back[1]);
			if (stays)
				stay();
			_exit(0);
		}
		close(back[1]);
		length = read(back[0], text, sizeof text - 1);
		text[length < 0 ? 0 : length] = 0;
		close(back[0]);
		return text;
	}
	if (sscanf(line, "listen %7s %d %63[^\n]", kind, &number, options) >= 2) {
		result = listen_on(kind, number, options);
		snprintf(text, sizeof text, "%d", result);
		return result < 0 ? NULL : text;
	}
	if (sscanf(line, "probe %d", &number) == 1) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		result = bind(fd, (void *)&address, address_at(number, INADDR_ANY, &address));
		close(fd);
	} else if (sscanf(line, "close %d", &number) == 1) {
		close_watched(number);
	} else if (sscanf(line, "move %d", &number) == 1) {
		result = dup(number);
		epoll_ctl(poller, EPOLL_CTL_DEL, number, NULL);
		close_watched(number);
		watch(result);
		snprintf(text, sizeof text, "%d", result);
		return text;
	} else if (sscanf(line, "underway %d", &number) == 1) {
		result = pass(number);
		epoll_ctl(poller, EPOLL_CTL_DEL, number, NULL);
		close_watched(number);
	} else if (!strncmp(line, "arrived", 7)) {
		watch(result = pass(-1));
		snprintf(text, sizeof text, "%d", result);
		return text;
	} else if (sscanf(line, "take %d", &number) == 1) {
		return take(number) ? NULL : "taken";
	} else if (sscanf(line, "connect %d", &number) == 1) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int error;

		result = connect(fd, (void *)&address, address_at(number, INADDR_LOOPBACK, &address));
		error = errno;
		close(fd);
		errno = error;
	} else if (sscanf(line, "knock %d", &number) == 1) {
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		int error;
		socklen_t length = sizeof error;
		struct pollfd refusal = {.fd = fd};

		result = connect(fd, (void *)&address, address_at(number, INADDR_LOOPBACK, &address));
		if (!result && send(fd, "x", 1, 0) == 1 && poll(&refusal, 1, 2000) == 1)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		else
			error = result ? errno : 0;
		close(fd);
		errno = error;
		result = error ? -1 : 0;
	} else if (sscanf(line, "dial %7s %d %d", kind, &number, &other) == 3) {
		while (other-- > 0 && !result) {
			int fd = socket(AF_INET, strcmp(kind, "tcp") ? SOCK_DGRAM : SOCK_STREAM, 0);
			struct epoll_event event;

			watch_for(fd, EPOLLOUT);
			result = connect(fd, (void *)&address, address_at(number, INADDR_LOOPBACK, &address));
			close_watched(fd);
			/* Nothing else is told, and whatever is comes at once. */
			while (epoll_wait(poller, &event, 1, 0) == 1 && (int)(event.data.u64 >> 32) != open_at[event.data.u64 & 0xffffffff])
				stale++;
		}
	} else if (sscanf(line, "crowd %d %d", &number, &other) == 2) {
		result = crowd(number, other);
	} else if (sscanf(line, "range %d %d", &number, &other) == 2) {
		for (ranged = 0; ranged < number && ranged < MAX_RANGE; ranged++)
			if ((range[ranged] = listen_on("tcp", other + ranged, "")) < 0)
				return NULL;
	} else if (!strncmp(line, "close-range", 11)) {
		while (ranged > 0)
			close_watched(range[--ranged]);
	} else if (!strncmp(line, "hide", 4)) {
		result = prctl(PR_SET_DUMPABLE, 0);
	} else if (!strncmp(line, "die", 3)) {
		raise(SIGKILL);
	} else if (!strncmp(line, "end", 3)) {
		_exit(0);
	} else if (!strncmp(line, "last", 4)) {
		snprintf(text, sizeof text, "%d", last);
		return text;
	} else if (!strncmp(line, "events", 6)) {
		snprintf(text, sizeof text, "%lu", stale);
		return text;
	} else {
		return "what?";
	}
	return result < 0 ? NULL : "ok";
}

int main(int argc, char **argv)
{
	int control, port = argc > 1 ? atoi(argv[1]) : 7000;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	poller = epoll_create1(EPOLL_CLOEXEC);
	control = listen_on("tcp", port, "reuseaddr");
	if (control < 0) {
		perror("control port");
		return 1;
	}
	for (int command = 2; command < argc; command++)
		if (!answer(argv[command]))
			perror(argv[command]);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		struct epoll_event event;
		int fd, asker;
		FILE *asked;
		char line[128];

		if (epoll_wait(poller, &event, 1, -1) != 1)
			continue;
		fd = (int)(event.data.u64 & 0xffffffff);
		if (open_at[fd] != (int)(event.data.u64 >> 32)) {
			stale++;
			continue;
		}
		if (fd != control)
			continue;
		asker = accept4(control, NULL, NULL, SOCK_CLOEXEC);
		asked = fdopen(asker, "r+");
		if (asked && fgets(line, sizeof line, asked)) {
			const char *said = answer(line);

			said = said ? said : errno_name(errno);
			dprintf(asker, "%s\n", said);
		}
		if (asked)
			fclose(asked);
	}
}
