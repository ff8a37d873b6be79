//! The base: a record behind the directory of another program, which tells that this directory was whole when
//! mmnpz began to append.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::additions::certificate::Certificate;
use crate::additions::filler;
use crate::error::{ErrorKind, Missing, Result};
use crate::window::Window;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// The record behind the end records of another program's directory, in that program's archive or in a filler
/// that keeps a copy of the directory.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Base {
    signature: [u8; 8],
    at: U64,
    end_record: U64,
    check: U32,
    kind: U32,
}

impl Certificate for Base {
    const SIGNATURE: [u8; 8] = *b"PKmmbase";

    fn claims(&self) -> ([u8; 8], u64, u32) {
        (self.signature, self.at.get(), self.check.get())
    }

    fn set_check(&mut self, check: u32) {
        self.check = check.into();
    }
}

impl Base {
    /// The size of the record.
    pub const SIZE: usize = size_of::<Self>();

    /// The base at byte `at`, behind an archive whose end record is at `end_record`. `is_for_good` is for a
    /// directory that is kept for good: its end record has no signature, or is going to lose it, so that
    /// other programs do not find that end record, which does not lead to all members.
    pub fn new(at: u64, end_record: u64, is_for_good: bool) -> Self {
        let base = Base {
            signature: Self::SIGNATURE,
            at: at.into(),
            end_record: end_record.into(),
            check: 0.into(),
            kind: u32::from(is_for_good).into(),
        };
        base.certified()
    }

    /// The base at byte `at`, if its checksum and its place are right.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    pub fn read(window: Window<'_>, at: u64) -> Result<Option<Self>, Missing> {
        Self::read_at(window, at)
    }

    /// Where the base ends.
    pub(crate) fn end(&self) -> u64 {
        self.at.get() + Self::SIZE as u64
    }

    /// The directory for which the base vouches.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn directory(&self, window: Window<'_>) -> Result<DirectoryLocation> {
        let end_record = match self.kind.get() {
            0 => EndRecord::read(window, self.end_record(), ErrorKind::NoEndRecord)?,
            _ => EndRecord::find_unsigned(window, self.end_record())?.ok_or(ErrorKind::NoEndRecord)?,
        };
        DirectoryLocation::of_end_record(window, self.end_record(), end_record)
    }

    /// Where the end record of the archive is.
    pub fn end_record(&self) -> u64 {
        self.end_record.get()
    }
}

/// The base in the filler at this byte, if the filler keeps a directory.
pub(crate) fn base_in(window: Window<'_>, at: u64) -> Result<Option<Base>, Missing> {
    let Some(filler) = filler::read(window.until_hole(at), at)? else { return Ok(None) };
    match filler.end.checked_sub(Base::SIZE as u64).filter(|&base| base > at) {
        Some(base) => Base::read(window.until_hole(base), base),
        None => Ok(None),
    }
}
