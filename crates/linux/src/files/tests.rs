//! Tests of the files as a whole, without system calls around them.

use linux_raw_sys::general as raw;

use super::resolve::Place;
use super::{Around, Errno, Files, Grants, Input, Options};
use crate::Limits;
use crate::call::Stop;
use crate::clock::{Clock, Clocks};
use crate::random::Random;

mod host;
mod scratch;
mod tree;

const RDONLY: u32 = raw::O_RDONLY;
const RDWR: u32 = raw::O_RDWR;
const CREATE: u32 = raw::O_CREAT | raw::O_RDWR;

/// Files, and what they need.
struct Fixture {
    files: Files,
    grants: Grants,
    random: Random,
    clocks: Clocks,
    limits: Limits,
}

impl Fixture {
    fn new(options: &Options) -> Fixture {
        let (files, grants) = options.build(&Clock::Virtual).unwrap();
        Fixture::with(files, grants)
    }

    fn with(files: Files, grants: Grants) -> Fixture {
        let (random, clocks) = (Random::new([0; 32]), Clocks::new());
        Fixture { files, grants, random, clocks, limits: Limits::default() }
    }

    /// A process that starts where this one is.
    fn copy(&self) -> Fixture {
        Fixture::with(self.files.clone(), self.grants.clone())
    }

    fn parts(&mut self) -> (&mut Files, Around<'_>) {
        let around = Around {
            grants: &mut self.grants,
            random: &mut self.random,
            limits: &self.limits,
            clocks: &mut self.clocks,
            clock: Clock::Virtual,
        };
        (&mut self.files, around)
    }

    fn open(&mut self, path: &str, flags: u32) -> Result<i32, Errno> {
        let (files, mut around) = self.parts();
        let base = files.current.clone();
        let fd = files.open(&mut around, &base, path.as_bytes(), flags, 0o644)?;
        Ok(fd.cast_signed())
    }

    fn close(&mut self, fd: i32) {
        self.files.close(fd.cast_unsigned()).unwrap();
    }

    fn read(&mut self, fd: i32, at: Option<u64>, most: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; most];
        let (files, mut around) = self.parts();
        let read = files.read(&mut around, fd, at, &mut bytes).map_err(errno)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn write(&mut self, fd: i32, at: Option<u64>, bytes: &[u8]) -> Result<usize, Errno> {
        let (files, mut around) = self.parts();
        files.write(&mut around, fd, at, bytes).map_err(errno)
    }

    /// What is in a file.
    fn contents(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        let fd = self.open(path, RDONLY)?;
        let bytes = self.read(fd, None, 1 << 20);
        self.close(fd);
        bytes
    }

    /// Makes a file.
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let fd = self.open(path, CREATE | raw::O_TRUNC)?;
        let written = match bytes.is_empty() {
            true => Ok(0),
            false => self.write(fd, None, bytes),
        };
        self.close(fd);
        assert_eq!(written?, bytes.len());
        Ok(())
    }

    fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        let (files, mut around) = self.parts();
        let base = files.current.clone();
        files.make_directory(&mut around, &base, path.as_bytes(), 0o755)
    }

    fn link(&mut self, to: &str, path: &str) -> Result<(), Errno> {
        let (files, mut around) = self.parts();
        let base = files.current.clone();
        files.make_link(&mut around, to.as_bytes(), &base, path.as_bytes())
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        self.remove_as(path, false)
    }

    fn rmdir(&mut self, path: &str) -> Result<(), Errno> {
        self.remove_as(path, true)
    }

    fn remove_as(&mut self, path: &str, directory: bool) -> Result<(), Errno> {
        let (files, mut around) = self.parts();
        let base = files.current.clone();
        files.remove(&mut around, &base, path.as_bytes(), directory)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        self.rename_as(from, to, super::tree::Rename::Replace)
    }

    fn rename_as(&mut self, from: &str, to: &str, how: super::tree::Rename) -> Result<(), Errno> {
        let (files, mut around) = self.parts();
        let base = files.current.clone();
        files.rename(&mut around, (&base, from.as_bytes()), (&base, to.as_bytes()), how)
    }

    /// Where a path leads, as an absolute path.
    fn resolves(&mut self, path: &str) -> Result<String, Errno> {
        let (files, around) = self.parts();
        let base = files.current.clone();
        let (place, _) = files.resolve(around.grants, &base, path.as_bytes(), true)?.existing()?;
        files.path_of(&place).map(|path| String::from_utf8(path).unwrap())
    }

    fn go(&mut self, path: &str) -> Result<(), Errno> {
        let (files, around) = self.parts();
        let base = files.current.clone();
        let (place, _) = files.resolve(around.grants, &base, path.as_bytes(), true)?.existing()?;
        let before = std::mem::replace(&mut files.current, place);
        if let Place::Memory(ino) = before {
            files.drop_unused(ino);
        }
        Ok(())
    }

    /// Names in a directory, sorted; read in pieces of so many bytes.
    fn list(&mut self, path: &str, piece: usize) -> Result<Vec<String>, Errno> {
        let fd = self.open(path, raw::O_DIRECTORY)?;
        let mut names = Vec::new();
        let end = loop {
            match self.list_on(fd, piece) {
                Ok(more) if more.is_empty() => break Ok(()),
                Ok(more) => names.extend(more),
                Err(error) => break Err(error),
            }
        };
        self.close(fd);
        names.sort();
        end.map(|()| names)
    }

    fn list_on(&mut self, fd: i32, piece: usize) -> Result<Vec<String>, Errno> {
        let (files, around) = self.parts();
        let (bytes, goes_on) = files.list(&around, fd, piece)?;
        files.get_mut(fd)?.offset = goes_on;
        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let name = &rest[19..length];
            let end = name.iter().position(|byte| *byte == 0).unwrap();
            names.push(String::from_utf8(name[..end].to_vec()).unwrap());
            rest = &rest[length..];
        }
        Ok(names)
    }

    fn used(&self) -> u64 {
        self.files.tree.scratch.used
    }

    /// That the files can be used after they were written to a file, and what comes back.
    fn saved(&self) -> Fixture {
        assert!(self.files.is_sound(&self.limits));
        let bytes = postcard::to_allocvec(&self.files).unwrap();
        let files: Files = postcard::from_bytes(&bytes).unwrap();
        assert!(files.is_sound(&self.limits));
        Fixture::with(files, self.grants.clone())
    }
}

fn errno(stop: Stop) -> Errno {
    match stop {
        Stop::Error(error) => error,
        Stop::Wait(_) => panic!("it waits"),
        other => panic!("{other:?}"),
    }
}
