//! The calls by which a program signals itself. There is nobody else.

use linux_raw_sys::general as raw;

use super::calls::{info, signal};
use super::{Info, Signal};
use crate::Errno;
use crate::call::{Answer, Call, int};
use crate::threads::PID;

/// `None` for signal 0, by which programs ask whether somebody exists.
fn signal_or_none(argument: u64) -> Result<Option<Signal>, Errno> {
    if int(argument) == 0 { Ok(None) } else { signal(argument).map(Some) }
}

/// Whether a process id, or a negative process group id, means the guest.
fn is_own(id: i32) -> bool {
    let own = PID.cast_signed();
    id == own || id == 0 || id == -own
}

pub(crate) fn kill(call: &mut Call<'_>) -> Answer {
    let [process, number, ..] = call.arguments;
    let signal = signal_or_none(number)?;
    // To -1 means everybody else.
    if !is_own(int(process)) {
        return Err(Errno::ESRCH.into());
    }
    if let Some(signal) = signal {
        let code = raw::SI_USER.cast_signed();
        call.process.threads.send_to_process(Info::own(signal, code))?;
    }
    Ok(0)
}

fn to_thread(call: &mut Call<'_>, id: u64, number: u64) -> Answer {
    let signal = signal_or_none(number)?;
    let id = u32::try_from(int(id)).ok().filter(|id| *id != 0).ok_or(Errno::EINVAL)?;
    let threads = &mut call.process.threads;
    match signal {
        Some(signal) => threads.send_to_thread(id, Info::own(signal, raw::SI_TKILL))?,
        None => _ = threads.get(id).ok_or(Errno::ESRCH)?,
    }
    Ok(0)
}

pub(crate) fn tkill(call: &mut Call<'_>) -> Answer {
    let [id, number, ..] = call.arguments;
    to_thread(call, id, number)
}

pub(crate) fn tgkill(call: &mut Call<'_>) -> Answer {
    let [process, id, number, ..] = call.arguments;
    match int(process) {
        ..=0 => Err(Errno::EINVAL.into()),
        process if process == PID.cast_signed() => to_thread(call, id, number),
        _ => Err(Errno::ESRCH.into()),
    }
}

pub(crate) fn rt_sigqueueinfo(call: &mut Call<'_>) -> Answer {
    let [process, number, from, ..] = call.arguments;
    let signal = signal(number)?;
    let info = info(call, signal, from)?;
    if int(process) != PID.cast_signed() {
        return Err(Errno::ESRCH.into());
    }
    call.process.threads.send_to_process(info)?;
    Ok(0)
}

pub(crate) fn rt_tgsigqueueinfo(call: &mut Call<'_>) -> Answer {
    let [process, id, number, from, ..] = call.arguments;
    let signal = signal(number)?;
    let info = info(call, signal, from)?;
    if int(process) != PID.cast_signed() {
        return Err(Errno::ESRCH.into());
    }
    let id = u32::try_from(int(id)).map_err(|_| Errno::EINVAL)?;
    call.process.threads.send_to_thread(id, info)?;
    Ok(0)
}
