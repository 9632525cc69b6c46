//! Builds the guest that the benchmarks run.

fn main() {
    glowbox_build::Guest::new("../../guests").bin("bench").build_script();
}
