//! Archives in cpio's format `newc`, which is what Linux unpacks its first file system from.
//!
//! Folders are made as files need them. Times, owners and devices are left at zero: an archive of the
//! same files is the same bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;

/// An archive that is being written.
pub(super) struct Archive<W> {
    to: W,
    folders: BTreeSet<String>,
    entries: u32,
    length: usize,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(super) fn new(to: W) -> Archive<W> {
        Archive { to, folders: BTreeSet::new(), entries: 0, length: 0 }
    }

    /// Adds a file that can be executed.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, PROGRAM, bytes)
    }

    /// Adds a file that is only read.
    pub(super) fn data(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, DATA, bytes)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.file(path, LINK, to.as_bytes())
    }

    /// Adds an empty folder, and those that it is in.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let path = &path[..end];
            if self.folders.insert(path.into()) {
                self.entry(path, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    /// Writes the end and gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        self.entry(path, mode, bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name = u32::try_from(path.len() + 1).map_err(|_| io::ErrorKind::InvalidFilename)?;
        let (number, links) = (self.entries, 1);
        self.entries += 1;
        let mut header = String::from("070701");
        // Number, mode, owner, group, links, time, size, device and its own, name, checksum.
        for field in [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0] {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(b"\0")?;
        self.align()?;
        self.put(bytes)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len();
        self.to.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        self.put(&[0; 3][..self.length.next_multiple_of(4) - self.length])
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use glowbox_testprograms::Programs;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.program("/init", b"#!/bin/sh\n").unwrap();
        archive.data("/a/b/odd", b"12345").unwrap();
        archive.data("/a/b/even", b"12345678").unwrap();
        archive.link("/a/link", "b/odd").unwrap();
        archive.folder("/empty/one").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn an_entry_is_its_header_its_name_and_its_bytes_each_padded_to_four() {
        let bytes = sample();
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&bytes[range]).unwrap();
        assert_eq!(text(0..6), "070701");
        assert_eq!(text(14..22), "000081ed", "the mode");
        assert_eq!(text(54..62), "0000000a", "the size");
        assert_eq!(text(94..102), "00000005", "the name with its end");
        assert_eq!(&bytes[110..116], b"init\0\0", "padded");
        assert_eq!(text(116..126), "#!/bin/sh\n");
        assert_eq!(&bytes[126..134], b"\0\x00070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_folder_is_there_before_what_is_in_it_and_once() {
        let text = sample();
        let at = |name: &[u8]| {
            let mut places =
                text.windows(name.len()).enumerate().filter(|(_, found)| *found == name);
            (places.next().unwrap().0, places.next())
        };
        // Behind the last digit of a header.
        let (outer, again) = at(b"0a\0");
        assert!(again.is_none());
        let (inner, again) = at(b"0a/b\0");
        assert!(again.is_none());
        assert!(outer < inner && inner < at(b"0a/b/odd\0").0);
    }

    #[test]
    fn another_program_unpacks_what_was_packed() {
        let busybox = match Programs::new("../../target").busybox() {
            Ok(busybox) => busybox,
            Err(absent) => return eprintln!("left out: {absent}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let mut cpio = Command::new(busybox.path().canonicalize().unwrap());
        cpio.args(["cpio", "-i"]).current_dir(&folder).stdin(Stdio::piped());
        let mut cpio = cpio.spawn().unwrap();
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        assert!(cpio.wait().unwrap().success());
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("init"), b"#!/bin/sh\n");
        assert_eq!(read("a/link"), b"12345");
        assert_eq!(read("a/b/even"), b"12345678");
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("init"), PROGRAM);
        assert_eq!(mode("a/b/odd"), DATA);
        assert_eq!(mode("empty/one"), FOLDER);
    }
}
