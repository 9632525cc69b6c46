//! Reading and writing.
//!
//! Data go between guest memory and files without a copy in between: [`crate::space::Space::pieces`]
//! says where in the host's memory a buffer lies. It does so a window at a time, since what it gives
//! is populated: a guest that offers a huge buffer to a small file pays for a window.

use std::ops::Range;

use linux_raw_sys::general as raw;

use super::{offset, split};
use crate::Errno;
use crate::call::{Answer, Call, Stop, Wait, WaitFor, int, signed, unsigned};

/// Most bytes of one call on a file: what takes longer would not let a deadline through.
const FILE: u64 = 64 << 20;
/// Most bytes that are written at once to a stream.
const STREAM: u64 = 2 << 20;
/// Most bytes that are asked for at a time.
const WINDOW: u64 = 256 << 10;
/// Most bytes that are put together from several pieces, for what takes all or nothing.
const GATHERED: usize = 64 << 10;
/// Most vectors.
const VECTORS: u64 = 1024;

/// A buffer of the guest's: address and length.
type Buffer = (u64, u64);

pub(super) fn read(call: &mut Call<'_>) -> Answer {
    let [fd, address, length, ..] = call.arguments;
    read_into(call, int(fd), None, &[(address, length)])
}

pub(super) fn write(call: &mut Call<'_>) -> Answer {
    let [fd, address, length, ..] = call.arguments;
    write_from(call, int(fd), None, &[(address, length)])
}

/// What a write answers. Nobody reads what was to be written: that is a signal, too.
fn tell(call: &mut Call<'_>, answer: Answer) -> Answer {
    if let Err(Stop::Error(Errno::EPIPE)) = answer {
        call.process.threads.raise(raw::SIGPIPE);
    }
    answer
}

pub(super) fn pread64(call: &mut Call<'_>) -> Answer {
    let [fd, address, length, at, ..] = call.arguments;
    read_into(call, int(fd), Some(offset(at)?), &[(address, length)])
}

pub(super) fn pwrite64(call: &mut Call<'_>) -> Answer {
    let [fd, address, length, at, ..] = call.arguments;
    write_from(call, int(fd), Some(offset(at)?), &[(address, length)])
}

pub(super) fn readv(call: &mut Call<'_>) -> Answer {
    let buffers = vectors(call)?;
    read_into(call, int(call.arguments[0]), None, &buffers)
}

pub(super) fn writev(call: &mut Call<'_>) -> Answer {
    let buffers = vectors(call)?;
    write_from(call, int(call.arguments[0]), None, &buffers)
}

pub(super) fn preadv(call: &mut Call<'_>) -> Answer {
    let at = offset(call.arguments[3])?;
    let buffers = vectors(call)?;
    read_into(call, int(call.arguments[0]), Some(at), &buffers)
}

pub(super) fn pwritev(call: &mut Call<'_>) -> Answer {
    let at = offset(call.arguments[3])?;
    let buffers = vectors(call)?;
    write_from(call, int(call.arguments[0]), Some(at), &buffers)
}

pub(super) fn preadv2(call: &mut Call<'_>) -> Answer {
    let at = offset_and_flags(call)?;
    let buffers = vectors(call)?;
    read_into(call, int(call.arguments[0]), at, &buffers)
}

pub(super) fn pwritev2(call: &mut Call<'_>) -> Answer {
    let at = offset_and_flags(call)?;
    let buffers = vectors(call)?;
    write_from(call, int(call.arguments[0]), at, &buffers)
}

/// The offset of `preadv2`: -1 is where the descriptor stands.
fn offset_and_flags(call: &Call<'_>) -> Result<Option<u64>, Stop> {
    let [_, _, _, at, _, flags] = call.arguments;
    if unsigned(flags) & !(raw::RWF_HIPRI | raw::RWF_DSYNC | raw::RWF_SYNC) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if at == signed(-1) { Ok(None) } else { Ok(offset(at).map(Some)?) }
}

/// Reads an array of `iovec`s.
fn vectors(call: &mut Call<'_>) -> Result<Vec<Buffer>, Stop> {
    let [fd, address, count, ..] = call.arguments;
    call.process.files.get(int(fd))?;
    if count > VECTORS {
        return Err(Errno::EINVAL.into());
    }
    // At most 16 KiB.
    let mut bytes = vec![0; usize::try_from(count * 16).unwrap_or(0)];
    call.read(address, &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let buffers: Vec<Buffer> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    match buffers.iter().any(|(_, length)| i64::try_from(*length).is_err()) {
        true => Err(Errno::EINVAL.into()),
        false => Ok(buffers),
    }
}

/// `EINVAL` if so many bytes of a file end behind the largest offset.
fn check_end(call: &Call<'_>, fd: i32, at: Option<u64>, total: u64) -> Result<(), Errno> {
    let start = at.unwrap_or(call.process.files.get(fd)?.offset);
    let most = i64::MAX as u64;
    match total <= most && start > most - total {
        true => Err(Errno::EINVAL),
        false => Ok(()),
    }
}

/// What was done before something failed is what counts; but not if the machine below has.
fn or_done(done: u64, error: Stop) -> Answer {
    match error {
        Stop::Broken(_) => Err(error),
        _ if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// Where buffers lie in the host's memory, up to so many bytes in all. Fewer if the rest of a buffer is
/// not there.
fn gather(
    call: &mut Call<'_>,
    buffers: &[Buffer],
    most: u64,
    write: bool,
) -> Result<Vec<Range<usize>>, Stop> {
    let mut gathered = Vec::new();
    let mut left = most;
    for (address, length) in buffers {
        let wanted = left.min(*length);
        if wanted == 0 {
            continue;
        }
        let pieces = call.process.space.pieces(call.hardware, *address, wanted, write);
        let pieces = match pieces {
            Err(Stop::Error(_)) if !gathered.is_empty() => break,
            pieces => pieces?,
        };
        let there: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        gathered.extend(pieces);
        left = left.saturating_sub(there);
        if there < wanted {
            break;
        }
    }
    Ok(gathered)
}

/// Reads into buffers.
fn read_into(call: &mut Call<'_>, fd: i32, at: Option<u64>, buffers: &[Buffer]) -> Answer {
    if !call.process.files.get(fd)?.reads() {
        return Err(Errno::EBADF.into());
    }
    let total = buffers.iter().fold(0_u64, |total, (_, length)| total.saturating_add(*length));
    if total == 0 {
        let (files, mut around) = split(call.process, call.world);
        return Ok(files.read(&mut around, fd, at, &mut [])? as u64);
    }
    if !call.process.files.is_file(fd)? {
        return read_stream(call, fd, at, buffers);
    }
    transfer(call, fd, at, buffers, total, true)
}

/// Writes from buffers.
fn write_from(call: &mut Call<'_>, fd: i32, at: Option<u64>, buffers: &[Buffer]) -> Answer {
    if !call.process.files.get(fd)?.writes() {
        return Err(Errno::EBADF.into());
    }
    let total = buffers.iter().fold(0_u64, |total, (_, length)| total.saturating_add(*length));
    let written = call.again.map_or(0, |again| again.on.written());
    if written > 0 && !call.process.files.is_pipe(fd)? {
        // Another thread has put something else in the pipe's place meanwhile.
        return Ok(written);
    }
    if total == 0 {
        let (files, mut around) = split(call.process, call.world);
        return Ok(files.write(&mut around, fd, at, &[])? as u64);
    }
    if !call.process.files.is_file(fd)? {
        return write_all(call, fd, at, buffers, total);
    }
    transfer(call, fd, at, buffers, total, false)
}

/// Reads a file into buffers, or writes it from them; `total` bytes in all.
fn transfer(
    call: &mut Call<'_>,
    fd: i32,
    at: Option<u64>,
    buffers: &[Buffer],
    total: u64,
    reads: bool,
) -> Answer {
    check_end(call, fd, at, total)?;
    let mut done = 0;
    for (address, length) in windows(buffers) {
        let pieces = match call.process.space.pieces(call.hardware, address, length, reads) {
            Ok(pieces) => pieces,
            Err(error) => return or_done(done, error),
        };
        let before = done;
        for piece in pieces {
            let Some(bytes) = call.hardware.memory_mut().get_mut(piece) else { break };
            let (files, mut around) = split(call.process, call.world);
            let at = at.map(|at| at.saturating_add(done));
            let moved = match reads {
                true => files.read(&mut around, fd, at, bytes),
                false => files.write(&mut around, fd, at, bytes),
            };
            match moved {
                Ok(moved) => {
                    done += moved as u64;
                    if moved < bytes.len() {
                        return Ok(done);
                    }
                }
                Err(error) => return or_done(done, error),
            }
        }
        if done - before < length {
            break;
        }
    }
    Ok(done)
}

/// Buffers in parts of at most a window, up to what one call may do.
fn windows(buffers: &[Buffer]) -> impl Iterator<Item = Buffer> {
    let mut left = FILE;
    buffers.iter().flat_map(move |(address, length)| {
        let length = left.min(*length);
        left -= length;
        let starts = (0..length.div_ceil(WINDOW)).map(|index| index * WINDOW);
        let address = *address;
        starts.map(move |start| (address.wrapping_add(start), WINDOW.min(length - start)))
    })
}

/// Reads once from what is no file.
fn read_stream(call: &mut Call<'_>, fd: i32, at: Option<u64>, buffers: &[Buffer]) -> Answer {
    let pieces = gather(call, buffers, WINDOW, true)?;
    if let [piece] = pieces.as_slice() {
        let into = call.hardware.memory_mut().get_mut(piece.clone()).ok_or(Errno::EFAULT)?;
        let (files, mut around) = split(call.process, call.world);
        return Ok(files.read(&mut around, fd, at, into)? as u64);
    }
    let total: usize = pieces.iter().map(ExactSizeIterator::len).sum();
    let mut bytes = vec![0; total.min(GATHERED)];
    let (files, mut around) = split(call.process, call.world);
    let read = files.read(&mut around, fd, at, &mut bytes)?;
    let mut rest = &bytes[..read];
    for piece in pieces {
        let into = call.hardware.memory_mut().get_mut(piece).ok_or(Errno::EFAULT)?;
        let (part, after) = rest.split_at(rest.len().min(into.len()));
        into[..part.len()].copy_from_slice(part);
        rest = after;
    }
    Ok(read as u64)
}

/// Writes to what is no file: to a pipe until all is written, as long as somebody reads. In between,
/// the thread waits.
fn write_all(
    call: &mut Call<'_>,
    fd: i32,
    at: Option<u64>,
    buffers: &[Buffer],
    total: u64,
) -> Answer {
    let pipe = call.process.files.is_pipe(fd)?;
    let before = call.again.map_or(0, |again| again.on.written());
    let mut done = before;
    while done < total {
        let answer = write_stream(call, fd, at, &rest(buffers, done));
        match tell(call, answer) {
            Ok(written) => done += written,
            Err(Stop::Wait(wait)) => {
                if done > before {
                    // Who waits for bytes has some now.
                    call.process.threads.note_call();
                }
                let on = if done > 0 { WaitFor::Room { written: done } } else { wait.on };
                return Err(Stop::Wait(Wait { on, ..wait }));
            }
            Err(error) => return or_done(done, error),
        }
        if !pipe {
            break;
        }
    }
    Ok(done)
}

/// What is left of buffers behind so many bytes.
fn rest(buffers: &[Buffer], mut done: u64) -> Vec<Buffer> {
    let mut rest = Vec::new();
    for (address, length) in buffers {
        let skipped = done.min(*length);
        done -= skipped;
        if skipped < *length {
            rest.push((address.wrapping_add(skipped), length - skipped));
        }
    }
    rest
}

/// Writes once to what is no file.
fn write_stream(call: &mut Call<'_>, fd: i32, at: Option<u64>, buffers: &[Buffer]) -> Answer {
    let pieces = gather(call, buffers, STREAM, false)?;
    let memory = call.hardware.memory();
    let first = pieces.first().and_then(|piece| memory.get(piece.clone())).ok_or(Errno::EFAULT)?;
    let (files, mut around) = split(call.process, call.world);
    if pieces.len() == 1 || first.len() >= GATHERED {
        return Ok(files.write(&mut around, fd, at, first)? as u64);
    }
    let mut bytes = Vec::new();
    for piece in pieces {
        let from = memory.get(piece).ok_or(Errno::EFAULT)?;
        bytes.extend_from_slice(&from[..from.len().min(GATHERED - bytes.len())]);
    }
    Ok(files.write(&mut around, fd, at, &bytes)? as u64)
}

pub(super) fn lseek(call: &mut Call<'_>) -> Answer {
    let [fd, to, whence, ..] = call.arguments;
    let to = i64::from_le_bytes(to.to_le_bytes());
    let (files, around) = split(call.process, call.world);
    Ok(files.seek(around.grants, int(fd), to, unsigned(whence))?)
}

pub(super) fn sendfile(call: &mut Call<'_>) -> Answer {
    let [out, from, at, length, ..] = call.arguments;
    copy(call, (int(from), at), (int(out), 0), length)
}

pub(super) fn copy_file_range(call: &mut Call<'_>) -> Answer {
    let [from, from_at, to, to_at, length, flags] = call.arguments;
    if flags != 0 || !call.process.files.is_file(int(to))? {
        return Err(Errno::EINVAL.into());
    }
    copy(call, (int(from), from_at), (int(to), to_at), length)
}

/// Copies from a file to something. The second of each pair is the address of an offset, or 0.
fn copy(call: &mut Call<'_>, from: (i32, u64), to: (i32, u64), length: u64) -> Answer {
    let source = call.process.files.get(from.0)?;
    if !source.reads() || !call.process.files.get(to.0)?.writes() {
        return Err(Errno::EBADF.into());
    }
    let here = source.offset;
    if !call.process.files.is_file(from.0)? {
        return Err(Errno::EINVAL.into());
    }
    let start = match from.1 {
        0 => here,
        address => offset(u64::from_le_bytes(call.bytes(address)?))?,
    };
    let target = match to.1 {
        0 => None,
        address => Some(offset(u64::from_le_bytes(call.bytes(address)?))?),
    };
    let mut buffer = vec![0; GATHERED];
    let mut done = 0;
    let result = loop {
        let left = length.min(FILE) - done;
        let part = usize::try_from(left).map_or(GATHERED, |left| left.min(GATHERED));
        let (files, mut around) = split(call.process, call.world);
        let (at, to_at) = (start.saturating_add(done), target.map(|at| at.saturating_add(done)));
        // The offset of what is read moves only by what could be written.
        let read = match files.read(&mut around, from.0, Some(at), &mut buffer[..part]) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(error) => break Err(error),
        };
        match files.write(&mut around, to.0, to_at, &buffer[..read]) {
            Ok(written) => {
                done += written as u64;
                if written < read {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = result {
        let answer = or_done(done, error);
        tell(call, answer)?;
    }
    match from.1 {
        0 => call.process.files.get_mut(from.0)?.offset = start + done,
        address => call.write_words(address, &[start + done])?,
    }
    if let (Some(target), address) = (target, to.1) {
        call.write_words(address, &[target + done])?;
    }
    Ok(done)
}
