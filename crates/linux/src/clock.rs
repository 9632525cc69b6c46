//! Time: what clocks a process has, and how they go.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glowbox_core::address::PAGE_SIZE;
use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use crate::Errno;
use crate::call::{Answer, Call, Stop, Wait, WaitFor, int};

use crate::table::{Entry, entries};

/// Where a guest's time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// A clock of its own, which says nothing about the host: it starts at the beginning of the year
    /// 2000, goes on by a microsecond whenever it is read and by each time slice of a guest with
    /// several threads, and jumps ahead when every thread sleeps. So sleeping takes no time.
    #[default]
    Virtual,
    /// Always this time of day; sleeping takes none. The monotonic clock, which programs measure
    /// spans with, goes on over sleeps and by time slices.
    Frozen(SystemTime),
    /// The host's.
    Real,
}

/// 2000-01-01 00:00:00 UTC, in seconds.
const VIRTUAL_START: u64 = 946_684_800;
impl Clock {
    /// Nanoseconds since 1970 when a process starts.
    pub fn start(&self) -> u64 {
        match self {
            Clock::Virtual => VIRTUAL_START * SECOND,
            Clock::Frozen(at) => since_1970(*at),
            Clock::Real => since_1970(SystemTime::now()),
        }
    }
}

/// How far a virtual clock goes when it is read.
const READING: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;

/// The clocks of one process. The host's monotonic clock means nothing in another process of the host,
/// so where it stands is written to a file, and it goes on from there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Saved", try_from = "Saved")]
pub struct Clocks {
    /// Nanoseconds since it started, on a virtual clock.
    elapsed: u64,
    /// How far it is ahead of the host's monotonic clock, if it has ever gone by that.
    ahead: Option<i64>,
}

/// Clocks as they are written to files.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Saved {
    elapsed: u64,
    /// Where the monotonic clock stands, if it goes by the host's.
    real: Option<u64>,
}

impl From<Clocks> for Saved {
    fn from(clocks: Clocks) -> Saved {
        let real = clocks.ahead.map(|_| clocks.real());
        Saved { elapsed: clocks.elapsed, real }
    }
}

impl TryFrom<Saved> for Clocks {
    type Error = &'static str;

    fn try_from(saved: Saved) -> Result<Clocks, &'static str> {
        let ahead = match saved.real {
            // Half of what fits, which is 146 years, so that the clock can go on and be saved again.
            Some(real) if real > u64::MAX / 4 => return Err("no clock stands there"),
            Some(real) => Some(real.cast_signed().saturating_sub_unsigned(real_monotonic())),
            None => None,
        };
        // It may be loaded with another clock than it was saved with, which does not go back either.
        Ok(Clocks { elapsed: saved.elapsed.max(saved.real.unwrap_or(0)), ahead })
    }
}

impl Clocks {
    /// Clocks of a process that starts now.
    pub fn new() -> Clocks {
        Clocks { elapsed: 0, ahead: None }
    }

    /// Nanoseconds on the monotonic clock.
    pub fn monotonic(&mut self, clock: &Clock) -> u64 {
        match clock {
            Clock::Virtual => {
                self.elapsed = self.elapsed.saturating_add(READING);
                self.elapsed
            }
            Clock::Frozen(_) => self.elapsed,
            Clock::Real => {
                self.ahead = self.ahead.or_else(|| Some(self.start_ahead()));
                self.real()
            }
        }
    }

    /// Nanoseconds on the monotonic clock, which does not go on by this.
    pub fn peek(&self, clock: &Clock) -> u64 {
        match clock {
            Clock::Virtual | Clock::Frozen(_) => self.elapsed,
            Clock::Real => self.real(),
        }
    }

    fn real(&self) -> u64 {
        real_monotonic().saturating_add_signed(self.ahead.unwrap_or_else(|| self.start_ahead()))
    }

    /// How far ahead a clock is that goes by the host's for the first time.
    fn start_ahead(&self) -> i64 {
        i64::try_from(self.elapsed).unwrap_or(i64::MAX)
    }

    /// Nanoseconds since 1970.
    pub(crate) fn realtime(&mut self, clock: &Clock) -> u64 {
        match clock {
            Clock::Virtual => clock.start().saturating_add(self.monotonic(clock)),
            Clock::Frozen(_) | Clock::Real => clock.start(),
        }
    }

    /// Lets a clock that is not the host's go on, since a time slice has passed.
    pub fn advance(&mut self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed = self.elapsed.saturating_add(time);
    }

    /// Lets a clock that is not the host's jump ahead to an instant, since nobody runs until then.
    pub fn jump(&mut self, until: u64) {
        self.elapsed = self.elapsed.max(until);
    }
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks::new()
    }
}

/// Nanoseconds on a clock that all guests in this process of the host share; never 0.
fn real_monotonic() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_add(SECOND)
}

fn since_1970(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) const CALLS: &[Entry] = entries! {
    clock_gettime __NR_clock_gettime clock_gettime: "the process's own clocks; CPU time is the monotonic clock";
    clock_getres __NR_clock_getres clock_getres: "a nanosecond";
    clock_nanosleep __NR_clock_nanosleep clock_nanosleep: "";
    nanosleep __NR_nanosleep nanosleep: "";
    gettimeofday __NR_gettimeofday gettimeofday: "";
    time __NR_time time: "";
    times __NR_times times: "the monotonic clock";
    getrusage __NR_getrusage getrusage: "CPU time is the monotonic clock, and memory what is in use now; all else 0";
};

/// A `timespec` in nanoseconds.
///
/// # Errors
///
/// `EINVAL` for a negative time, or a billion nanoseconds and more.
pub fn nanoseconds(timespec: [u64; 2]) -> Result<u64, Errno> {
    let [seconds, rest] = timespec;
    if i64::try_from(seconds).is_err() || rest >= SECOND {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(rest))
}

fn timespec(nanoseconds: u64) -> [u64; 2] {
    [nanoseconds / SECOND, nanoseconds % SECOND]
}

/// Whether a clock tells the time of day, or `EINVAL` for one that does not exist.
fn is_realtime(clock: u64) -> Result<bool, Errno> {
    match u32::try_from(int(clock)) {
        Ok(raw::CLOCK_REALTIME | raw::CLOCK_REALTIME_COARSE | raw::CLOCK_TAI) => Ok(true),
        Ok(
            raw::CLOCK_MONOTONIC
            | raw::CLOCK_MONOTONIC_COARSE
            | raw::CLOCK_MONOTONIC_RAW
            | raw::CLOCK_BOOTTIME
            | raw::CLOCK_PROCESS_CPUTIME_ID
            | raw::CLOCK_THREAD_CPUTIME_ID,
        ) => Ok(false),
        // CPU-time clocks of single threads have negative numbers.
        Err(_) => Ok(false),
        Ok(_) => Err(Errno::EINVAL),
    }
}

fn read(call: &mut Call<'_>, realtime: bool) -> u64 {
    let clock = call.world.clock;
    match realtime {
        true => call.process.clock.realtime(&clock),
        false => call.process.clock.monotonic(&clock),
    }
}

fn clock_gettime(call: &mut Call<'_>) -> Answer {
    let [clock, to, ..] = call.arguments;
    let now = read(call, is_realtime(clock)?);
    call.write_words(to, &timespec(now))?;
    Ok(0)
}

fn clock_getres(call: &mut Call<'_>) -> Answer {
    let [clock, to, ..] = call.arguments;
    is_realtime(clock)?;
    if to != 0 {
        call.write_words(to, &[0, 1])?;
    }
    Ok(0)
}

fn gettimeofday(call: &mut Call<'_>) -> Answer {
    let [to, zone, ..] = call.arguments;
    let now = read(call, true);
    if to != 0 {
        call.write_words(to, &[now / SECOND, now % SECOND / 1000])?;
    }
    if zone != 0 {
        call.write_words(zone, &[0])?;
    }
    Ok(0)
}

fn time(call: &mut Call<'_>) -> Answer {
    let now = read(call, true) / SECOND;
    if call.arguments[0] != 0 {
        call.write_words(call.arguments[0], &[now])?;
    }
    Ok(now)
}

/// Clock ticks a second, as `sysconf` gives them.
const TICKS: u64 = 100;

fn times(call: &mut Call<'_>) -> Answer {
    let ticks = read(call, false) / (SECOND / TICKS);
    if call.arguments[0] != 0 {
        call.write_words(call.arguments[0], &[ticks, 0, 0, 0])?;
    }
    Ok(ticks)
}

fn getrusage(call: &mut Call<'_>) -> Answer {
    let mut usage = [0; 18];
    match int(call.arguments[0]) {
        // There never were any.
        raw::RUSAGE_CHILDREN => {}
        // Of the process and of the thread.
        0 | 1 => {
            let now = read(call, false);
            (usage[0], usage[1]) = (now / SECOND, now % SECOND / 1000);
            usage[4] = call.process.space.pages() * (PAGE_SIZE / 1024);
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    call.write_words(call.arguments[1], &usage)?;
    Ok(0)
}

/// The instant on the monotonic clock at which a call that waits stops waiting: after a span, or at
/// an instant of the monotonic clock or of the time of day.
pub(crate) fn until(call: &mut Call<'_>, time: u64, absolute: bool, realtime: bool) -> u64 {
    match (absolute, realtime) {
        (true, false) => time,
        (true, true) => {
            let left = time.saturating_sub(read(call, true));
            call.now().saturating_add(left)
        }
        (false, _) => call.now().saturating_add(time),
    }
}

fn nanosleep(call: &mut Call<'_>) -> Answer {
    if call.again.is_some() {
        return sleep_on(call);
    }
    let time = nanoseconds(call.words(call.arguments[0])?)?;
    let until = until(call, time, false, false);
    Err(Stop::Wait(Wait { on: WaitFor::Time, until: Some(until) }))
}

fn clock_nanosleep(call: &mut Call<'_>) -> Answer {
    let [clock, flags, time, ..] = call.arguments;
    let realtime = is_realtime(clock)?;
    if call.again.is_some() {
        return sleep_on(call);
    }
    let time = nanoseconds(call.words(time)?)?;
    let absolute = flags & u64::from(raw::TIMER_ABSTIME) != 0;
    let until = until(call, time, absolute, realtime);
    Err(Stop::Wait(Wait { on: WaitFor::Time, until: Some(until) }))
}

/// A sleep that has gone on for a while.
fn sleep_on(call: &mut Call<'_>) -> Answer {
    let until = call.again.and_then(|again| again.until);
    match call.timed_out() {
        true => Ok(0),
        false => Err(Stop::Wait(Wait { on: WaitFor::Time, until })),
    }
}

/// Tells a thread whose sleep a signal has ended how long it would have slept on.
pub(crate) fn interrupted(call: &mut Call<'_>, number: u32) -> Result<(), Stop> {
    let [_, flags, _, remaining, ..] = call.arguments;
    let to = match number {
        raw::__NR_nanosleep => call.arguments[1],
        raw::__NR_clock_nanosleep if flags & u64::from(raw::TIMER_ABSTIME) == 0 => remaining,
        _ => return Ok(()),
    };
    let until = call.again.and_then(|again| again.until).unwrap_or_default();
    let left = until.saturating_sub(call.now());
    match to {
        0 => Ok(()),
        to => call.write_words(to, &timespec(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(saved: &Saved) -> Result<Clocks, &'static str> {
        Clocks::try_from(saved.clone())
    }

    #[test]
    fn the_hosts_clock_goes_on_where_it_was_saved() {
        let hour = 3600 * SECOND;
        // As one that was saved in a process that had run for long, and one in a process that had not.
        for real in [hour, 1] {
            let saved = Saved { elapsed: 0, real: Some(real) };
            let mut clocks = loaded(&saved).unwrap();
            assert!((real..real + hour / 2).contains(&clocks.peek(&Clock::Real)));
            let now = clocks.monotonic(&Clock::Real);
            assert!((real..real + hour / 2).contains(&now), "{now}");
            // A copy in the same process goes on too, and so does one that is saved again.
            assert!(clocks.clone().monotonic(&Clock::Real) >= now);
            let bytes = postcard::to_allocvec(&clocks).unwrap();
            let mut again: Clocks = postcard::from_bytes(&bytes).unwrap();
            let later = again.monotonic(&Clock::Real);
            assert!((now..real + hour / 2).contains(&later), "{later}");
        }
    }

    #[test]
    fn other_clocks_are_saved_as_they_are() {
        for clock in [Clock::Virtual, Clock::Frozen(UNIX_EPOCH)] {
            let mut clocks = Clocks::new();
            clocks.advance(Duration::from_secs(5));
            clocks.monotonic(&clock);
            let saved = Saved::from(clocks.clone());
            assert_eq!(saved.real, None);
            assert_eq!(loaded(&saved).unwrap().peek(&clock), clocks.peek(&clock));
        }
    }

    #[test]
    fn another_clock_does_not_go_back_either() {
        let mut clocks = Clocks::new();
        clocks.advance(Duration::from_secs(5000));
        let mut clocks = loaded(&Saved::from(clocks)).unwrap();
        let before = clocks.monotonic(&Clock::Real);
        assert!(before >= 5000 * SECOND);
        let mut clocks = loaded(&Saved::from(clocks)).unwrap();
        assert!(clocks.monotonic(&Clock::Virtual) >= before);
    }

    #[test]
    fn no_clock_from_a_file_overflows() {
        for elapsed in [0, u64::MAX] {
            for real in [0, 1, u64::MAX / 4, u64::MAX / 4 + 1, i64::MAX as u64, u64::MAX] {
                let Ok(mut clocks) = loaded(&Saved { elapsed, real: Some(real) }) else {
                    assert!(real > u64::MAX / 4);
                    continue;
                };
                assert!(clocks.monotonic(&Clock::Real) >= real);
                assert!(clocks.monotonic(&Clock::Virtual) >= elapsed);
                clocks.realtime(&Clock::Virtual);
            }
        }
    }
}
