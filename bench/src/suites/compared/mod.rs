//! Side by side with the baselines: the questions of the report.

pub mod connecting;
pub mod crowd;
mod data_paths;
pub mod day;
pub mod idle_exit;
mod loads;
pub mod path;
pub mod scale;
mod servers;
pub mod start;
pub mod together;
pub mod woken;

use crate::report::row::IMSUP;

/// Two containers on docker's bridge.
const DOCKER: &str = "docker, bridge";
/// systemd-socket-proxyd before a native server.
const PROXYD: &str = "systemd-socket-proxyd";
/// A native client under proxychains4.
const INTERPOSER: &str = "proxychains4";
