//! Modules of a kernel: which ones a module needs, in the order in which they are loaded.
//!
//! Packages come without the index that `depmod` makes when they are installed; what a module needs is
//! also written in it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module's name and its uncompressed file.
pub(super) type Module = (String, Vec<u8>);

/// The module of this name and all that it needs, each after those that it needs.
pub(super) fn with_needs(name: &str, folder: &Path) -> Result<Vec<Module>, String> {
    let mut places = HashMap::new();
    find(folder, &mut places).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut loaded = Vec::new();
    add(name, &places, &mut loaded)?;
    Ok(loaded)
}

fn add(
    name: &str,
    places: &HashMap<String, PathBuf>,
    loaded: &mut Vec<Module>,
) -> Result<(), String> {
    let name = name.replace('-', "_");
    if loaded.iter().any(|(there, _)| *there == name) {
        return Ok(());
    }
    let place = places.get(&name);
    let place = place.ok_or_else(|| format!("the kernel has no module `{name}`"))?;
    let bytes = read(place).map_err(|error| format!("{}: {error}", place.display()))?;
    for needed in needs(&bytes) {
        add(&needed, places, loaded)?;
    }
    loaded.push((name, bytes));
    Ok(())
}

/// What a module says that it needs.
fn needs(module: &[u8]) -> Vec<String> {
    let mark = b"\0depends=";
    let Some(at) = module.windows(mark.len()).position(|found| found == mark) else {
        return Vec::new();
    };
    let text = module[at + mark.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The name of a module whose file has this name, as the kernel writes it.
fn name_of(file: &str) -> Option<String> {
    let (name, end) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&end).then(|| name.replace('-', "_"))
}

fn find(folder: &Path, places: &mut HashMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), places)?;
        } else if let Some(name) = name_of(&entry.file_name().to_string_lossy()) {
            places.insert(name, entry.path());
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let program = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output =
        output.map_err(|error| io::Error::other(format!("{program}, to unpack it: {error}")))?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(needs: &str) -> Vec<u8> {
        format!("\x7fELF…\0license=GPL\0depends={needs}\0vermagic=6.1\0").into_bytes()
    }

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(needs(&module("kvm,ccp")), ["kvm", "ccp"]);
        assert_eq!(needs(&module("")), [""; 0]);
        assert_eq!(needs(b"no module"), [""; 0]);
    }

    #[test]
    fn a_modules_file_may_be_compressed_and_its_name_has_underscores() {
        assert_eq!(name_of("kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(name_of("kvm-amd.ko.xz").as_deref(), Some("kvm_amd"));
        assert_eq!(name_of("kvm.ko.sig"), None);
        assert_eq!(name_of("modules.dep"), None);
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, needs: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module(needs)).unwrap();
        };
        put("arch/kvm-amd.ko", "kvm,ccp");
        put("arch/kvm.ko", "irqbypass");
        put("lib/irqbypass.ko", "");
        put("crypto/ccp.ko", "irqbypass");
        let found = with_needs("kvm-amd", folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
        fs::remove_file(folder.path().join("arch/kvm.ko")).unwrap();
        let missing = with_needs("kvm-amd", folder.path()).unwrap_err();
        assert_eq!(missing, "the kernel has no module `kvm`");
    }
}
