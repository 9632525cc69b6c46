//! 512x512 matrices of `f32`, multiplied by plain loops.

use alloc::vec;
use alloc::vec::Vec;

use crate::{mix, random_from};

const SIDE: usize = 512;

/// A square matrix, row by row.
pub(crate) struct Matrix(Vec<f32>);

impl Matrix {
    pub(crate) fn zero() -> Matrix {
        Matrix(vec![0.0; SIDE * SIDE])
    }

    /// Small whole numbers, which `f32` adds without rounding.
    pub(crate) fn random(seed: u32) -> Matrix {
        let numbers =
            random_from(seed).skip(16).map(|number| f32::from(number.to_le_bytes()[3] >> 4));
        Matrix(numbers.take(SIDE * SIDE).collect())
    }

    /// Rows outside, columns inside: every access goes along a row.
    pub(crate) fn set_product(&mut self, left: &Matrix, right: &Matrix) {
        self.0.fill(0.0);
        for (out, row) in self.0.chunks_exact_mut(SIDE).zip(left.0.chunks_exact(SIDE)) {
            for (factor, other) in row.iter().zip(right.0.chunks_exact(SIDE)) {
                for (sum, value) in out.iter_mut().zip(other) {
                    *sum += factor * value;
                }
            }
        }
    }

    pub(crate) fn checksum(&self) -> u64 {
        let (column, diagonal) = (SIDE, SIDE + 1);
        let some = self.0.iter().step_by(column).chain(self.0.iter().step_by(diagonal));
        some.fold(0, |sum, value| mix(sum, u64::from(value.to_bits())))
    }
}
