//! The table of system calls in the documentation is the one in the code.

use std::path::Path;

/// Set to write the table into the documentation, instead of comparing.
const WRITE: &str = "GLOWBOX_WRITE_DOCS";
const START: &str = "<!-- table of system calls: made by crates/linux/tests/documented.rs -->\n";
const END: &str = "<!-- end of the table -->\n";

#[test]
fn the_documentation_has_the_table_of_system_calls() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/linux-guests.md");
    let text = std::fs::read_to_string(&path).expect("the documentation can be read");
    let start = text.find(START).expect("the table has a start") + START.len();
    let end = text.find(END).expect("the table has an end");
    let table = format!("\n{}\n", glowbox_linux::table::markdown());
    if std::env::var_os(WRITE).is_some() {
        let text = format!("{}{table}{}", &text[..start], &text[end..]);
        std::fs::write(&path, text).expect("the documentation can be written");
        return;
    }
    assert!(
        text[start..end] == table,
        "docs/linux-guests.md does not have the table of the code: run `{WRITE}=1 cargo test -p \
         glowbox-linux --test documented`"
    );
}
