//! Readiness: what `poll`, `select` and epoll ask for; and epoll's sets.

use std::collections::BTreeMap;

use linux_raw_sys::general as raw;
use serde::{Deserialize, Serialize};

use super::open::{Object, Stream};
use super::{Around, Files};
use crate::{Errno, Streams};

pub(super) const IN: u32 = raw::POLLIN;
pub(super) const OUT: u32 = raw::POLLOUT;
pub(super) const ERR: u32 = raw::POLLERR;
pub(super) const HUP: u32 = raw::POLLHUP;
pub(super) const NVAL: u32 = raw::POLLNVAL;
/// What says how an item is watched, not for what.
const HOW: u32 = raw::EPOLLET | raw::EPOLLONESHOT | raw::EPOLLEXCLUSIVE | raw::EPOLLWAKEUP;
/// The other names of the same.
const IN_TOO: u32 = raw::POLLRDNORM;
const OUT_TOO: u32 = raw::POLLWRNORM;

/// What an open file is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) events: u32,
    /// Changes whenever something has happened that an edge-triggered waiter has to hear of.
    pub(super) activity: u64,
    /// Streams of the host's that may make it ready to be read, and to be written.
    reads: Streams,
    writes: Streams,
}

impl Ready {
    /// Streams of the host's that may bring about one of these events.
    pub(super) fn streams(&self, events: u32) -> Streams {
        let of = |streams, those| if events & those != 0 { streams } else { Streams::NONE };
        of(self.reads, IN | IN_TOO) | of(self.writes, OUT | OUT_TOO)
    }
}

/// What is watched: a descriptor, and the open file that it stood for then. It may come to stand for
/// something else.
type Key = (u32, u64);

/// An epoll set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Set {
    pub(super) items: BTreeMap<Key, Item>,
    /// Where the last wait that found more than was asked for left off.
    next: Key,
}

/// One thing that is watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Item {
    events: u32,
    data: u64,
    /// The activity that was reported last, with the events.
    reported: Option<(u64, u32)>,
}

impl Set {
    /// Forgets an open file that is open no more.
    pub(super) fn forget(&mut self, open: u64) {
        self.items.retain(|(_, number), _| *number != open);
    }
}

/// Changes to a set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Control {
    Add { events: u32, data: u64 },
    Change { events: u32, data: u64 },
    Remove,
}

impl Files {
    /// What a descriptor is ready for.
    pub(super) fn ready(&self, around: &Around<'_>, fd: i32) -> Result<Ready, Errno> {
        let number = self.descriptor(fd)?.open;
        self.ready_open(around, number)
    }

    fn ready_open(&self, around: &Around<'_>, number: u64) -> Result<Ready, Errno> {
        let open = self.open.get(&number).ok_or(Errno::EBADF)?;
        let both = IN | IN_TOO | OUT | OUT_TOO;
        let (mut reads, mut writes) = (Streams::NONE, Streams::NONE);
        let (events, activity) = match &open.object {
            _ if open.is_path() => return Err(Errno::EBADF),
            Object::Stream(Stream::Input) => {
                reads = Streams::INPUT;
                let ready = around.grants.is_any_ready(reads);
                (if ready { IN | IN_TOO } else { 0 }, open.uses)
            }
            Object::Stream(stream) => {
                writes = match stream {
                    Stream::Error => Streams::ERROR,
                    _ => Streams::OUTPUT,
                };
                let ready = around.grants.is_any_ready(writes);
                (if ready { OUT | OUT_TOO } else { 0 }, open.uses)
            }
            Object::Memory(_) | Object::Host(_) => (both, 0),
            Object::Pipe { pipe, writes } => {
                let pipe = self.pipe(*pipe)?;
                match writes {
                    true => {
                        let room = if pipe.is_writable() { OUT | OUT_TOO } else { 0 };
                        (room | if pipe.reader { 0 } else { ERR }, pipe.reads)
                    }
                    false => {
                        let there = if pipe.bytes.is_empty() { 0 } else { IN | IN_TOO };
                        (there | if pipe.writer { 0 } else { HUP }, pipe.writes)
                    }
                }
            }
            Object::Event(event) => {
                let there = if event.count > 0 { IN | IN_TOO } else { 0 };
                let room = if event.count < u64::MAX - 1 { OUT | OUT_TOO } else { 0 };
                (there | room, event.uses)
            }
            Object::Epoll(set) => {
                let (found, streams) = self.scan(around, set, 1);
                reads = streams;
                (if found.is_empty() { 0 } else { IN | IN_TOO }, 0)
            }
        };
        Ok(Ready { events, activity, reads, writes })
    }

    /// What of a set is to be reported: the items, the events, and the activity. And the host's streams
    /// that may add something.
    fn scan(&self, around: &Around<'_>, set: &Set, most: usize) -> (Vec<(Key, u32, u64)>, Streams) {
        let mut found = Vec::new();
        let mut streams = Streams::NONE;
        // In turns, so that what is always ready does not keep the others out.
        let items = set.items.range(set.next..).chain(set.items.range(..set.next));
        for (key, item) in items {
            if found.len() == most {
                break;
            }
            // Sets don't contain sets, so this goes no deeper.
            let Ok(ready) = self.ready_open(around, key.1) else { continue };
            let watched = item.events & !HOW;
            // A one-shot that has fired watches nothing until it is set again.
            if watched == 0 {
                continue;
            }
            streams |= ready.streams(watched);
            let events = ready.events & watched;
            let edge = item.events & raw::EPOLLET != 0;
            if events == 0 || (edge && item.reported == Some((ready.activity, events))) {
                continue;
            }
            found.push((*key, events, ready.activity));
        }
        (found, streams)
    }

    /// What a set has to report, at most so many: events and data. And the host's streams that
    /// may add something.
    pub(super) fn epoll_wait(
        &mut self,
        around: &Around<'_>,
        fd: i32,
        most: usize,
    ) -> Result<(Vec<(u32, u64)>, Streams), Errno> {
        let Object::Epoll(set) = &self.get(fd)?.object else { return Err(Errno::EINVAL) };
        let (found, streams) = self.scan(around, set, most);
        let Object::Epoll(set) = &mut self.get_mut(fd)?.object else { return Err(Errno::EINVAL) };
        let mut reported = Vec::new();
        for (key, events, activity) in found {
            let Some(item) = set.items.get_mut(&key) else { continue };
            item.reported = Some((activity, events));
            if item.events & raw::EPOLLONESHOT != 0 {
                item.events = raw::EPOLLONESHOT;
            }
            reported.push((events, item.data));
            set.next = (key.0, key.1 + 1);
        }
        Ok((reported, streams))
    }

    /// Changes a set.
    pub(super) fn epoll_control(
        &mut self,
        around: &Around<'_>,
        set: i32,
        fd: i32,
        control: Control,
    ) -> Result<(), Errno> {
        let key = (u32::try_from(fd).map_err(|_| Errno::EBADF)?, self.descriptor(fd)?.open);
        let watched = self.get(fd)?;
        match watched.object {
            _ if self.descriptor(set)?.open == key.1 => return Err(Errno::EINVAL),
            Object::Memory(_) | Object::Host(_) => return Err(Errno::EPERM),
            // A set in a set would have to be looked at for loops.
            Object::Epoll(_) => return Err(Errno::ELOOP),
            _ => {}
        }
        let Object::Epoll(set) = &mut self.get_mut(set)?.object else { return Err(Errno::EINVAL) };
        match control {
            Control::Add { .. } if set.items.contains_key(&key) => return Err(Errno::EEXIST),
            Control::Add { .. }
                if set.items.len() as u64 >= u64::from(around.limits.descriptors) =>
            {
                return Err(Errno::ENOSPC);
            }
            Control::Change { .. } | Control::Remove if !set.items.contains_key(&key) => {
                return Err(Errno::ENOENT);
            }
            Control::Add { events, data } | Control::Change { events, data } => {
                // These are always watched for.
                let events = events | ERR | HUP;
                set.items.insert(key, Item { events, data, reported: None });
            }
            Control::Remove => {
                set.items.remove(&key);
            }
        }
        Ok(())
    }
}
