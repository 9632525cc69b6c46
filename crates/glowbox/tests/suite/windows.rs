//! Guest memory as the process sees it from outside: its mappings, and what is in them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A line of /proc/self/maps, with what /proc/self/smaps says of it in bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) permissions: String,
    pub(crate) name: String,
    pub(crate) resident: u64,
    pub(crate) proportional: u64,
    pub(crate) private: u64,
    pub(crate) anonymous: u64,
    pub(crate) swapped: u64,
    /// Whether core dumps leave it out.
    pub(crate) left_out_of_dumps: bool,
}

/// All mappings of this process.
pub(crate) fn mappings() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let first = fields.next().unwrap_or("");
        let Some(key) = first.strip_suffix(':') else {
            let Some((from, to)) = first.split_once('-') else { continue };
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            mappings.push(Mapping {
                range: number(from)..number(to),
                permissions: fields.next().unwrap_or("").into(),
                name: fields.nth(3).unwrap_or("").into(),
                ..Mapping::default()
            });
            continue;
        };
        if key == "VmFlags" {
            if let Some(last) = mappings.last_mut() {
                last.left_out_of_dumps = fields.any(|flag| flag == "dd");
            }
            continue;
        }
        let bytes = fields.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10;
        let Some(last) = mappings.last_mut() else { continue };
        match key {
            "Rss" => last.resident = bytes,
            "Pss" => last.proportional = bytes,
            "Private_Clean" | "Private_Dirty" => last.private += bytes,
            "Anonymous" => last.anonymous = bytes,
            "Swap" => last.swapped = bytes,
            _ => {}
        }
    }
    mappings
}

/// Whether a mapping is an image's, shared or not.
pub(crate) fn is_image(mapping: &Mapping) -> bool {
    mapping.name.contains("glowbox-image")
}

/// What makes up windows of at least `size` bytes: writable mappings without a name or of an image,
/// one behind the other, or of a file that a guest's process shares.
pub(crate) fn windows(size: u64) -> Vec<Mapping> {
    let mappings = mappings();
    let is_shared = |mapping: &Mapping| mapping.name.contains("glowbox-guest");
    let shared = mappings.iter().any(is_shared);
    let of_window = |mapping: &Mapping| match shared {
        true => is_shared(mapping),
        false => {
            let is_named = !mapping.name.is_empty() && !is_image(mapping);
            mapping.permissions == "rw-p" && !is_named
        }
    };
    let mut chains: Vec<Vec<Mapping>> = Vec::new();
    for mapping in mappings.into_iter().filter(of_window) {
        match chains.last_mut() {
            Some(chain) if chain.last().is_some_and(|l| l.range.end == mapping.range.start) => {
                chain.push(mapping);
            }
            _ => chains.push(vec![mapping]),
        }
    }
    let length = |chain: &[Mapping]| chain.iter().map(|m| m.range.end - m.range.start).sum::<u64>();
    chains.retain(|chain| length(chain) >= size);
    chains.concat()
}

/// Bytes in windows that are not shared with an image.
pub(crate) fn anonymous(size: u64) -> u64 {
    windows(size).iter().map(|mapping| mapping.anonymous).sum()
}

/// Addresses in windows and images at which a pattern stands, at most 16. Pages that are not there
/// stay so.
pub(crate) fn find_pattern(size: u64, pattern: u64) -> Vec<String> {
    let images = mappings().into_iter().filter(|m| is_image(m) && m.permissions == "r--s");
    let memory = File::open("/proc/self/mem").expect("memory");
    let pagemap = File::open("/proc/self/pagemap").expect("the page map");
    let mut found = Vec::new();
    let [a, b, ..] = pattern.to_le_bytes();
    let halves = [[a, b, a, b], [b, a, b, a]].map(u32::from_le_bytes);
    for Mapping { range, name, .. } in images.chain(windows(size)) {
        let pages = usize::try_from((range.end - range.start) / 4096).expect("fits");
        let mut entries = vec![0; pages * 8];
        pagemap.read_exact_at(&mut entries, range.start / 4096 * 8).expect("entries");
        let mut bytes = [0; 4096];
        for (entry, page) in entries.as_chunks().0.iter().zip(0..) {
            // Neither in memory nor swapped out.
            if u64::from_le_bytes(*entry) >> 62 == 0 {
                continue;
            }
            let at = range.start + page * 4096;
            memory.read_exact_at(&mut bytes, at).expect("a page");
            let is = |word: &[u8; 4]| halves.contains(&u32::from_le_bytes(*word));
            if bytes.as_chunks().0.iter().any(is) && found.len() < 16 {
                found.push(format!("page {:#x} of {:#x?} {name}", page * 4096, range));
            }
        }
    }
    found
}

/// How many memfds of images this process has open, and how many mappings of them there are.
pub(crate) fn images() -> (usize, usize) {
    let open = std::fs::read_dir("/proc/self/fd").expect("descriptors").filter(|file| {
        let link = file.as_ref().ok().and_then(|file| std::fs::read_link(file.path()).ok());
        link.is_some_and(|target| target.to_string_lossy().contains("glowbox-image"))
    });
    let open = open.count();
    (open, mappings().iter().filter(|mapping| is_image(mapping)).count())
}
