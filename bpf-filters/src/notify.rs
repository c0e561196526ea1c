//! The filter under which applications run, compiled from [`crate::TABLE`] by libseccomp when imsup
//! is built (`build.rs`).
//!
//! Installing the filter is the supervisor's: the installation needs flags that libseccomp 2.5 does
//! not know (`WAIT_KILLABLE_RECV`).

use libc::sock_filter;

use crate::table::{Families, Sockets};

/// The filter for this way to the program's sockets, and this knowledge of the retained sockets'
/// families.
pub fn notify_filter(sockets: Sockets, families: Families) -> &'static [sock_filter] {
    match (sockets, families) {
        (Sockets::Duplicated, Families::Known) => &include!(concat!(env!("OUT_DIR"), "/duplicated_known.rs")),
        (Sockets::Duplicated, Families::Unknown) => &include!(concat!(env!("OUT_DIR"), "/duplicated_unknown.rs")),
        (Sockets::Made, Families::Known) => &include!(concat!(env!("OUT_DIR"), "/made_known.rs")),
        (Sockets::Made, Families::Unknown) => &include!(concat!(env!("OUT_DIR"), "/made_unknown.rs")),
    }
}
