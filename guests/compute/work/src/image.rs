//! RGBA images and their bilinear resizing, in fixed-point numbers.

use alloc::vec;
use alloc::vec::Vec;

use crate::mix;

/// Bits behind the point.
const POINT: usize = 8;
const ONE: usize = 1 << POINT;
const CHANNELS: usize = 4;

/// Four bytes a pixel, row by row.
pub(crate) struct Image {
    width: usize,
    height: usize,
    pixels: Vec<[u8; CHANNELS]>,
}

/// The two pixels of a line that one of another length lies between.
struct Between {
    first: usize,
    second: usize,
    /// How far from the first, in parts of `ONE`.
    part: u32,
}

impl Image {
    /// Something with edges and slopes.
    pub(crate) fn pattern(width: usize, height: usize) -> Image {
        let byte = |value: usize| value.to_le_bytes()[0];
        let pixels = (0..width * height).map(|at| {
            let (x, y) = (at % width, at / width);
            [byte(x), byte(y * 2), byte(x ^ y), byte((x * y) >> 6)]
        });
        Image { width, height, pixels: pixels.collect() }
    }

    pub(crate) fn blank(width: usize, height: usize) -> Image {
        Image { width, height, pixels: vec![[0; CHANNELS]; width * height] }
    }

    /// Fills the other image with this one, in its own size.
    pub(crate) fn resize_to(&self, target: &mut Image) {
        let (width, height) = (target.width, target.height);
        let columns: Vec<_> = (0..width).map(|x| between(x, width, self.width)).collect();
        for (y, pixels) in target.pixels.chunks_exact_mut(width).enumerate() {
            let line = between(y, height, self.height);
            let upper = &self.pixels[line.first * self.width..][..self.width];
            let lower = &self.pixels[line.second * self.width..][..self.width];
            for (pixel, column) in pixels.iter_mut().zip(&columns) {
                let above = blend(upper[column.first], upper[column.second], column.part);
                let below = blend(lower[column.first], lower[column.second], column.part);
                *pixel = blend(above, below, line.part);
            }
        }
    }

    pub(crate) fn checksum(&self) -> u64 {
        let some = self.pixels.iter().step_by(self.width + 1);
        some.fold(0, |sum, pixel| mix(sum, u64::from(u32::from_le_bytes(*pixel))))
    }
}

/// Where pixel `at` of `length` lies in a line of `source` pixels.
fn between(at: usize, length: usize, source: usize) -> Between {
    let place = at * (source - 1) * ONE / (length - 1).max(1);
    let first = place >> POINT;
    let part = u32::try_from(place % ONE).unwrap_or(0);
    Between { first, second: (first + 1).min(source - 1), part }
}

/// In 32 bits on every machine: a `usize` is half as wide in WebAssembly, and vectors hold twice as many.
fn blend(a: [u8; CHANNELS], b: [u8; CHANNELS], part: u32) -> [u8; CHANNELS] {
    const WHOLE: u32 = 1 << POINT;
    core::array::from_fn(|channel| {
        let (a, b) = (u32::from(a[channel]), u32::from(b[channel]));
        ((a * (WHOLE - part) + b * part) >> POINT).to_le_bytes()[0]
    })
}
