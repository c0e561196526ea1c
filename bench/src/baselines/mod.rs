//! What people use today, beside docker, which has a module of its own.

pub mod interposer;
pub mod manager;
pub mod systemd;
pub mod units;
