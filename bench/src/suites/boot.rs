//! Cold boot.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::num::NonZeroU64;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::NATIVE;
use super::programs::{self, Program};
use crate::context::Context;
use crate::interrupt;
use crate::project::Project;
use crate::report::{Bound, Row, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::{Measured, Unit};

const BOOT: &str = "imaginary";
/// No program here takes nearly as long to answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether a native program listens.
pub const LOOK: Duration = Duration::from_micros(20);

pub fn run(context: &Context) -> Result<Section> {
    // Or each pause of 20 µs takes 70.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("setting the timer slack")?;
    let (programs, missing) = programs::all(context);
    let mut section = Section::default();
    for (what, why) in missing {
        section.gap(what, why);
    }
    let services: Vec<_> = programs.iter().map(Program::service).collect();
    let project = Project::up(&context.sandbox, &services)?;
    let mut booted = Vec::new();
    for program in &programs {
        let measured = measure(context, &project, program).and_then(|batches| rows(program, &batches));
        match measured {
            Ok(rows) => {
                section.rows.extend(rows);
                booted.push(program);
            }
            Err(error) => {
                interrupt::check()?;
                section.gap(program.what, format!("{error:#}"));
            }
        }
    }
    own_share(&project, &booted, &mut section)?;
    section.note(
        "natively: from just before the fork until the first byte of the answer, by a client that tries to connect every 30 µs or so, \
         which is by how much the native times may be too long",
    );
    section.note("imaginary: from just before connect(2) to the host's address until the first byte; the host is stopped in between");
    section.note("'from the signal to execve' and 'until it listens' are imsup's own events 'boot' and 'ready' of the same boots");
    Ok(section)
}

fn measure(context: &Context, project: &Project<'_>, program: &Program) -> Result<Batches> {
    let address = SocketAddrV4::new(project.address(program.name)?, program.port);
    let mut batches = Batches::default();
    let mut turns = [
        Turn::new(NATIVE, || native(context, program)),
        Turn::new(BOOT, || {
            let series = imaginary(program, address)?;
            project.stop(program.name)?;
            Ok(series)
        }),
    ];
    batches.interleave(&mut turns, 2, context.count(25, 5))?;
    Ok(batches)
}

/// A started program; ended in any case.
pub struct Started(Child);

impl Started {
    /// Starts the program without waiting.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn exec(context: &Context, words: &[String]) -> Result<Self> {
        let (program, arguments) = words.split_first().context("no command")?;
        let mut command = Command::new(program);
        let silent = command
            .args(arguments)
            .current_dir(context.sandbox.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(silent.spawn().with_context(|| format!("starting {program}"))?))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects as soon as a socket listens there, checking this often; gives up if `check` does, or
/// after [`PATIENCE`].
///
/// # Errors
/// No socket listens in time, or an error of `check`.
pub fn connected(
    address: SocketAddrV4,
    since: Instant,
    look: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<TcpStream> {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(_) if since.elapsed() < PATIENCE => check()?,
            Err(error) => return Err(error).with_context(|| format!("connecting to {address}")),
        }
        thread::sleep(look);
    }
}

/// Starts the program natively, and asks it as soon as it listens.
pub fn native(context: &Context, program: &Program) -> Result<Vec<Series>> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, program.native_port());
    let words = program.command(program.native_port());
    if TcpStream::connect(address).is_ok() {
        bail!("something listens on {address} already");
    }
    let start = Instant::now();
    let mut started = Started::exec(context, &words)?;
    let spawned = start.elapsed();
    let stream = connected(address, start, LOOK, || match started.0.try_wait()? {
        Some(status) => bail!("it ended with {status} before it listened"),
        None => Ok(()),
    })?;
    let listening = start.elapsed();
    first_byte(stream, program)?;
    let answered = start.elapsed();
    Ok(vec![
        series("spawn", spawned),
        series("listen", listening),
        series("byte", answered),
    ])
}

/// Asks a host that does not run.
pub fn imaginary(program: &Program, address: SocketAddrV4) -> Result<Vec<Series>> {
    let start = Instant::now();
    let stream =
        TcpStream::connect_timeout(&address.into(), PATIENCE).with_context(|| format!("connecting to {address}"))?;
    first_byte(stream, program)?;
    Ok(vec![series("byte", start.elapsed())])
}

/// Asks, and waits for the first byte of the answer.
pub fn first_byte(mut stream: TcpStream, program: &Program) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(program.request).context("sending the request")?;
    stream.read_exact(&mut [0]).context("waiting for the answer")
}

/// One sample.
pub fn series(name: &str, time: Duration) -> Series {
    (
        name.to_owned(),
        vec![u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)],
    )
}

fn rows(program: &Program, batches: &Batches) -> Result<[Row; 3]> {
    let unit = Unit::MILLISECONDS;
    let native = |series| batches.measured(NATIVE, series, unit);
    let imsup = batches.measured(BOOT, "byte", unit)?;
    let what = program.what;
    Ok([
        Row::compare(format!("{what}: to the first byte"), unit, &native("byte")?, &imsup).expect(Bound::More(2.0)),
        Row::compare(
            format!("{what}: to the first byte, against native until it listens"),
            unit,
            &native("listen")?,
            &imsup,
        ),
        Row::alone(
            format!("{what}: native fork and exec, contained in its times"),
            unit,
            &native("spawn")?,
        ),
    ])
}

/// imsup's own part of a boot, by its events.
fn own_share(project: &Project<'_>, programs: &[&Program], section: &mut Section) -> Result<()> {
    let events = project.events()?;
    for (event, what) in [
        ("boot", "from the signal to execve"),
        ("ready", "from the signal until it listens"),
    ] {
        for program in programs {
            let of_program = events
                .iter()
                .filter(|found| found.host == program.name && found.event == event);
            let times: Vec<Vec<u64>> = of_program
                .filter_map(|found| Some(vec![found.duration_us? * 1_000]))
                .collect();
            if times.is_empty() {
                section.gap(
                    &format!("{}, {what}", program.what),
                    format!("imsup has no event '{event}' of it"),
                );
                continue;
            }
            let measured = Measured::of(&times, Unit::MILLISECONDS)?;
            section.rows.push(Row::alone(
                format!("{}: {what}", program.what),
                Unit::MILLISECONDS,
                &measured,
            ));
        }
    }
    Ok(())
}
