//! The calls by which threads say what they do with signals.

use linux_raw_sys::general as raw;

use super::deliver::sigreturn;
use super::{Action, AltStack, Info, Signal, UNBLOCKABLE};
use crate::call::{Answer, Call, Stop, Wait, WaitFor, int, signed, unsigned};
use crate::{Errno, clock};

/// Bytes of a signal mask.
const MASK_SIZE: u64 = 8;
/// Flags of an action that mean something to Linux.
const ACTION_FLAGS: u64 = (raw::SA_NOCLDSTOP
    | raw::SA_NOCLDWAIT
    | raw::SA_SIGINFO
    | raw::SA_RESTORER
    | raw::SA_ONSTACK
    | raw::SA_RESTART
    | raw::SA_NODEFER
    | raw::SA_RESETHAND) as u64;

fn check_size(size: u64) -> Result<(), Errno> {
    if size == MASK_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A signal's number.
pub(super) fn signal(argument: u64) -> Result<Signal, Errno> {
    Signal::new(int(argument)).ok_or(Errno::EINVAL)
}

pub(crate) fn rt_sigaction(call: &mut Call<'_>) -> Answer {
    let [number, new, old, size, ..] = call.arguments;
    check_size(size)?;
    let signal = signal(number)?;
    if new != 0 && signal.bit() & UNBLOCKABLE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let before = call.process.threads.action(signal);
    if new != 0 {
        let [handler, flags, restorer, mask] = call.words(new)?;
        let (flags, mask) = (flags & ACTION_FLAGS, mask & !UNBLOCKABLE);
        let action = Action { handler, flags, restorer, mask };
        call.process.threads.set_action(signal, action);
    }
    if old != 0 {
        let Action { handler, flags, restorer, mask } = before;
        call.write_words(old, &[handler, flags, restorer, mask])?;
    }
    Ok(0)
}

pub(crate) fn rt_sigprocmask(call: &mut Call<'_>) -> Answer {
    let [how, new, old, size, ..] = call.arguments;
    check_size(size)?;
    let before = call.process.threads.current().mask;
    if new != 0 {
        let [mask] = call.words(new)?;
        let mask = match unsigned(how) {
            raw::SIG_BLOCK => before | mask,
            raw::SIG_UNBLOCK => before & !mask,
            raw::SIG_SETMASK => mask,
            _ => return Err(Errno::EINVAL.into()),
        };
        call.process.threads.set_mask(mask);
    }
    if old != 0 {
        call.write_words(old, &[before])?;
    }
    Ok(0)
}

pub(crate) fn rt_sigreturn(call: &mut Call<'_>) -> Answer {
    sigreturn(call)?;
    Err(Stop::Gone)
}

/// Lets the thread block what a mask says until its call is over, waits included: for calls that take
/// one, such as `ppoll`. Without an address, it blocks what it blocks.
///
/// # Errors
///
/// `EFAULT`; `EINVAL` for a mask of another size.
pub(crate) fn mask_for_call(call: &mut Call<'_>, address: u64, size: u64) -> Result<(), Stop> {
    if address != 0 {
        check_size(size)?;
        let [mask] = call.words(address)?;
        call.process.threads.set_mask_for_call(mask);
    }
    Ok(())
}

pub(crate) fn rt_sigpending(call: &mut Call<'_>) -> Answer {
    let [to, size, ..] = call.arguments;
    if size > MASK_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let shared = call.process.threads.pending.mask();
    let thread = call.process.threads.current();
    let pending = (thread.pending.mask() | shared) & thread.mask;
    let length = usize::try_from(size).unwrap_or_default();
    call.write(to, &pending.to_le_bytes()[..length])?;
    Ok(0)
}

pub(crate) fn rt_sigsuspend(call: &mut Call<'_>) -> Answer {
    let [mask, size, ..] = call.arguments;
    check_size(size)?;
    let [mask] = call.words(mask)?;
    call.process.threads.set_mask_for_call(mask);
    Err(Stop::Wait(Wait { on: WaitFor::Time, until: None }))
}

pub(crate) fn pause(_: &mut Call<'_>) -> Answer {
    Err(Stop::Wait(Wait { on: WaitFor::Time, until: None }))
}

pub(crate) fn rt_sigtimedwait(call: &mut Call<'_>) -> Answer {
    let [set, to, timeout, size, ..] = call.arguments;
    check_size(size)?;
    let set = match call.again {
        // The process may have changed it meanwhile.
        Some(again) => again.on.signals(),
        None => call.words::<1>(set)?[0] & !UNBLOCKABLE,
    };
    let until = match (call.again, timeout) {
        (Some(again), _) => again.until,
        (None, 0) => None,
        (None, timeout) => {
            let time = clock::nanoseconds(call.words(timeout)?)?;
            Some(clock::until(call, time, false, false))
        }
    };
    if let Some(info) = call.process.threads.take_signal(set) {
        if to != 0 {
            call.write(to, &info.to_bytes())?;
        }
        return Ok(signed(info.signal.number().into()));
    }
    if call.timed_out() {
        return Err(Errno::EAGAIN.into());
    }
    Err(Stop::Wait(Wait { on: WaitFor::Signals { set }, until }))
}

/// Reads a `siginfo_t` that the program has filled itself.
pub(super) fn info(call: &mut Call<'_>, signal: Signal, from: u64) -> Result<Info, Stop> {
    let bytes: [u8; Info::SIZE] = call.bytes(from)?;
    let code = bytes[8..].first_chunk().map_or(0, |code| i32::from_le_bytes(*code));
    let mut fields = [0; 4];
    for (field, bytes) in fields.iter_mut().zip(bytes[16..].as_chunks().0) {
        *field = u64::from_le_bytes(*bytes);
    }
    Ok(Info { signal, code, fields })
}

/// The smallest alternate stack.
const LEAST_STACK: u64 = raw::MINSIGSTKSZ as u64;

pub(crate) fn sigaltstack(call: &mut Call<'_>) -> Answer {
    let [new, old, ..] = call.arguments;
    let stack = call.registers.rsp;
    let before = call.process.threads.current().alt_stack;
    if new != 0 {
        let [start, flags, size] = call.words(new)?;
        if before.is_used(stack) {
            return Err(Errno::EPERM.into());
        }
        let after = AltStack::described(start, unsigned(flags), size).ok_or(Errno::EINVAL)?;
        if after.size < LEAST_STACK && unsigned(flags) & raw::SS_DISABLE == 0 {
            return Err(Errno::ENOMEM.into());
        }
        call.process.threads.current().alt_stack = after;
    }
    if old != 0 {
        let flags = u64::from(before.flags(stack));
        call.write_words(old, &[before.start, flags, before.size])?;
    }
    Ok(0)
}
