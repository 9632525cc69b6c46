//! `image`: a PNG decoded, resized, and encoded as JPEG.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{GenericImageView, ImageFormat, Rgb, RgbImage};

use crate::{Outcome, data};

pub(crate) fn run() -> Outcome {
    let drawn = RgbImage::from_fn(800, 600, |x, y| {
        let ring = (x * x + y * y) / 97 % 256;
        Rgb([(x ^ y) as u8, ring as u8, (x * y / 13) as u8])
    });
    let mut png = Vec::new();
    drawn.write_to(&mut Cursor::new(&mut png), ImageFormat::Png)?;
    println!("png: {} bytes, hash {:016x}", png.len(), data::hash(&png));
    let decoded = image::load_from_memory(&png)?;
    println!("decoded: {:?}, the same: {}", decoded.dimensions(), decoded.to_rgb8() == drawn);
    let small = decoded.resize_exact(320, 240, FilterType::Lanczos3);
    println!("resized: {:?}, hash {:016x}", small.dimensions(), data::hash(small.as_bytes()));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&small)?;
    println!("jpeg: {} bytes, hash {:016x}", jpeg.len(), data::hash(&jpeg));
    let again = image::load_from_memory(&jpeg)?;
    println!("decoded: {:?}, hash {:016x}", again.dimensions(), data::hash(again.as_bytes()));
    let cut = image::load_from_memory(&png[..png.len() / 2]);
    println!("half a file is refused: {}", cut.is_err());
    Ok(())
}
