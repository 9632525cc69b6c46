//! What touches the machine: start-up, leaving to the host, and the mailbox's memory.
//!
//! All of the library's `unsafe` but the heap's is here. The rest of the library, and every guest,
//! sees safe functions whose rules are kept at run time: the mailbox belongs to one thread, the
//! outgoing buffer is lent to one writer at a time, and a message in the incoming buffer is not
//! overwritten while it is borrowed.
//!
//! Which thread that is, how it finds the control page, and how it starts, differs: a guest without
//! the standard library is all alone (`freestanding`), one with it is a process (`with_std`).

#![allow(unsafe_code)]

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use glowbox_abi::ABI_VERSION;
use glowbox_abi::mailbox::{
    BATCH_PROGRESS_OFFSET, BOOT_INFO_OFFSET, BootInfo, ENTROPY_OFFSET, Entropy, FROM_GUEST_OFFSET,
    FromGuest, MESSAGE_ALIGN, TO_GUEST_OFFSET, ToGuest,
};
use glowbox_abi::record::{Kind, Record};

use crate::call::{ExportHandler, ExportRecord, ImportRecord};

#[cfg(not(feature = "std"))]
pub(crate) mod freestanding;
mod maps;
#[cfg(feature = "std")]
mod with_std;
mod x86_64;

#[cfg(not(feature = "std"))]
use freestanding as process;
#[cfg(feature = "std")]
use with_std as process;

#[cfg(not(feature = "std"))]
pub use freestanding::set_entropy;
pub(crate) use maps::{map_entry, mapped_bytes};
use process::mailbox;
pub(crate) use process::{is_serving, per_thread};
#[cfg(feature = "std")]
pub(crate) use with_std::{exports, is_guest, take_mailbox};

/// What of the buffers is in use.
struct Mailbox {
    /// Whether someone is writing to the outgoing buffer.
    outgoing_lent: Cell<bool>,
    /// Bytes at the start of the outgoing buffer that hold results of a batch.
    outgoing_base: Cell<usize>,
    /// First offset in the incoming buffer that no borrowed message occupies.
    incoming_top: Cell<u64>,
}

impl Mailbox {
    const fn new() -> Mailbox {
        Mailbox {
            outgoing_lent: Cell::new(false),
            outgoing_base: Cell::new(0),
            incoming_top: Cell::new(0),
        }
    }
}

fn control<T>(offset: usize) -> *mut T {
    ptr::with_exposed_provenance_mut(process::control_address() + offset)
}

/// What the host said at boot.
pub(crate) fn boot_info() -> BootInfo {
    // SAFETY: the control page is mapped, and the host wrote the structure before the start.
    unsafe { ptr::read(control(BOOT_INFO_OFFSET)) }
}

/// What the host gave for random numbers. It changes while the guest is stopped: whenever its
/// memory has become another copy of what it was.
pub(crate) fn entropy() -> Entropy {
    // SAFETY: as above; a volatile read, since the host writes the structure anew.
    unsafe { ptr::read_volatile(control(ENTROPY_OFFSET)) }
}

/// The generation alone, for each number drawn.
pub(crate) fn entropy_generation() -> u64 {
    // SAFETY: as above; the generation is the structure's first field.
    unsafe { ptr::read_volatile(control(ENTROPY_OFFSET)) }
}

/// Writes a header, hands control to the host, and returns what the host answers.
pub fn leave(header: &FromGuest) -> ToGuest {
    // SAFETY: both headers lie in the mapped control page, aligned; of the guest, only the thread
    // that owns the mailbox touches them, and the host only while that one is stopped inside
    // `call_out`.
    mailbox(|_| unsafe {
        ptr::write_volatile(control(FROM_GUEST_OFFSET), *header);
        x86_64::call_out();
        ptr::read_volatile(control(TO_GUEST_OFFSET))
    })
}

/// As `leave`, with the message at the start of what `with_outgoing` lends.
pub(crate) fn send(header: &FromGuest) -> ToGuest {
    leave(&FromGuest { offset: outgoing_base() as u64, ..*header })
}

/// Lends the outgoing buffer, behind the results of a batch that are in it. `None` if it is lent
/// already.
pub fn with_outgoing<R>(write: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
    if mailbox(|mailbox| mailbox.outgoing_lent.replace(true)) {
        return None;
    }
    let _lent = Lent;
    Some(with_outgoing_now(write))
}

/// The outgoing buffer is lent while this lives; also if whoever has it unwinds.
struct Lent;

impl Drop for Lent {
    fn drop(&mut self) {
        mailbox(|mailbox| mailbox.outgoing_lent.set(false));
    }
}

/// Takes the outgoing buffer from whoever has it, for the last words of a guest that does not go
/// back there. Nobody gets it from now on but by `with_outgoing_now`.
pub(crate) fn take_outgoing() {
    mailbox(|mailbox| mailbox.outgoing_lent.set(true));
}

/// Lends the outgoing buffer whether it is lent or not: after `take_outgoing`, and for when nobody
/// can have it.
pub(crate) fn with_outgoing_now<R>(write: impl FnOnce(&mut [u8]) -> R) -> R {
    let info = boot_info();
    let address = usize::try_from(info.outgoing_address).unwrap_or(0);
    let size = outgoing_size();
    let base = outgoing_base().min(size);
    // SAFETY: the host mapped that many bytes there, and they are nobody else's: only the mailbox's
    // owner comes to here, and see above.
    let space = unsafe {
        let start = ptr::with_exposed_provenance_mut::<u8>(address).add(base);
        core::slice::from_raw_parts_mut(start, size - base)
    };
    write(space)
}

/// Bytes in the whole outgoing buffer.
pub(crate) fn outgoing_size() -> usize {
    usize::try_from(boot_info().outgoing_size).unwrap_or(0)
}

/// Where what `with_outgoing` lends starts.
pub(crate) fn outgoing_base() -> usize {
    mailbox(|mailbox| mailbox.outgoing_base.get())
}

/// Keeps so many bytes at the outgoing buffer's start from being lent. Nobody has it now.
pub(crate) fn set_outgoing_base(base: usize) {
    mailbox(|mailbox| mailbox.outgoing_base.set(base));
}

/// How many results of a batch are done. The host sets it to zero before the batch, and counts what
/// it is sent as a single return.
pub fn batch_progress() -> &'static AtomicU64 {
    // SAFETY: the control page is mapped as long as the guest is, and the number lies aligned in it.
    // The host reads and writes it only while the guest is stopped.
    unsafe { AtomicU64::from_ptr(control(BATCH_PROGRESS_OFFSET)) }
}

/// Counts a result, after everything that was written before this.
pub(crate) fn count_result() {
    let done = batch_progress().load(Ordering::Relaxed);
    batch_progress().store(done.wrapping_add(1), Ordering::Release);
}

/// The first offset in the incoming buffer that a reply may use.
pub(crate) fn incoming_top() -> u64 {
    mailbox(|mailbox| mailbox.incoming_top.get())
}

/// A message in the incoming buffer, kept from being overwritten while it lives.
///
/// Messages nest as calls do: the one taken last is dropped first.
#[derive(Debug)]
pub struct Message {
    offset: u64,
    length: u64,
    previous_top: u64,
    /// Not to be sent anywhere; messages belong to the stack of calls.
    _marker: PhantomData<*const u8>,
}

impl Message {
    /// Takes the message that a header describes: behind those that are taken, or part of one.
    pub(crate) fn take(header: &ToGuest) -> Message {
        let end = header.offset.saturating_add(header.length);
        let end = end.checked_next_multiple_of(MESSAGE_ALIGN).unwrap_or(u64::MAX);
        let end = end.min(boot_info().incoming_size);
        let previous_top = mailbox(|mailbox| {
            let previous_top = mailbox.incoming_top.get();
            mailbox.incoming_top.set(end.max(previous_top));
            previous_top
        });
        let (offset, length) = (header.offset, header.length);
        Message { offset, length, previous_top, _marker: PhantomData }
    }

    /// A message without bytes.
    pub(crate) fn empty() -> Message {
        Message::take(&ToGuest::default())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        let info = boot_info();
        let address = info.incoming_address.wrapping_add(self.offset);
        let address = usize::try_from(address).unwrap_or(0);
        let length = usize::try_from(self.length.min(info.incoming_size)).unwrap_or(0);
        // SAFETY: the host wrote the message there, within the buffer, and writes nothing before
        // `incoming_top` while this value lives.
        unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(address), length) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        mailbox(|mailbox| mailbox.incoming_top.set(self.previous_top));
    }
}

unsafe extern "C" {
    #[link_name = "__start_glowbox_exports"]
    static EXPORTS_START: u8;
    #[link_name = "__stop_glowbox_exports"]
    static EXPORTS_STOP: u8;
    #[link_name = "__start_glowbox_imports"]
    static IMPORTS_START: u8;
}

/// The records that say which ABI this library speaks. They also keep the sections, and with them
/// the symbols above, from being absent in a guest without functions.
#[used]
#[unsafe(link_section = "glowbox_exports")]
static EXPORTS_ABI: ExportRecord<0> =
    Record::new(process::ABI, no_function as ExportHandler, ABI_VERSION, 0, []);
#[used]
#[unsafe(link_section = "glowbox_imports")]
static IMPORTS_ABI: ImportRecord<0> = Record::new(process::ABI, 0, ABI_VERSION, 0, []);

fn no_function(_: &crate::arch::Message) -> FromGuest {
    crate::call::bad_arguments()
}

/// The handler of the exported function whose record starts at `offset` in the section.
pub(crate) fn export_handler(offset: u32) -> ExportHandler {
    // SAFETY: the host has read the section and names only offsets at which records start; a
    // record starts with its handler.
    unsafe {
        let record = (&raw const EXPORTS_START).add(offset as usize);
        *record.cast::<ExportHandler>()
    }
}

/// Calls `run` with the handler of each start-up function, until one returns something.
pub(crate) fn for_each_main<R>(run: impl Fn(ExportHandler) -> Option<R>) -> Option<R> {
    let (mut record, stop) = (&raw const EXPORTS_START, &raw const EXPORTS_STOP);
    while record < stop {
        // SAFETY: the section consists of records, one after the other: the macros make them, and
        // their size is a multiple of their alignment.
        let (handler, size, kind) = unsafe {
            let header = record.cast::<ExportRecord<0>>();
            ((*header).handler, (*header).size(), (*header).kind())
        };
        if kind == Kind::Main as u32
            && let Some(result) = run(handler)
        {
            return Some(result);
        }
        record = record.wrapping_add(size);
    }
    None
}

/// The number of an imported function: the offset of its record in the section.
pub fn import_number<const N: usize>(record: &'static ImportRecord<N>) -> u32 {
    let start = (&raw const IMPORTS_START).addr();
    u32::try_from(ptr::from_ref(record).addr() - start).unwrap_or(u32::MAX)
}
