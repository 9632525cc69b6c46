//! Random numbers that are the guest's own.
//!
//! They come from a generator in the guest (ChaCha20), seeded by the host: no call of the host, and
//! the same cost on every machine. The host seeds a guest when it starts it, and anew whenever its
//! memory becomes another copy of what it was: when a sandbox is made from a snapshot, and when it
//! is reset. So two sandboxes of one snapshot never draw the same numbers, even if the snapshot was
//! taken after some had been drawn: the generator in it belongs to another *generation*, and is
//! never used again.
//!
//! Unless the host asked for that (`glowbox::Builder::deterministic`): then the seed is fixed, and the
//! same snapshot with the same inputs draws the same numbers. What a guest draws after such a copy
//! does not repeat what it drew before it, since each seeding starts a stream of its own, numbered
//! by how many there were in this memory.
//!
//! What this can't help: a generator of the guest's own, seeded before the snapshot, goes on in
//! every copy of it. Draw from here each time, or ask [`generation`] whether it is time to seed
//! again.
//!
//! ```ignore
//! use glowbox_guest::random;
//!
//! let mut key = [0; 32];
//! random::fill(&mut key);
//! let id = random::u64();
//! ```
//!
//! [`GuestRng`] is the same as a generator for the crates around `rand`. The crate `getrandom`
//! (versions 0.3 and 0.4) works in guests too, and draws from here; in a guest with the standard
//! library it asks the operating system, as everywhere, and so the host.

use core::cell::RefCell;
use core::convert::Infallible;
use core::sync::atomic::{AtomicU64, Ordering};

use chacha20::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _, TryCryptoRng, TryRng};

use crate::arch;

pub use rand_core;

/// The generator and what it was seeded for.
struct Generator {
    generation: u64,
    stream: ChaCha20Rng,
}

arch::per_thread! {
    static GENERATOR: RefCell<Option<Generator>> = RefCell::new(None);
}

/// How many generators there have been in this memory: the next one's stream. So the threads of a
/// guest that has several draw different numbers.
static SEEDINGS: AtomicU64 = AtomicU64::new(0);

/// Runs `draw` with a generator of the present generation.
fn with_stream<R>(draw: impl FnOnce(&mut ChaCha20Rng) -> R) -> R {
    let generation = arch::entropy_generation();
    GENERATOR.with(|generator| {
        let mut generator = generator.borrow_mut();
        let generator = match &mut *generator {
            Some(known) if known.generation == generation => known,
            // Of a state that another copy of this memory may go on with, nothing is used.
            stale => {
                let mut stream = ChaCha20Rng::from_seed(arch::entropy().seed);
                stream.set_stream(SEEDINGS.fetch_add(1, Ordering::Relaxed));
                stale.insert(Generator { generation, stream })
            }
        };
        draw(&mut generator.stream)
    })
}

/// Fills `bytes` with random ones, good for keys.
pub fn fill(bytes: &mut [u8]) {
    with_stream(|stream| stream.fill_bytes(bytes));
}

/// A random number from the whole range.
pub fn u64() -> u64 {
    with_stream(ChaCha20Rng::next_u64)
}

/// Which copy of this guest's memory this is. It changes between two calls if the sandbox was reset
/// in between, or made from a snapshot that was taken in between; never during a call.
///
/// For guests that keep what must not be the same in two sandboxes (a generator of their own, a
/// session's number): remember it, and make that anew when it has changed.
pub fn generation() -> u64 {
    arch::entropy_generation()
}

/// The guest's random numbers as a generator for the crates around `rand`.
///
/// It holds nothing, and may be made anywhere at any time.
///
/// ```ignore
/// use glowbox_guest::random::GuestRng;
/// use rand::seq::SliceRandom;
///
/// cards.shuffle(&mut GuestRng);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct GuestRng;

impl TryRng for GuestRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(with_stream(ChaCha20Rng::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for GuestRng {}
