//! What guests write to the host's log.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use glowbox_core::escape::Escaped;

/// How important a log record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Something failed.
    Error = 1,
    /// Something looks wrong.
    Warn = 2,
    /// Something worth knowing; also what a guest prints.
    Info = 3,
    /// For whoever looks for a mistake.
    Debug = 4,
    /// Every step.
    Trace = 5,
}

impl LogLevel {
    pub(crate) fn from_number(number: u32) -> LogLevel {
        match number {
            1 => LogLevel::Error,
            2 => LogLevel::Warn,
            3 => LogLevel::Info,
            4 => LogLevel::Debug,
            _ => LogLevel::Trace,
        }
    }
}

/// A log record of a guest. Everything in it is the guest's claim; the text may hold anything,
/// terminal control characters too. [`LogRecord`]'s `Display` escapes those, and line ends with
/// them, so that a record stays one line.
///
/// ```no_run
/// # fn main() -> Result<(), glowbox::Error> {
/// let sandbox = glowbox::Sandbox::builder()
///     .log_sink(|record| eprintln!("{:?} {}: {record}", record.level, record.target))
///     .build("plugin.elf")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord<'a> {
    /// The level the guest gave it.
    pub level: LogLevel,
    /// The part of the guest it comes from; `print` for what it prints. At most 256 bytes.
    pub target: Cow<'a, str>,
    /// The text, cut to [`LogLimits::text`] bytes.
    pub text: Cow<'a, str>,
    /// How many records were dropped since the last one, because there were too many.
    pub dropped: u64,
}

impl fmt::Display for LogRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.text))
    }
}

/// How much a guest may write to the log. What is too long is cut, what is too much is dropped and
/// counted.
///
/// ```
/// let limits = glowbox::LogLimits { records_per_second: 50, ..Default::default() };
/// let builder = glowbox::Sandbox::builder().log_limits(limits);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of text in a record; 4096 by default.
    pub text: usize,
    /// Records a second, and in one burst; at least 1, and 1000 by default.
    pub records_per_second: u32,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { text: 4096, records_per_second: 1000 }
    }
}

/// Longest target in bytes.
const MAX_TARGET: usize = 256;

/// Where records go: a closure, which each sandbox has a copy of.
pub(crate) trait Sink: Send {
    fn write(&mut self, record: &LogRecord<'_>);

    fn another(&self) -> Box<dyn Sink>;
}

impl<F: FnMut(&LogRecord<'_>) + Clone + Send + 'static> Sink for F {
    fn write(&mut self, record: &LogRecord<'_>) {
        self(record);
    }

    fn another(&self) -> Box<dyn Sink> {
        Box::new(self.clone())
    }
}

/// One sandbox's log: limits, and where records go.
pub(crate) struct Log {
    sink: Box<dyn Sink>,
    limits: LogLimits,
    max_level: Option<LogLevel>,
    /// Records that may come now, in billionths.
    allowance: u64,
    refilled: Instant,
    dropped: u64,
}

/// One record, in units of the allowance.
const RECORD: u64 = 1_000_000_000;

impl Log {
    pub(crate) fn new(sink: Box<dyn Sink>, limits: LogLimits, max_level: Option<LogLevel>) -> Log {
        let allowance = u64::from(limits.records_per_second) * RECORD;
        Log { sink, limits, max_level, allowance, refilled: Instant::now(), dropped: 0 }
    }

    /// The same log with another sink.
    pub(crate) fn with_sink(self, sink: Box<dyn Sink>) -> Log {
        Log::new(sink, self.limits, self.max_level)
    }

    /// Another sandbox's log: a copy of the sink, and the whole allowance.
    pub(crate) fn another(&self) -> Log {
        Log::new(self.sink.another(), self.limits, self.max_level)
    }

    /// Hands a record to the sink, unless there are too many or the level is not wanted.
    pub(crate) fn write(&mut self, level: u32, target: &[u8], text: &[u8]) {
        let level = LogLevel::from_number(level);
        if self.max_level.is_none_or(|max| level > max) {
            return;
        }
        if !self.take_one() {
            self.dropped += 1;
            return;
        }
        let cut = |bytes: &'_ [u8], most: usize| bytes.len().min(most);
        let record = LogRecord {
            level,
            target: String::from_utf8_lossy(&target[..cut(target, MAX_TARGET)]),
            text: String::from_utf8_lossy(&text[..cut(text, self.limits.text)]),
            dropped: std::mem::take(&mut self.dropped),
        };
        self.sink.write(&record);
    }

    /// A token bucket that holds one second's records.
    fn take_one(&mut self) -> bool {
        let now = Instant::now();
        let elapsed = now.duration_since(self.refilled).min(Duration::from_secs(1));
        self.refilled = now;
        let rate = u64::from(self.limits.records_per_second);
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(RECORD);
        self.allowance = (self.allowance + nanoseconds * rate).min(rate * RECORD);
        let allowed = self.allowance >= RECORD;
        self.allowance -= if allowed { RECORD } else { 0 };
        allowed
    }
}

/// The default sink: the `tracing` crate, target `glowbox::guest`.
pub(crate) fn to_tracing(record: &LogRecord<'_>) {
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "glowbox::guest",
                tracing::Level::$level,
                guest_target = %record.target.escape_debug(),
                dropped = record.dropped,
                "{record}"
            )
        };
    }
    match record.level {
        LogLevel::Error => event!(ERROR),
        LogLevel::Warn => event!(WARN),
        LogLevel::Info => event!(INFO),
        LogLevel::Debug => event!(DEBUG),
        LogLevel::Trace => event!(TRACE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Records = Arc<Mutex<Vec<(String, u64)>>>;

    fn collected(limits: LogLimits) -> (Log, Records) {
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&records);
        let sink = Box::new(move |record: &LogRecord<'_>| {
            sink.lock().unwrap().push((record.to_string(), record.dropped));
        });
        (Log::new(sink, limits, Some(LogLevel::Info)), records)
    }

    #[test]
    fn too_many_records_are_dropped_and_counted() {
        let limits = LogLimits { text: 10, records_per_second: 5 };
        let (mut log, records) = collected(limits);
        for _ in 0..100 {
            log.write(3, b"t", b"x");
        }
        assert_eq!(records.lock().unwrap().len(), 5);
        log.refilled -= Duration::from_secs(1);
        log.write(3, b"t", b"x");
        assert_eq!(records.lock().unwrap().last().unwrap().1, 95);
    }

    #[test]
    fn text_is_cut_and_control_characters_are_escaped() {
        let (mut log, records) = collected(LogLimits { text: 8, records_per_second: 5 });
        log.write(3, b"t", b"a\x1b[2Jb\nc and more");
        log.write(4, b"t", b"not wanted");
        assert_eq!(records.lock().unwrap()[..], [("a\\u{1b}[2Jb\\nc".to_string(), 0)]);
    }
}
