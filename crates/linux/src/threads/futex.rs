//! Futexes: threads that wait for a word to change, and those that wake them.
//!
//! A futex is known by its address: there is one address space, and memory is not shared with
//! another one. Only one thread runs at a time and a call is never interrupted, so comparing the
//! word and beginning to wait is one step, and no wake-up can get lost in between.

use linux_raw_sys::general as raw;

use super::{Ready, State, Threads, Waiting};
use crate::call::{Answer, Call, Stop, Wait, WaitFor, int, unsigned};
use crate::{Errno, clock};

impl Threads {
    /// Ends the wait of `most` threads at a futex, who waits longest first. How many there were.
    pub(crate) fn wake_futex(&mut self, address: u64, mask: u32, most: u64) -> u64 {
        let mut woken = 0;
        while woken < most {
            let Some(id) = self.first_at(address, mask) else { break };
            self.wake(id, Ready::Woken);
            woken += 1;
        }
        woken
    }

    /// Lets `most` threads wait at another futex instead. How many there were.
    pub(crate) fn move_waits(&mut self, from: u64, to: u64, most: u64) -> u64 {
        // Who waits there already comes first, and nobody is moved twice.
        let last = self.turn;
        let mut moved = 0;
        while moved < most {
            let Some(id) = self.first_at(from, u32::MAX) else { break };
            self.turn += 1;
            let turn = self.turn;
            let Some(thread) = self.get_mut(id) else { break };
            let State::Waiting(waiting) = &mut thread.state else { break };
            let WaitFor::Futex { address, .. } = &mut waiting.wait.on else { break };
            if waiting.turn > last {
                break;
            }
            *address = to;
            waiting.turn = turn;
            moved += 1;
        }
        moved
    }

    /// The thread that has waited longest at a futex.
    fn first_at(&self, at: u64, mask: u32) -> Option<u32> {
        let counts = |waiting: &Waiting| match waiting.wait.on {
            WaitFor::Futex { address, mask: its } => address == at && its & mask != 0,
            _ => false,
        };
        let here = self.waits().filter(|(_, waiting)| counts(waiting));
        here.min_by_key(|(_, waiting)| waiting.turn).map(|(id, _)| id)
    }
}

pub(super) fn futex(call: &mut Call<'_>) -> Answer {
    let [address, operation, value, ..] = call.arguments;
    let operation = unsigned(operation);
    let realtime = operation & raw::FUTEX_CLOCK_REALTIME != 0;
    let command = operation & !(raw::FUTEX_PRIVATE_FLAG | raw::FUTEX_CLOCK_REALTIME);
    if realtime && command != raw::FUTEX_WAIT_BITSET {
        return Err(Errno::ENOSYS.into());
    }
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL.into());
    }
    let mask = unsigned(call.arguments[5]);
    let most = most(value);
    match command {
        raw::FUTEX_WAIT => wait(call, u32::MAX, false, false),
        raw::FUTEX_WAIT_BITSET => wait(call, mask, true, realtime),
        raw::FUTEX_WAKE => Ok(call.process.threads.wake_futex(address, u32::MAX, most)),
        raw::FUTEX_WAKE_BITSET if mask == 0 => Err(Errno::EINVAL.into()),
        raw::FUTEX_WAKE_BITSET => Ok(call.process.threads.wake_futex(address, mask, most)),
        raw::FUTEX_REQUEUE => requeue(call, None),
        raw::FUTEX_CMP_REQUEUE => requeue(call, Some(mask)),
        raw::FUTEX_WAKE_OP => wake_op(call),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// How many to wake: Linux looks only after it has woken one.
fn most(argument: u64) -> u64 {
    u64::try_from(int(argument)).unwrap_or_default().max(1)
}

fn wait(call: &mut Call<'_>, mask: u32, absolute: bool, realtime: bool) -> Answer {
    let [address, _, value, timeout, ..] = call.arguments;
    if let Some(again) = call.again {
        return if again.timed_out { Err(Errno::ETIMEDOUT.into()) } else { Ok(0) };
    }
    if mask == 0 {
        return Err(Errno::EINVAL.into());
    }
    let until = match timeout {
        0 => None,
        _ => {
            let time = clock::nanoseconds(call.words(timeout)?)?;
            Some(clock::until(call, time, absolute, realtime))
        }
    };
    if call.word32(address)? != unsigned(value) {
        return Err(Errno::EAGAIN.into());
    }
    Err(Stop::Wait(Wait { on: WaitFor::Futex { address, mask }, until }))
}

fn requeue(call: &mut Call<'_>, expected: Option<u32>) -> Answer {
    let [from, _, wake, moved, to, _] = call.arguments;
    let (Ok(wake), Ok(moved)) = (u64::try_from(int(wake)), u64::try_from(int(moved))) else {
        return Err(Errno::EINVAL.into());
    };
    if !to.is_multiple_of(4) {
        return Err(Errno::EINVAL.into());
    }
    if let Some(expected) = expected
        && call.word32(from)? != expected
    {
        return Err(Errno::EAGAIN.into());
    }
    let threads = &mut call.process.threads;
    let woken = threads.wake_futex(from, u32::MAX, wake);
    Ok(woken + threads.move_waits(from, to, moved))
}

/// Changes the second word, wakes at the first one, and at the second if its old value passes a test.
fn wake_op(call: &mut Call<'_>) -> Answer {
    let [first, _, wake, wake_second, second, code] = call.arguments;
    if !second.is_multiple_of(4) {
        return Err(Errno::EINVAL.into());
    }
    let code = unsigned(code);
    let old = call.word32(second)?;
    let new = operate(code, old).ok_or(Errno::ENOSYS)?;
    let passes = compare(code, old).ok_or(Errno::ENOSYS)?;
    call.write(second, &new.to_le_bytes())?;
    let threads = &mut call.process.threads;
    let mut woken = threads.wake_futex(first, u32::MAX, most(wake));
    if passes {
        woken += threads.wake_futex(second, u32::MAX, most(wake_second));
    }
    Ok(woken)
}

/// A signed number of 12 bits.
fn signed12(bits: u32) -> i32 {
    (bits << 20).cast_signed() >> 20
}

fn operate(code: u32, old: u32) -> Option<u32> {
    let (operation, argument) = (code >> 28, signed12(code >> 12 & 0xfff).cast_unsigned());
    let argument = match operation & raw::FUTEX_OP_OPARG_SHIFT {
        0 => argument,
        _ => 1 << (argument & 31),
    };
    Some(match operation & !raw::FUTEX_OP_OPARG_SHIFT {
        raw::FUTEX_OP_SET => argument,
        raw::FUTEX_OP_ADD => old.wrapping_add(argument),
        raw::FUTEX_OP_OR => old | argument,
        raw::FUTEX_OP_ANDN => old & !argument,
        raw::FUTEX_OP_XOR => old ^ argument,
        _ => return None,
    })
}

fn compare(code: u32, old: u32) -> Option<bool> {
    let (old, argument) = (old.cast_signed(), signed12(code & 0xfff));
    Some(match code >> 24 & 0xf {
        raw::FUTEX_OP_CMP_EQ => old == argument,
        raw::FUTEX_OP_CMP_NE => old != argument,
        raw::FUTEX_OP_CMP_LT => old < argument,
        raw::FUTEX_OP_CMP_LE => old <= argument,
        raw::FUTEX_OP_CMP_GT => old > argument,
        raw::FUTEX_OP_CMP_GE => old >= argument,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_op_codes_are_decoded_as_linux_does() {
        let code = |op: u32, cmp: u32, oparg: u32, cmparg: u32| {
            op << 28 | cmp << 24 | (oparg & 0xfff) << 12 | cmparg & 0xfff
        };
        assert_eq!(operate(code(0, 0, 7, 0), 1), Some(7));
        assert_eq!(operate(code(1, 0, 0xfff, 0), 0), Some(u32::MAX));
        assert_eq!(operate(code(8, 0, 31, 0), 0), Some(1 << 31));
        assert_eq!(operate(code(3, 0, 3, 0), 7), Some(4));
        assert_eq!(operate(code(5, 0, 3, 0), 7), None);
        assert_eq!(compare(code(0, 4, 0, 0xfff), 0), Some(true));
        assert_eq!(compare(code(0, 0, 0, 0), 1), Some(false));
        assert_eq!(compare(code(0, 6, 0, 0), 1), None);
    }
}
