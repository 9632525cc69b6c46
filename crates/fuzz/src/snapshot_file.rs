//! Any bytes as a snapshot file: refused with the name of a field, or a file that means exactly one
//! thing. Most inputs get checksums that match, since whoever makes a file can make those.

#[path = "../../core/tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is for tests, and each uses some of it")]
mod support;

use glowbox_core::escape::Escaped;
use glowbox_core::snapshot_file::Header;
use glowbox_linux::Process;

use crate::input::Input;
use support::{Parts, load, range, refused_or_exact, seal};

/// Most bytes that the parts of a file take here.
const MOST: usize = 1 << 16;
/// Memory of the guest whose process is decoded.
const MEMORY: u64 = 4 << 20;

/// Reads the bytes as a file, as a file whose checksums match, or as parts of one.
///
/// # Panics
///
/// If a file is accepted that has another meaning than its bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    match choice & 3 {
        0 => whole(input.rest()),
        1 => {
            let mut file = input.rest().to_vec();
            if file.len() >= Header::SIZE {
                seal(&mut file);
            }
            whole(&file);
        }
        2 => whole(&parts(&mut input).assemble()),
        _ => process(input.rest()),
    }
}

/// Parts of the lengths that the bytes say; where they say none, those of a proper file.
fn parts(input: &mut Input<'_>) -> Parts {
    let mut parts = Parts::proper();
    for part in [
        &mut parts.metadata,
        &mut parts.runs,
        &mut parts.program,
        &mut parts.process,
        &mut parts.image,
    ] {
        let length = usize::from(input.half());
        if length > 0 {
            *part = input.take(length.min(MOST)).to_vec();
        }
    }
    parts
}

fn whole(file: &[u8]) {
    if refused_or_exact(file).is_some() {
        return;
    }
    let (header, contents) = load(file).expect("it was loaded before");
    let sections = header.sections();
    assert!(sections.iter().all(|(_, part)| range(part.clone()).end <= file.len()));
    let metadata = &contents.metadata;
    let _ = metadata.check_cpu(&[], 0);
    metadata.check_cpu(&metadata.features, metadata.xcr0).expect("it has what it has");
    let names = metadata.features.iter().flat_map(|word| word.names());
    assert!(names.count() <= 64 * 32);
    let _ = Escaped(&metadata.name).to_string();
}

/// The process of a Linux guest, as a file's is decoded.
fn process(bytes: &[u8]) {
    let Ok((process, _)) = postcard::take_from_bytes::<Process>(bytes) else { return };
    if !process.is_sound(MEMORY) {
        return;
    }
    let again = postcard::to_allocvec(&process).expect("it can be saved again");
    let process: Process = postcard::from_bytes(&again).expect("it can be loaded again");
    assert!(process.is_sound(MEMORY));
}
