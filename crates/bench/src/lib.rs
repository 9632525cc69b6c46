//! What the benchmarks measure against.
//!
//! The figures of a sandbox say little by themselves: how long an exit or a VM takes to create is
//! for the most part the kernel's and the processor's doing. This crate holds the yardstick they
//! are divided by, and depends on none of the product's crates so that it cannot share their cost.

pub mod floor;
