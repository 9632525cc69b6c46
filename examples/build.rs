//! Builds the guests that the examples run.

fn main() {
    glowbox_build::build_script("../guests");
}
