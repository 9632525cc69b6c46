//! Text for the host's log: `print!`, `println!` and the `log` crate.

use core::fmt::{self, Write};

use glowbox_abi::mailbox::{FromGuest, FromGuestKind};
use log::{LevelFilter, Log, Metadata, Record};

use crate::{arch, batch, runtime};

/// Longest target in bytes.
const MAX_TARGET: usize = 256;

/// Writes text into a slice and drops what does not fit, never half a character.
pub(crate) struct SliceWriter<'a> {
    space: &'a mut [u8],
    length: usize,
    full: bool,
}

impl<'a> SliceWriter<'a> {
    pub(crate) fn new(space: &'a mut [u8]) -> Self {
        SliceWriter { space, length: 0, full: false }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Write for SliceWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = if self.full { 0 } else { self.space.len() - self.length };
        let fits = text.floor_char_boundary(free.min(text.len()));
        self.full |= fits < text.len();
        self.space[self.length..self.length + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.length += fits;
        Ok(())
    }
}

/// Sends one record. Without space in the mailbox (in the middle of encoding a message) it is
/// dropped.
fn send(level: log::Level, target: &str, text: fmt::Arguments<'_>) {
    if !arch::is_serving() {
        runtime::print_elsewhere(target, text);
        return;
    }
    let info = arch::boot_info();
    if level as u32 > info.log_level {
        return;
    }
    let limit = usize::try_from(info.log_text_limit).unwrap_or(usize::MAX);
    let target = &target[..target.floor_char_boundary(MAX_TARGET.min(target.len()))];
    // The text's length, and whether it was cut for want of room and not by the limit.
    let write = |space: &mut [u8]| {
        let (first, rest) = space.split_at_mut_checked(target.len())?;
        first.copy_from_slice(target.as_bytes());
        let most = rest.len().min(limit);
        let mut writer = SliceWriter::new(&mut rest[..most]);
        let _ = writer.write_fmt(text);
        Some((writer.length(), writer.full && most < limit))
    };
    let written = match arch::with_outgoing(write) {
        Some(None | Some((_, true))) if batch::make_room() => arch::with_outgoing(write),
        written => written,
    };
    if let Some(Some((length, _))) = written {
        arch::send(&FromGuest {
            kind: FromGuestKind::Log as u32,
            status: level as u32,
            text_length: u32::try_from(target.len()).unwrap_or(0),
            length: (target.len() + length) as u64,
            ..FromGuest::default()
        });
    }
}

/// What [`print!`](crate::print) and [`println!`](crate::println) call. A record is a line, so no
/// line end is added.
pub fn print_text(text: fmt::Arguments<'_>) {
    send(log::Level::Info, "print", text);
}

struct HostLog;

impl Log for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() as u32 <= arch::boot_info().log_level
    }

    fn log(&self, record: &Record<'_>) {
        send(record.level(), record.target(), *record.args());
    }

    fn flush(&self) {}
}

/// Connects the `log` crate to the host.
pub(crate) fn init(level: u32) {
    let filter = match level {
        0 => LevelFilter::Off,
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(filter);
    }
}
