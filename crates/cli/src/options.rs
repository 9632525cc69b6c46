//! Options that several verbs have, and how sizes and times are written.

use std::time::Duration;

use clap::{Args, ValueEnum};
use glowbox::{Backend, LogLevel, LogRecord};

use crate::backend;
use crate::output::{Escaped, Style, say};

/// What a guest runs on, and may use.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// What the guest runs on: KVM, or a locked-down process, which isolates it less. By default what
    /// GLOWBOX_BACKEND names, or else a hypervisor, or with a warning a process where there is none
    #[arg(long, value_name = "BACKEND", value_parser = backend::parser())]
    pub(crate) backend: Option<Backend>,
    /// Heap that the guest may use, such as 256M; for a snapshot, the most that its guest may have
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// The guest's stack, such as 8M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) stack: Option<u64>,
    /// Time that it may take, such as 500ms, 10s or 2m; `none` for any, which is what `run` allows unless
    /// told otherwise. Elsewhere it is for the start-up and for each call, and 10s unless told otherwise
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(crate) timeout: Option<Timeout>,
    /// Makes the guest's random numbers and its addresses follow from this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// What to show of the guest's log on standard error, up to this level; what it prints is `info`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log: Level,
}

/// A limit of time, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

/// Levels of a guest's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    pub(crate) fn library(self) -> Option<LogLevel> {
        Some(match self {
            Level::Off => return None,
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        })
    }
}

/// Shows a record of a guest's log.
pub(crate) fn show(record: &LogRecord<'_>) {
    if record.dropped > 0 {
        say(&format!("guest: ({} log records dropped)\n", record.dropped));
    }
    let stderr = std::io::stderr();
    let (level, style) = match record.level {
        LogLevel::Error => ("error", Style::Fail),
        LogLevel::Warn => ("warn", Style::Warn),
        LogLevel::Info => ("info", Style::Good),
        LogLevel::Debug => ("debug", Style::Heading),
        LogLevel::Trace => ("trace", Style::Heading),
    };
    let origin = match &*record.target {
        "print" | "stdout" | "stderr" => String::new(),
        target => format!(" {} {}:", style.paint(level, &stderr), Escaped(target)),
    };
    // A text that was printed ends its own line.
    let text = record.text.strip_suffix('\n').unwrap_or(&record.text);
    say(&format!("guest:{origin} {}\n", Escaped(text)));
}

/// Bytes, with K, M or G for powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_suffix("IB").or(upper.strip_suffix('B')).unwrap_or(&upper);
    let (number, shift) = match number.as_bytes().last() {
        Some(b'K') => (&number[..number.len() - 1], 10),
        Some(b'M') => (&number[..number.len() - 1], 20),
        Some(b'G') => (&number[..number.len() - 1], 30),
        _ => (number, 0),
    };
    let number: u64 =
        number.parse().map_err(|_| "expected a size such as 4096, 512K, 64M or 2G")?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is too large".into())
}

/// A time, or `none`. A number alone is seconds.
pub(crate) fn timeout(text: &str) -> Result<Timeout, String> {
    if text == "none" {
        return Ok(Timeout(None));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let number: f64 = number.parse().unwrap_or(f64::NAN);
    let expected = || "expected a time such as 500ms, 10s or 2m, or none".to_string();
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())?;
    match time.is_zero() {
        true => Err("expected a time that is not zero, or none".into()),
        false => Ok(Timeout(Some(time))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_suffixes_that_people_use() {
        for (text, bytes) in [
            ("4096", 4096),
            ("16k", 16 << 10),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("2GB", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "64X", "99999999999G", "1 M"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units_and_are_never_zero() {
        let millis = |text| timeout(text).map(|time| time.0.map(|time| time.as_millis()));
        assert_eq!(millis("500ms"), Ok(Some(500)));
        assert_eq!(millis("10s"), Ok(Some(10_000)));
        assert_eq!(millis("1.5"), Ok(Some(1500)));
        assert_eq!(millis("2m"), Ok(Some(120_000)));
        assert_eq!(millis("none"), Ok(None));
        for text in [
            "",
            "0",
            "0ms",
            "ms",
            "-1s",
            "10 s",
            "1e3",
            "5 parsecs",
            "1.2.3s",
            "99999999999999999999h",
        ] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}
