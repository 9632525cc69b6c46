//! What a built guest is, and where it comes to lie.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use glowbox_build::{Guest, Profile};
use support::{Scratch, contains, is_static_pie, manifest, program};

#[test]
fn a_guest_becomes_a_static_pie_with_symbols_in_either_profile() {
    let scratch = Scratch::new();
    scratch.package("guest", "my-guest", "marker");
    for profile in [Profile::Release, Profile::Dev] {
        let elf = scratch.guest("guest").profile(profile).build().unwrap();
        assert_eq!(elf.name(), "my-guest");
        assert!(elf.path().is_absolute() && elf.path().starts_with(scratch.path()));
        let bytes = elf.bytes().unwrap();
        assert!(is_static_pie(&bytes), "{profile:?}");
        assert!(contains(&bytes, "_start"), "{profile:?}");
    }
}

#[test]
fn an_unchanged_guest_is_not_built_again_and_a_changed_one_is() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "first");
    let modified = |elf: &glowbox_build::GuestBinary| {
        fs::metadata(elf.path()).and_then(|metadata| metadata.modified()).unwrap()
    };
    let before = scratch.guest("guest").build().unwrap();
    let time = modified(&before);
    let after = scratch.guest("guest").build().unwrap();
    assert_eq!((before, time), (after.clone(), modified(&after)));

    scratch.write("guest/src/main.rs", &program("second"));
    let changed = scratch.guest("guest").build().unwrap();
    assert!(contains(&changed.bytes().unwrap(), "second"));
}

#[test]
fn guests_of_one_name_in_one_target_directory_are_not_mistaken_for_each_other() {
    // Both are sources before either is built: see target_dir.rs for why that matters.
    let scratch = Scratch::new();
    scratch.package("a/guest", "guest", "I am a");
    scratch.package("b/guest", "guest", "I am b");
    let a = scratch.guest("a/guest").build().unwrap();
    let b = scratch.guest("b/guest").build().unwrap();
    assert!(contains(&a.bytes().unwrap(), "I am a"));
    assert!(contains(&b.bytes().unwrap(), "I am b"));
}

#[test]
fn features_are_turned_on_and_do_not_overwrite_the_guest_without_them() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    let without = scratch.guest("guest").build().unwrap();
    let with = scratch.guest("guest").features(["extra"]).build().unwrap();
    assert!(contains(&without.bytes().unwrap(), "marker."));
    assert!(contains(&with.bytes().unwrap(), "marker+extra"));
}

#[test]
fn of_several_binaries_one_or_all_can_be_built() {
    let scratch = Scratch::new();
    scratch.write("guest/Cargo.toml", &manifest("several"));
    scratch.write("guest/src/bin/one.rs", &program("number one"));
    scratch.write("guest/src/bin/two.rs", &program("number two"));
    let two = scratch.guest("guest").bin("two").build().unwrap();
    assert!(contains(&two.bytes().unwrap(), "number two"));
    let all = scratch.guest("guest").build_all().unwrap();
    assert_eq!(all.iter().map(|elf| elf.name()).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_virtual_workspace_is_built_in_one_go() {
    let scratch = Scratch::new();
    scratch.write("guests/Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"*-guest\"]\n");
    scratch.package("guests/a-guest", "a-guest", "I am a");
    scratch.package("guests/b-guest", "b-guest", "I am b");
    let all = scratch.guest("guests").build_all().unwrap();
    assert_eq!(all.len(), 2);
    assert!(contains(&all[0].bytes().unwrap(), "I am a"));
    assert!(contains(&all[1].bytes().unwrap(), "I am b"));
    // And a member by itself.
    let b = scratch.guest("guests/b-guest").build().unwrap();
    assert!(contains(&b.bytes().unwrap(), "I am b"));
}

#[test]
fn the_flags_do_not_reach_the_guests_own_build_script() {
    let scratch = Scratch::new();
    scratch.package("guest", "guest", "marker");
    // It only links and runs with the standard and the C library.
    let script = "fn main() { println!(\"cargo:rerun-if-changed=build.rs\"); }";
    scratch.write("guest/build.rs", script);
    scratch.guest("guest").build().unwrap();
}

#[test]
fn a_relative_target_directory_counts_from_here_and_not_from_the_guest() {
    let scratch = Scratch::new();
    let dir = scratch.package("guest", "guest", "marker");
    let here = std::env::current_dir().unwrap();
    let up: String = here.ancestors().skip(1).map(|_| "../").collect();
    let relative = scratch.path().strip_prefix("/").unwrap().join("relative");
    let elf = Guest::new(dir).offline(true).target_dir(format!("{up}{}", relative.display()));
    assert!(
        elf.build()
            .unwrap()
            .path()
            .canonicalize()
            .unwrap()
            .starts_with(scratch.path().join("relative").canonicalize().unwrap())
    );
}
