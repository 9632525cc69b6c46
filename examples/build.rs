//! Builds the guests that the examples run.

use glowbox_build::Guest;

fn main() {
    // Those alone: the workspace also has the tests' guests.
    Guest::new("../guests").bin("hello").bin("untrusted").bin("filter").build_script();
}
