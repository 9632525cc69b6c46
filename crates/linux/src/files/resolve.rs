//! From a path to what it leads to.
//!
//! The guest sees one tree. Parts of it lie in memory, parts in directories of the host. A path is
//! walked here, name by name, over both: `..`, symbolic links and mount points are this module's
//! affair in all of them. So a symbolic link is a piece of text that is looked up in the guest's tree,
//! wherever it stands: one that leads to `/etc/passwd` or `../../..` leads there in the guest's tree.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Files;
use super::grants::Grants;
use super::host::HostStatus;
use super::node::{Ino, Kind, NAME_MAX, Name, Type};
use crate::Errno;
use crate::call::PATH_MAX;

/// Symbolic links that one path may lead through.
const LINKS_MAX: u32 = 40;

/// Something in the guest's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In memory.
    Memory(Ino),
    /// In a directory of the host.
    Host(HostPlace),
}

/// Something in a directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostPlace {
    /// Which mount that directory is.
    pub(super) mount: usize,
    /// The path in there: names with slashes between them, nothing else; empty for the directory.
    pub(super) path: Arc<[u8]>,
}

/// Something that stands in the tree in place of what would be there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Mount {
    /// Its path in the guest's tree, by which a directory of the host is found among the grants.
    pub(super) path: Arc<[u8]>,
    /// The directory it stands in, and its name there; none for the root.
    pub(super) at: Option<(Place, Name)>,
    /// What is there.
    pub(super) root: Place,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The directory that the last name stands in.
    pub(super) parent: Place,
    /// The last name; none if that is `.` or `..`, or there is none.
    pub(super) name: Option<Name>,
    /// What is there, and of what kind, if something is.
    pub(super) found: Option<(Place, Type)>,
    /// Whether the path ends with a slash, so that only a directory will do.
    pub(super) slash: bool,
}

impl Target {
    /// What is there, or `ENOENT`.
    pub(super) fn existing(self) -> Result<(Place, Type), Errno> {
        self.found.ok_or(Errno::ENOENT)
    }

    /// The directory in memory and the name in it, for a change: `EROFS` where nothing can be changed.
    pub(super) fn entry(&self) -> Result<(Ino, &Name), Errno> {
        match (&self.parent, &self.name) {
            (Place::Memory(ino), Some(name)) => Ok((*ino, name)),
            (Place::Memory(_), None) => Err(Errno::EBUSY),
            (Place::Host(_), _) => Err(Errno::EROFS),
        }
    }
}

impl HostPlace {
    pub(super) fn child(&self, name: &[u8]) -> HostPlace {
        let path = match self.path.is_empty() {
            true => name.to_vec(),
            false => [&*self.path, b"/", name].concat(),
        };
        HostPlace { mount: self.mount, path: Arc::from(path) }
    }

    /// The directory that it stands in, and its name there.
    pub(super) fn split(&self) -> Option<(HostPlace, &[u8])> {
        if self.path.is_empty() {
            return None;
        }
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = match slash {
            Some(slash) => (&self.path[..slash], &self.path[slash + 1..]),
            None => (&[][..], &*self.path),
        };
        Some((HostPlace { mount: self.mount, path: Arc::from(above) }, name))
    }
}

/// Names that are still to be walked, the next one last.
struct Pending(Vec<Vec<u8>>);

impl Pending {
    fn push(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        for name in path.split(|byte| *byte == b'/').rev() {
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            if !name.is_empty() {
                self.0.push(name.to_vec());
            }
        }
        Ok(())
    }
}

impl Files {
    /// Paths at which there are directories of the host.
    pub(crate) fn host_directories(&self) -> impl Iterator<Item = &[u8]> {
        let of_host = self.mounts.iter().filter(|mount| matches!(mount.root, Place::Host(_)));
        of_host.map(|mount| &mount.path[..])
    }

    /// Walks a path. A symbolic link that it ends with is followed if `follow` says so, or a slash.
    pub(super) fn resolve(
        &self,
        grants: &Grants,
        base: &Place,
        path: &[u8],
        follow: bool,
    ) -> Result<Target, Errno> {
        let mut pending = Pending(Vec::new());
        pending.push(path)?;
        let slash = path.ends_with(b"/");
        let mut here = if path[0] == b'/' { self.root().clone() } else { base.clone() };
        let mut links = 0;
        while let Some(name) = pending.0.pop() {
            let last = pending.0.is_empty();
            if name == b"." {
                continue;
            }
            if name == b".." {
                here = self.parent(&here)?;
                continue;
            }
            let Some((place, kind)) = self.step(grants, &here, &name)? else {
                if !last {
                    return Err(Errno::ENOENT);
                }
                return Ok(Target {
                    parent: here,
                    name: Some(Name::from(name)),
                    found: None,
                    slash,
                });
            };
            match kind {
                Type::Link if follow || slash || !last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP);
                    }
                    let target = self.read_link(grants, &place)?;
                    pending.push(&target)?;
                    if target[0] == b'/' {
                        here = self.root().clone();
                    }
                }
                Type::Directory if !last => here = place,
                _ if !last || (slash && kind != Type::Directory) => return Err(Errno::ENOTDIR),
                _ => {
                    let (name, found) = (Some(Name::from(name)), Some((place, kind)));
                    return Ok(Target { parent: here, name, found, slash });
                }
            }
        }
        let parent = self.parent(&here)?;
        Ok(Target { parent, name: None, found: Some((here, Type::Directory)), slash })
    }

    /// What leads from a directory by a name.
    fn step(
        &self,
        grants: &Grants,
        from: &Place,
        name: &[u8],
    ) -> Result<Option<(Place, Type)>, Errno> {
        if let Some(mount) = self.mount_at(from, name) {
            let kind = match &mount.root {
                Place::Memory(ino) => self.tree.get(*ino)?.kind(),
                Place::Host(_) => Type::Directory,
            };
            return Ok(Some((mount.root.clone(), kind)));
        }
        match from {
            Place::Memory(ino) => match self.tree.lookup(*ino, name)? {
                Some(ino) => Ok(Some((Place::Memory(ino), self.tree.get(ino)?.kind()))),
                None => Ok(None),
            },
            Place::Host(place) => {
                let place = place.child(name);
                match self.host_status(grants, &place) {
                    Ok(status) => Ok(Some((Place::Host(place), status.kind))),
                    Err(Errno::ENOENT) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// What a host's file is. A directory that leads to a mount point exists even if the host has
    /// nothing there.
    pub(super) fn host_status(
        &self,
        grants: &Grants,
        place: &HostPlace,
    ) -> Result<HostStatus, Errno> {
        let status = match self.granted(grants, place) {
            Ok(directory) => directory.status(&place.path),
            Err(error) => Err(error),
        };
        match status {
            Ok(status) if status.kind == Type::Directory => Ok(status),
            _ if self.leads_to_mount(place) => Ok(HostStatus {
                kind: Type::Directory,
                size: 4096,
                executable: true,
                times: [0; 3],
            }),
            status => status,
        }
    }

    /// The directory of the host that a place lies in.
    pub(super) fn granted<'a>(
        &self,
        grants: &'a Grants,
        place: &HostPlace,
    ) -> Result<&'a super::host::HostDirectory, Errno> {
        let mount = self.mounts.get(place.mount).ok_or(Errno::EIO)?;
        grants.directory(&mount.path)
    }

    fn leads_to_mount(&self, place: &HostPlace) -> bool {
        self.mounts.iter().any(|mount| match &mount.at {
            Some((Place::Host(at), _)) if at.mount == place.mount => {
                let rest = at.path.strip_prefix(&*place.path);
                place.path.is_empty() || rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            }
            _ => false,
        })
    }

    /// Names in a directory of the host that exist because they are, or lead to, mount points.
    pub(super) fn mounted_names(&self, place: &HostPlace) -> Vec<(Name, Type)> {
        let mut names: Vec<(Name, Type)> = Vec::new();
        for mount in self.mounts.iter() {
            let Some((Place::Host(at), name)) = &mount.at else { continue };
            if at.mount != place.mount {
                continue;
            }
            let path = at.child(name).path;
            let Some(rest) = path.strip_prefix(&*place.path) else { continue };
            let rest = match place.path.is_empty() {
                true => rest,
                false => match rest {
                    [b'/', rest @ ..] => rest,
                    _ => continue,
                },
            };
            let mut parts = rest.splitn(2, |byte| *byte == b'/');
            let first = parts.next().unwrap_or(rest);
            let kind = match (parts.next(), &mount.root) {
                (None, Place::Memory(ino)) => self.tree.get(*ino).map_or(Type::File, |n| n.kind()),
                _ => Type::Directory,
            };
            if !names.iter().any(|(name, _)| &**name == first) {
                names.push((Name::from(first), kind));
            }
        }
        names
    }

    pub(super) fn root(&self) -> &Place {
        &self.mounts[0].root
    }

    /// What is mounted at a name in a directory.
    fn mount_at(&self, directory: &Place, name: &[u8]) -> Option<&Mount> {
        self.mounts.iter().find(|mount| {
            mount.at.as_ref().is_some_and(|(at, called)| at == directory && &**called == name)
        })
    }

    /// Whether a name is a mount point, and so can't be removed.
    pub(super) fn is_mounted(&self, directory: Ino, name: &[u8]) -> bool {
        self.mount_at(&Place::Memory(directory), name).is_some()
    }

    /// The directory that a directory lies in; the root lies in itself.
    pub(super) fn parent(&self, place: &Place) -> Result<Place, Errno> {
        if let Some(mount) = self.mounts.iter().find(|mount| mount.root == *place) {
            return Ok(mount.at.as_ref().map_or(place, |(at, _)| at).clone());
        }
        match place {
            Place::Memory(ino) => Ok(Place::Memory(self.tree.directory(*ino)?.parent)),
            Place::Host(place) => {
                place.split().map(|(above, _)| Place::Host(above)).ok_or(Errno::ENOENT)
            }
        }
    }

    /// The target of a symbolic link; `EINVAL` for what is none.
    pub(super) fn read_link(&self, grants: &Grants, place: &Place) -> Result<Vec<u8>, Errno> {
        match place {
            Place::Memory(ino) => match &self.tree.get(*ino)?.kind {
                Kind::Link(target) => Ok(target.to_vec()),
                _ => Err(Errno::EINVAL),
            },
            Place::Host(place) => match self.host_status(grants, place)?.kind {
                Type::Link => self.granted(grants, place)?.read_link(&place.path),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// The path of a directory; `ENOENT` if it was removed.
    pub(super) fn path_of(&self, place: &Place) -> Result<Vec<u8>, Errno> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut length = 1;
        let mut here = place.clone();
        while here != *self.root() {
            let name = self.name_of(&here)?;
            length += name.len() + 1;
            if length > PATH_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            names.push(name);
            here = self.parent(&here)?;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    fn name_of(&self, place: &Place) -> Result<Vec<u8>, Errno> {
        if let Some(mount) = self.mounts.iter().find(|mount| mount.root == *place) {
            return Ok(mount.at.as_ref().ok_or(Errno::ENOENT)?.1.to_vec());
        }
        match place {
            Place::Memory(ino) => {
                let node = self.tree.get(*ino)?;
                match &node.kind {
                    Kind::Directory(directory) if node.links > 0 => Ok(directory.name.to_vec()),
                    _ => Err(Errno::ENOENT),
                }
            }
            Place::Host(place) => place.split().map(|(_, name)| name.to_vec()).ok_or(Errno::ENOENT),
        }
    }
}
