//! Whether a process's files can have come about: for those that come from a snapshot file.

use std::collections::{BTreeMap, BTreeSet};

use linux_raw_sys::general as raw;

use super::Files;
use super::host::is_plain;
use super::node::{Ino, Kind, NAME_MAX, Name, Pool, cookie, entry_cost};
use super::open::{Object, Open};
use super::resolve::{HostPlace, Place};
use crate::Limits;

impl Files {
    /// Whether everything that is referred to exists, nothing is counted wrongly, and no limit is
    /// exceeded.
    pub fn is_sound(&self, limits: &Limits) -> bool {
        self.tree.is_sound()
            && self.mounts_are_sound()
            && self.place_is_sound(&self.current, true)
            && self.umask <= 0o777
            && self.nodes_are_sound(limits)
            && self.descriptors_are_sound(limits)
            && self.pipes_are_sound(limits)
    }

    fn mounts_are_sound(&self) -> bool {
        let Some(root) = self.mounts.first() else { return false };
        root.at.is_none()
            && self.mounts.iter().enumerate().all(|(index, mount)| {
                let own = match &mount.root {
                    Place::Host(place) => place.mount == index && place.path.is_empty(),
                    Place::Memory(ino) => self.tree.get(*ino).is_ok(),
                };
                // What a mount stands in was mounted before it, so that the way up ends.
                let above = mount.at.as_ref().is_none_or(|(at, name)| {
                    let earlier = match at {
                        Place::Host(place) => place.mount < index,
                        Place::Memory(ino) => {
                            self.tree.directory(*ino).is_ok() && mount.root != *at
                        }
                    };
                    earlier && self.place_is_sound(at, true) && is_name(name)
                });
                let root = index > 0 || self.place_is_sound(&mount.root, true);
                own && above && root && (index == 0 || mount.at.is_some())
            })
            && self.mounts_end()
    }

    /// Whether the way up from every mount ends at the root.
    fn mounts_end(&self) -> bool {
        self.mounts.iter().all(|mount| {
            let mut here = mount;
            for _ in 0..=self.mounts.len() {
                let Some((at, _)) = &here.at else { return true };
                let Some(top) = self.top(at) else { return false };
                let above = self.mounts.iter().find(|mount| mount.root == top);
                let Some(above) = above else { return false };
                here = above;
            }
            false
        })
    }

    /// The root of the mount that a directory lies in.
    fn top(&self, place: &Place) -> Option<Place> {
        match place {
            Place::Host(place) => self.mounts.get(place.mount).map(|mount| mount.root.clone()),
            Place::Memory(ino) => {
                let mut ino = *ino;
                // No directory lies deeper than there are nodes.
                for _ in 0..=self.tree.nodes().count() {
                    let parent = self.tree.directory(ino).ok()?.parent;
                    if parent == ino {
                        return Some(Place::Memory(ino));
                    }
                    ino = parent;
                }
                None
            }
        }
    }

    fn place_is_sound(&self, place: &Place, directory: bool) -> bool {
        match place {
            Place::Memory(ino) if directory => self.tree.directory(*ino).is_ok(),
            Place::Memory(ino) => self.tree.get(*ino).is_ok(),
            Place::Host(place) => self.host_place_is_sound(place),
        }
    }

    fn host_place_is_sound(&self, place: &HostPlace) -> bool {
        is_plain(&place.path)
            && self
                .mounts
                .get(place.mount)
                .is_some_and(|mount| matches!(mount.root, Place::Host(_)))
    }

    fn nodes_are_sound(&self, limits: &Limits) -> bool {
        let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut parents: BTreeMap<Ino, (Ino, &Name)> = BTreeMap::new();
        let mut used = [0_u64; 2];
        for (ino, node) in self.tree.nodes() {
            let mut cost = node.cost();
            match &node.kind {
                Kind::Directory(directory) => {
                    for ((at, name), entry) in &directory.entries {
                        let Ok(below) = self.tree.get(*entry) else { return false };
                        if below.pool != node.pool || !is_name(name) || *at != cookie(name) {
                            return false;
                        }
                        *names.entry(*entry).or_default() += 1;
                        parents.insert(*entry, (ino, name));
                        cost += entry_cost(name);
                    }
                }
                Kind::File(content) if !content.is_sound() => return false,
                Kind::Link(target) if target.is_empty() || target.len() > 4095 => return false,
                _ => {}
            }
            if node.mode > 0o7777 {
                return false;
            }
            match node.pool {
                Pool::Given => {}
                Pool::Scratch => used[0] = used[0].saturating_add(cost),
                Pool::Anonymous => used[1] = used[1].saturating_add(cost),
            }
        }
        let [scratch, anonymous] = used;
        scratch == self.tree.scratch.used
            && scratch <= self.tree.scratch.limit
            && anonymous == self.tree.anonymous.used
            && self.tree.anonymous.limit <= limits.buffered
            && self.links_are_sound(&names, &parents)
    }

    /// Whether every node has as many names as it says, and directories form trees.
    fn links_are_sound(
        &self,
        names: &BTreeMap<Ino, u32>,
        parents: &BTreeMap<Ino, (Ino, &Name)>,
    ) -> bool {
        let roots: BTreeSet<Ino> = self
            .mounts
            .iter()
            .filter_map(|mount| match mount.root {
                Place::Memory(ino) => Some(ino),
                Place::Host(_) => None,
            })
            .collect();
        let each = self.tree.nodes().all(|(ino, node)| {
            let there = names.get(&ino).copied().unwrap_or(0);
            let Kind::Directory(directory) = &node.kind else {
                return there == node.links || (there == 0 && roots.contains(&ino));
            };
            match parents.get(&ino) {
                Some((parent, name)) => {
                    there == 1
                        && node.links == 1
                        && (directory.parent, &directory.name) == (*parent, *name)
                }
                // A root, used or not; or one that was removed, and is empty.
                None => {
                    (directory.parent == ino && node.links == 1)
                        || (node.links == 0 && directory.entries.is_empty())
                }
            }
        });
        each && self.no_loops()
    }

    /// Whether the way up from every directory ends: at a root, or, from one that was removed, where
    /// another one was.
    fn no_loops(&self) -> bool {
        let mut ends: BTreeSet<Ino> = BTreeSet::new();
        for (ino, node) in self.tree.nodes() {
            if !matches!(&node.kind, Kind::Directory(_)) {
                continue;
            }
            let mut way = Vec::new();
            let mut on_way = BTreeSet::new();
            let mut here = ino;
            while !ends.contains(&here) {
                let directory = match self.tree.directory(here) {
                    Ok(directory) => directory,
                    Err(_) if node.links == 0 => break,
                    Err(_) => return false,
                };
                if !on_way.insert(here) {
                    return false;
                }
                way.push(here);
                if directory.parent == here {
                    break;
                }
                here = directory.parent;
            }
            ends.extend(way);
        }
        true
    }

    fn descriptors_are_sound(&self, limits: &Limits) -> bool {
        let used: BTreeSet<u64> =
            self.descriptors.values().map(|descriptor| descriptor.open).collect();
        self.descriptors.keys().all(|fd| *fd < limits.descriptors)
            && used.len() == self.open.len()
            && used.iter().all(|number| self.open.contains_key(number))
            && self
                .open
                .iter()
                .all(|(number, open)| *number < self.next && self.open_is_sound(open, limits))
            && self.next < u64::MAX / 2
    }

    fn open_is_sound(&self, open: &Open, limits: &Limits) -> bool {
        let files = raw::O_ACCMODE | raw::O_APPEND | raw::O_NONBLOCK | raw::O_PATH;
        let object = match &open.object {
            Object::Stream(_) | Object::Event(_) => true,
            Object::Memory(ino) => self.tree.get(*ino).is_ok_and(|node| {
                let given = node.pool == Pool::Given && matches!(node.kind, Kind::File(_));
                !(given && open.writes())
            }),
            Object::Host(file) => self.host_place_is_sound(&file.place) && !open.writes(),
            Object::Pipe { pipe, writes } => self.pipes.get(pipe).is_some_and(|pipe| {
                let is_open = if *writes { pipe.writer } else { pipe.reader };
                is_open && open.writes() == *writes && open.reads() != *writes
            }),
            Object::Epoll(set) => {
                set.items.len() as u64 <= u64::from(limits.descriptors)
                    && set.items.keys().all(|(_, number)| {
                        let watched = self.open.get(number).map(|open| &open.object);
                        watched.is_some_and(|object| !matches!(object, Object::Epoll(_)))
                    })
            }
        };
        object && open.flags & !files == 0 && open.offset <= i64::MAX as u64
    }

    fn pipes_are_sound(&self, limits: &Limits) -> bool {
        let ends = |number: &u64, end: bool| {
            let open = self.open.values();
            open.filter(|open| {
                matches!(open.object, Object::Pipe { pipe, writes } if pipe == *number && writes == end)
            })
            .count()
        };
        let bytes = super::PIPE.saturating_mul(self.pipes.len() as u64);
        bytes.saturating_add(self.tree.anonymous.used) <= limits.buffered
            && self.pipes.iter().all(|(number, pipe)| {
                *number < self.next
                    && pipe.is_sound()
                    && ends(number, false) == usize::from(pipe.reader)
                    && ends(number, true) == usize::from(pipe.writer)
            })
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}
