//! The state of threads that are not on the vCPU, and how it is written to files.

use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use serde::{Deserialize, Serialize};

use super::{Thread, Threads};
use crate::space::ADDRESSES_END;
use crate::{Bases, Broken, Hardware};

/// The bits that MXCSR may have.
pub(super) const MXCSR_BITS: u32 = 0xffff;
/// Bytes of an XSAVE area with AVX state.
const AVX_SIZE: usize = ExtendedState::MIN_SIZE + 256;

/// What of a thread's state is neither in its general registers nor in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    fs: u64,
    gs: u64,
    #[serde(with = "extended")]
    pub(super) extended: ExtendedState,
}

impl Saved {
    pub(super) fn new(bases: Bases, extended: ExtendedState) -> Saved {
        Saved { fs: bases.fs, gs: bases.gs, extended }
    }

    /// Whether a vCPU can hold it.
    fn is_sound(&self) -> bool {
        // Canonical: the upper 17 bits are the same.
        [self.fs, self.gs].iter().all(|base| matches!(base >> 47, 0 | 0x1_ffff))
    }
}

/// The state components that an area of so many bytes has room for: x87 and SSE, and AVX.
pub(super) fn components(size: usize) -> u64 {
    if size < AVX_SIZE { 0b011 } else { 0b111 }
}

/// Takes extended state from bytes that may be anything.
pub(super) fn extended_from(area: &[u8]) -> Option<ExtendedState> {
    ExtendedState::from_xsave(area, components(area.len()), MXCSR_BITS)
}

impl Threads {
    /// Segment bases of the thread on the vCPU.
    pub(crate) fn bases_now(&self, hardware: &mut dyn Hardware) -> Result<Bases, Broken> {
        match self.bases {
            Some(bases) => Ok(bases),
            None => hardware.bases(),
        }
    }

    /// Extended state of the current thread.
    pub(super) fn extended(
        &mut self,
        hardware: &mut dyn Hardware,
    ) -> Result<ExtendedState, Broken> {
        match &self.current().saved {
            Some(saved) => Ok(saved.extended.clone()),
            None => hardware.extended(),
        }
    }

    /// The vCPU's state for the current thread to go on with these registers, if it is not on the vCPU
    /// yet. The one that is there is saved.
    pub(crate) fn switch(
        &mut self,
        registers: Registers,
        hardware: &mut dyn Hardware,
    ) -> Result<Option<Box<CpuState>>, Broken> {
        if self.loaded == self.current {
            return Ok(None);
        }
        self.unload(hardware)?;
        let Some(saved) = self.current().saved.take() else {
            let what = "go on with a thread whose state is lost".to_string();
            return Err(Broken { what, source: None });
        };
        self.loaded = self.current;
        let Saved { fs, gs, extended } = *saved;
        Ok(Some(Box::new(CpuState { registers, fs_base: fs, gs_base: gs, extended })))
    }

    /// Saves the state that the vCPU holds with the thread that it belongs to.
    fn unload(&mut self, hardware: &mut dyn Hardware) -> Result<(), Broken> {
        let loaded = std::mem::take(&mut self.loaded);
        if self.get(loaded).is_some() {
            let saved = Saved::new(self.bases_now(hardware)?, hardware.extended()?);
            self.bases = None;
            if let Some(thread) = self.get_mut(loaded) {
                thread.saved = Some(Box::new(saved));
            }
        }
        Ok(())
    }

    /// Gives the current thread, which is on the vCPU, other extended state.
    pub(super) fn replace(
        &mut self,
        extended: ExtendedState,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Broken> {
        let bases = self.bases_now(hardware)?;
        self.bases = None;
        self.loaded = 0;
        self.current().saved = Some(Box::new(Saved::new(bases, extended)));
        Ok(())
    }
}

impl Thread {
    /// Whether it may go on from its registers, and with what else is saved of it.
    pub(super) fn is_sound(&self) -> bool {
        self.pending.is_sound()
            && self.registers.rip < ADDRESSES_END
            && self.saved.as_ref().is_none_or(|saved| saved.is_sound())
    }

    /// A copy of a thread as `clone` makes it.
    pub(super) fn child(&self, id: u32, registers: Registers, saved: Saved) -> Thread {
        Thread {
            id,
            registers,
            saved: Some(Box::new(saved)),
            state: super::State::Running,
            mask: self.mask,
            mask_after: None,
            pending: super::Pending::default(),
            alt_stack: super::AltStack::default(),
            trap: super::Trap::default(),
            clear_id: 0,
            robust_list: 0,
            name: self.name,
        }
    }
}

pub(super) mod registers {
    use glowbox_core::registers::Registers;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        r: &Registers,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let words: [u64; 18] = [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15, r.rip, r.rflags,
        ];
        words.serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Registers, D::Error> {
        let words = <[u64; 18]>::deserialize(from)?;
        let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, ..] = words;
        let [.., r12, r13, r14, r15, rip, rflags] = words;
        Ok(Registers {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        })
    }
}

mod extended {
    use glowbox_core::registers::ExtendedState;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        state: &ExtendedState,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        state.bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<ExtendedState, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        super::extended_from(&bytes).ok_or_else(|| D::Error::custom("no XSAVE area is that long"))
    }
}
