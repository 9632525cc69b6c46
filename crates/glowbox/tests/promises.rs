//! What is promised in writing is held by tests, by name.
//!
//! `SPEC.md` lists each promise and limit with the tests that hold it, and `SECURITY.md` says in sentences
//! which of those a user can build on. A promise whose tests are renamed or dropped would go on being
//! believed; so this looks every name up in the sources, and reads the limits' numbers out of the code.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "sources/mod.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use glowbox::LogLimits;
use glowbox_core::layout::Limits;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use sources::{files, repository, tokens};

/// Folders with Rust sources whose tests `cargo test`, or what CONTRIBUTING.md names beside it, runs.
const SOURCES: &str = "crates";

/// A row of one of the tables.
struct Promise {
    id: String,
    text: String,
    tests: Vec<String>,
}

fn promises(specification: &str) -> Vec<Promise> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_string()).collect())
    };
    let rows = specification.lines().filter_map(cells);
    let rows = rows.filter(|row| row[0] != "id" && !row[0].starts_with('-'));
    rows.map(|row| {
        let [id, text, tests] = row.as_slice() else { panic!("not three cells: {row:?}") };
        let names = tests.split('`').skip(1).step_by(2).map(String::from);
        Promise { id: id.clone(), text: text.clone(), tests: names.collect() }
    })
    .collect()
}

/// All tests in the sources, as `crate::…::name`; those of programs of the library's own tests as
/// `program::topic::name`.
fn tests(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files(root, &[SOURCES], ".rs") {
        let Some(tokens) = tokens(root, &file) else { continue };
        let mut names = Vec::new();
        test_functions(tokens, &mut names);
        let module = module_of(Path::new(&file).strip_prefix(SOURCES).unwrap());
        found.extend(names.iter().map(|name| format!("{module}::{name}")));
    }
    found
}

/// `core/src/elf/tests.rs` is `core::elf`, `glowbox/tests/suite/leaks.rs` is `suite::leaks`.
fn module_of(path: &Path) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    if parts.starts_with(&["glowbox", "tests"]) && parts.len() > 3 {
        parts.drain(..2);
    }
    parts.retain(|part| !["src", "tests", "mod", "lib"].contains(part));
    parts.join("::")
}

/// Collects functions marked `#[test]` and those inside of `tests! { … }`.
fn test_functions(tokens: TokenStream, names: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.to_string() == word);
    let mut is_test = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                let of_macro = at > 1 && is(at - 2, "tests") && is(at - 1, "!");
                if group.delimiter() == Delimiter::Bracket && at > 0 && is(at - 1, "#") {
                    let attribute = group.stream().to_string();
                    is_test = attribute == "test" || is_test && !attribute.starts_with("ignore");
                } else if of_macro {
                    functions(group.stream(), names);
                } else {
                    test_functions(group.stream(), names);
                }
            }
            TokenTree::Ident(word) if *word == "fn" && std::mem::take(&mut is_test) => {
                names.push(tokens[at + 1].to_string());
            }
            _ => {}
        }
    }
}

/// Names of the functions on the first level.
fn functions(tokens: TokenStream, names: &mut Vec<String>) {
    let tokens: Vec<String> = tokens.into_iter().map(|token| token.to_string()).collect();
    names.extend(tokens.windows(2).filter(|pair| pair[0] == "fn").map(|pair| pair[1].clone()));
}

#[test]
fn every_promise_names_tests_that_exist() {
    let Some(root) = repository() else { return };
    let promises = promises(&std::fs::read_to_string(root.join("SPEC.md")).unwrap());
    assert!(promises.len() > 50, "the tables are not found: {}", promises.len());
    let tests = tests(&root);
    let mut ids = BTreeSet::new();
    let mut wrong = Vec::new();
    for Promise { id, text, tests: named } in &promises {
        if !ids.insert(id) {
            wrong.push(format!("{id} stands twice"));
        }
        if text.is_empty() || named.is_empty() {
            wrong.push(format!("{id} names no test: {text}"));
        }
        for name in named.iter().filter(|name| !tests.contains(*name)) {
            wrong.push(format!("{id} names a test that does not exist: {name}"));
        }
    }
    assert!(wrong.is_empty(), "SPEC.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_sentence_of_the_security_policy_stands_on_the_specification() {
    let Some(root) = repository() else { return };
    let policy = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let promises = promises(&std::fs::read_to_string(root.join("SPEC.md")).unwrap());
    let ids: BTreeSet<&str> = promises.iter().map(|promise| promise.id.as_str()).collect();
    let (_, promised) = policy.split_once("## What is promised\n").expect("a section");
    let (promised, _) = promised.split_once("\n## ").expect("a section after it");
    let items: Vec<&str> = promised.split("\n- ").skip(1).collect();
    assert!(items.len() > 5, "{items:?}");
    for item in items {
        let (_, named) = item.rsplit_once('(').expect("the promises it stands on");
        let (named, _) = named.split_once(')').expect("a bracket");
        for id in named.split(", ") {
            assert!(ids.contains(id), "SPEC.md has no `{id}`: {item}");
        }
    }
}

/// Limits stand as ``| L1 | text **value** more text | tests |``.
#[test]
fn limits_are_those_of_the_code() {
    let Some(root) = repository() else { return };
    let promises = promises(&std::fs::read_to_string(root.join("SPEC.md")).unwrap());
    let size = |bytes: u64| match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    };
    let sizes = |of: fn(&Limits) -> u64| {
        [Limits::DEFAULT, Limits::MIN, Limits::MAX].map(|limits| size(of(&limits))).to_vec()
    };
    let log = LogLimits::default();
    let values: BTreeMap<&str, Vec<String>> = BTreeMap::from([
        ("heap", sizes(|limits| limits.heap)),
        ("stack", sizes(|limits| limits.stack)),
        ("arguments", sizes(|limits| limits.incoming)),
        ("results", sizes(|limits| limits.outgoing)),
        ("log", vec![log.text.to_string(), log.records_per_second.to_string()]),
    ]);
    for (what, expected) in values {
        let id = format!("limit-{what}");
        let promise = promises.iter().find(|promise| promise.id == id);
        let text = &promise.unwrap_or_else(|| panic!("SPEC.md has no `{id}`")).text;
        let bold: Vec<&str> = text.split("**").skip(1).step_by(2).collect();
        assert_eq!(bold, expected, "{id}: {text}");
    }
}

#[test]
fn tests_are_found_by_their_marks() {
    let source = "
        #[test] fn one() {}
        fn two() {}
        mod inner { #[test] #[cfg(x)] fn three() {} #[test] #[ignore = \"why\"] fn four() {} }
        // #[test] fn five() {}
        const TEXT: &str = \"#[test] fn six() {}\";
        tests! { fn seven() { fn eight() {} } /// Text.
            fn nine() {} }
    ";
    let mut names = Vec::new();
    test_functions(source.parse().unwrap(), &mut names);
    assert_eq!(names, ["one", "three", "seven", "nine"]);
    assert_eq!(module_of(Path::new("core/src/elf/tests.rs")), "core::elf");
    assert_eq!(module_of(Path::new("core/tests/std_guests.rs")), "core::std_guests");
    assert_eq!(module_of(Path::new("glowbox/tests/suite/leaks.rs")), "suite::leaks");
    assert_eq!(module_of(Path::new("glowbox/tests/promises.rs")), "glowbox::promises");
}
