//! Tests of the files as a whole.
