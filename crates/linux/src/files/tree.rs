//! Files in memory: those that the host gave, which are only read, and those of the scratch directory.
//!
//! All nodes lie in one map from numbers. It is shared in blocks, and so are the nodes, so that a copy
//! costs nothing, and a change after that copies a block's pointers and one node.
//!
//! Every node, name and chunk of the scratch directory costs something, and what they cost together
//! stays below its limit: a guest can't fill the host's memory with empty files either.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::node::{Directory, Ino, Key, Kind, NAME_MAX, Name, Node, Pool, entry_cost, key};
use crate::Errno;

/// Nodes to a block.
const BLOCK: u64 = 64;
/// Most directories above another one, in the scratch directory: no path names what lies deeper.
const DEPTH_MAX: usize = crate::call::PATH_MAX / 2;

/// Files in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tree {
    nodes: Arc<BTreeMap<u64, Arc<Block>>>,
    /// The number of the next node.
    next: Ino,
    pub(super) scratch: Budget,
    pub(super) anonymous: Budget,
}

type Block = BTreeMap<Ino, Arc<Node>>;

/// How much may be kept, and how much is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Budget {
    pub(super) used: u64,
    pub(super) limit: u64,
}

impl Budget {
    pub(super) fn room(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    fn take(&mut self, cost: u64) -> Result<(), Errno> {
        if cost > self.room() {
            return Err(Errno::ENOSPC);
        }
        self.used += cost;
        Ok(())
    }

    fn give(&mut self, cost: u64) {
        self.used = self.used.saturating_sub(cost);
    }
}

/// How a name is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rename {
    /// In place of what is there.
    Replace,
    /// Only if nothing is there.
    NoReplace,
    /// What is there takes its place.
    Exchange,
}

impl Tree {
    /// No files at all.
    pub(super) fn new() -> Tree {
        Tree {
            nodes: Arc::default(),
            next: 1,
            scratch: Budget::default(),
            anonymous: Budget::default(),
        }
    }

    /// A node. What does not exist any more is `ENOENT`.
    pub(super) fn get(&self, ino: Ino) -> Result<&Node, Errno> {
        let block = self.nodes.get(&(ino / BLOCK)).ok_or(Errno::ENOENT)?;
        block.get(&ino).map(|node| &**node).ok_or(Errno::ENOENT)
    }

    pub(super) fn get_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        let blocks = Arc::make_mut(&mut self.nodes);
        let block = Arc::make_mut(blocks.get_mut(&(ino / BLOCK)).ok_or(Errno::ENOENT)?);
        block.get_mut(&ino).map(Arc::make_mut).ok_or(Errno::ENOENT)
    }

    /// A directory's own part. What is none is `ENOTDIR`.
    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory, Errno> {
        match &self.get(ino)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, ino: Ino, now: u64) -> Result<&mut Directory, Errno> {
        let node = self.get_mut(ino)?;
        match &mut node.kind {
            Kind::Directory(directory) => {
                (node.times[1], node.times[2]) = (now, now);
                Ok(directory)
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a name stands for in a directory.
    pub(super) fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>, Errno> {
        Ok(self.directory(directory)?.entries.get(&key(name)).copied())
    }

    /// Entries of a directory behind a place, with their nodes' kinds.
    pub(super) fn entries_after(
        &self,
        directory: Ino,
        after: u64,
    ) -> Result<impl Iterator<Item = (&Key, Ino, &Node)>, Errno> {
        let start: Key = (after.saturating_add(1), Name::from([].as_slice()));
        let entries = self.directory(directory)?.entries.range(start..);
        Ok(entries.filter_map(|(key, ino)| Some((key, *ino, self.get(*ino).ok()?))))
    }

    fn budget(&mut self, pool: Pool) -> Option<&mut Budget> {
        match pool {
            Pool::Given => None,
            Pool::Scratch => Some(&mut self.scratch),
            Pool::Anonymous => Some(&mut self.anonymous),
        }
    }

    fn take(&mut self, pool: Pool, cost: u64) -> Result<(), Errno> {
        self.budget(pool).map_or(Ok(()), |budget| budget.take(cost))
    }

    fn give(&mut self, pool: Pool, cost: u64) {
        if let Some(budget) = self.budget(pool) {
            budget.give(cost);
        }
    }

    /// Adds a node that has no name yet.
    pub(super) fn add(&mut self, node: Node) -> Result<Ino, Errno> {
        self.take(node.pool, node.cost())?;
        let ino = self.next;
        self.next += 1;
        let blocks = Arc::make_mut(&mut self.nodes);
        Arc::make_mut(blocks.entry(ino / BLOCK).or_default()).insert(ino, Arc::new(node));
        Ok(ino)
    }

    /// Adds a root: a directory that lies in none.
    pub(super) fn add_root(&mut self, pool: Pool, mode: u32, now: u64) -> Result<Ino, Errno> {
        let directory = Directory::new(self.next, Name::from([].as_slice()));
        self.add(Node::new(Kind::Directory(directory), pool, mode, now))
    }

    /// Makes a file in a directory; whoever calls has seen that the name is free.
    pub(super) fn create(
        &mut self,
        directory: Ino,
        name: &[u8],
        kind: Kind,
        mode: u32,
        now: u64,
    ) -> Result<Ino, Errno> {
        let pool = self.get(directory)?.pool;
        let kind = match kind {
            Kind::Directory(_) => {
                // No node has this number, so this looks how deep it is.
                self.is_in(directory, self.next)?;
                Kind::Directory(Directory::new(directory, Name::from(name)))
            }
            other => other,
        };
        let node = Node::new(kind, pool, mode, now);
        let cost = node.cost();
        let ino = self.add(node)?;
        self.enter(directory, name, ino, now).inspect_err(|_| {
            self.forget(ino);
            self.give(pool, cost);
        })?;
        Ok(ino)
    }

    /// Gives a node another name.
    pub(super) fn link(&mut self, ino: Ino, into: Ino, name: &[u8], now: u64) -> Result<(), Errno> {
        if self.get(ino)?.links >= 65_000 {
            return Err(Errno::EMLINK);
        }
        self.enter(into, name, ino, now)?;
        let node = self.get_mut(ino)?;
        node.links += 1;
        node.times[2] = now;
        Ok(())
    }

    /// Enters a name.
    fn enter(&mut self, directory: Ino, name: &[u8], ino: Ino, now: u64) -> Result<(), Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let node = self.get(directory)?;
        // A directory that was removed is empty, and stays so.
        if node.links == 0 {
            return Err(Errno::ENOENT);
        }
        let pool = node.pool;
        self.directory(directory)?;
        self.take(pool, entry_cost(name))?;
        self.directory_mut(directory, now)?.entries.insert(key(name), ino);
        Ok(())
    }

    /// Removes a name, which stood for this node. Who knows that nobody uses the node any more calls
    /// [`Tree::drop_unused`] then.
    pub(super) fn unlink(&mut self, directory: Ino, name: &[u8], now: u64) -> Result<Ino, Errno> {
        let pool = self.get(directory)?.pool;
        let entries = &mut self.directory_mut(directory, now)?.entries;
        let ino = entries.remove(&key(name)).ok_or(Errno::ENOENT)?;
        self.give(pool, entry_cost(name));
        let node = self.get_mut(ino)?;
        node.links = node.links.saturating_sub(1);
        node.times[2] = now;
        Ok(ino)
    }

    /// Removes a node that has no name, and that nobody uses.
    pub(super) fn drop_unused(&mut self, ino: Ino) {
        let Ok(node) = self.get(ino) else { return };
        if node.links == 0 {
            let (pool, cost) = (node.pool, node.cost());
            self.forget(ino);
            self.give(pool, cost);
        }
    }

    fn forget(&mut self, ino: Ino) {
        let blocks = Arc::make_mut(&mut self.nodes);
        if let Some(block) = blocks.get_mut(&(ino / BLOCK)) {
            let block = Arc::make_mut(block);
            block.remove(&ino);
            if block.is_empty() {
                blocks.remove(&(ino / BLOCK));
            }
        }
    }

    /// Moves a name. Gives the node whose last name it may have been.
    pub(super) fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: Rename,
        now: u64,
    ) -> Result<Option<Ino>, Errno> {
        let moved = self.lookup(from.0, from.1)?.ok_or(Errno::ENOENT)?;
        let there = self.lookup(to.0, to.1)?;
        if there == Some(moved) {
            return Ok(None);
        }
        self.check_rename(moved, there, from, to, how)?;
        if how == Rename::Exchange {
            let there = there.ok_or(Errno::ENOENT)?;
            self.put(from, there, now)?;
            self.put(to, moved, now)?;
            return Ok(None);
        }
        // What may fail comes first, so that nothing is half done.
        if there.is_none() {
            self.enter(to.0, to.1, moved, now)?;
        }
        let dropped = match there {
            Some(_) => {
                let dropped = self.unlink(to.0, to.1, now)?;
                self.enter(to.0, to.1, moved, now)?;
                Some(dropped)
            }
            None => None,
        };
        let pool = self.get(from.0)?.pool;
        self.directory_mut(from.0, now)?.entries.remove(&key(from.1));
        self.give(pool, entry_cost(from.1));
        self.put(to, moved, now)?;
        Ok(dropped)
    }

    /// Points a name that exists to a node, and tells the node where it lies.
    fn put(&mut self, at: (Ino, &[u8]), ino: Ino, now: u64) -> Result<(), Errno> {
        self.directory_mut(at.0, now)?.entries.insert(key(at.1), ino);
        let node = self.get_mut(ino)?;
        node.times[2] = now;
        if let Kind::Directory(directory) = &mut node.kind {
            (directory.parent, directory.name) = (at.0, Name::from(at.1));
        }
        Ok(())
    }

    fn check_rename(
        &self,
        moved: Ino,
        there: Option<Ino>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: Rename,
    ) -> Result<(), Errno> {
        let is_directory = |ino| self.directory(ino).is_ok();
        if is_directory(moved) && self.is_in(to.0, moved)? {
            return Err(Errno::EINVAL);
        }
        match (there, how) {
            (None, Rename::Exchange) => Err(Errno::ENOENT),
            (None, _) => Ok(()),
            (Some(_), Rename::NoReplace) => Err(Errno::EEXIST),
            (Some(there), Rename::Exchange) => {
                match is_directory(there) && self.is_in(from.0, there)? {
                    true => Err(Errno::EINVAL),
                    false => Ok(()),
                }
            }
            (Some(there), Rename::Replace) => match (is_directory(moved), is_directory(there)) {
                (true, false) => Err(Errno::ENOTDIR),
                (false, true) => Err(Errno::EISDIR),
                (true, true) if !self.directory(there)?.entries.is_empty() => Err(Errno::ENOTEMPTY),
                _ => Ok(()),
            },
        }
    }

    /// Whether a directory is another one, or lies below it; `ENAMETOOLONG` if it lies too deep to have
    /// another directory in it.
    fn is_in(&self, mut ino: Ino, above: Ino) -> Result<bool, Errno> {
        for _ in 0..DEPTH_MAX {
            if ino == above {
                return Ok(true);
            }
            match self.directory(ino) {
                Ok(directory) if directory.parent != ino => ino = directory.parent,
                _ => return Ok(false),
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads from a regular file.
    pub(super) fn read(&self, ino: Ino, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        match &self.get(ino)?.kind {
            Kind::File(content) => Ok(content.read(offset, into)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Where the next bytes of a regular file are that are in no hole.
    pub(super) fn data(&self, ino: Ino, from: u64) -> Result<Option<Range<u64>>, Errno> {
        match &self.get(ino)?.kind {
            Kind::File(content) => Ok(content.data(from)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Writes to a regular file.
    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        now: u64,
    ) -> Result<usize, Errno> {
        self.change(ino, now, |content, room| content.write(offset, bytes, room))
    }

    /// Changes what is in a regular file, and keeps the account.
    pub(super) fn change<T>(
        &mut self,
        ino: Ino,
        now: u64,
        change: impl FnOnce(&mut Content, &mut u64) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let pool = self.get(ino)?.pool;
        let before = self.budget(pool).ok_or(Errno::EROFS)?.room();
        let mut room = before;
        let node = self.get_mut(ino)?;
        let Kind::File(content) = &mut node.kind else { return Err(Errno::EINVAL) };
        let changed = change(content, &mut room);
        if changed.is_ok() {
            (node.times[1], node.times[2]) = (now, now);
        }
        if let Some(budget) = self.budget(pool) {
            budget.used = budget.used.saturating_add(before).saturating_sub(room);
        }
        changed
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (Ino, &Node)> {
        self.nodes.values().flat_map(|block| block.iter().map(|(ino, node)| (*ino, &**node)))
    }

    /// Whether every node lies in the block where it is looked for, and none has a number to come.
    pub(super) fn is_sound(&self) -> bool {
        self.nodes.iter().all(|(index, block)| {
            !block.is_empty() && block.keys().all(|ino| ino / BLOCK == *index && *ino < self.next)
        }) && self.next < u64::MAX / 2
    }
}
