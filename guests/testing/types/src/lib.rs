//! Types that the guest `testing` and its host, the library's tests, share.

#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// A record of everything serde has a shape for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Everything {
    pub integers: (u8, i8, u16, i16, u32, i32, u64, i64),
    pub wide: (u128, i128),
    pub floats: (f32, f64),
    pub flag: bool,
    pub letter: char,
    pub text: String,
    pub bytes: Vec<u8>,
    pub list: Vec<Shape>,
    pub table: BTreeMap<String, Option<u32>>,
    pub nested: Option<Box<Everything>>,
    pub array: [u16; 4],
    pub unit: (),
}

/// An enum with every kind of variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Shape {
    Empty,
    Circle(f64),
    Rectangle { width: f64, height: f64 },
    Line(u32, u32),
}

/// An error that can be encoded.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum MathError {
    Zero,
    TooLarge { limit: u32 },
}

impl fmt::Display for MathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MathError::Zero => f.write_str("division by zero"),
            MathError::TooLarge { limit } => write!(f, "more than {limit}"),
        }
    }
}
