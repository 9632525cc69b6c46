//! `flate2`: gzip and zlib, there and back.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::{Outcome, data};

pub(crate) fn run() -> Outcome {
    let log = data::log(50_000);
    for level in [1, 6, 9] {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(level));
        gzip.write_all(log.as_bytes())?;
        let gzip = gzip.finish()?;
        let mut back = String::new();
        GzDecoder::new(&gzip[..]).read_to_string(&mut back)?;
        println!(
            "gzip {level}: {} to {} bytes, hash {:016x}, the same back: {}",
            log.len(),
            gzip.len(),
            data::hash(&gzip),
            back == log
        );
    }
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(log.as_bytes())?;
    let mut zlib = zlib.finish()?;
    println!("zlib: {} bytes, hash {:016x}", zlib.len(), data::hash(&zlib));
    let middle = zlib.len() / 2;
    zlib[middle] ^= 0x55;
    let broken = ZlibDecoder::new(&zlib[..]).read_to_end(&mut Vec::new());
    println!("a broken one is refused: {}", broken.is_err());
    Ok(())
}

/// Unpacks a gzip file.
pub(crate) fn inflate(file: &Path) -> Outcome {
    let mut text = Vec::new();
    GzDecoder::new(BufReader::new(File::open(file)?)).read_to_end(&mut text)?;
    println!("{} bytes, hash {:016x}", text.len(), data::hash(&text));
    Ok(())
}
