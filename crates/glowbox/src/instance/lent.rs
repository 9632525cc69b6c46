//! Lending mappings to the guest, and taking them back.
//!
//! A mapping lies at the same address guest-virtual and guest-physical, in large pages: its length
//! is rounded up to them, and at least one is left out behind it. The page directories for those
//! addresses are in guest memory where the guest can't reach them, and linked for good, so lending
//! changes their entries only. What guards against writing is three things: the entries, the memory
//! slot, and the host's own mapping.
//!
//! Taking away is by removing the memory slot. That makes every KVM forget what it had mapped, also
//! those that don't notice when the host takes a right away in a page table (`docs/kvm.md`).

use glowbox_abi::maps::{self, MapEntry, MapTableHeader};
use glowbox_core::address::{Gpa, LARGE_PAGE_SIZE, index};
use glowbox_core::layout::{LENT, RegionKind};
use glowbox_core::paging;

use super::Instance;
use crate::{Error, ErrorKind, Mapping};

/// What is lent to an instance: names, and where the next mapping goes.
pub(crate) struct Loans {
    names: Vec<String>,
    next: u64,
}

impl Default for Loans {
    fn default() -> Loans {
        Loans { names: Vec::new(), next: LENT.start }
    }
}

impl Loans {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Instance {
    /// Lends a mapping under a name.
    pub(crate) fn lend(&mut self, name: &str, mapping: &Mapping) -> Result<(), Error> {
        self.setup.engine.check_process()?;
        if let Some(by) = &self.spent {
            return Err(Error::spent(by));
        }
        let lent = mapping.lent();
        let address = self.loans.next;
        let entry = self.entry(name, address, lent.length() as u64)?;
        let mapped = lent.mapped() as u64;
        let end = address.checked_add(mapped).filter(|end| *end <= LENT.end);
        let end = end.ok_or_else(|| {
            let text = format!(
                "`{name}` has {} bytes, but of the {} GiB for mappings only {} bytes are left; \
                 reset the sandbox to take the others back",
                lent.length(),
                (LENT.end - LENT.start) >> 30,
                LENT.end.saturating_sub(address)
            );
            Error::new(ErrorKind::InvalidOption, text)
        })?;
        self.lease.lend(Gpa(address), lent.clone()).map_err(Error::of_machine)?;
        let directories = self.setup.layout.lent_tables();
        let directories = index(directories.start)..index(directories.end);
        let directories = &mut self.lease.memory_mut()[directories];
        for gpa in (address..end).step_by(index(LARGE_PAGE_SIZE)) {
            let number = (gpa - LENT.start) / LARGE_PAGE_SIZE;
            paging::map_large_read_only(directories, index(number), Gpa(gpa));
        }
        let number = self.loans.names.len();
        let header = MapTableHeader { count: number as u64 + 1 };
        let table = self.setup.layout.memory(RegionKind::MapTable);
        let table = &mut self.lease.memory_mut()[index(table.start)..index(table.end)];
        let at = maps::entry_offset(number);
        table[at..at + MapEntry::SIZE].copy_from_slice(&entry.to_bytes());
        table[..MapTableHeader::SIZE].copy_from_slice(&header.to_bytes());
        self.loans.names.push(name.to_string());
        // One large page stays unmapped between two mappings.
        self.loans.next = end + LARGE_PAGE_SIZE;
        Ok(())
    }

    fn entry(&self, name: &str, address: u64, length: u64) -> Result<MapEntry, Error> {
        let invalid = |text| Err(Error::new(ErrorKind::InvalidOption, text));
        let names = &self.loans.names;
        if names.iter().any(|known| known == name) {
            return invalid(format!("something is lent to the sandbox as `{name}` already"));
        }
        if names.len() == maps::MAX_ENTRIES {
            return invalid(format!(
                "{} mappings are lent to the sandbox, which is the most there can be",
                maps::MAX_ENTRIES
            ));
        }
        match MapEntry::new(name, address, length) {
            Some(entry) => Ok(entry),
            None => invalid(format!(
                "a mapping's name has from 1 to {} bytes, but `{name}` has {}",
                maps::MAX_NAME,
                name.len()
            )),
        }
    }

    /// Takes back everything that was lent.
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        if self.loans.is_empty() {
            return Ok(());
        }
        self.lease.take_back().map_err(Error::of_machine).map_err(|error| self.spend(error))?;
        // Less the page that stays unmapped behind the last one.
        let used = std::mem::take(&mut self.loans).next - LARGE_PAGE_SIZE - LENT.start;
        let table = self.setup.layout.memory(RegionKind::MapTable);
        // An entry of eight bytes a large page.
        let directories = self.setup.layout.lent_tables().start;
        let directories = index(directories)..index(directories + used / LARGE_PAGE_SIZE * 8);
        let memory = self.lease.memory_mut();
        memory[index(table.start)..index(table.end)].fill(0);
        memory[directories].fill(0);
        Ok(())
    }
}
