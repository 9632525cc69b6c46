//! From a snapshot's file to the result of a first call, for a small image and a large one.
//!
//! The call reads the image's last page, so the image is there and not only promised. The files are
//! in the page cache, as they are wherever one is loaded more than once; what a disk takes is no
//! property of the library. The engine has a VM in its pool, which makes the bound harder to meet:
//! creating one would be the greater part of both figures.

use std::path::PathBuf;
use std::time::Instant;

use glowbox::{Engine, Snapshot};
use glowbox_bench::subject::{self, Result};
use tempfile::TempDir;

use super::{Experiment, Plan, ready};
use crate::rows::{Row, Yardstick};
use crate::samples::{Samples, since};

/// Images: their names, the pages that the guest has filled, and its memory limit.
const IMAGES: [(&str, u32, u64); 2] = [("1mib", 256, 64 << 20), ("256mib", 256 << 8, 320 << 20)];

fn id(image: &str, verify: bool) -> String {
    format!("load-{image}{}", if verify { "-verified" } else { "" })
}

pub(crate) fn plans() -> Vec<Plan> {
    let plan = |verify: bool| {
        let how = if verify { "verified" } else { "unverified" };
        let row = |image: usize| {
            let (name, size) = (IMAGES[image].0, IMAGES[image].0.replace("mib", " MiB"));
            Row::glowbox(id(name, verify), format!("load {size}, {how}, and spawn and first call"))
        };
        let large = row(1).against(Yardstick::row(&id(IMAGES[0].0, verify), "that of 1 MiB"));
        let large = if verify { large } else { large.at_most(1.2) };
        let plan = Plan::new(vec![row(0), large], move |_| ready(Load::open(verify)?));
        if verify { plan.every(16) } else { plan }
    };
    vec![plan(false), plan(true)]
}

struct Load {
    verify: bool,
    images: Vec<Image>,
    /// Holds the files, and takes them away at the end.
    _folder: TempDir,
}

struct Image {
    id: String,
    engine: Engine,
    path: PathBuf,
    last_page: u32,
    first_byte: Option<u8>,
}

impl Load {
    fn open(verify: bool) -> Result<Load> {
        let folder = tempfile::tempdir()?;
        let mut images = Vec::new();
        for (name, pages, limit) in IMAGES {
            let engine = Engine::new()?;
            let builder = subject::builder().engine(&engine).memory_limit(limit).no_deadline();
            let mut sandbox = builder.build(subject::guest(&subject::elf())?)?;
            sandbox.call::<_, ()>("fill", (pages,))?;
            let last_page = pages - 1;
            let first_byte = sandbox.call("peek", (last_page,))?;
            let path = folder.path().join(name);
            sandbox.snapshot()?.save(&path)?;
            images.push(Image { id: id(name, verify), engine, path, last_page, first_byte });
        }
        Ok(Load { verify, images, _folder: folder })
    }
}

impl Experiment for Load {
    fn sample(&mut self, samples: &mut Samples) -> Result<()> {
        for image in &self.images {
            let loader = || {
                let loader = Snapshot::loader().engine(&image.engine).verify(self.verify);
                // As much as the image was made with, and more.
                loader.memory_limit(u64::MAX)
            };
            let start = Instant::now();
            let snapshot = loader().host_function("nothing", || ()).load(&image.path)?;
            let mut sandbox = snapshot.spawn()?;
            let byte: Option<u8> = sandbox.call("peek", (image.last_page,))?;
            let time = since(start);
            if byte.is_none() || byte != image.first_byte {
                return Err(
                    format!("{}: loaded {byte:?}, not {:?}", image.id, image.first_byte).into()
                );
            }
            samples.add(&image.id, time);
        }
        Ok(())
    }
}
