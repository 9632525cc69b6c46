//! What Glowbox's benchmarks share: the yardstick they measure against, and the subject they
//! measure.
//!
//! The figures of a sandbox say little by themselves: how long an exit or a VM takes to create is
//! for the most part the kernel's and the processor's doing. [`floor`] is what they are divided by;
//! it uses none of the product's crates, so that it cannot share their cost. [`subject`] is the
//! product's side: the guest, and the buffers that messages are compared with.

pub mod floor;
pub mod subject;
