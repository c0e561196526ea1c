/* Names of the errors that socket calls give; strerrorname_np(3) is glibc's alone, and guests are also built with musl. */
#ifndef ERRNO_NAME_H
#define ERRNO_NAME_H

#include <errno.h>
#include <stdio.h>

static const char *errno_name(int number) {
    static const struct {
        int number;
        const char *name;
    } names[] = {
#define NAME(e) {e, #e}
        NAME(EPERM),        NAME(ENOENT),      NAME(EINTR),        NAME(EBADF),        NAME(EAGAIN),
        NAME(ENOMEM),       NAME(EACCES),      NAME(EFAULT),       NAME(EINVAL),       NAME(EMFILE),
        NAME(EPIPE),        NAME(ENOSYS),      NAME(ENOTSOCK),     NAME(EDESTADDRREQ), NAME(EMSGSIZE),
        NAME(EPROTOTYPE),   NAME(ENOPROTOOPT), NAME(EOPNOTSUPP),   NAME(EAFNOSUPPORT), NAME(EADDRINUSE),
        NAME(EADDRNOTAVAIL), NAME(ENETDOWN),   NAME(ENETUNREACH),  NAME(ECONNABORTED), NAME(ECONNRESET),
        NAME(ENOBUFS),      NAME(EISCONN),     NAME(ENOTCONN),     NAME(ETIMEDOUT),    NAME(ECONNREFUSED),
        NAME(EHOSTUNREACH), NAME(EALREADY),    NAME(EINPROGRESS),  NAME(ENODEV),       NAME(EEXIST),
        NAME(EPROTONOSUPPORT), NAME(ESOCKTNOSUPPORT), NAME(EBUSY), NAME(ENXIO), NAME(ENOTTY), NAME(ESPIPE), NAME(EROFS), NAME(ESRCH),
#undef NAME
    };
    static char other[32];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].number == number) {
            return names[i].name;
        }
    }
    snprintf(other, sizeof other, "errno %d", number);
    return other;
}

#endif
