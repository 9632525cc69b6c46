//! Every failure names the guest and says what to do.

#![allow(clippy::unwrap_used)]

mod support;

use glowbox_build::{Error, Guest};
use support::{Scratch, manifest, program};

/// The error, after a look at whether its text has all of `parts`.
fn failure(guest: &Guest, parts: &[&str]) -> Error {
    let error = guest.build().unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    error
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let scratch = Scratch::new();
    let error = failure(&scratch.guest("nowhere"), &["nowhere", "not a folder", "Cargo.toml"]);
    assert!(matches!(error, Error::NotADirectory { .. }));
    // Also if it is a file.
    scratch.write("file", "");
    assert!(matches!(failure(&scratch.guest("file"), &[]), Error::NotADirectory { .. }));
}

#[test]
fn a_folder_without_a_manifest_is_named_even_within_another_package() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    let error = failure(&scratch.guest("guest/src"), &["guest/src", "no Cargo.toml"]);
    assert!(matches!(error, Error::NoManifest { .. }));
}

#[test]
fn a_compile_error_comes_with_the_compilers_text() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    scratch.write("guest/src/main.rs", "#![no_std]\n#![no_main]\nconst X: u8 = wrong_name;\n");
    let parts = ["/guest`", "cannot find value `wrong_name`", "src/main.rs:3:15"];
    assert!(matches!(failure(&scratch.guest("guest"), &parts), Error::CargoFailed { .. }));
}

#[test]
fn a_broken_manifest_comes_with_cargos_text() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    scratch.write("guest/Cargo.toml", "[package\n");
    let error = failure(&scratch.guest("guest"), &["/guest`", "Cargo.toml:1"]);
    assert!(matches!(error, Error::CargoFailed { .. }));
}

#[test]
fn a_guest_with_the_standard_library_is_told_that_it_must_not() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    scratch.write("guest/src/main.rs", "fn main() { println!(\"hello\"); }\n");
    let parts = ["/guest`", "#![no_std]", "`Guest::std`", "linking with"];
    let error = failure(&scratch.guest("guest"), &parts);
    assert!(matches!(error, Error::UsesStd { .. }));
}

#[test]
fn a_guest_that_lacks_a_function_is_told_that_it_does_not_link() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    let call = "unsafe extern \"C\" { fn missing(); }\n#[used] static CALL: unsafe extern \"C\" fn() = missing;\n";
    scratch.write("guest/src/main.rs", &(program("marker") + call));
    let error = failure(&scratch.guest("guest"), &["/guest`", "linking with", "missing"]);
    assert!(matches!(error, Error::LinkFailed { .. }));
}

#[test]
fn a_guest_without_the_standard_library_is_told_that_it_was_to_have_it() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    let guest = Guest::std(scratch.path().join("guest")).offline(true);
    for profile in ["", "[profile.release]\npanic = \"abort\"\n"] {
        scratch.write("guest/Cargo.toml", &(manifest("guest") + profile));
        let guest = guest.clone().target_dir(scratch.path().join("out"));
        let error = failure(&guest, &["/guest`", "`fn main`", "`Guest::new`"]);
        assert!(matches!(error, Error::StdFailed { .. }));
    }
}

#[test]
fn several_binaries_are_listed() {
    let scratch = Scratch::new();
    scratch.write("guest/Cargo.toml", &manifest("several"));
    scratch.write("guest/src/bin/one.rs", &program("1"));
    scratch.write("guest/src/bin/two.rs", &program("2"));
    let error = failure(&scratch.guest("guest"), &["/guest`", "one, two", "Guest::bin"]);
    assert!(matches!(error, Error::SeveralBinaries { names, .. } if names == ["one", "two"]));
    // And so are they for a name that isn't among them.
    failure(&scratch.guest("guest").bin("three"), &["`three`", "one", "two"]);
}

#[test]
fn a_library_alone_is_no_guest() {
    let scratch = Scratch::new();
    scratch.write("guest/Cargo.toml", &manifest("library"));
    scratch.write("guest/src/lib.rs", "#![no_std]\n");
    let error = failure(&scratch.guest("guest"), &["/guest`", "src/main.rs"]);
    assert!(matches!(error, Error::NoBinary { .. }));
}

#[test]
fn binaries_of_one_name_in_a_workspace_are_refused() {
    let scratch = Scratch::new();
    scratch.write("guests/Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\"]\n");
    scratch.package("guests/a", "my-guest", "a");
    scratch.package("guests/b", "my_guest", "b");
    let parts = ["/guests`", "`my-guest` and `my_guest`", "GLOWBOX_GUEST_MY_GUEST"];
    assert!(matches!(failure(&scratch.guest("guests"), &parts), Error::NamesClash { .. }));
}

#[test]
fn a_guest_inside_a_workspace_that_does_not_list_it_is_told_how_to_get_out() {
    let scratch = Scratch::new();
    scratch.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"other\"]\n");
    scratch.write("other/Cargo.toml", &manifest("other"));
    scratch.write("other/src/lib.rs", "");
    scratch.package("guest", "guest", "marker");
    let error = failure(&scratch.guest("guest"), &["/guest`", "`exclude`", "`[workspace]`"]);
    assert!(matches!(error, Error::InForeignWorkspace { .. }));
}

#[test]
fn an_elf_that_has_been_deleted_says_so() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    let elf = scratch.guest("guest").build().unwrap();
    std::fs::remove_file(elf.path()).unwrap();
    let text = elf.bytes().unwrap_err().to_string();
    assert!(text.contains(elf.path().to_str().unwrap()), "{text}");
}
