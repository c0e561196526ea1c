//! What the broker's launcher tells a supervisor that it starts: one [`SpawnRequest`], on either of
//! two roads.
//!
//! * The zygote receives the request as a message, forks, and the child becomes the supervisor.
//! * An executed supervisor finds the request in a file on its standard input ([`write()`],
//!   [`read`]): command lines are visible to every user, and a program may be larger than a frame.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use imsup_wire::ProgramSpec;
use imsup_wire::host::HostName;

/// The variable that carries a boot's token: everything a boot started can be found by it.
pub const BOOT_VARIABLE: &str = "IMSUP_BOOT";

/// The descriptors that come with a [`SpawnRequest`] to the zygote, in order: the log, and the
/// working directory.
pub const FDS: usize = 2;

/// Start the supervisor of this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// What to run.
    pub program: ProgramSpec,
    /// The host.
    pub host: HostName,
    /// The boot's token, by which the supervisor introduces itself.
    pub boot: u64,
    /// When the broker stops waiting, in microseconds of CLOCK_BOOTTIME: a zygote that was stopped
    /// until then refuses with ETIME. `None` for never.
    pub expires_us: Option<i64>,
}

/// The reply: the process of the supervisor, a child of the broker, or the errno for which there is
/// none.
pub type SpawnReply = Result<u32, i32>;

/// Writes a request into a file, for an executed supervisor.
///
/// # Errors
/// write(2).
pub fn write(request: &SpawnRequest, file: impl Write) -> io::Result<()> {
    Ok(serde_json::to_writer(file, request)?)
}

/// Reads a request that [`write()`] wrote.
///
/// # Errors
/// read(2), or the file has no request of this version of imsup.
pub fn read(mut file: impl Read) -> io::Result<SpawnRequest> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn request() -> SpawnRequest {
        let mut program = ProgramSpec::new(["nginx"]);
        program.environment.insert("A".to_owned(), "b\n\"c\"".to_owned());
        SpawnRequest {
            program,
            host: "web".parse().expect("a name"),
            boot: u64::MAX,
            expires_us: Some(-1),
        }
    }

    #[test]
    fn both_roads_carry_the_whole_request() {
        let mut file = Vec::new();
        write(&request(), &mut file).unwrap();
        assert_eq!(read(&*file).unwrap(), request());
        let mut frame = codec::encode(&request()).unwrap();
        assert_eq!(codec::decode(&mut frame).unwrap(), Some(request()));
    }

    #[test]
    fn a_request_of_another_version_is_refused_on_both_roads() {
        let mut frame = codec::encode(&request()).unwrap();
        // After the length of the frame: the first field of the first field.
        assert_eq!(u16::from(frame[4]), imsup_wire::program::SPEC_VERSION);
        frame[4] += 1;
        let next = imsup_wire::program::SPEC_VERSION + 1;
        let error = codec::decode::<SpawnRequest>(&mut frame).unwrap_err().to_string();
        assert!(error.contains(&format!("version {next}")), "{error}");
        let mut value = serde_json::to_value(request()).unwrap();
        value["program"]["version"] = next.into();
        let error = read(&*serde_json::to_vec(&value).unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("version {next}")), "{error}");
    }
}
