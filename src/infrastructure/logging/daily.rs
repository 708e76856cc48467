//! `payd.<date>.json`, a file a day (UTC), and a bounded number of them.
//!
//! tracing-appender writes the files. When one begins and which go is decided here: it would go by when a
//! file was made, which a copied directory has wrong, and take others' files whose names only look alike.
//! It removes nothing but files of exactly such names, the oldest by their names: whatever else lies in the
//! directory is somebody's, and when a file was made is another time once it was copied. What cannot be written
//! whole is taken back, so that a disk that was full leaves no half line in the file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use tracing_appender::rolling::{RollingFileAppender, Rotation};

/// See the module.
#[derive(Debug)]
pub(super) struct Daily {
    dir: PathBuf,
    files_max: usize,
    clock: fn() -> Timestamp,
    day: Date,
    file: RollingFileAppender,
    /// What was written whole.
    length: u64,
}

impl Daily {
    /// Opens today's file, to be continued, and removes what is too old.
    pub(super) fn open(dir: &Path, files_max: usize, clock: fn() -> Timestamp) -> io::Result<Self> {
        let day = day(clock());
        let (file, length) = open(dir, day)?;
        let daily = Self {
            dir: dir.to_owned(),
            files_max,
            clock,
            day,
            file,
            length,
        };
        daily.remove_old();
        Ok(daily)
    }

    /// Goes on in today's file. Where that cannot be, for lack of room, yesterday's will do until it can.
    fn turn(&mut self) {
        let today = day((self.clock)());
        if today == self.day {
            return;
        }
        if let Ok((file, length)) = open(&self.dir, today) {
            (self.file, self.length, self.day) = (file, length, today);
            self.remove_old();
        }
    }

    /// Whoever may not look into the directory keeps what is in it: the log goes on.
    fn remove_old(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut days: Vec<_> = names.filter_map(|name| day_of(&name)).collect();
        days.sort_unstable();
        // A clock that was wrong has left files of days to come; the one that is written stays.
        let old = days.len().saturating_sub(self.files_max);
        for day in days.iter().filter(|day| **day != self.day).take(old) {
            // What cannot be removed today is tried again tomorrow.
            let _ = fs::remove_file(self.dir.join(name(*day)));
        }
    }
}

impl Write for Daily {
    /// All of it, or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn();
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(bytes.len())
            }
            Err(error) => {
                // The half of it that was written, if any. Where this fails, too, the next line begins after it.
                let path = self.dir.join(name(self.day));
                let whole = OpenOptions::new().write(true).open(path);
                let _ = whole.and_then(|file| file.set_len(self.length));
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn open(dir: &Path, day: Date) -> io::Result<(RollingFileAppender, u64)> {
    let path = dir.join(name(day));
    // Whether it can be written, in the system's own words; and no directory is made for it.
    let file = OpenOptions::new().append(true).create(true).open(&path)?;
    let length = file.metadata()?.len();
    let builder = RollingFileAppender::builder()
        .rotation(Rotation::NEVER)
        .filename_prefix(name(day));
    let appender = builder.build(dir).map_err(io::Error::other)?;
    Ok((appender, length))
}

fn day(now: Timestamp) -> Date {
    Offset::UTC.to_datetime(now).date()
}

fn name(day: Date) -> String {
    format!("payd.{day}.json")
}

/// The day of a file of ours; a name that is not exactly one is not ours.
fn day_of(text: &str) -> Option<Date> {
    let date = text.strip_prefix("payd.")?.strip_suffix(".json")?;
    let day = Date::strptime("%Y-%m-%d", date).ok()?;
    (name(day) == text).then_some(day)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<i64> = const { Cell::new(0) };
    }

    fn now() -> Timestamp {
        Timestamp::from_second(NOW.get()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_day_has_its_file_and_the_newest_stay() {
        const DAY: i64 = 86_400;
        let dir = tempfile::tempdir().unwrap();
        // The last second of 1970-01-01, so that a second makes a day.
        NOW.set(DAY - 1);
        let mut daily = Daily::open(dir.path(), 3, now).unwrap();
        for number in 0..6 {
            daily.write_all(format!("{number}\n").as_bytes()).unwrap();
            NOW.set(NOW.get() + if number == 0 { 1 } else { DAY });
        }
        let days = [
            "payd.1970-01-04.json",
            "payd.1970-01-05.json",
            "payd.1970-01-06.json",
        ];
        assert_eq!(names(dir.path()), days);
        assert_eq!(fs::read_to_string(dir.path().join(days[0])).unwrap(), "3\n");
        // Started again on the same day it goes on in the same file, and none is lost for that.
        NOW.set(NOW.get() - DAY);
        drop(daily);
        for _ in 0..5 {
            let mut again = Daily::open(dir.path(), 3, now).unwrap();
            again.write_all(b"again\n").unwrap();
        }
        assert_eq!(names(dir.path()), days);
        let last = fs::read_to_string(dir.path().join(days[2])).unwrap();
        assert_eq!(last, format!("5\n{}", "again\n".repeat(5)));
    }

    #[test]
    fn what_is_not_a_log_stays_and_what_is_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let others = [
            "payd-settings.json",
            "payd.2020-01-01.json.gz",
            "payd.2020-1-1.json",
            "payd.2020-13-01.json",
            "payd.json",
            "payd2020-01-01.json",
        ];
        for other in others {
            fs::write(dir.path().join(other), "mine").unwrap();
        }
        // Of a clock that was ahead once.
        for day in 1..=3 {
            fs::write(dir.path().join(format!("payd.2999-01-0{day}.json")), "").unwrap();
        }
        NOW.set(0);
        let mut daily = Daily::open(dir.path(), 2, now).unwrap();
        daily.write_all(b"line\n").unwrap();
        let left = names(dir.path());
        for other in others.iter().chain(&["payd.1970-01-01.json"]) {
            assert!(left.contains(&(*other).to_owned()), "{other}: {left:?}");
        }
        assert_eq!(left.len(), others.len() + 2, "{left:?}");
    }
}
