//! Bytes for a place of the file.

/// What is written where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The place of the first byte in the file.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Patch {
    pub(crate) fn new(at: u64, bytes: impl Into<Vec<u8>>) -> Self {
        Patch { at, bytes: bytes.into() }
    }
}
