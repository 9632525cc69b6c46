//! Waiting until something is ready: `poll`, `select` and epoll.
//!
//! A call that finds nothing ready stops, and is made again when something may have changed. Nothing
//! is kept in between: it looks at its arguments anew.

use linux_raw_sys::general as raw;

use super::{done, split};
use crate::call::{Answer, Call, Stop, Wait, WaitFor, int, unsigned};
use crate::clock::nanoseconds;
use crate::files::epoll::{Control, ERR, HUP, IN, NVAL, OUT};
use crate::threads::signals::calls::mask_for_call;
use crate::{Errno, Streams};

const MILLISECOND: u64 = 1_000_000;

/// A time limit in milliseconds; none if it is negative.
fn milliseconds(time: u64) -> Option<u64> {
    u64::try_from(int(time)).ok().map(|time| time * MILLISECOND)
}

/// A time limit in a `timespec`; none without one.
fn timespec(call: &mut Call<'_>, address: u64) -> Result<Option<u64>, Stop> {
    match address {
        0 => Ok(None),
        address => Ok(Some(nanoseconds(call.words(address)?)?)),
    }
}

/// Waits, since nothing is ready; or, if it has for long enough, says so.
fn wait(call: &mut Call<'_>, limit: Option<u64>, streams: Streams) -> Result<(), Stop> {
    if limit == Some(0) || call.timed_out() {
        return Ok(());
    }
    let on = if streams.any() { WaitFor::Host(streams) } else { WaitFor::Files };
    let until = call.until(limit);
    Err(Stop::Wait(Wait { on, until }))
}

pub(super) fn poll(call: &mut Call<'_>) -> Answer {
    let limit = milliseconds(call.arguments[2]);
    poll_for(call, limit)
}

pub(super) fn ppoll(call: &mut Call<'_>) -> Answer {
    let [_, _, limit, mask, size, _] = call.arguments;
    let limit = timespec(call, limit)?;
    mask_for_call(call, mask, size)?;
    poll_for(call, limit)
}

fn poll_for(call: &mut Call<'_>, limit: Option<u64>) -> Answer {
    let [address, count, ..] = call.arguments;
    let count = unsigned(count);
    if count > call.process.limits.descriptors {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * 8];
    call.read(address, &mut bytes)?;
    let (files, around) = split(call.process, call.world);
    let (mut found, mut streams) = (0, Streams::NONE);
    let (entries, _) = bytes.as_chunks_mut::<8>();
    for [a, b, c, d, low, high, to @ ..] in &mut *entries {
        let fd = i32::from_le_bytes([*a, *b, *c, *d]);
        let wanted = u32::from(u16::from_le_bytes([*low, *high]));
        let events = match files.ready(&around, fd) {
            _ if fd < 0 => 0,
            Ok(ready) => {
                streams |= ready.streams(wanted);
                ready.events & (wanted | ERR | HUP)
            }
            Err(_) => NVAL,
        };
        found += u64::from(events != 0);
        // All of them are in the lower half.
        [to[0], to[1], ..] = events.to_le_bytes();
    }
    if found == 0 {
        wait(call, limit, streams)?;
    }
    // Only what came back is written: the rest may be somebody else's meanwhile.
    for (index, entry) in (0_u64..).zip(entries) {
        call.write(address.wrapping_add(index * 8 + 6), &entry[6..])?;
    }
    Ok(found)
}

pub(super) fn select(call: &mut Call<'_>) -> Answer {
    let limit = match call.arguments[4] {
        0 => None,
        address => {
            let [seconds, micros] = call.words(address)?;
            if i64::try_from(seconds).is_err() || i64::try_from(micros).is_err() {
                return Err(Errno::EINVAL.into());
            }
            // Linux takes more than a million microseconds here.
            let seconds = seconds.saturating_mul(1_000_000_000);
            Some(seconds.saturating_add(micros.saturating_mul(1000)))
        }
    };
    select_for(call, limit)
}

pub(super) fn pselect6(call: &mut Call<'_>) -> Answer {
    let [_, _, _, _, limit, mask] = call.arguments;
    let limit = timespec(call, limit)?;
    if mask != 0 {
        let [mask, size] = call.words(mask)?;
        mask_for_call(call, mask, size)?;
    }
    select_for(call, limit)
}

fn select_for(call: &mut Call<'_>, limit: Option<u64>) -> Answer {
    let [count, sets @ ..] = call.arguments;
    let count = u32::try_from(int(count)).map_err(|_| Errno::EINVAL)?;
    // No descriptor is larger, as in Linux.
    let count = count.min(call.process.limits.descriptors);
    let length = usize::try_from(count.div_ceil(64)).unwrap_or(0) * 8;
    let mut wanted: [Vec<u8>; 3] = [vec![0; length], vec![0; length], vec![0; length]];
    for (set, address) in wanted.iter_mut().zip(sets) {
        if address != 0 {
            call.read(address, set)?;
        }
    }
    let mut there = wanted.each_ref().map(|set| vec![0_u8; set.len()]);
    let (files, around) = split(call.process, call.world);
    let (mut found, mut streams) = (0, Streams::NONE);
    for fd in 0..i32::try_from(count).unwrap_or(0) {
        let (byte, bit) = (usize::try_from(fd / 8).unwrap_or(0), 1_u8 << (fd % 8));
        if wanted.iter().all(|set| set[byte] & bit == 0) {
            continue;
        }
        let ready = files.ready(&around, fd)?;
        for ((wanted, there), events) in
            wanted.iter().zip(&mut there).zip([IN | HUP | ERR, OUT | ERR, raw::POLLPRI])
        {
            if wanted[byte] & bit == 0 {
                continue;
            }
            streams |= ready.streams(events);
            if ready.events & events != 0 {
                there[byte] |= bit;
                found += 1;
            }
        }
    }
    if found == 0 {
        wait(call, limit, streams)?;
    }
    for (set, address) in there.iter().zip(sets) {
        if address != 0 {
            call.write(address, set)?;
        }
    }
    Ok(found)
}

pub(super) fn epoll_ctl(call: &mut Call<'_>) -> Answer {
    let [set, operation, fd, address, ..] = call.arguments;
    let operation = unsigned(operation);
    let control = match operation {
        raw::EPOLL_CTL_DEL => Control::Remove,
        raw::EPOLL_CTL_ADD | raw::EPOLL_CTL_MOD => {
            let [a, b, c, d, data @ ..] = call.bytes::<12>(address)?;
            let (events, data) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(data));
            match operation {
                raw::EPOLL_CTL_ADD => Control::Add { events, data },
                _ => Control::Change { events, data },
            }
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    done(call, |files, around| files.epoll_control(around, int(set), int(fd), control))
}

pub(super) fn epoll_wait(call: &mut Call<'_>) -> Answer {
    let limit = milliseconds(call.arguments[3]);
    epoll_wait_for(call, limit)
}

pub(super) fn epoll_pwait(call: &mut Call<'_>) -> Answer {
    let [_, _, _, limit, mask, size] = call.arguments;
    mask_for_call(call, mask, size)?;
    epoll_wait_for(call, milliseconds(limit))
}

pub(super) fn epoll_pwait2(call: &mut Call<'_>) -> Answer {
    let [_, _, _, limit, mask, size] = call.arguments;
    let limit = timespec(call, limit)?;
    mask_for_call(call, mask, size)?;
    epoll_wait_for(call, limit)
}

fn epoll_wait_for(call: &mut Call<'_>, limit: Option<u64>) -> Answer {
    let [set, address, most, ..] = call.arguments;
    let most = u32::try_from(int(most)).ok().filter(|most| *most > 0).ok_or(Errno::EINVAL)?;
    let most = usize::try_from(most.min(call.process.limits.descriptors)).unwrap_or(1);
    let (files, around) = split(call.process, call.world);
    let (found, streams) = files.epoll_wait(&around, int(set), most)?;
    if found.is_empty() {
        wait(call, limit, streams)?;
    }
    let mut bytes = Vec::with_capacity(found.len() * 12);
    for (events, data) in &found {
        bytes.extend(events.to_le_bytes());
        bytes.extend(data.to_le_bytes());
    }
    call.write(address, &bytes)?;
    Ok(found.len() as u64)
}
