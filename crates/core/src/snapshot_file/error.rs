//! Why a file is no snapshot that can be used here.

/// Why a file is not a snapshot that can be loaded, or a snapshot can't be saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum FormatError {
    /// The file does not start as a snapshot does.
    #[error(
        "it is not a Glowbox snapshot: `magic`, its first bytes, is {found:02x?}; load a file that \
         a snapshot was saved to"
    )]
    NotASnapshot { found: Vec<u8> },
    /// The file ends too early.
    #[error(
        "`{field}` has {needed} bytes, but only {found} of them are there: the file is truncated; \
         copy it again, or save the snapshot again"
    )]
    Truncated { field: &'static str, needed: u64, found: u64 },
    /// The file is of another format version.
    #[error(
        "`format version` is {found}, but this Glowbox reads version {supported}: save the \
         snapshot again with this version of Glowbox, or load it with the one that saved it"
    )]
    Version { found: u32, supported: u32 },
    /// The snapshot is of another architecture.
    #[error(
        "`architecture` is {found}, but this machine is {expected} (x86-64): load it on a machine \
         like the one that saved it"
    )]
    Architecture { found: u32, expected: u32 },
    /// Bytes are not those that were saved.
    #[error(
        "`{field}` does not match its checksum: the file was altered or is damaged; copy it again, \
         or save the snapshot again"
    )]
    Checksum { field: &'static str },
    /// The snapshot was saved by a Glowbox that speaks with guests in another way.
    #[error(
        "`ABI version` is {found}, but this Glowbox has {expected}: the snapshot was saved by \
         Glowbox {creator}; load it with that one, or build the guest and save it again with this one"
    )]
    AbiVersion { found: u32, expected: u32, creator: String },
    /// A field has a value that no snapshot has.
    #[error(
        "`{field}` is {found:#x}, but {problem}: the file is damaged or was not written by Glowbox; \
         save the snapshot again"
    )]
    Invalid { field: String, found: u64, problem: &'static str },
    /// The snapshot has something that the format has no room for.
    #[error("`{field}` is {found:#x}, but {problem}: it can't be saved like that")]
    Unsavable { field: String, found: u64, problem: &'static str },
    /// The guest was shown a CPU feature that is not here.
    #[error(
        "`CPU features` has {feature}, which this CPU or its KVM does not have: load the snapshot on \
         a machine that has it, or boot the guest and save it again on this one"
    )]
    MissingFeature { feature: String },
}

impl FormatError {
    pub(super) fn invalid(
        field: impl Into<String>,
        found: u64,
        problem: &'static str,
    ) -> FormatError {
        FormatError::Invalid { field: field.into(), found, problem }
    }

    /// The same error, of a snapshot that is no file yet.
    pub(super) fn when_saving(self) -> FormatError {
        match self {
            FormatError::Invalid { field, found, problem } => {
                FormatError::Unsavable { field, found, problem }
            }
            other => other,
        }
    }
}
