//! The baselines: what people use today. docker has a module of its own.

pub mod interposer;
pub mod manager;
pub mod systemd;
pub mod units;
