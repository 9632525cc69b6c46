//! The page.
use super::Board;
pub(crate) fn page(_: &Board) -> String {
    String::new()
}
