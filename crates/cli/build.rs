//! Builds the guest that `glowbox doctor` calls.

use glowbox_build::Guest;

fn main() {
    Guest::new("../../guests").bin("probe").build_script();
}
