//! What a statically linked C library does otherwise than a shared one: `make dist`.

/// Keeps a statically linked glibc from loading shared libraries of another glibc, and a process
/// that panics from ending another one. To be called first in `main`; does nothing if the C library
/// is a shared glibc.
pub fn prepare() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    glibc::look_up_in_files();
    #[cfg(all(target_env = "musl", panic = "abort"))]
    musl::end_itself_alone();
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod glibc {
    use std::ffi::{CStr, c_char, c_int};

    unsafe extern "C" {
        /// nss/nss_configure_lookup.c, exported since glibc 2.0.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }

    /// The databases of getpwnam(3), getgrnam(3) and getgrouplist(3).
    const DATABASES: [&CStr; 3] = [c"passwd", c"group", c"initgroups"];

    /// Looks users and groups up in /etc/passwd and /etc/group alone. The other services of
    /// nsswitch.conf(5) are shared libraries, which a static program can load only if they are of
    /// the glibc that it was built with.
    pub(super) fn look_up_in_files() {
        for database in DATABASES {
            // SAFETY: both are strings that end with NUL. No other thread looks anything up yet.
            unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
        }
    }
}

#[cfg(all(target_env = "musl", panic = "abort"))]
mod musl {
    use std::panic;

    use rustix::process::{Signal, getpid, kill_process};

    /// Ends this process by its own number after a panic. musl's abort(3) signals the number that
    /// its thread had when the program was executed, which for a supervisor that the zygote has
    /// forked is the zygote's.
    pub(super) fn end_itself_alone() {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            print(info);
            // If SIGABRT is blocked, abort(3) follows.
            let _ = kill_process(getpid(), Signal::ABORT);
        }));
    }
}
