//! The project's clock, by which accounts count. The clock starts with the wall clock's time of
//! `up`, and goes on by CLOCK_BOOTTIME. A step of the wall clock has no effect. Over a reboot of
//! the machine, which CLOCK_BOOTTIME does not count, the clock goes on by the wall clock, and never
//! back.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use imsup_linux::clock::{Clocks, was_stepped};
use imsup_protocol::message::Adoption;

use crate::files;

/// The time of a project: microseconds, of the same magnitude as since the Unix epoch.
pub(crate) struct Clock {
    read: Box<dyn Fn() -> Clocks>,
    /// When the project was brought up.
    up_us: u64,
    /// The project's time minus CLOCK_BOOTTIME.
    shift_us: i64,
    /// By how much the wall clock is ahead.
    ahead_us: Cell<i64>,
    /// Distinguishes boots of the machine (random(4), boot_id).
    boot_id: String,
    /// The file says so already.
    kept: bool,
}

/// The contents of the project's file `up`.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    up_us: u64,
    /// The shift, and the boot of the machine for which it holds; `None` for a project brought up
    /// by an imsup without this clock.
    shift: Option<(i64, String)>,
}

impl Clock {
    /// The clock of the project with this file; begins here and now if there is no file.
    pub(crate) fn open(path: &Path) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kept = fs::read_to_string(path).ok().and_then(|text| parse(&text));
        Self::new(kept, boot_id.trim().to_owned(), Box::new(Clocks::read))
    }

    /// A clock without a file.
    #[cfg(test)]
    pub(crate) fn by(read: impl Fn() -> Clocks + 'static) -> Self {
        Self::new(None, String::new(), Box::new(read))
    }

    fn new(kept: Option<Kept>, boot_id: String, read: Box<dyn Fn() -> Clocks>) -> Self {
        let now = read();
        let up_us = kept.as_ref().map_or(unsigned(now.wall_us), |kept| kept.up_us);
        let same = kept.and_then(|kept| kept.shift).filter(|(_, boot)| *boot == boot_id);
        let clock = Self {
            read,
            up_us,
            shift_us: same.as_ref().map_or(now.ahead_us(), |(shift_us, _)| *shift_us),
            ahead_us: Cell::new(0),
            boot_id,
            kept: same.is_some(),
        };
        clock.look();
        clock
    }

    /// Goes on from `last_us`, the last known time, if the clock would begin before it; and writes
    /// down the shift.
    pub(crate) fn go_on(&mut self, path: &Path, last_us: u64) {
        if self.kept {
            return;
        }
        let behind_us = last_us.saturating_sub(self.now_us());
        self.shift_us = self.shift_us.saturating_add(signed(behind_us));
        self.look();
        self.kept = true;
        self.write(path);
    }

    /// Writes down the shift.
    pub(crate) fn write(&self, path: &Path) {
        let text = format!("{}\n{} {}\n", self.up_us, self.shift_us, self.boot_id);
        if let Err(error) = files::replace(path, text.as_bytes()) {
            tracing::warn!(
                "{}: {error}: a broker after this one counts from its own start",
                path.display()
            );
        }
    }

    /// When the project was brought up.
    pub(crate) fn up_us(&self) -> u64 {
        self.up_us
    }

    /// Now.
    pub(crate) fn now_us(&self) -> u64 {
        unsigned(self.look().boot_us.saturating_add(self.shift_us))
    }

    /// The project's time of a moment, given the present wall clock's time of it.
    pub(crate) fn of_wall(&self, wall_us: u64) -> u64 {
        self.look();
        unsigned(signed(wall_us).saturating_sub(self.ahead_us.get()))
    }

    /// The present wall clock's time of a moment, given the project's time of it.
    pub(crate) fn wall_us(&self, time_us: u64) -> u64 {
        self.look();
        unsigned(signed(time_us).saturating_add(self.ahead_us.get()))
    }

    /// The same with times of this clock.
    pub(crate) fn of_adoption(&self, adoption: &Adoption) -> Adoption {
        Adoption {
            started_us: self.of_wall(adoption.started_us),
            suspended_us: adoption.suspended_us.map(|wall_us| self.of_wall(wall_us)),
            ..adoption.clone()
        }
    }

    /// Notices steps of the wall clock.
    fn look(&self) -> Clocks {
        let now = (self.read)();
        let ahead_us = now.ahead_us().saturating_sub(self.shift_us);
        if was_stepped(self.ahead_us.get(), ahead_us) {
            self.ahead_us.set(ahead_us);
        }
        now
    }
}

fn parse(text: &str) -> Option<Kept> {
    let mut lines = text.lines();
    let up_us = lines.next()?.trim().parse().ok()?;
    let shift = lines.next().and_then(|line| {
        let (shift_us, boot) = line.split_once(' ')?;
        Some((shift_us.parse().ok()?, boot.to_owned()))
    });
    Some(Kept { up_us, shift })
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

fn unsigned(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const WALL: i64 = 1_700_000_000 * SECOND;

    /// A machine with clocks set by hand.
    #[derive(Clone)]
    struct Machine(Rc<Cell<Clocks>>);

    impl Machine {
        fn new() -> Self {
            Self(Rc::new(Cell::new(Clocks {
                wall_us: WALL,
                boot_us: 100 * SECOND,
            })))
        }

        fn reader(&self) -> Box<dyn Fn() -> Clocks> {
            let clocks = Rc::clone(&self.0);
            Box::new(move || clocks.get())
        }

        fn pass(&self, seconds: i64) {
            let Clocks { wall_us, boot_us } = self.0.get();
            self.set(wall_us + seconds * SECOND, boot_us + seconds * SECOND);
        }

        fn step(&self, seconds: i64) {
            let Clocks { wall_us, boot_us } = self.0.get();
            self.set(wall_us + seconds * SECOND, boot_us);
        }

        fn set(&self, wall_us: i64, boot_us: i64) {
            self.0.set(Clocks { wall_us, boot_us });
        }
    }

    fn at(seconds: i64) -> u64 {
        (WALL + seconds * SECOND) as u64
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_time() {
        let machine = Machine::new();
        let clock = Clock::by(machine.reader());
        assert_eq!((clock.up_us(), clock.now_us()), (at(0), at(0)));
        machine.pass(10);
        assert_eq!((clock.now_us(), clock.wall_us(at(3))), (at(10), at(3)));
        for step in [7_200, -100_000] {
            machine.step(step);
        }
        assert_eq!(clock.now_us(), at(10));
        assert_eq!(clock.wall_us(at(3)), at(3 + 7_200 - 100_000), "seven seconds ago");
        assert_eq!(clock.of_wall(clock.wall_us(at(3))), at(3));
        assert_eq!(clock.of_wall(at(10 - 92_800)), at(10));
    }

    #[test]
    fn the_next_broker_goes_on_where_the_clock_was_and_over_a_reboot_by_the_wall_clock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up");
        let machine = Machine::new();
        let open = |boot: &str| {
            let kept = fs::read_to_string(&path).ok().and_then(|text| parse(&text));
            Clock::new(kept, boot.to_owned(), machine.reader())
        };
        open("one").go_on(&path, 0);
        machine.pass(10);
        machine.step(-500_000);
        let mut clock = open("one");
        clock.go_on(&path, at(99));
        assert_eq!(
            (clock.up_us(), clock.now_us()),
            (at(0), at(10)),
            "stepped while no broker ran"
        );

        machine.set(WALL + 60 * SECOND, 3 * SECOND);
        let mut clock = open("two");
        clock.go_on(&path, at(10));
        machine.pass(5);
        machine.step(1_000);
        assert_eq!((clock.up_us(), clock.now_us()), (at(0), at(65)));
        assert_eq!(open("two").now_us(), at(65));

        machine.set(0, 3 * SECOND);
        let mut clock = open("three");
        clock.go_on(&path, at(65));
        machine.pass(1);
        assert_eq!(
            clock.now_us(),
            at(66),
            "a machine that has lost its time does not go back"
        );
    }

    #[test]
    fn the_file_of_an_earlier_imsup_is_read() {
        assert_eq!(parse("17\n"), Some(Kept { up_us: 17, shift: None }));
        let kept = parse("17\n-5 boot\n").unwrap();
        assert_eq!(kept.shift, Some((-5, "boot".to_owned())));
        let machine = Machine::new();
        let old = Kept {
            up_us: at(-60),
            shift: None,
        };
        let clock = Clock::new(Some(old), "one".to_owned(), machine.reader());
        assert_eq!((clock.up_us(), clock.now_us()), (at(-60), at(0)));
    }
}
