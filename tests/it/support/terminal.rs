//! A terminal of so many columns, and what a command shows on it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use unicode_width::UnicodeWidthStr;

/// What stood on a terminal in the end, and the exit code. The columns are the terminal's own word: the
/// environment says nothing of them.
pub(crate) fn screen(mut command: Command, columns: u16) -> (String, Option<i32>) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    command.env_remove("COLUMNS").env("TERM", "xterm");
    command.stdin(Stdio::null());
    command.stdout(slave.try_clone().unwrap()).stderr(slave);
    let mut child = command.spawn().unwrap();
    // It holds the other end as well, until here.
    drop(command);
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    let mut master = File::from(master);
    // A terminal that nobody writes to any more answers with an error (EIO).
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    let code = child.wait().unwrap().code();
    let text = String::from_utf8(shown).unwrap();
    // What is drawn over is gone: a spinner.
    let lines = text.lines().map(|line| line.rsplit('\r').next().unwrap());
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    (anstream::adapter::strip_str(&text).to_string(), code)
}

/// The same; and no line of it is wider than the terminal, but for one word that stands alone: that is there
/// to be copied.
#[track_caller]
pub(crate) fn fits(command: Command, columns: u16) -> String {
    let said = format!("{command:?}");
    let (text, _) = screen(command, columns);
    for line in text.lines() {
        let alone = line.split_whitespace().count() == 1;
        assert!(
            alone || line.width() <= usize::from(columns),
            "{} columns: {line}\nof {said}:\n{text}",
            line.width()
        );
    }
    text
}
