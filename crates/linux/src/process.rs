//! A process: all that belongs to a guest, and how it goes on after an exit.

use serde::{Deserialize, Serialize};

use crate::clock::Clocks;
use crate::files::Files;
use crate::random::Random;
use crate::space::{self, Space};
use crate::table::{Entry, entries};
use crate::threads::Threads;
use crate::{Broken, Event, Hardware, Limits, Next, World};

/// What a process starts with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its address space.
    pub space: space::Options,
    /// Its files.
    pub files: Files,
    /// What its random numbers come from.
    pub seed: [u8; 32],
    /// What it may keep the host's memory busy with.
    pub limits: Limits,
}

/// All that belongs to a guest. Its first thread is on the vCPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    pub(crate) space: Space,
    pub(crate) files: Files,
    pub(crate) threads: Threads,
    pub(crate) clock: Clocks,
    pub(crate) random: Random,
    pub(crate) limits: Limits,
}

impl Process {
    /// A process that is about to start.
    pub fn new(_options: Options) -> Process {
        todo!()
    }

    /// Answers an exit, and says how the guest goes on.
    pub fn handle(
        &mut self,
        _event: Event,
        _hardware: &mut dyn Hardware,
        _world: &mut World,
    ) -> Next {
        todo!()
    }

    /// Whether more than one thread can run: then the one that runs has to be stopped after a time
    /// slice, with [`Event::Tick`].
    pub fn needs_ticks(&self) -> bool {
        todo!()
    }

    /// What its address space is made of.
    pub fn space_options(&self) -> &space::Options {
        self.space.options()
    }

    /// What it may keep the host's memory busy with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Writes its page tables anew, where only those of what is mapped at the start are.
    ///
    /// # Errors
    ///
    /// As [`Space::rebuild`].
    pub fn rebuild(&mut self, hardware: &mut dyn Hardware) -> Result<(), Broken> {
        self.space.rebuild(hardware)
    }

    /// Nanoseconds on its monotonic clock.
    pub fn now(&mut self, world: &World) -> u64 {
        self.clock.monotonic(&world.clock)
    }

    /// Seeds its random numbers anew: for a copy of a process.
    pub fn reseed(&mut self, seed: [u8; 32]) {
        self.random = Random::new(seed);
    }
}

pub(crate) const CALLS: &[Entry] = entries! {};
