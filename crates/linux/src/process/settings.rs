//! What a guest is told about its machine and its limits, and what it may set.

use glowbox_core::address::PAGE_SIZE;
use glowbox_core::layout::Limits;
use linux_raw_sys::general as raw;
use linux_raw_sys::prctl;

use crate::call::{Answer, Call, Stop, int, unsigned};
use crate::space::ADDRESSES_END;
use crate::threads::PID;
use crate::threads::signals::MOST_QUEUED;
use crate::{Bases, Errno};

/// Bytes of a string of `uname`, with its zero.
const NAME: usize = 65;
const INFINITY: u64 = u64::MAX;

pub(super) fn uname(call: &mut Call<'_>) -> Answer {
    let names = ["Linux", "glowbox", "6.1.0", "#1 Glowbox", "x86_64", "(none)"];
    let mut bytes = [0; 6 * NAME];
    for (to, name) in bytes.chunks_exact_mut(NAME).zip(names) {
        to[..name.len()].copy_from_slice(name.as_bytes());
    }
    call.write(call.arguments[0], &bytes)?;
    Ok(0)
}

/// Bytes of a `struct sysinfo`.
const SYSINFO: usize = 112;

pub(super) fn sysinfo(call: &mut Call<'_>) -> Answer {
    let total = call.hardware.memory().len() as u64;
    let free = total.saturating_sub(call.process.space.pages().saturating_mul(PAGE_SIZE));
    let uptime = call.now() / 1_000_000_000;
    let mut bytes = [0; SYSINFO];
    let mut put = |at: usize, value: u64| {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(0, uptime);
    // Load averages are 0.
    put(32, total);
    put(40, free);
    // Processes, and the unit of all sizes.
    put(80, 1);
    put(104, 1);
    call.write(call.arguments[0], &bytes)?;
    Ok(0)
}

/// A limit, soft and hard being the same; `EINVAL` if there is none of that number.
fn limit(call: &Call<'_>, resource: u64) -> Result<u64, Errno> {
    let limits = &call.process.limits;
    Ok(match unsigned(resource) {
        raw::RLIMIT_STACK => Limits::LINUX_STACK,
        raw::RLIMIT_CORE | raw::RLIMIT_MEMLOCK | raw::RLIMIT_NICE | raw::RLIMIT_RTPRIO => 0,
        raw::RLIMIT_NPROC => limits.threads.into(),
        raw::RLIMIT_NOFILE => limits.descriptors.into(),
        raw::RLIMIT_SIGPENDING => MOST_QUEUED as u64,
        raw::RLIMIT_MSGQUEUE => 0,
        raw::RLIMIT_CPU
        | raw::RLIMIT_FSIZE
        | raw::RLIMIT_DATA
        | raw::RLIMIT_RSS
        | raw::RLIMIT_AS
        | raw::RLIMIT_LOCKS
        | raw::RLIMIT_RTTIME => INFINITY,
        _ => return Err(Errno::EINVAL),
    })
}

/// Whether a limit may be set so: only to less, which is forgotten.
fn check_limit(call: &mut Call<'_>, resource: u64, from: u64) -> Result<(), Stop> {
    let most = limit(call, resource)?;
    let [soft, hard] = call.words(from)?;
    if soft > hard {
        return Err(Errno::EINVAL.into());
    }
    if hard > most { Err(Errno::EPERM.into()) } else { Ok(()) }
}

pub(super) fn getrlimit(call: &mut Call<'_>) -> Answer {
    let [resource, to, ..] = call.arguments;
    let limit = limit(call, resource)?;
    call.write_words(to, &[limit, limit])?;
    Ok(0)
}

pub(super) fn setrlimit(call: &mut Call<'_>) -> Answer {
    let [resource, from, ..] = call.arguments;
    check_limit(call, resource, from)?;
    Ok(0)
}

pub(super) fn prlimit64(call: &mut Call<'_>) -> Answer {
    let [process, resource, new, old, ..] = call.arguments;
    if !matches!(unsigned(process), 0 | PID) {
        return Err(Errno::ESRCH.into());
    }
    let limit = limit(call, resource)?;
    if new != 0 {
        check_limit(call, resource, new)?;
    }
    if old != 0 {
        call.write_words(old, &[limit, limit])?;
    }
    Ok(0)
}

/// What `PR_GET_TIMERSLACK` says on Linux, in nanoseconds.
const TIMER_SLACK: u64 = 50_000;

pub(super) fn prctl(call: &mut Call<'_>) -> Answer {
    let [option, argument, ..] = call.arguments;
    match unsigned(option) {
        prctl::PR_SET_NAME => {
            let mut name = [0; 16];
            let bytes = match call.path(argument) {
                Err(Stop::Error(Errno::ENAMETOOLONG)) => call.bytes::<15>(argument)?.to_vec(),
                other => other?,
            };
            let length = bytes.len().min(15);
            name[..length].copy_from_slice(&bytes[..length]);
            call.process.threads.current().set_name(name);
        }
        prctl::PR_GET_NAME => {
            let name = call.process.threads.current().name();
            call.write(argument, &name)?;
        }
        prctl::PR_GET_DUMPABLE | prctl::PR_GET_NO_NEW_PRIVS => return Ok(1),
        prctl::PR_GET_TIMERSLACK => return Ok(TIMER_SLACK),
        prctl::PR_GET_PDEATHSIG => call.write(argument, &[0; 4])?,
        prctl::PR_SET_DUMPABLE if argument <= 1 => {}
        prctl::PR_SET_NO_NEW_PRIVS if argument == 1 => {}
        prctl::PR_SET_PDEATHSIG if argument <= 64 => {}
        prctl::PR_SET_TIMERSLACK
        | prctl::PR_SET_THP_DISABLE
        | prctl::PR_GET_THP_DISABLE
        | prctl::PR_GET_KEEPCAPS
        | prctl::PR_CAPBSET_READ => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

const ARCH_SET_GS: u32 = 0x1001;
const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;

pub(super) fn arch_prctl(call: &mut Call<'_>) -> Answer {
    let [code, address, ..] = call.arguments;
    let code = unsigned(code);
    if !matches!(code, ARCH_SET_FS | ARCH_SET_GS | ARCH_GET_FS | ARCH_GET_GS) {
        return Err(Errno::EINVAL.into());
    }
    let bases = call.process.threads.bases_now(call.hardware)?;
    match code {
        ARCH_GET_FS => call.write_words(address, &[bases.fs])?,
        ARCH_GET_GS => call.write_words(address, &[bases.gs])?,
        _ if address >= ADDRESSES_END => return Err(Errno::EPERM.into()),
        ARCH_SET_FS => call.process.threads.set_bases(Bases { fs: address, ..bases }),
        _ => call.process.threads.set_bases(Bases { gs: address, ..bases }),
    }
    Ok(0)
}

pub(super) fn personality(_: &mut Call<'_>) -> Answer {
    Ok(0)
}

/// Whether a thread exists; 0 is the one that asks.
fn check_thread(call: &Call<'_>, id: u64) -> Result<(), Errno> {
    match unsigned(id) {
        0 => Ok(()),
        id if call.process.threads.get(id).is_some() => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

pub(super) fn sched_getaffinity(call: &mut Call<'_>) -> Answer {
    let [id, size, to, ..] = call.arguments;
    check_thread(call, id)?;
    if size < 8 || size % 8 != 0 {
        return Err(Errno::EINVAL.into());
    }
    call.write_words(to, &[1])?;
    Ok(8)
}

pub(super) fn sched_setaffinity(call: &mut Call<'_>) -> Answer {
    let [id, size, from, ..] = call.arguments;
    check_thread(call, id)?;
    let mut first = [0];
    if size != 0 {
        call.read(from, &mut first)?;
    }
    if first[0] & 1 == 0 { Err(Errno::EINVAL.into()) } else { Ok(0) }
}

pub(super) fn sched_getscheduler(call: &mut Call<'_>) -> Answer {
    check_thread(call, call.arguments[0])?;
    Ok(raw::SCHED_NORMAL.into())
}

/// Priorities are 0.
fn check_priority(call: &mut Call<'_>, from: u64) -> Answer {
    match call.word32(from)? {
        0 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn sched_setscheduler(call: &mut Call<'_>) -> Answer {
    let [id, policy, from, ..] = call.arguments;
    check_thread(call, id)?;
    match unsigned(policy) {
        raw::SCHED_NORMAL | raw::SCHED_BATCH | raw::SCHED_IDLE => check_priority(call, from),
        raw::SCHED_FIFO | raw::SCHED_RR => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn sched_getparam(call: &mut Call<'_>) -> Answer {
    let [id, to, ..] = call.arguments;
    check_thread(call, id)?;
    call.write(to, &[0; 4])?;
    Ok(0)
}

pub(super) fn sched_setparam(call: &mut Call<'_>) -> Answer {
    let [id, from, ..] = call.arguments;
    check_thread(call, id)?;
    check_priority(call, from)
}

pub(super) fn sched_get_priority(call: &mut Call<'_>) -> Answer {
    match unsigned(call.arguments[0]) {
        raw::SCHED_NORMAL | raw::SCHED_BATCH | raw::SCHED_IDLE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn getcpu(call: &mut Call<'_>) -> Answer {
    let [cpu, node, ..] = call.arguments;
    for to in [cpu, node] {
        if to != 0 {
            call.write(to, &[0; 4])?;
        }
    }
    Ok(0)
}

/// As the system call has it: 20 less the nice value.
pub(super) fn getpriority(call: &mut Call<'_>) -> Answer {
    match int(call.arguments[0]) {
        0..=2 => Ok(20),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(super) fn setpriority(call: &mut Call<'_>) -> Answer {
    match int(call.arguments[0]) {
        0..=2 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
