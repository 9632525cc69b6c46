//! The system calls of the address space.

use std::ops::Range;

use glowbox_core::address::PAGE_SIZE;
use linux_raw_sys::general as raw;

use super::areas::Kind;
use super::map::{Placing, Request, usable, whole_pages};
use super::{Rights, Space, page_of};
use crate::call::{Answer, Call, Stop, int, unsigned};
use crate::files::Files;
use crate::table::{Entry, entries};
use crate::{Errno, Hardware, World};

pub(crate) const CALLS: &[Entry] = entries! {
    brk __NR_brk brk: "";
    mmap __NR_mmap mmap: "of a file: its bytes are copied at once, but for its holes, pages beyond its end read as zero, and shared and writable is `ENODEV`; executable is `EACCES` unless JIT is allowed; huge pages are `ENOMEM`";
    munmap __NR_munmap munmap: "of what is Glowbox's own: `EINVAL`";
    mprotect __NR_mprotect mprotect: "all or nothing; to executable what was not is `EACCES` unless JIT is allowed; of what is Glowbox's own: `ENOMEM`";
    mremap __NR_mremap mremap: "moves pages without copying them; only anonymous memory grows, an old size of 0 and `MREMAP_DONTUNMAP` are `EINVAL`";
    madvise __NR_madvise madvise: "`MADV_DONTNEED` and `MADV_FREE` drop anonymous memory at once, and are `EINVAL` for other memory that is writable; hints are accepted";
    mincore __NR_mincore mincore: "what has memory behind it; at most 1 GiB at a time";
    msync __NR_msync msync: "nothing to do";
    mlock __NR_mlock mlock: "nothing to do: memory is never paged out by the guest's doing";
    mlock2 __NR_mlock2 mlock: "as `mlock`";
    munlock __NR_munlock mlock: "nothing to do";
    mlockall __NR_mlockall nothing: "nothing to do";
    munlockall __NR_munlockall nothing: "nothing to do";
    membarrier __NR_membarrier membarrier: "nothing to do: there is one vCPU";
};

fn brk(call: &mut Call<'_>) -> Answer {
    call.process.space.set_break(call.hardware, call.arguments[0])
}

/// The rights that a protection asks for. Memory that can be written to or executed can be read.
fn rights(protection: u64) -> Rights {
    let has = |bit| protection & u64::from(bit) != 0;
    let (write, execute) = (has(raw::PROT_WRITE), has(raw::PROT_EXEC));
    Rights { read: has(raw::PROT_READ) || write || execute, write, execute }
}

/// Where `MAP_32BIT` finds places.
const LOW_BASE: u64 = 1 << 31;

/// A file that is mapped. Offsets are into the mapping.
pub(super) trait Source {
    /// The first stretch from an offset on that may hold something else than zeros; none up to the end
    /// of the file.
    fn data(&mut self, from: u64) -> Result<Option<Range<u64>>, Errno>;

    /// Reads bytes from an offset on: how many, and 0 at the end.
    fn read(&mut self, from: u64, into: &mut [u8]) -> Result<usize, Errno>;
}

/// One of the process's own.
struct Opened<'a> {
    files: &'a mut Files,
    world: &'a mut World,
    fd: i32,
    offset: u64,
}

impl Source for Opened<'_> {
    fn data(&mut self, from: u64) -> Result<Option<Range<u64>>, Errno> {
        let from = self.offset.saturating_add(from);
        let found = self.files.data_for_map(self.world, self.fd, from)?;
        let within = |at: u64| at.max(from) - self.offset;
        Ok(found.map(|found| within(found.start)..within(found.end)))
    }

    fn read(&mut self, from: u64, into: &mut [u8]) -> Result<usize, Errno> {
        self.files.read_at_for_map(self.world, self.fd, self.offset.saturating_add(from), into)
    }
}

/// The whole pages that a stretch of a mapping lies in.
fn pages_around(bytes: &Range<u64>) -> Range<u64> {
    page_of(bytes.start)..whole_pages(bytes.end).unwrap_or(page_of(bytes.end))
}

impl Space {
    /// What `mmap` asks for.
    pub(super) fn request(
        &self,
        [address, length, protection, flags]: [u64; 4],
    ) -> Result<Request, Errno> {
        let flags = unsigned(flags);
        let has = |flag| flags & flag == flag;
        let rights = rights(protection);
        let anonymous = has(raw::MAP_ANONYMOUS);
        let kind = match flags & raw::MAP_TYPE {
            raw::MAP_PRIVATE | raw::MAP_SHARED if anonymous => Kind::Anonymous,
            raw::MAP_PRIVATE => Kind::Copy,
            raw::MAP_SHARED | raw::MAP_SHARED_VALIDATE if !anonymous => Kind::View,
            _ => return Err(Errno::EINVAL),
        };
        if has(raw::MAP_HUGETLB) {
            return Err(Errno::ENOMEM);
        }
        if kind == Kind::View && rights.write {
            return Err(Errno::ENODEV);
        }
        let placing = if has(raw::MAP_FIXED_NOREPLACE) {
            Placing::NoReplace
        } else if has(raw::MAP_FIXED) {
            Placing::Fixed
        } else {
            let base = self.options.mmap_base;
            Placing::Hint { below: if has(raw::MAP_32BIT) { base.min(LOW_BASE) } else { base } }
        };
        let reserve = !has(raw::MAP_NORESERVE);
        let populate = has(raw::MAP_POPULATE) && anonymous;
        Ok(Request { address, length, rights, kind, placing, reserve, populate })
    }

    /// Maps a copy of a file's bytes. Its holes get no memory before they are touched.
    pub(super) fn map_copy(
        &mut self,
        hardware: &mut dyn Hardware,
        request: Request,
        source: &mut dyn Source,
    ) -> Answer {
        // Before anything changes: whether there is such a file, it can be read, and there is room.
        source.read(0, &mut [0])?;
        self.check_copy(hardware, &request, source)?;
        let address = self.map(hardware, request)?;
        match self.copy_all(hardware, address, request.length, source) {
            Ok(()) => Ok(address),
            Err(stop @ Stop::Broken(_)) => Err(stop),
            Err(stop) => {
                self.unmap(hardware, address, request.length)?;
                Err(match stop {
                    Stop::OutOfMemory(_) => Errno::ENOMEM.into(),
                    stop => stop,
                })
            }
        }
    }

    /// `ENOMEM` if there is no memory for a copy of a file's bytes.
    fn check_copy(
        &self,
        hardware: &dyn Hardware,
        request: &Request,
        source: &mut dyn Source,
    ) -> Result<(), Stop> {
        let replaced = match request.placing {
            Placing::Fixed => {
                let length = whole_pages(request.length).unwrap_or_default();
                usable(request.address, length).map_or(0, |range| self.runs.populated(&range))
            }
            _ => 0,
        };
        let mut needed = 0_u64;
        let mut end = 0;
        while let Some(data) = next_data(hardware, request.length, source, end)? {
            let pages = pages_around(&data);
            needed = needed.saturating_add(pages.end - pages.start.max(page_end(end)));
            if !self.has_room(needed.saturating_sub(replaced)) {
                return Err(Errno::ENOMEM.into());
            }
            end = data.end;
        }
        Ok(())
    }

    /// Copies a file's bytes to where it is mapped.
    fn copy_all(
        &mut self,
        hardware: &mut dyn Hardware,
        address: u64,
        length: u64,
        source: &mut dyn Source,
    ) -> Result<(), Stop> {
        let mut buffer = vec![0; COPIED_AT_ONCE];
        let mut done = 0;
        while let Some(data) = next_data(hardware, length, source, done)? {
            let most = usize::try_from(data.end - data.start)
                .map_or(COPIED_AT_ONCE, |left| left.min(COPIED_AT_ONCE));
            let count = source.read(data.start, &mut buffer[..most])?.min(most);
            if count == 0 {
                break;
            }
            done = data.start + count as u64;
            // What is loaded and no more: what comes next may be a hole.
            let pages = pages_around(&(address + data.start..address + done));
            self.populate(hardware, &pages, pages.start)?;
            self.load(hardware, address + data.start, &buffer[..count])?;
        }
        Ok(())
    }
}

/// Where the page ends that the last byte before an offset lies in.
fn page_end(offset: u64) -> u64 {
    whole_pages(offset).unwrap_or(u64::MAX)
}

/// What of a file is to be copied next into a mapping of so many bytes.
fn next_data(
    hardware: &dyn Hardware,
    length: u64,
    source: &mut dyn Source,
    from: u64,
) -> Result<Option<Range<u64>>, Stop> {
    if hardware.is_to_stop() {
        return Err(Errno::EINTR.into());
    }
    let found = if from < length { source.data(from)? } else { None };
    let found = found.map(|data| data.start.max(from)..data.end.min(length));
    Ok(found.filter(|data| !data.is_empty()))
}

/// Bytes of a file that are copied at once.
const COPIED_AT_ONCE: usize = 64 << 10;

fn mmap(call: &mut Call<'_>) -> Answer {
    let [address, length, protection, flags, fd, offset] = call.arguments;
    let Call { process, hardware, world, .. } = call;
    let request = process.space.request([address, length, protection, flags])?;
    if request.kind == Kind::Anonymous {
        return process.space.map(*hardware, request);
    }
    if !offset.is_multiple_of(PAGE_SIZE) || length == 0 {
        return Err(Errno::EINVAL.into());
    }
    if offset.checked_add(length).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(Errno::EOVERFLOW.into());
    }
    let mut opened = Opened { files: &mut process.files, world, fd: int(fd), offset };
    process.space.map_copy(*hardware, request, &mut opened)
}

fn munmap(call: &mut Call<'_>) -> Answer {
    let [address, length, ..] = call.arguments;
    call.process.space.unmap(call.hardware, address, length)
}

fn mprotect(call: &mut Call<'_>) -> Answer {
    let [address, length, protection, ..] = call.arguments;
    let known = raw::PROT_READ | raw::PROT_WRITE | raw::PROT_EXEC | raw::PROT_SEM;
    if protection & !u64::from(known) != 0 {
        return Err(Errno::EINVAL.into());
    }
    call.process.space.protect(call.hardware, address, length, rights(protection))
}

fn mremap(call: &mut Call<'_>) -> Answer {
    let [address, old, new, flags, to, _] = call.arguments;
    call.process.space.remap(call.hardware, [address, old, new, flags, to])
}

/// Most bytes that one `mincore` looks at.
const MOST_IN_CORE: u64 = 1 << 30;

impl Space {
    /// `madvise`.
    pub(super) fn advise(
        &mut self,
        hardware: &mut dyn Hardware,
        [address, length, advice]: [u64; 3],
    ) -> Answer {
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL.into());
        }
        let length = whole_pages(length).ok_or(Errno::EINVAL)?;
        address.checked_add(length).ok_or(Errno::EINVAL)?;
        let advice = u32::try_from(int(advice)).map_err(|_| Errno::EINVAL)?;
        match advice {
            raw::MADV_DONTNEED
            | raw::MADV_DONTNEED_LOCKED
            | raw::MADV_FREE
            | raw::MADV_POPULATE_READ
            | raw::MADV_POPULATE_WRITE => {}
            // Hints, and what concerns children and core dumps, of which there are none.
            raw::MADV_NORMAL..=raw::MADV_WILLNEED
            | raw::MADV_DONTFORK
            | raw::MADV_DOFORK
            | raw::MADV_MERGEABLE..=raw::MADV_PAGEOUT
            | raw::MADV_COLLAPSE => return Ok(0),
            _ => return Err(Errno::EINVAL.into()),
        }
        if length == 0 {
            return Ok(0);
        }
        let range = usable(address, length).ok_or(Errno::ENOMEM)?;
        match advice {
            raw::MADV_POPULATE_READ => self.populate_all(hardware, &range, false),
            raw::MADV_POPULATE_WRITE => self.populate_all(hardware, &range, true),
            _ => self.discard(hardware, &range),
        }
    }

    /// Which pages have memory behind them: a byte each, of pages that are all mapped.
    pub(super) fn in_core(&self, address: u64, length: u64) -> Result<Vec<u8>, Errno> {
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let length = whole_pages(length).filter(|&length| length <= MOST_IN_CORE);
        let range = length.and_then(|length| usable(address, length)).ok_or(Errno::ENOMEM)?;
        if !self.areas.cover(&range) {
            return Err(Errno::ENOMEM);
        }
        let mut pages = Vec::new();
        let bytes = |bytes: u64| usize::try_from(bytes / PAGE_SIZE).unwrap_or_default();
        for run in self.runs.overlapping(&range) {
            pages.resize(bytes(run.addresses.start - range.start), 0);
            pages.resize(bytes(run.addresses.end - range.start), 1);
        }
        pages.resize(bytes(range.end - range.start), 0);
        Ok(pages)
    }

    /// `ENOMEM` unless all of a range is mapped; for calls that do nothing else.
    pub(super) fn check_mapped(&self, address: u64, length: u64) -> Answer {
        let start = super::page_of(address);
        let length = length.checked_add(address - start).and_then(whole_pages);
        let range = length.and_then(|length| usable(start, length)).ok_or(Errno::ENOMEM)?;
        match self.areas.cover(&range) {
            true => Ok(0),
            false => Err(Errno::ENOMEM.into()),
        }
    }
}

fn madvise(call: &mut Call<'_>) -> Answer {
    let [address, length, advice, ..] = call.arguments;
    call.process.space.advise(call.hardware, [address, length, advice])
}

fn mincore(call: &mut Call<'_>) -> Answer {
    let [address, length, to, ..] = call.arguments;
    let pages = call.process.space.in_core(address, length)?;
    call.write(to, &pages)?;
    Ok(0)
}

fn msync(call: &mut Call<'_>) -> Answer {
    let [address, length, flags, ..] = call.arguments;
    let (lazy, sync) = (u64::from(raw::MS_ASYNC), u64::from(raw::MS_SYNC));
    let known = flags & !(lazy | sync | u64::from(raw::MS_INVALIDATE)) == 0;
    if !address.is_multiple_of(PAGE_SIZE) || !known || flags & (lazy | sync) == lazy | sync {
        return Err(Errno::EINVAL.into());
    }
    call.process.space.check_mapped(address, length)
}

fn mlock(call: &mut Call<'_>) -> Answer {
    let [address, length, ..] = call.arguments;
    call.process.space.check_mapped(address, length)
}

fn nothing(_: &mut Call<'_>) -> Answer {
    Ok(0)
}

fn membarrier(call: &mut Call<'_>) -> Answer {
    /// Every command but those for restartable sequences.
    const COMMANDS: u64 = 0x7f;
    let [command, flags, ..] = call.arguments;
    let command = u64::from(unsigned(command));
    match command {
        _ if unsigned(flags) != 0 => Err(Errno::EINVAL.into()),
        0 => Ok(COMMANDS),
        command if command.is_power_of_two() && command & COMMANDS != 0 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
