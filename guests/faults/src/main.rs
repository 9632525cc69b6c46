//! Functions that go wrong, each in a way of its own, for the library's tests.
//!
//! - `memory`: uses of memory that its protection forbids;
//! - `instructions`: instructions that fault, or that ring 3 may not execute;
//! - `exhaustion`: too much stack, too much heap;
//! - `panics`: panics, and what only looks like something else.

#![no_std]
#![no_main]

mod exhaustion;
mod instructions;
mod memory;
mod panics;
