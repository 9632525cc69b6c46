//! Too much stack, too much heap.

use core::hint::black_box;
use core::mem::MaybeUninit;

use glowbox_guest::guest_function;

/// Bytes of a large frame: several times larger than a page, smaller than the default stack.
const LARGE: usize = 512 << 10;

/// Calls itself `depth` times, with small frames. Returns how often it has.
#[guest_function]
fn recurse(depth: u64) -> u64 {
    black_box(if depth == 0 { 0 } else { recurse(black_box(depth - 1)) + 1 })
}

/// Calls itself `depth` times, with a large frame each time. Returns how many there were.
#[guest_function]
fn large_frames(depth: u32) -> u32 {
    // Uninitialised, so that nothing but the compiler's own probes touches the most of it.
    let mut frame = [MaybeUninit::<u8>::uninit(); LARGE];
    let one = u32::from(*black_box(&mut frame)[0].write(1));
    let below = if depth > 1 { large_frames(black_box(depth - 1)) } else { 0 };
    black_box(&mut frame);
    below + one
}

/// Has one frame that is larger than stack and guard together, and writes to its lowest byte.
#[guest_function]
fn enormous_frame() -> u8 {
    let mut frame = [MaybeUninit::<u8>::uninit(); 16 << 20];
    *black_box(&mut frame)[0].write(1)
}

/// Doubles a vector until that is refused.
#[guest_function]
fn grow_vector() -> u64 {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        bytes.push(0);
        if black_box(bytes.len()) == usize::MAX {
            return 0;
        }
    }
}

/// Boxes pages until that is refused.
#[guest_function]
fn hoard_boxes() -> u64 {
    struct Hoard {
        _page: [u8; 4096],
        _rest: Option<Box<Hoard>>,
    }
    let mut hoard = None;
    loop {
        hoard = black_box(Some(Box::new(Hoard { _page: [1; 4096], _rest: hoard })));
    }
}

/// Makes one allocation.
#[guest_function]
fn allocate(size: u64, zeroed: bool) -> u64 {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let bytes = if zeroed { vec![0u8; size] } else { Vec::with_capacity(size) };
    black_box(bytes).capacity() as u64
}

/// Asks for one allocation, and says whether it can be had.
#[guest_function]
fn try_allocate(size: u64) -> bool {
    let mut bytes: Vec<u8> = Vec::new();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let had = bytes.try_reserve_exact(size).is_ok();
    black_box(bytes);
    had
}
