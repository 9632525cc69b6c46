//! What all sandboxes of one booted guest share, however they came about.

use std::any::type_name;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use glowbox_core::address::index;
use glowbox_core::layout::{Layout, RegionKind};
use glowbox_core::load::{self, Start};
use glowbox_core::mail::MailboxSizes;

use crate::capabilities::Capabilities;
use crate::function::Target;
use crate::randomness::Randomness;
use crate::{Arguments, Engine, Error, ErrorKind, Guest};

/// A guest, how it lies in memory, and what has been looked up about it.
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    pub(crate) guest: Guest,
    pub(crate) layout: Layout,
    pub(crate) places: Places,
    pub(crate) randomness: Randomness,
    pub(crate) log_level: u32,
    pub(crate) log_text_limit: u64,
    /// Names of the imported host functions, one a slot.
    pub(crate) names: Vec<Arc<str>>,
    /// Numbers of imported functions, ascending, and their slots.
    pub(crate) imports: Vec<(u32, usize)>,
    resolved: RwLock<HashMap<String, Vec<Resolved>>>,
}

/// Where in guest memory the host reads and writes.
pub(crate) struct Places {
    pub(crate) control: usize,
    pub(crate) incoming: Range<usize>,
    pub(crate) outgoing: Range<usize>,
    pub(crate) sizes: MailboxSizes,
    /// First byte that the guest may write to.
    pub(crate) writable_from: usize,
    /// What the host itself uses: it must be there whatever becomes of an image's file.
    pub(crate) hosts_own: Vec<Range<usize>>,
}

/// A name that has been checked against a pair of types before.
struct Resolved {
    arguments: &'static str,
    result: &'static str,
    target: Target,
}

/// The options that a guest is set up with.
pub(crate) struct SetupOptions {
    pub(crate) randomness: Randomness,
    pub(crate) log_level: u32,
    pub(crate) log_text_limit: u64,
}

impl Setup {
    pub(crate) fn new(
        engine: Engine,
        guest: Guest,
        layout: Layout,
        options: SetupOptions,
    ) -> Setup {
        let (names, imports) = slots(&guest);
        Setup {
            engine,
            places: Places::of(&layout),
            guest,
            layout,
            randomness: options.randomness,
            log_level: options.log_level,
            log_text_limit: options.log_text_limit,
            names,
            imports,
            resolved: RwLock::default(),
        }
    }

    /// What the guest is started with, besides its program.
    pub(crate) fn start<'a>(&'a self, capabilities: &'a Capabilities) -> Result<Start<'a>, Error> {
        let start = Start {
            name: self.guest.name().as_bytes(),
            arguments: capabilities.arguments(),
            environment: capabilities.environment(),
            random: self.randomness.auxiliary()?,
            entropy: self.randomness.entropy(1)?,
            log_level: self.log_level,
            log_text_limit: self.log_text_limit,
        };
        let most = load::most_arguments(self.layout.limits().stack);
        let found = load::arguments_size(&start);
        if found > most {
            let text = format!(
                "arguments and environment take {found} bytes, but may take {most}, a quarter of the \
                 stack; see Builder::stack_size"
            );
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        Ok(start)
    }

    /// As `find`, remembering the answer.
    pub(crate) fn resolve<A: Arguments, R>(&self, name: &str) -> Result<Target, Error> {
        let (arguments, result) = (type_name::<A>(), type_name::<R>());
        let resolved = self.resolved.read().unwrap_or_else(PoisonError::into_inner);
        let known = resolved.get(name).and_then(|known| {
            known.iter().find(|known| known.arguments == arguments && known.result == result)
        });
        if let Some(known) = known {
            return Ok(known.target.clone());
        }
        drop(resolved);
        let target = self.find::<A, R>(name)?;
        let found = Resolved { arguments, result, target: target.clone() };
        let mut resolved = self.resolved.write().unwrap_or_else(PoisonError::into_inner);
        resolved.entry(name.to_string()).or_default().push(found);
        Ok(target)
    }

    /// Looks a function up by name and checks its types.
    pub(crate) fn find<A: Arguments, R>(&self, name: &str) -> Result<Target, Error> {
        Target::find(&self.guest, name, &A::types(), type_name::<R>())
    }
}

impl Places {
    fn of(layout: &Layout) -> Places {
        let indices = |range: Range<u64>| index(range.start)..index(range.end);
        let range = |kind| indices(layout.memory(kind));
        let limits = layout.limits();
        let (incoming, outgoing) = (range(RegionKind::Incoming), range(RegionKind::Outgoing));
        Places {
            control: range(RegionKind::Control).start,
            hosts_own: vec![
                // The supervisor, the resume page and the page tables.
                0..range(RegionKind::PageTables).end,
                range(RegionKind::Control),
                range(RegionKind::MapTable).start..index(layout.lent_tables().end),
                incoming.clone(),
                outgoing.clone(),
            ],
            incoming,
            outgoing,
            sizes: MailboxSizes { incoming: limits.incoming, outgoing: limits.outgoing },
            writable_from: index(layout.writable_from()),
        }
    }
}

/// A slot for each host function that the guest imports, and their numbers in ascending order.
fn slots(guest: &Guest) -> (Vec<Arc<str>>, Vec<(u32, usize)>) {
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut imports = Vec::new();
    for import in guest.program().imports() {
        let known = names.iter().position(|name| **name == *import.name);
        let slot = known.unwrap_or_else(|| {
            names.push(import.name.as_str().into());
            names.len() - 1
        });
        imports.push((import.number, slot));
    }
    imports.sort_unstable();
    (names, imports)
}
