//! Little-endian fields, one after the other, each with a name for the error.

use super::FormatError;

/// What is left of some bytes.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `length` bytes. They are borrowed: no length makes anything grow.
    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        length: u64,
    ) -> Result<&'a [u8], FormatError> {
        let split =
            usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (bytes, rest) = split.ok_or_else(|| self.truncated(field, length))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or_else(|| self.truncated(field, N as u64))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn checksum(&mut self, field: &'static str) -> Result<super::Checksum, FormatError> {
        self.array(field).map(super::Checksum::from_bytes)
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn truncated(&self, field: &'static str, needed: u64) -> FormatError {
        FormatError::Truncated { field, needed, found: self.rest.len() as u64 }
    }
}
