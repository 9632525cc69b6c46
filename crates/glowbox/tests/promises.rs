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

use glowbox::{EngineBuilder, Error, LogLimits};
use glowbox_core::layout::{Limits, STACK_GUARD};
use glowbox_linux::files::PIPE;
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

/// The library's own programs of tests that names may begin with. `linux` is none: that is the crate.
const PROGRAMS: &[&str] = &["suite", "hostile", "injected"];

/// All tests in the sources that `cargo test` runs, as `crate::…::name`; those of programs of the library's own
/// tests as `program::topic::name`. With each, how many files have one of that name.
fn tests(root: &Path) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut conditional = Vec::new();
    for file in files(root, &[SOURCES], ".rs") {
        let Some(tokens) = tokens(root, &file) else { continue };
        let path = Path::new(&file).strip_prefix(SOURCES).unwrap();
        let module = module_of(path);
        let mut tests = Tests { declared: is_in_program(path), ..Tests::default() };
        tests.look(tokens);
        for name in tests.names {
            *found.entry(format!("{module}::{name}")).or_default() += 1;
        }
        conditional.extend(tests.conditional.iter().map(|name| format!("{module}::{name}::")));
    }
    found.retain(|name: &String, _| !conditional.iter().any(|module| name.starts_with(module)));
    found
}

/// `core/src/elf/tests.rs` is `core::elf`, `glowbox/tests/suite/leaks.rs` is `suite::leaks`.
fn module_of(path: &Path) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    if parts.starts_with(&["glowbox", "tests"]) && parts.len() > 3 && PROGRAMS.contains(&parts[2]) {
        parts.drain(..2);
    }
    parts.retain(|part| !["src", "tests", "mod", "lib"].contains(part));
    parts.join("::")
}

/// Whether a file belongs to a program with a `main` of its own, which runs what `tests!` declares and nothing
/// that is marked `#[test]`.
fn is_in_program(path: &Path) -> bool {
    path.starts_with("glowbox/tests") && path.iter().count() > 3
        || path.starts_with("conformance/tests/contract")
}

/// What is found in a file.
#[derive(Default)]
struct Tests {
    /// Only what `tests!` declares is a test here.
    declared: bool,
    names: Vec<String>,
    /// Modules in other files that are not there in every build.
    conditional: Vec<String>,
}

impl Tests {
    /// Collects functions marked `#[test]` and those inside of `tests! { … }`, but for those that are ignored, or
    /// are there under a condition, their own or that of a module around them.
    fn look(&mut self, tokens: TokenStream) {
        self.items(tokens, false);
    }

    fn items(&mut self, tokens: TokenStream, all: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is =
            |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.to_string() == word);
        // Of the item that begins, or is being read.
        let mut attributes: Vec<String> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                    let attribute = group.stream().to_string().replace(' ', "");
                    if at > 0 && is(at - 1, "#") {
                        attributes.push(attribute);
                    } else if at > 1 && is(at - 1, "!") && is(at - 2, "#") && excludes(&attribute) {
                        // All that is here is under that condition.
                        return;
                    }
                }
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let excluded = attributes.iter().any(|attribute| excludes(attribute));
                    attributes.clear();
                    if !excluded {
                        let declares = at > 1 && is(at - 2, "tests") && is(at - 1, "!");
                        self.items(group.stream(), declares);
                    }
                }
                TokenTree::Ident(word) if *word == "fn" => {
                    let marked = attributes.iter().any(|attribute| attribute == "test");
                    let excluded = attributes.iter().any(|attribute| excludes(attribute));
                    if (all || marked && !self.declared) && !excluded {
                        self.names.push(tokens[at + 1].to_string());
                    }
                }
                TokenTree::Ident(word)
                    if *word == "mod"
                        && is(at + 2, ";")
                        && attributes.iter().any(|attribute| excludes(attribute)) =>
                {
                    self.conditional.push(tokens[at + 1].to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => attributes.clear(),
                _ => {}
            }
        }
    }
}

/// Whether what has this attribute is not run by every `cargo test`. Miri is not `cargo test`.
fn excludes(attribute: &str) -> bool {
    let condition = attribute.starts_with("cfg(") && attribute != "cfg(test)";
    let sometimes = attribute.starts_with("cfg_attr(")
        && !attribute.starts_with("cfg_attr(miri,")
        && (attribute.contains("ignore") || attribute.contains("cfg("));
    let ignored = attribute == "ignore" || attribute.starts_with("ignore=");
    condition || sometimes || ignored
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
        for name in named {
            match tests.get(name) {
                None => wrong.push(format!("{id} names no test that is always run: {name}")),
                Some(1) => {}
                Some(count) => wrong.push(format!("{id}: there are {count} tests {name}")),
            }
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
    let stack = {
        let [default, least, most] = sizes(|limits| limits.stack).try_into().unwrap();
        vec![default, size(Limits::LINUX_STACK), least, most, size(STACK_GUARD)]
    };
    let pool = [
        EngineBuilder::DEFAULT_POOL_SIZE.to_string(),
        size(EngineBuilder::DEFAULT_KEPT_MEMORY as u64),
    ];
    let glowbox_linux::Limits { threads, descriptors, areas, buffered } = Default::default();
    let linux = [threads, descriptors, areas].map(|count| count.to_string());
    let linux = linux.into_iter().chain([size(PIPE), size(buffered)]);
    let log = LogLimits::default();
    let values: BTreeMap<&str, Vec<String>> = BTreeMap::from([
        ("heap", sizes(|limits| limits.heap)),
        ("stack", stack),
        ("arguments", sizes(|limits| limits.incoming)),
        ("results", sizes(|limits| limits.outgoing)),
        ("log", vec![log.text.to_string(), log.records_per_second.to_string()]),
        ("pool", pool.to_vec()),
        ("text", vec![size(Error::MAX_GUEST_TEXT as u64)]),
        ("linux", linux.collect()),
    ]);
    let limits = promises.iter().filter(|promise| promise.id.starts_with("limit-"));
    let known = |id: &str| values.contains_key(id.trim_start_matches("limit-"));
    let unknown: Vec<&String> = limits.map(|limit| &limit.id).filter(|id| !known(id)).collect();
    assert!(unknown.is_empty(), "not compared with the code: {unknown:?}");
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
        mod inner { #[test] #[should_panic] fn three() {} #[test] #[ignore = \"why\"] fn four() {} }
        // #[test] fn five() {}
        const TEXT: &str = \"#[test] fn six() {}\";
        tests! { fn seven() { fn eight() {} } /// Text.
            fn nine() {} #[ignore] fn ten() {} }
        #[cfg(test)] mod tests { #[test] fn eleven() {} }
        #[cfg(test)] mod elsewhere;
        #[derive(Debug)] struct Unit; fn twelve() {}
        #[cfg_attr(miri, ignore)] #[test] fn thirteen() {}
        #[test] pub(crate) const fn fourteen() {}
    ";
    let found = |source: &str, declared| {
        let mut tests = Tests { declared, ..Tests::default() };
        tests.look(source.parse().unwrap());
        (tests.names, tests.conditional)
    };
    let (names, conditional) = found(source, false);
    assert_eq!(names, ["one", "three", "seven", "nine", "eleven", "thirteen", "fourteen"]);
    assert!(conditional.is_empty(), "{conditional:?}");
    // Nothing runs what else is marked in a program with a `main` of its own.
    assert_eq!(found(source, true).0, ["seven", "nine"]);
    for not_always in [
        "#[test] #[ignore] fn one() {}",
        "#[ignore] #[test] fn one() {}",
        "#[ignore = \"why\"] /// Text.\n #[test] fn one() {}",
        "#[test] #[cfg(x)] fn one() {}",
        "#[cfg(x)] #[test] fn one() {}",
        "#[cfg(not(test))] #[test] fn one() {}",
        "#[cfg(all(test, x))] mod inner { mod other { #[test] fn one() {} } }",
        "#![cfg(x)] #[test] fn one() {}",
        "mod inner { #![cfg(x)] #[test] fn one() {} }",
        "#[cfg_attr(x, ignore)] #[test] fn one() {}",
        "#[cfg(x)] tests! { fn one() {} }",
        "tests! { #[cfg(x)] fn one() {} }",
    ] {
        assert_eq!(found(not_always, false).0, [""; 0], "{not_always}");
    }
    assert_eq!(found("#[cfg(x)] pub mod inner; mod other;", false).1, ["inner"]);
}

#[test]
fn tests_are_named_by_where_they_stand() {
    for (file, module) in [
        ("core/src/elf/tests.rs", "core::elf"),
        ("core/tests/std_guests.rs", "core::std_guests"),
        ("glowbox/tests/suite/leaks.rs", "suite::leaks"),
        ("glowbox/tests/promises.rs", "glowbox::promises"),
        // The crate and the program of that name.
        ("linux/src/threads.rs", "linux::threads"),
        ("glowbox/tests/linux/threads.rs", "glowbox::linux::threads"),
    ] {
        assert_eq!(module_of(Path::new(file)), module);
    }
}
