//! `glowbox new`: a host and a guest to start from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::failure::Failure;
use crate::output;

/// Makes a project of a host and a guest, which `cargo run` builds and runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where Glowbox comes from: the folder of a checkout, or the URL of a Git repository
    ///
    /// Without it, the checkout that this command was built from, if it is still there, and otherwise
    /// the released version of this command.
    #[arg(long, value_name = "PATH|URL")]
    glowbox: Option<String>,
    /// Gives the guest the standard library
    #[arg(long)]
    std: bool,
    /// The folder to make; its name is the package's
    #[arg(value_name = "NAME")]
    path: PathBuf,
}

/// The folders of a checkout in which its packages lie.
const PACKAGES: [(&str, &str); 3] = [
    ("glowbox", "crates/glowbox"),
    ("glowbox-build", "crates/build"),
    ("glowbox-guest", "crates/guest"),
];

/// A file's path in a project, and what stands in it.
type File = (&'static str, &'static str);

/// The files that every project has.
const FILES: [File; 3] = [
    ("Cargo.toml", include_str!("../templates/host.toml")),
    ("src/main.rs", include_str!("../templates/host.rs.txt")),
    (".gitignore", "/target\n/guest/target\n"),
];
/// Those of a guest without the standard library.
const NO_STD: [File; 3] = [
    ("build.rs", include_str!("../templates/build.rs.txt")),
    ("guest/Cargo.toml", include_str!("../templates/guest.toml")),
    ("guest/src/main.rs", include_str!("../templates/guest.rs.txt")),
];
/// Those of a guest with it.
const STD: [File; 3] = [
    ("build.rs", include_str!("../templates/build-std.rs.txt")),
    ("guest/Cargo.toml", include_str!("../templates/guest-std.toml")),
    ("guest/src/main.rs", include_str!("../templates/guest-std.rs.txt")),
];

/// Names that a package can't have, because Rust or this project has them.
const TAKEN: [&str; 9] =
    ["test", "core", "std", "alloc", "proc-macro", "build", "deps", "examples", "glowbox"];
/// Rust's keywords, which are no names.
const KEYWORDS: &str = " abstract as async await become box break const continue crate do dyn else \
    enum extern false final fn for gen if impl in let loop macro match mod move mut override priv pub \
    ref return self static struct super trait true try type typeof unsafe unsized use virtual where \
    while yield ";

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let path = &options.path;
    let name = name(path)?;
    let origin = Origin::of(options.glowbox.as_deref())?;
    let failed = |error: io::Error| {
        Failure::usage(format!("the project can't be written to `{}`: {error}", path.display()))
    };
    fs::create_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("`{}` is there already; choose another name", path.display()))
        }
        _ => failed(error),
    })?;
    let of_guest = if options.std { STD } else { NO_STD };
    for (file, template) in FILES.into_iter().chain(of_guest) {
        let file = path.join(file);
        fs::create_dir_all(file.parent().unwrap_or(path)).map_err(failed)?;
        fs::write(file, fill(template, name, &origin, options.std)).map_err(failed)?;
    }
    output::print(&format!(
        "Made `{name}`: the host in src/, the guest in guest/src/. To build and run it:\n\n    \
         cd {} && cargo run\n",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The package's name: the folder's, if it can be one.
fn name(path: &Path) -> Result<&str, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let invalid = |problem: &str| {
        Err(Failure::usage(format!("`{}` can't be a package's name: {problem}", path.display())))
    };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return invalid("it must start with a letter");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return invalid("it may have letters, digits, `-` and `_`");
    }
    if name.len() > 64 {
        return invalid("it is longer than 64 characters");
    }
    if TAKEN.contains(&name) || KEYWORDS.contains(&format!(" {name} ")) {
        return invalid("it has a meaning of its own");
    }
    Ok(name)
}

/// Where Glowbox's packages come from.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Checkout(PathBuf),
    Git(String),
    Released,
}

impl Origin {
    fn of(given: Option<&str>) -> Result<Origin, Failure> {
        let Some(given) = given else {
            let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            return Ok(match fs::canonicalize(built_from) {
                Ok(path) if is_checkout(&path) => Origin::Checkout(path),
                _ => Origin::Released,
            });
        };
        if given.contains("://") || given.starts_with("git@") {
            return Ok(Origin::Git(given.to_string()));
        }
        match fs::canonicalize(given) {
            Ok(path) if is_checkout(&path) => Ok(Origin::Checkout(path)),
            _ => Err(Failure::usage(format!(
                "`{given}` is neither a checkout of Glowbox, which has a folder crates/glowbox, nor \
                 the URL of a repository"
            ))),
        }
    }

    /// The line of a manifest that depends on a package.
    fn dependency(&self, package: &str, folder: &str, features: &str) -> String {
        let quoted = |text: &str| {
            let escaped: String = text
                .chars()
                .map(|c| match c {
                    '"' | '\\' => format!("\\{c}"),
                    c if c.is_control() => format!("\\u{:08x}", u32::from(c)),
                    c => c.to_string(),
                })
                .collect();
            format!("\"{escaped}\"")
        };
        match self {
            Origin::Checkout(path) => {
                let path = path.join(folder);
                let path = quoted(&path.to_string_lossy());
                format!("{package} = {{ path = {path}{features} }}")
            }
            Origin::Git(url) => format!("{package} = {{ git = {}{features} }}", quoted(url)),
            Origin::Released => {
                let version = env!("CARGO_PKG_VERSION");
                format!("{package} = {{ version = \"{version}\"{features} }}")
            }
        }
    }
}

fn is_checkout(path: &Path) -> bool {
    PACKAGES.iter().all(|(_, folder)| path.join(folder).join("Cargo.toml").is_file())
}

fn fill(template: &str, name: &str, origin: &Origin, std: bool) -> String {
    let mut text = template.to_string();
    for (package, folder) in PACKAGES {
        let features = match package {
            "glowbox-guest" if std => ", features = [\"std\"]",
            _ => "",
        };
        let dependency = origin.dependency(package, folder, features);
        text = text.replace(&format!("{{{package}}}"), &dependency);
    }
    text.replace("{name}", name).replace("{NAME}", &name.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cargo_takes() {
        for good in ["app", "my-app", "a1_b", "some/where/App"] {
            assert!(name(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["", "/", "..", "1a", "-a", "a b", "ä", "a.b", "fn", "self", "test", "glowbox"]
        {
            assert!(name(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(name(Path::new(&"a".repeat(65))).is_err());
    }

    #[test]
    fn every_origin_is_a_line_of_a_manifest() {
        let line = |origin: Origin| origin.dependency("glowbox", "crates/glowbox", "");
        assert_eq!(
            line(Origin::Checkout("/a \"b\"\\".into())),
            r#"glowbox = { path = "/a \"b\"\\/crates/glowbox" }"#
        );
        let url = "https://example.org/glowbox".to_string();
        assert_eq!(line(Origin::Git(url)), "glowbox = { git = \"https://example.org/glowbox\" }");
        assert_eq!(line(Origin::Released), "glowbox = { version = \"0.1.0\" }");
    }

    #[test]
    fn no_placeholder_is_left_in_any_file() {
        for (file, template) in FILES.into_iter().chain(NO_STD).chain(STD) {
            let text = fill(template, "my-app", &Origin::Released, true);
            assert!(!text.contains("{name}") && !text.contains("{NAME}"), "{file}");
            assert!(!text.contains("{glowbox"), "{file}");
        }
        let host = fill(FILES[1].1, "my-app", &Origin::Released, false);
        assert!(host.contains("GLOWBOX_GUEST_MY_APP_GUEST"));
    }
}
