//! Soundness.
