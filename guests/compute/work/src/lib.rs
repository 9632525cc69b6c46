//! The work of the scoreboard's compute rows: five pieces of it, with their inputs.
//!
//! The same source, with the same features and optimisation, runs natively, in a Glowbox guest and
//! as WebAssembly. Each piece returns a checksum, by which the scoreboard sees that all three did
//! the same. Nothing here chooses by platform; what a dependency chooses by itself, `docs/
//! benchmarks.md` says.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod matrix;
mod text;

use core::hint::black_box;

use alloc::string::String;
use alloc::vec::Vec;

use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::image::Image;
use crate::matrix::Matrix;

/// Size of the inputs that have one.
const MEBIBYTE: usize = 1 << 20;

/// The numbers by which [`Inputs::run`] knows its work: SHA-256 of 1 MiB.
pub const SHA256: u32 = 0;
/// Parsing 1 MiB of JSON into a tree.
pub const JSON: u32 = 1;
/// Finding dates and addresses in 1 MiB of log lines.
pub const REGEX: u32 = 2;
/// Multiplying two 512x512 matrices of `f32`.
pub const MATRIX: u32 = 3;
/// Resizing an RGBA image from 1280x800 to 800x500, bilinear.
pub const RESIZE: u32 = 4;

/// What is worked on, what patterns compile to, and where results go: only JSON takes memory while it
/// is worked on.
pub struct Inputs {
    bytes: Vec<u8>,
    json: String,
    log: String,
    patterns: [Regex; 2],
    left: Matrix,
    right: Matrix,
    product: Matrix,
    image: Image,
    resized: Image,
}

impl Inputs {
    /// Makes them; always the same.
    ///
    /// # Panics
    ///
    /// If a pattern is wrong, which none is.
    #[must_use]
    pub fn new() -> Inputs {
        let pattern = |text| Regex::new(text).expect("a pattern without mistakes");
        Inputs {
            bytes: random().map(|number| number.to_le_bytes()[0]).take(MEBIBYTE).collect(),
            json: text::json(MEBIBYTE),
            log: text::log(MEBIBYTE),
            patterns: [
                pattern(r"[a-z]+\.[a-z]+@[a-z]+\.(?:org|net)"),
                pattern(r"2[0-9]{3}-(?:0[1-9]|1[0-2])-[0-3][0-9]T[0-9:]{8}Z WARN"),
            ],
            left: Matrix::random(1),
            right: Matrix::random(2),
            product: Matrix::zero(),
            image: Image::pattern(1280, 800),
            resized: Image::blank(800, 500),
        }
    }

    /// Does piece `number` of the work `times` times, and returns the checksum of all results.
    #[must_use]
    pub fn run(&mut self, number: u32, times: u32) -> Option<u64> {
        let work: fn(&mut Inputs) -> u64 = match number {
            SHA256 => Inputs::sha256,
            JSON => Inputs::json,
            REGEX => Inputs::regex,
            MATRIX => Inputs::matrix,
            RESIZE => Inputs::resize,
            _ => return None,
        };
        Some((0..times).fold(1, |sum, _| mix(sum, work(black_box(&mut *self)))))
    }

    fn sha256(&mut self) -> u64 {
        Sha256::digest(&self.bytes).iter().fold(0, |sum, byte| mix(sum, u64::from(*byte)))
    }

    fn json(&mut self) -> u64 {
        let tree: Value = serde_json::from_str(&self.json).unwrap_or_default();
        tree.as_array().map_or(0, |records| {
            records.iter().fold(0, |sum, record| mix(sum, record["id"].as_u64().unwrap_or(0)))
        })
    }

    fn regex(&mut self) -> u64 {
        self.patterns.iter().fold(0, |sum, pattern| {
            pattern.find_iter(&self.log).fold(sum, |sum, found| mix(sum, found.start() as u64))
        })
    }

    fn matrix(&mut self) -> u64 {
        self.product.set_product(&self.left, &self.right);
        self.product.checksum()
    }

    fn resize(&mut self) -> u64 {
        self.image.resize_to(&mut self.resized);
        self.resized.checksum()
    }
}

impl Default for Inputs {
    fn default() -> Inputs {
        Inputs::new()
    }
}

/// One step of a checksum (FNV-1a, on words).
fn mix(sum: u64, value: u64) -> u64 {
    (sum ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Marsaglia's xorshift: the same numbers everywhere.
fn random() -> impl Iterator<Item = u32> {
    random_from(0x9e37_79b9)
}

fn random_from(seed: u32) -> impl Iterator<Item = u32> {
    core::iter::successors(Some(seed), |state| {
        let state = state ^ state << 13;
        let state = state ^ state >> 17;
        Some(state ^ state << 5)
    })
}
