//! Standard output and standard error: where the bytes go that a guest writes to descriptors 1 and 2.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;

use super::input::is_ready;
use crate::Errno;

/// Where a guest's output goes. Copies go to the same place, and share a limit.
#[derive(Clone, Default)]
pub struct Output {
    sink: Sink,
    /// Bytes that it still takes.
    left: Option<Arc<AtomicU64>>,
}

type Callback = dyn FnMut(&[u8]) + Send;

#[derive(Clone, Default)]
enum Sink {
    #[default]
    Discard,
    Writer(Arc<Mutex<dyn Write + Send>>),
    Callback(Arc<Mutex<Callback>>),
    Buffer(OutputBuffer),
    Standard(Standard),
}

/// One of the host process's own streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standard {
    Output,
    Error,
}

/// Most bytes that are written at once to the host process's own streams: so many a pipe takes without
/// waiting if it takes any (`PIPE_BUF`).
const AT_ONCE: usize = 4096;
/// Held between finding that one of them takes something, and writing.
static STANDARD: Mutex<()> = Mutex::new(());

impl Output {
    /// Nowhere.
    pub fn discard() -> Output {
        Output::default()
    }

    /// Into a writer, which is not flushed. A guest that writes blocks the host's thread for as long
    /// as the writer does: neither a deadline nor an interrupt ends that.
    pub fn writer(writer: impl Write + Send + 'static) -> Output {
        Output::to(Sink::Writer(Arc::new(Mutex::new(writer))))
    }

    /// To a function, in pieces as the guest writes them: no line comes whole for certain. The
    /// function must not itself run a guest that writes to this output. If it panics, the call that ran
    /// the guest ends with Glowbox's `ErrorKind::HostPanic`, and the guest does not go on.
    pub fn callback(callback: impl FnMut(&[u8]) + Send + 'static) -> Output {
        Output::to(Sink::Callback(Arc::new(Mutex::new(callback))))
    }

    /// Into a buffer in memory. While it holds `limit` bytes that have not been taken out, writing
    /// fails with `ENOSPC`.
    pub fn buffer(limit: u64) -> (Output, OutputBuffer) {
        let buffer = OutputBuffer { kept: Arc::default(), limit };
        (Output::to(Sink::Buffer(buffer.clone())), buffer)
    }

    /// To the host process's standard output. A guest that waits until something is taken from a full
    /// pipe can be interrupted; of a long write it may be told that only a part was done. It is written
    /// past the buffer of [`std::io::stdout`], so flush that before the guest runs if you use it too.
    pub fn stdout() -> Output {
        Output::to(Sink::Standard(Standard::Output))
    }

    /// To the host process's standard error, as [`Output::stdout`].
    pub fn stderr() -> Output {
        Output::to(Sink::Standard(Standard::Error))
    }

    /// The same, but it takes so many bytes in all and no more, from all who write to it or to a copy
    /// of it; then writing fails with `ENOSPC`. The last limit set is the one that holds.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Output {
        self.left = Some(Arc::new(AtomicU64::new(bytes)));
        self
    }

    fn to(sink: Sink) -> Output {
        Output { sink, left: None }
    }

    /// Which of the host process's streams it is: one that may have to be waited for.
    pub(super) fn standard(&self) -> Option<Standard> {
        match self.sink {
            Sink::Standard(standard) => Some(standard),
            _ => None,
        }
    }

    /// Writes, at least one byte unless there is none; `None` if that would have to wait.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        if bytes.is_empty() {
            return Ok(Some(0));
        }
        let Some(left) = &self.left else { return self.sink.write(bytes) };
        let wanted = bytes.len() as u64;
        let before = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted))
            })
            .unwrap_or_else(|same| same);
        let taken = before.min(wanted);
        if taken == 0 {
            return Err(Errno::ENOSPC);
        }
        let part = usize::try_from(taken).map_or(bytes, |taken| &bytes[..taken]);
        let written = self.sink.write(part);
        // What was not written may still be.
        let done = written.ok().flatten().unwrap_or(0);
        left.fetch_add(taken - done as u64, Ordering::Relaxed);
        written
    }
}

impl Sink {
    fn write(&self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        let written = match self {
            Sink::Discard => Ok(bytes.len()),
            // A writer or a callback that panicked is used again: poison would silence it for ever.
            Sink::Writer(writer) => {
                write(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner), bytes)
            }
            Sink::Callback(callback) => {
                let mut callback = callback.lock().unwrap_or_else(PoisonError::into_inner);
                callback(bytes);
                Ok(bytes.len())
            }
            Sink::Buffer(buffer) => buffer.write(bytes),
            Sink::Standard(Standard::Output) => return write_ready(io::stdout(), bytes),
            Sink::Standard(Standard::Error) => return write_ready(io::stderr(), bytes),
        };
        written.map(Some)
    }
}

/// Writes as much as a descriptor takes without waiting; `None` if that is nothing.
fn write_ready(to: impl AsFd, bytes: &[u8]) -> Result<Option<usize>, Errno> {
    let _writing = STANDARD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = 0;
    while done < bytes.len() && is_ready(&to, PollFlags::OUT) {
        let part = &bytes[done..bytes.len().min(done + AT_ONCE)];
        match rustix::io::write(&to, part) {
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
            // It comes again when the rest is written.
            Err(_) if done > 0 => break,
            Err(error) => return Err(Errno::of_io(&error.into())),
        }
    }
    Ok(if done > 0 { Some(done) } else { None })
}

/// Writes all, or what goes before something fails.
fn write(writer: &mut (impl Write + ?Sized), bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match writer.write(&bytes[done..]) {
            Ok(0) => break,
            Ok(written) => done = bytes.len().min(done.saturating_add(written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(Errno::of_io(&error)),
        }
    }
    match done {
        0 => Err(Errno::EIO),
        done => Ok(done),
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.sink {
            Sink::Discard => "Output::discard()",
            Sink::Writer(_) => "Output::writer(..)",
            Sink::Callback(_) => "Output::callback(..)",
            Sink::Buffer(_) => "Output::buffer(..)",
            Sink::Standard(Standard::Output) => "Output::stdout()",
            Sink::Standard(Standard::Error) => "Output::stderr()",
        })?;
        match &self.left {
            Some(left) => write!(f, ".limit({})", left.load(Ordering::Relaxed)),
            None => Ok(()),
        }
    }
}

/// What guests have written to an [`Output::buffer`].
#[derive(Clone)]
pub struct OutputBuffer {
    kept: Arc<Mutex<Vec<u8>>>,
    limit: u64,
}

impl OutputBuffer {
    /// Takes out what has been written so far.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.kept())
    }

    fn kept(&self) -> MutexGuard<'_, Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut kept = self.kept();
        let room = self.limit.saturating_sub(kept.len() as u64);
        let part = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        if part == 0 {
            return Err(Errno::ENOSPC);
        }
        kept.extend_from_slice(&bytes[..part]);
        Ok(part)
    }
}

impl fmt::Debug for OutputBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputBuffer")
            .field("kept", &self.kept().len())
            .field("limit", &self.limit)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_takes_no_more_than_its_limit_until_it_is_emptied() {
        let (output, buffer) = Output::buffer(5);
        assert_eq!(output.write(b"abc"), Ok(Some(3)));
        assert_eq!(output.clone().write(b"def"), Ok(Some(2)));
        assert_eq!(output.write(b"g"), Err(Errno::ENOSPC));
        assert_eq!(buffer.take(), b"abcde");
        assert_eq!(output.write(b"g"), Ok(Some(1)));
        assert_eq!(buffer.take(), b"g");
    }

    #[test]
    fn a_limit_holds_for_all_copies_together() {
        let output = Output::discard().limit(4);
        let copy = output.clone();
        assert_eq!(output.write(b"abc"), Ok(Some(3)));
        assert_eq!(copy.write(b"abc"), Ok(Some(1)));
        assert_eq!(output.write(b"abc"), Err(Errno::ENOSPC));
        assert_eq!(output.write(b""), Ok(Some(0)));
    }

    #[test]
    fn what_could_not_be_written_does_not_count() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::writer(Full).limit(4);
        assert_eq!(output.write(b"abcdef"), Err(Errno::EPIPE));
        assert_eq!(format!("{output:?}"), "Output::writer(..).limit(4)");
    }

    #[test]
    fn a_callback_that_panicked_is_called_again() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::callback(move |bytes| {
            sender.send(bytes.to_vec()).unwrap();
            assert_ne!(bytes, b"panic");
        });
        let copy = output.clone();
        std::thread::spawn(move || copy.write(b"panic")).join().unwrap_err();
        assert_eq!(output.write(b"on"), Ok(Some(2)));
        assert_eq!(
            receiver.iter().take(2).collect::<Vec<_>>(),
            [b"panic".to_vec(), b"on".to_vec()]
        );
    }

    #[test]
    fn a_full_pipe_takes_what_it_can_and_the_rest_waits() {
        let (reader, writer) = io::pipe().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|index| index.to_le_bytes()[0]).collect();
        // A pipe holds less, and blocks whoever writes more.
        let first = write_ready(&writer, &bytes).unwrap().unwrap();
        assert!((AT_ONCE..bytes.len()).contains(&first), "{first}");
        assert_eq!(write_ready(&writer, &bytes[first..]), Ok(None));
        let mut kept = vec![0; AT_ONCE];
        assert_eq!(rustix::io::read(&reader, &mut kept), Ok(AT_ONCE));
        assert_eq!(kept, bytes[..AT_ONCE]);
        let second = write_ready(&writer, &bytes[first..]).unwrap();
        assert_eq!(second, Some(AT_ONCE));
        // One that does not block waits all the same.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        assert_eq!(write_ready(&writer, &bytes), Ok(None));
        drop(reader);
        assert_eq!(write_ready(&writer, &bytes), Err(Errno::EPIPE));
    }
}
