//! A record that holds its own place under a checksum: what a [base] and a [seal] have in common.
//!
//! [base]: crate::additions::base
//! [seal]: crate::additions::seal

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Missing;
use crate::window::Window;

/// A record with a checksum that covers its own place in the file.
pub(crate) trait Certificate:
    FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy
{
    const SIGNATURE: [u8; 8];

    /// Signature, place and checksum.
    fn claims(&self) -> ([u8; 8], u64, u32);

    fn set_check(&mut self, check: u32);

    fn checksum(mut self) -> u32 {
        self.set_check(0);
        crc32fast::hash(self.as_bytes())
    }

    fn certified(mut self) -> Self {
        self.set_check(self.checksum());
        self
    }

    fn read_at(window: Window<'_>, at: u64) -> Result<Option<Self>, Missing> {
        let bytes = window.get(at..at.saturating_add(size_of::<Self>() as u64))?;
        let record = bytes.and_then(|bytes| Self::read_from_bytes(bytes).ok());
        Ok(record.filter(|record| record.claims() == (Self::SIGNATURE, at, record.checksum())))
    }
}
