//! What a process holds: descriptors, threads, mappings, address space.

use std::fs::{read_dir, read_link, read_to_string};
use std::time::{Duration, Instant};

/// Mappings and bytes of address space by which the heap may grow.
const HEAPS_MAPPINGS: usize = 8;
const HEAPS_BYTES: usize = 24 << 20;

/// What this process holds at a moment.
pub(crate) struct Level {
    descriptors: Vec<String>,
    threads: usize,
    mappings: usize,
    bytes: usize,
}

impl Level {
    pub(crate) fn now() -> Level {
        let links = read_dir("/proc/self/fd").expect("/proc").filter_map(|entry| {
            let link = read_link(entry.ok()?.path()).ok()?;
            Some(link.to_string_lossy().into_owned())
        });
        let mut descriptors: Vec<String> = links.collect();
        descriptors.sort();
        let size = read_to_string("/proc/self/statm").expect("/proc");
        let pages: usize = size.split(' ').next().unwrap().parse().unwrap();
        Level {
            descriptors,
            threads: read_dir("/proc/self/task").expect("/proc").count(),
            mappings: read_to_string("/proc/self/maps").expect("/proc").lines().count(),
            bytes: pages * 4096,
        }
    }

    /// What this process holds more than it did then. A thread that has been joined may be seen for a
    /// moment yet.
    pub(crate) fn risen(&self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let risen = self.risen_now();
            if risen.is_ok() || Instant::now() > end {
                return risen;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn risen_now(&self) -> Result<(), String> {
        let now = Level::now();
        if now.descriptors.len() > self.descriptors.len() {
            let mut new = now.descriptors;
            for old in &self.descriptors {
                if let Some(at) = new.iter().position(|other| other == old) {
                    new.remove(at);
                }
            }
            return Err(format!("descriptors are left: {new:?}"));
        }
        if now.threads > self.threads {
            return Err(format!("threads are left: {}, {} before", now.threads, self.threads));
        }
        if now.mappings > self.mappings + HEAPS_MAPPINGS {
            return Err(format!("mappings are left: {}, {} before", now.mappings, self.mappings));
        }
        if now.bytes > self.bytes + HEAPS_BYTES {
            return Err(format!("address space is left: {}, {} before", now.bytes, self.bytes));
        }
        Ok(())
    }
}
