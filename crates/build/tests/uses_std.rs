//! A guest that brings the standard library in is told so.

use std::fs;
use std::path::Path;

use glowbox_build::{Error, Guest};

#[test]
fn a_guest_that_uses_std_is_told_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest");
    let manifest = format!(
        "[package]\nname = \"with-std\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nglowbox-guest = {{ path = {library:?} }}\n\n[workspace]\n"
    );
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("written");
    fs::create_dir(folder.path().join("src")).expect("made");
    let main = "#![no_main]\n#[glowbox_guest::guest_function]\nfn f() {}\n";
    fs::write(folder.path().join("src/main.rs"), main).expect("written");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("uses-std");
    let guest = Guest::new(folder.path()).target_dir(&target);
    let error = guest.build().expect_err("std is refused");
    assert!(matches!(error, Error::UsesStd { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("#![no_std]") && text.contains("default-features = false"), "{text}");
    assert!(text.contains("the feature `std`") && text.contains("`Guest::std`"), "{text}");

    // And with its flags: then the library lacks the feature.
    let guest = Guest::std(folder.path()).target_dir(&target);
    let error = guest.build().expect_err("there are two panic handlers");
    assert!(matches!(error, Error::StdFailed { .. }), "{error}");
    assert!(error.to_string().contains("with the feature `std`"), "{error}");
}
