//! The process's one timer: `alarm` and `ITIMER_REAL`.

use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use super::Threads;
use super::signals::{Info, Signal};
use crate::Errno;
use crate::call::{Answer, Call, Stop, unsigned};

const SECOND: u64 = 1_000_000_000;
const MICROSECOND: u64 = 1_000;

/// A timer that sends `SIGALRM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alarm {
    /// When, on the monotonic clock.
    pub(super) at: u64,
    /// After how long again; 0 for never.
    every: u64,
}

impl Threads {
    /// Sends the alarm's signal if its time has come.
    pub(crate) fn ring(&mut self, now: u64) {
        let Some(alarm) = self.alarm.filter(|alarm| alarm.at <= now) else { return };
        self.alarm = (alarm.every != 0).then(|| {
            // What was missed is not made up for.
            let at = alarm.at.saturating_add(alarm.every).max(now.saturating_add(1));
            Alarm { at, ..alarm }
        });
        // It can't fail: one `SIGALRM` is pending at most.
        let _ = self.send_to_process(Info::kernel(Signal::ALRM));
    }
}

/// What is left of the alarm, in nanoseconds, and its interval.
fn left(call: &mut Call<'_>) -> (u64, u64) {
    let now = call.now();
    match call.process.threads.alarm {
        Some(alarm) => (alarm.at.saturating_sub(now).max(1), alarm.every),
        None => (0, 0),
    }
}

fn set(call: &mut Call<'_>, time: u64, every: u64) {
    let at = call.now().saturating_add(time);
    call.process.threads.alarm = (time != 0).then_some(Alarm { at, every });
}

pub(super) fn alarm(call: &mut Call<'_>) -> Answer {
    let (before, _) = left(call);
    set(call, u64::from(unsigned(call.arguments[0])) * SECOND, 0);
    Ok(before.div_ceil(SECOND))
}

fn timeval(nanoseconds: u64) -> [u64; 2] {
    [nanoseconds / SECOND, nanoseconds % SECOND / MICROSECOND]
}

fn nanoseconds([seconds, rest]: [u64; 2]) -> Result<u64, Errno> {
    if i64::try_from(seconds).is_err() || rest >= SECOND / MICROSECOND {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(rest * MICROSECOND))
}

/// Writes an `itimerval`.
fn write(call: &mut Call<'_>, to: u64, (time, every): (u64, u64)) -> Result<(), Stop> {
    // A timer that runs never says that nothing is left.
    let time = if time == 0 { 0 } else { time.max(MICROSECOND) };
    let ([a, b], [c, d]) = (timeval(every), timeval(time));
    call.write_words(to, &[a, b, c, d])
}

fn only_real(call: &Call<'_>) -> Result<(), Errno> {
    match unsigned(call.arguments[0]) {
        raw::ITIMER_REAL => Ok(()),
        raw::ITIMER_VIRTUAL | raw::ITIMER_PROF => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn setitimer(call: &mut Call<'_>) -> Answer {
    let [_, new, old, ..] = call.arguments;
    only_real(call)?;
    let [a, b, c, d] = if new == 0 { [0; 4] } else { call.words(new)? };
    let (every, time) = (nanoseconds([a, b])?, nanoseconds([c, d])?);
    let before = left(call);
    set(call, time, every);
    if old != 0 {
        write(call, old, before)?;
    }
    Ok(0)
}

pub(super) fn getitimer(call: &mut Call<'_>) -> Answer {
    only_real(call)?;
    let now = left(call);
    write(call, call.arguments[1], now)?;
    Ok(0)
}
