/* The parts of the hostile guest; main.c says what it does. */
#ifndef HOSTILE_H
#define HOSTILE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>


/* How a process ends that saw what must not be. What it saw is on standard error. */
#define VIOLATION 77

/* Descriptors that are attacked: opened, closed, replaced and used by all threads at once. Nothing else has a number among them,
   but for what witnesses keep there (sentinel.c). */
#define FIRST_SLOT 64
#define SLOTS 48

/* Ports that attacks bind, and those of the project's hosts. Nobody on the machine listens on 9. */
#define ATTACKED_PORT 21300
#define ATTACKED_PORTS 8
#define SERVED_PORT 8080
#define NO_PORT 9
/* What a bystander binds, which no attack does. */
#define BYSTANDER_PORT 21400

/* ---- main.c ---- */

/* Hosts of the project: itself, `victim` that accepts and closes, `slow` that is booting and never listens, `flaky` that ends as soon
   as it is booted. */
enum { SELF, VICTIM, SLOW, FLAKY, HOSTS };
extern struct in_addr peer; /* answers lines; attacked by nobody */
extern struct in_addr hosts[HOSTS];

/* Says what was seen, and ends the process. */
_Noreturn void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Random numbers that can be had again: splitmix64. */
struct random {
    uint64_t state;
};
uint64_t random_number(struct random *random);
uint64_t below(struct random *random, uint64_t end);
static inline bool one_in(struct random *random, uint64_t times) {
    return below(random, times) == 0;
}

void pause_us(long us);
int64_t now_ms(void);

static inline struct sockaddr_in at(in_addr_t ip, uint16_t port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = ip, .sin_port = htons(port)};
}

/* ---- arena.c: memory that is not what it was a moment ago ---- */

void make_arena(struct random *random);
/* A pointer to a sockaddr, or to anywhere. */
void *any_address(struct random *random);
/* A pointer to zeros of a length of their own, or to anywhere. */
void *any_bytes(struct random *random);
/* A pointer to what may be written, or to anywhere. */
void *any_place(struct random *random);
/* Maps, unmaps, protects and rewrites the arena until the process ends. */
_Noreturn void shake_arena(struct random *random);

/* ---- calls.c ---- */

/* One trapped call, as random as can be. */
void any_call(struct random *random);
/* Opens, closes and replaces the attacked descriptors, and changes their flags and options. */
void any_change(struct random *random);

/* ---- sentinel.c: descriptors that nobody may touch ---- */

struct sentinels;
/* Makes one of each kind, at the numbers from `first` on. */
struct sentinels *post_sentinels(int first);
/* Ends the process where one is not as it was made. */
void inspect_sentinels(const struct sentinels *sentinels);

/* ---- attack.c ---- */

/* Attacks with all it has, for so long, and ends in some way. */
_Noreturn void attack(uint64_t seed, long ms);
/* What an attacker becomes by execve: a few calls, and the end. */
int aftermath(uint64_t seed);

/* ---- stall.c ---- */

/* Tries for so long to have imsup wait for what does not come, and ends. */
_Noreturn void stall(long ms);

/* ---- bystander.c ---- */

/* An honest program: uses sockets until `until` is readable, checks all it sees, and returns how much that was. */
long behave(int until);

#endif
