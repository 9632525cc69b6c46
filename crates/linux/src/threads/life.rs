//! How threads begin and end.

use linux_raw_sys::general as raw;

use super::saved::Saved;
use super::{LAST_ID, PID, Threads};
use crate::call::{Answer, Call, Stop, int, unsigned};
use crate::space::ADDRESSES_END;
use crate::{Bases, Errno};

/// What threads share, and so what `clone` must ask for.
const SHARED: u32 =
    raw::CLONE_VM | raw::CLONE_FS | raw::CLONE_FILES | raw::CLONE_SIGHAND | raw::CLONE_THREAD;
/// What it may ask for besides. The last two have meant nothing for long.
const ALLOWED: u32 = SHARED
    | raw::CLONE_SYSVSEM
    | raw::CLONE_SETTLS
    | raw::CLONE_PARENT_SETTID
    | raw::CLONE_CHILD_CLEARTID
    | raw::CLONE_CHILD_SETTID
    | raw::CLONE_IO
    | raw::CSIGNAL
    | raw::CLONE_DETACHED
    | raw::CLONE_UNTRACED;
/// Most entries of a list of robust futexes that are looked at, as in Linux.
const ROBUST_ENTRIES: u32 = 2048;

impl Threads {
    fn new_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = if id + 1 < LAST_ID { id + 1 } else { PID + 1 };
            if self.get(id).is_none() && id != PID {
                return id;
            }
        }
    }
}

/// What came of a write that may fail without harm, since the address is the guest's business.
pub(super) fn tolerate(result: Result<(), Stop>) -> Result<(), Stop> {
    match result {
        Err(Stop::Error(_)) => Ok(()),
        other => other,
    }
}

pub(super) fn no_new_process(_: &mut Call<'_>) -> Answer {
    Err(Errno::ENOSYS.into())
}

pub(super) fn clone(call: &mut Call<'_>) -> Answer {
    let [flags, stack, parent_id, child_id, tls, _] = call.arguments;
    let flags = unsigned(flags);
    if flags & raw::CLONE_THREAD != 0 && flags & raw::CLONE_SIGHAND == 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & SHARED != SHARED || flags & !ALLOWED != 0 {
        return Err(Errno::ENOSYS.into());
    }
    if call.process.threads.list.len() >= call.process.limits.threads as usize {
        return Err(Errno::EAGAIN.into());
    }
    let mut bases = call.process.threads.bases_now(call.hardware)?;
    if flags & raw::CLONE_SETTLS != 0 {
        if tls >= ADDRESSES_END {
            return Err(Errno::EPERM.into());
        }
        bases = Bases { fs: tls, ..bases };
    }
    let mut registers = *call.registers;
    registers.rax = 0;
    if stack != 0 {
        registers.rsp = stack;
    }
    let threads = &mut call.process.threads;
    let saved = Saved::new(bases, threads.extended(call.hardware)?);
    let id = threads.new_id();
    let mut child = threads.current().child(id, registers, saved);
    if flags & raw::CLONE_CHILD_CLEARTID != 0 {
        child.clear_id = child_id;
    }
    threads.list.push(child);
    threads.queue.push_back(id);
    if flags & raw::CLONE_PARENT_SETTID != 0 {
        tolerate(call.write(parent_id, &id.to_le_bytes()))?;
    }
    if flags & raw::CLONE_CHILD_SETTID != 0 {
        tolerate(call.write(child_id, &id.to_le_bytes()))?;
    }
    Ok(u64::from(id))
}

pub(super) fn exit(call: &mut Call<'_>) -> Answer {
    let status = int(call.arguments[0]) & 0xff;
    let threads = &mut call.process.threads;
    let id = threads.current().id;
    if id == PID {
        threads.leader_status = Some(status);
    }
    if threads.list.len() == 1 {
        // As Linux has it, the first thread's status is the program's.
        return Err(Stop::Exit(threads.leader_status.unwrap_or(status)));
    }
    release_robust(call, id)?;
    let clear = call.process.threads.current().clear_id;
    if clear != 0 {
        tolerate(call.write(clear, &[0; 4]))?;
        call.process.threads.wake_futex(clear, u32::MAX, 1);
    }
    let threads = &mut call.process.threads;
    threads.list.retain(|thread| thread.id != id);
    threads.bases = None;
    if threads.loaded == id {
        threads.loaded = 0;
    }
    // What it would have handled is for others.
    threads.offer_pending();
    Err(Stop::Gone)
}

pub(super) fn exit_group(call: &mut Call<'_>) -> Answer {
    Err(Stop::Exit(int(call.arguments[0]) & 0xff))
}

/// Tells who waits for futexes that a thread holds, and has put into its list, that it has died.
fn release_robust(call: &mut Call<'_>, id: u32) -> Result<(), Stop> {
    let head = call.process.threads.current().robust_list;
    if head == 0 {
        return Ok(());
    }
    let Some([first, offset, pending]) = readable(call.words(head))? else { return Ok(()) };
    // The lowest bit marks futexes with priority inheritance, which there are none of.
    let futex = |entry: u64| (entry & !1).wrapping_add(offset);
    let mut entry = first;
    for _ in 0..ROBUST_ENTRIES {
        if entry & !1 == head {
            break;
        }
        let next = readable(call.words(entry & !1))?;
        if entry & !1 != pending & !1 && !release(call, futex(entry), id, false)? {
            break;
        }
        let Some([next]) = next else { break };
        entry = next;
    }
    if pending & !1 != 0 {
        release(call, futex(pending), id, true)?;
    }
    Ok(())
}

/// Marks one futex's owner as dead, if that is who it was; `false` if the futex can't be reached.
fn release(call: &mut Call<'_>, address: u64, id: u32, pending: bool) -> Result<bool, Stop> {
    if !address.is_multiple_of(4) {
        return Ok(false);
    }
    let Some(word) = readable(call.word32(address))? else { return Ok(false) };
    if pending && word == 0 {
        call.process.threads.wake_futex(address, u32::MAX, 1);
    }
    if word & raw::FUTEX_TID_MASK != id {
        return Ok(true);
    }
    let word_after = word & raw::FUTEX_WAITERS | raw::FUTEX_OWNER_DIED;
    if readable(call.write(address, &word_after.to_le_bytes()))?.is_none() {
        return Ok(false);
    }
    if word & raw::FUTEX_WAITERS != 0 {
        call.process.threads.wake_futex(address, u32::MAX, 1);
    }
    Ok(true)
}

/// `None` for memory that can't be used.
fn readable<T>(result: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Error(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

pub(super) fn set_tid_address(call: &mut Call<'_>) -> Answer {
    let thread = call.process.threads.current();
    thread.clear_id = call.arguments[0];
    Ok(u64::from(thread.id))
}

const ROBUST_HEAD_SIZE: u64 = 24;

pub(super) fn set_robust_list(call: &mut Call<'_>) -> Answer {
    let [head, size, ..] = call.arguments;
    if size != ROBUST_HEAD_SIZE {
        return Err(Errno::EINVAL.into());
    }
    call.process.threads.current().robust_list = head;
    Ok(0)
}

pub(super) fn get_robust_list(call: &mut Call<'_>) -> Answer {
    let [id, head, size, ..] = call.arguments;
    let threads = &mut call.process.threads;
    let list = match unsigned(id) {
        0 => threads.current().robust_list,
        id => threads.get(id).ok_or(Errno::ESRCH)?.robust_list,
    };
    call.write_words(size, &[ROBUST_HEAD_SIZE])?;
    call.write_words(head, &[list])?;
    Ok(0)
}

pub(super) fn gettid(call: &mut Call<'_>) -> Answer {
    Ok(u64::from(call.process.threads.current().id))
}

pub(super) fn sched_yield(call: &mut Call<'_>) -> Answer {
    // Who waits for another thread this way waits, so time passes.
    call.now();
    call.registers.rax = 0;
    call.process.threads.yielded = true;
    Err(Stop::Gone)
}
