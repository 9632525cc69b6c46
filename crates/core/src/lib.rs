//! Glowbox's pure logic: what can be decided without a hypervisor.
//!
//! - [`elf`]: a guest's file, checked once and for all;
//! - [`layout`]: where everything lies in guest memory;
//! - [`paging`]: page tables, built into a byte slice;
//! - [`load`]: the initial contents of guest memory;
//! - [`signature`]: when a host's idea of a function agrees with the guest's;
//! - [`mail`]: messages from the guest, checked;
//! - [`batch`]: many calls in one message, and their results, checked;
//! - [`fault`]: what a guest did wrong, from vector, error code and address;
//! - [`escape`]: texts of strangers, as they may be shown;
//! - [`registers`]: what a vCPU holds;
//! - [`snapshot_file`]: snapshots as files, and files as snapshots, checked;
//! - [`symbols`]: which function an address lies in.
//!
//! The crate holds no `unsafe` and does no input or output, so all of it can be tested, fuzzed and
//! run under an interpreter without `/dev/kvm`.

#![forbid(unsafe_code)]

pub mod address;
pub mod batch;
pub mod elf;
pub mod escape;
pub mod fault;
pub mod layout;
pub mod load;
pub mod mail;
pub mod paging;
pub mod registers;
pub mod signature;
pub mod snapshot_file;
pub mod symbols;
