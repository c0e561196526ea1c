/*
 * Memory that is not what it was a moment ago: sockaddrs that change while they are read, in pages that come and go.
 *
 * A record has the same bytes for AF_INET and AF_INET6 wherever both look, all of 127/8 or the wildcard, so that one that is read while it is
 * rewritten is no address outside either.
 */
#include "hostile.h"

#include <sys/mman.h>

#define PAGE 4096
#define PAGES 16
#define RECORD 32
#define RECORDS (PAGE / RECORD)

struct record {
    uint16_t family, port;
    uint32_t v4;       /* sin_addr; sin6_flowinfo */
    uint32_t zeros[2]; /* the rest is sin6_addr, and a scope id of 0 */
    uint16_t zero, mapped;
    uint32_t v6;
    uint32_t scope, unused;
};

_Static_assert(sizeof(struct record) == RECORD, "a record is a sockaddr_in and a sockaddr_in6");

static char *shaken;      /* PAGES pages of records */
static char *zeros;       /* as many of zeros */
static char *places;      /* as many for answers */
static char *still;       /* a page of records, read-only */
static char *inaccessible;

static struct record make_record(struct random *random, bool raced) {
    const uint32_t known[] = {
        INADDR_LOOPBACK, INADDR_LOOPBACK, 0, 0x7f000035, 0x7f010203,
        ntohl(hosts[VICTIM].s_addr) + 0x10000, ntohl(hosts[VICTIM].s_addr) + 0x20000, /* others' localhosts */
    };
    static const uint16_t families[] = {AF_UNSPEC, AF_UNIX, AF_PACKET, AF_NETLINK, AF_VSOCK, 0xffff};
    uint64_t family = below(random, 100), ip = below(random, 16), port = below(random, 16);
    struct record record = {0};
    record.family = family < 50 ? AF_INET : family < 90 ? AF_INET6 : families[below(random, 6)];
    record.v4 = ip < 9 ? hosts[ip % HOSTS].s_addr : htonl(known[ip - 9]);
    record.mapped = 0xffff;
    record.v6 = record.v4;
    /* Not where it may be read half written: ::ffff:0.0.0.1 is no loopback address. */
    if (!raced && one_in(random, 4)) {
        record.mapped = 0;
        record.v6 = htonl(1);
    }
    record.port = htons(port == 0 ? 0 : port == 1 ? NO_PORT : port == 2 ? 53 : port < 8 ? SERVED_PORT : ATTACKED_PORT + port % ATTACKED_PORTS);
    return record;
}

/* Word by word, so that none is torn. */
static void write_record(char *to, const struct record *record) {
    const uint32_t *words = (const void *)record;
    volatile uint32_t *target = (void *)to;
    for (unsigned i = 0; i < RECORD / 4 - 1; i++) {
        target[i] = words[i];
    }
}

static char *map(size_t pages, int protection) {
    char *memory = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        violation("mmap");
    }
    return memory;
}

/* The first and the last record of a page are left to the one that straddles its border. */
static void fill(char *page, struct random *random) {
    for (int i = 1; i < RECORDS - 1; i++) {
        struct record record = make_record(random, true);
        write_record(page + i * RECORD, &record);
    }
}

void make_arena(struct random *random) {
    shaken = map(PAGES, PROT_READ | PROT_WRITE);
    zeros = map(PAGES, PROT_READ);
    places = map(PAGES, PROT_READ | PROT_WRITE);
    still = map(1, PROT_READ | PROT_WRITE);
    inaccessible = map(1, PROT_NONE);
    for (int i = 0; i < PAGES; i++) {
        fill(shaken + i * PAGE, random);
    }
    for (int i = 0; i < RECORDS; i++) {
        struct record record = make_record(random, false);
        write_record(still + i * RECORD, &record);
    }
    mprotect(still, PAGE, PROT_READ);
}

static void *anywhere(struct random *random) {
    switch (below(random, 6)) {
    case 0:
        return NULL;
    case 1:
        return (void *)1;
    case 2:
        return inaccessible;
    case 3:
        return (void *)0xffff800000000000;
    case 4:
        return (void *)-1;
    default:
        return (void *)random_number(random);
    }
}

static void *straddling(char *memory, struct random *random) {
    return memory + (1 + below(random, PAGES - 1)) * PAGE - 8;
}

void *any_address(struct random *random) {
    uint64_t kind = below(random, 100);
    if (kind < 40) {
        return shaken + below(random, PAGES) * PAGE + (1 + below(random, RECORDS - 2)) * RECORD;
    }
    if (kind < 85) {
        return still + below(random, RECORDS) * RECORD;
    }
    return kind < 93 ? straddling(shaken, random) : anywhere(random);
}

void *any_bytes(struct random *random) {
    return one_in(random, 8) ? anywhere(random) : zeros + below(random, PAGES * PAGE);
}

void *any_place(struct random *random) {
    uint64_t kind = below(random, 100);
    if (kind < 80) {
        return places + below(random, PAGES * PAGE / 8 - 16) * 8;
    }
    return kind < 90 ? straddling(places, random) : kind < 92 ? still : anywhere(random);
}

static void remap(char *page, int protection, struct random *random) {
    mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (page >= shaken && page < shaken + PAGES * PAGE) {
        fill(page, random);
    }
    mprotect(page, PAGE, protection);
}

void shake_arena(struct random *random) {
    int protections[PAGES];
    for (int i = 0; i < PAGES; i++) {
        protections[i] = PROT_READ | PROT_WRITE;
    }
    for (;;) {
        size_t index = below(random, PAGES);
        char *page = shaken + index * PAGE;
        uint64_t what = below(random, 400);
        if (what < 4) {
            static const int choices[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
            protections[index] = choices[below(random, 3)];
            remap(page, protections[index], random);
        } else if (what == 4) {
            munmap(page, PAGE);
            protections[index] = PROT_NONE;
        } else if (what == 5) {
            remap(places + index * PAGE, one_in(random, 3) ? PROT_READ : PROT_READ | PROT_WRITE, random);
        } else if (what == 6) {
            remap(zeros + index * PAGE, one_in(random, 3) ? PROT_NONE : PROT_READ, random);
        } else if (protections[index] & PROT_WRITE) {
            struct record record = make_record(random, true);
            if (what > 20) {
                write_record(page + (1 + below(random, RECORDS - 2)) * RECORD, &record);
            } else if (index > 0 && protections[index - 1] & PROT_WRITE) {
                write_record(page - 8, &record);
            }
        }
    }
}
