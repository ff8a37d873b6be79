//! The seal: the record in front of a directory which says that mmnpz wrote the directory, and what it lists.

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::additions::certificate::Certificate;
use crate::additions::fence::FENCE;
use crate::error::{self, Missing};
use crate::window::Window;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{CentralHeader, EndRecord, Zip64EndRecord, Zip64Locator};

/// The record in front of a directory that mmnpz wrote.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Seal {
    signature: [u8; 8],
    at: U64,
    complete_below: U64,
    members_end: U64,
    size: U64,
    file_len: U64,
    members: U64,
    fields_from: U64,
    index: U64,
    crc: U32,
    index_crc: U32,
    end_crc: U32,
    state: U32,
    check: U32,
    indexed: U16,
    version: U16,
}

/// The version of all that mmnpz adds to an archive: the first one that was published. An archive with
/// another version is read as the archive of another program.
const VERSION: u16 = 0;

/// What a seal says of the index in front of it: none, in one piece, or in blocks; see [`IndexForm`].
const UNINDEXED: u16 = 0;

const IN_ONE_PIECE: u16 = 1;

const IN_BLOCKS: u16 = 2;

/// The state of the directory behind a seal. Open: there may be members that it does not list.
const OPEN: u32 = 0;

/// Closed: the directory lists all members.
const CLOSED: u32 = 1;

/// Growing: a writer adds records behind those of the directory, and its end record may be gone.
const GROWING: u32 = 2;

/// How the stored index lies in front of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexForm {
    /// There is no index, and the bytes in its place mean nothing.
    None,
    /// In one piece.
    OnePiece,
    /// In blocks, each behind a [fence](crate::additions::fence).
    Blocks,
}

/// The stored index in front of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedIndex<'a> {
    pub(crate) bytes: &'a [u8],
    /// How many members the index has.
    pub(crate) members: u64,
    /// Whether the index lies in blocks.
    pub(crate) is_cut: bool,
}

/// What a seal says of the directory behind it.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// Every finished member whose local header lies below this offset is listed.
    pub complete_below: u64,
    /// The byte behind the last member that is listed, or for which a place was reserved.
    pub members_end: u64,
    /// The records of the directory.
    pub directory: &'a [u8],
    /// How many records the directory has.
    pub members: u64,
    /// From this byte of the directory on, readers can believe the array fields of records.
    pub fields_from: u64,
    /// The bytes in front of the seal: the stored index of these records, or zeros.
    pub index: &'a [u8],
    /// How the index lies in front of the seal.
    pub form: IndexForm,
    /// The end records, which end the file.
    pub end_records: &'a [u8],
    /// Whether the directory lists all members, as the writer was closed.
    pub last: bool,
}

/// What a writer adds to a directory, which stays where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Added<'a> {
    /// As in [`Sealed`].
    pub(crate) complete_below: u64,
    /// As in [`Sealed`].
    pub(crate) members_end: u64,
    /// The new records, which follow those of the directory.
    pub(crate) records: &'a [u8],
    /// How many records the directory then has.
    pub(crate) members: u64,
    /// The new bytes of the index, by their place in the index.
    pub(crate) index: &'a BTreeMap<usize, Vec<u8>>,
    /// The end records, which end the file.
    pub(crate) end_records: &'a [u8],
}

/// How the CRC-32 of a byte string changes if its first part changes: the CRC-32 of the part changes by
/// `change`, and `count` bytes follow it. CRC-32 is linear, so the values of these bytes do not matter.
fn with_zeros_behind(change: u32, count: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(change);
    crc.combine(&crc32fast::Hasher::new_with_initial_len(0, count));
    crc.finalize()
}

impl Certificate for Seal {
    const SIGNATURE: [u8; 8] = *b"PKmmseal";

    fn claims(&self) -> ([u8; 8], u64, u32) {
        (self.signature, self.at.get(), self.check.get())
    }

    fn set_check(&mut self, check: u32) {
        self.check = check.into();
    }
}

/// How many bytes the end records can have: an end record, those of zip64, and a comment.
const END_RECORDS: std::ops::RangeInclusive<u64> = {
    let end_record = EndRecord::SIZE as u64;
    end_record..=end_record + (Zip64EndRecord::SIZE + Zip64Locator::SIZE) as u64 + u16::MAX as u64
};

impl Seal {
    /// The size of the record.
    pub const SIZE: usize = size_of::<Self>();

    /// The seal at byte `at`: behind an index, and in front of a directory and the end records that end the
    /// file.
    pub fn new(at: u64, sealed: &Sealed<'_>) -> Self {
        let file_len = at + (Self::SIZE + sealed.directory.len() + sealed.end_records.len()) as u64;
        let seal = Seal {
            signature: Self::SIGNATURE,
            at: at.into(),
            complete_below: sealed.complete_below.into(),
            members_end: sealed.members_end.into(),
            size: (sealed.directory.len() as u64).into(),
            file_len: file_len.into(),
            members: sealed.members.into(),
            fields_from: sealed.fields_from.into(),
            index: (sealed.index.len() as u64).into(),
            crc: crc32fast::hash(sealed.directory).into(),
            index_crc: crc32fast::hash(sealed.index).into(),
            end_crc: crc32fast::hash(sealed.end_records).into(),
            state: if sealed.last { CLOSED } else { OPEN }.into(),
            check: 0.into(),
            indexed: match sealed.form {
                IndexForm::None => UNINDEXED,
                IndexForm::OnePiece => IN_ONE_PIECE,
                IndexForm::Blocks => IN_BLOCKS,
            }
            .into(),
            version: VERSION.into(),
        };
        seal.certified()
    }

    /// The seal at byte `at`, if its checksum and its place are right.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    pub fn read(window: Window<'_>, at: u64) -> Result<Option<Self>, Missing> {
        Ok(Self::read_at(window, at)?.filter(Self::is_possible))
    }

    /// The seal in front of a directory, if it has one.
    pub(crate) fn before(directory: &DirectoryLocation, window: Window<'_>) -> Result<Option<Self>, Missing> {
        let Some(at) = directory.range.start.checked_sub(Self::SIZE as u64) else { return Ok(None) };
        Ok(Self::read(window, at)?.filter(|seal| seal.directory_end() == directory.range.end))
    }

    /// Whether a writer can have written such a seal: readers ask for memory, and for places in the file, by
    /// its numbers.
    fn is_possible(&self) -> bool {
        let least = self.members().checked_mul(CentralHeader::SIZE as u64);
        let end_records = self.file_len.get().checked_sub(self.directory_end());
        self.version.get() == VERSION
            && END_RECORDS.contains(&end_records.unwrap_or_default())
            && least.is_some_and(|least| least <= self.size.get())
            && self.index.get() <= self.at()
            && self.complete_below() <= self.members_end()
            && self.members_end() <= self.start()
    }

    /// Where the seal is.
    pub fn at(&self) -> u64 {
        self.at.get()
    }

    /// Where the index in front of it starts.
    pub fn start(&self) -> u64 {
        self.at().saturating_sub(self.index.get())
    }

    /// The stored index, if there is one.
    pub(crate) fn index<'a>(&self, window: Window<'a>) -> Result<Option<SealedIndex<'a>>, Missing> {
        let Some(range) = self.index_range() else { return Ok(None) };
        Ok(window.get(range)?.map(|bytes| SealedIndex {
            bytes,
            members: self.members.get(),
            is_cut: self.is_fenced(),
        }))
    }

    /// Where the stored index is, if there is one.
    pub(crate) fn index_range(&self) -> Option<Range<u64>> {
        // The index does not start in front of the file, see `is_possible`.
        self.is_indexed().then(|| self.start()..self.at())
    }

    fn is_indexed(&self) -> bool {
        matches!(self.indexed.get(), IN_ONE_PIECE | IN_BLOCKS)
    }

    /// Whether there is an index that begins with a fence.
    pub(crate) fn is_fenced(&self) -> bool {
        self.indexed.get() == IN_BLOCKS
    }

    /// Whether the bytes of the stored index match the seal.
    pub(crate) fn has_index(&self, window: Window<'_>) -> Result<bool, Missing> {
        Ok(self.index(window)?.is_some_and(|index| crc32fast::hash(index.bytes) == self.index_crc.get()))
    }

    /// From which byte of the directory on readers can believe the array fields of records. mmnpz did not
    /// write the records in front of it, or another program has changed the archive since.
    pub(crate) fn fields_from(&self) -> u64 {
        self.fields_from.get()
    }

    /// How many members the directory has.
    pub(crate) fn members(&self) -> u64 {
        self.members.get()
    }

    /// Every finished member whose local header lies below this offset is listed.
    pub fn complete_below(&self) -> u64 {
        self.complete_below.get()
    }

    /// The byte behind the last member that is listed, or for which a place was reserved.
    pub fn members_end(&self) -> u64 {
        self.members_end.get()
    }

    /// Whether there is more than a fence between the last member and the index.
    pub(crate) fn has_room(&self) -> bool {
        self.members_end().saturating_add(FENCE) < self.start()
    }

    /// Where the directory starts.
    pub fn directory(&self) -> u64 {
        self.at.get() + Self::SIZE as u64
    }

    /// Where the directory ends.
    pub fn directory_end(&self) -> u64 {
        self.directory().saturating_add(self.size.get())
    }

    /// Whether the end records match the seal, and end the file.
    ///
    /// # Errors
    /// If their bytes were not fetched.
    pub fn ends(&self, window: Window<'_>) -> Result<bool, Missing> {
        Ok(self.file_len.get() == window.len() && self.has_end_records(window)?)
    }

    /// Whether the end records match the seal.
    ///
    /// # Errors
    /// If their bytes were not fetched.
    pub fn has_end_records(&self, window: Window<'_>) -> Result<bool, Missing> {
        let end_records = window.get(self.directory_end()..self.file_len.get())?;
        Ok(end_records.is_some_and(|end_records| crc32fast::hash(end_records) == self.end_crc.get()))
    }

    /// Whether no member was written after the directory.
    pub fn is_last(&self) -> bool {
        self.state.get() == CLOSED
    }

    /// Whether members are being added to the directory, so that its end record need not be there.
    pub(crate) fn is_growing(&self) -> bool {
        self.state.get() == GROWING
    }

    /// The seal with the state open: a writer may then write members into the room in front of the directory.
    #[must_use]
    pub fn reopened(self) -> Self {
        Seal { state: OPEN.into(), ..self }.certified()
    }

    /// The seal with the state growing: a writer may then add records to the directory.
    #[must_use]
    pub(crate) fn growing(self) -> Self {
        Seal { state: GROWING.into(), ..self }.certified()
    }

    /// Whether a writer can add members, as long as there is room for them, without moving the directory: it
    /// is the last one, and its end records end the file. The records themselves are not read.
    pub(crate) fn can_grow(&self, window: Window<'_>) -> Result<bool, Missing> {
        // The index is in front of the seal, and so inside the file.
        Ok(self.is_last() && self.has_room() && self.is_indexed() && self.ends(window)?)
    }

    /// The seal of the directory with what a writer added to it. The checksums are extended without reading
    /// the old bytes: if the old directory or the old index did not match the old seal, it does not match the
    /// new seal either.
    pub(crate) fn grown(&self, added: &Added<'_>, index: &[u8]) -> Self {
        let mut crc = crc32fast::Hasher::new_with_initial_len(self.crc.get(), self.size.get());
        crc.update(added.records);
        let index_crc = added.index.iter().fold(self.index_crc.get(), |crc, (&at, new)| {
            let old = index.get(at..at + new.len()).unwrap_or_default();
            let behind = index.len().saturating_sub(at + new.len());
            crc ^ with_zeros_behind(crc32fast::hash(old) ^ crc32fast::hash(new), behind as u64)
        });
        let size = self.size.get() + added.records.len() as u64;
        let seal = Seal {
            complete_below: added.complete_below.into(),
            members_end: added.members_end.into(),
            size: size.into(),
            file_len: (self.directory() + size + added.end_records.len() as u64).into(),
            members: added.members.into(),
            crc: crc.finalize().into(),
            index_crc: index_crc.into(),
            end_crc: crc32fast::hash(added.end_records).into(),
            state: CLOSED.into(),
            ..*self
        };
        seal.certified()
    }

    /// Whether the seal is still in the file. Its state may be open by now.
    pub(crate) fn is_there(&self, window: Window<'_>) -> Result<bool, Missing> {
        Ok(Self::read(window, self.at())?.is_some_and(|found| found.reopened() == self.reopened()))
    }

    /// Whether the directory and its stored index match the seal.
    ///
    /// # Errors
    /// Those of [`Window::crc`].
    pub(crate) fn is_right(
        &self,
        window: Window<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> error::Result<bool> {
        let index = window.crc(&(self.start()..self.at()), &mut *keep_going)?;
        let has_index = self.is_indexed() && index == Some(self.index_crc.get());
        Ok(has_index && self.is_whole(window, keep_going)?)
    }

    /// Whether the directory matches the seal. Unlike [`Seal::holds`], this reads no hole.
    ///
    /// # Errors
    /// Those of [`Window::crc`].
    pub(crate) fn is_whole(
        &self,
        window: Window<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> error::Result<bool> {
        let directory = window.crc(&(self.directory()..self.directory_end()), keep_going)?;
        Ok(directory == Some(self.crc.get()))
    }

    /// Whether the directory matches the seal.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    pub fn holds(&self, window: Window<'_>) -> Result<bool, Missing> {
        let directory = window.get(self.directory()..self.directory_end())?;
        Ok(directory.is_some_and(|directory| self.is_of(directory)))
    }

    /// Whether these are the records of the directory.
    pub(crate) fn is_of(&self, directory: &[u8]) -> bool {
        directory.len() as u64 == self.size.get() && crc32fast::hash(directory) == self.crc.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::additions::base::Base;

    #[test]
    fn a_seal_that_has_grown_is_the_one_of_the_whole() {
        let (records, index, more) = ([3; 500], [5; 208], [4; 70]);
        let of = |directory: &[u8], index: &[u8], members, end_records: &[u8]| {
            let sealed = Sealed {
                complete_below: 5,
                members_end: 7,
                directory,
                members,
                fields_from: 0,
                index,
                form: IndexForm::OnePiece,
                end_records,
                last: true,
            };
            Seal::new(1000, &sealed)
        };
        let seal = of(&records, &index, 1, b"end");
        let patches = BTreeMap::from([(0, vec![1; 12]), (24, vec![2; 12]), (200, vec![0; 8])]);
        let mut changed = index;
        for (at, change) in &patches {
            changed[*at..at + change.len()].copy_from_slice(change);
        }
        let added = Added {
            complete_below: 5,
            members_end: 7,
            records: &more,
            members: 3,
            index: &patches,
            end_records: b"the end",
        };
        let whole = [&records[..], &more[..]].concat();
        assert_eq!(seal.grown(&added, &index), of(&whole, &changed, 3, b"the end"));
        assert!(seal.growing().is_growing() && !seal.growing().is_last());
        assert_eq!(seal.growing().reopened(), seal.reopened());
        // An index that did not match the old seal does not match the new one.
        let mut damaged = index;
        damaged[100] ^= 1;
        let grown = seal.grown(&added, &damaged);
        assert_eq!(grown, seal.grown(&added, &index));
        for at in [3, 100, 205] {
            let mut damaged = index;
            damaged[at] ^= 1;
            let grown = seal.grown(&added, &damaged);
            for (at, change) in &patches {
                damaged[*at..at + change.len()].copy_from_slice(change);
            }
            assert_ne!(crc32fast::hash(&damaged), grown.index_crc.get(), "byte {at}");
        }
    }

    #[test]
    fn certificates_hold_at_their_place_only() {
        let directory = [3; 50];
        let sealed = Sealed {
            complete_below: 5,
            members_end: 7,
            directory: &directory,
            members: 1,
            fields_from: 0,
            index: &[9; 3],
            form: IndexForm::OnePiece,
            end_records: b"end records of 22 byte",
            last: true,
        };
        let seal = Seal::new(10, &sealed);
        let base = Base::new(300, 77, false);
        let mut bytes = vec![0; 400];
        bytes[10..10 + Seal::SIZE].copy_from_slice(seal.as_bytes());
        let behind = 10 + Seal::SIZE;
        bytes[behind..behind + 50].copy_from_slice(&directory);
        bytes[behind + 50..behind + 72].copy_from_slice(b"end records of 22 byte");
        bytes[300..300 + Base::SIZE].copy_from_slice(base.as_bytes());
        assert_eq!(Seal::read((&bytes).into(), 10), Ok(Some(seal)));
        bytes[7..10].copy_from_slice(&[9; 3]);
        assert!(seal.start() == 7 && seal.has_index((&bytes).into()).unwrap());
        let index = SealedIndex { bytes: &[9; 3], members: 1, is_cut: false };
        assert_eq!(seal.index((&bytes).into()), Ok(Some(index)));
        let file = Window::from(&bytes);
        assert!(seal.holds(file).unwrap() && seal.is_last() && seal.has_end_records(file).unwrap());
        for (length, ends) in [(behind + 72, true), (bytes.len(), false), (behind + 71, false)] {
            assert_eq!(seal.ends(bytes[..length].into()), Ok(ends), "{length}");
        }
        assert_eq!((seal.complete_below(), seal.members_end(), seal.directory()), (5, 7, behind as u64));
        assert_eq!(Base::read(file, 300).unwrap().unwrap().end_record(), 77);
        assert_eq!(Seal::read(bytes[1..].into(), 9), Ok(None));
        assert_eq!(Base::read(bytes[1..].into(), 299), Ok(None));
        assert_eq!(Seal::read(file, u64::MAX), Ok(None));
        for changed in 0..Seal::SIZE {
            let mut bytes = bytes.clone();
            bytes[10 + changed] ^= 1;
            assert_eq!(Seal::read((&bytes).into(), 10), Ok(None), "byte {changed}");
        }
        for changed in 0..50 {
            let mut bytes = bytes.clone();
            bytes[10 + Seal::SIZE + changed] ^= 1;
            assert!(!seal.holds((&bytes).into()).unwrap());
        }
        for changed in 0..Base::SIZE {
            let mut bytes = bytes.clone();
            bytes[300 + changed] ^= 1;
            assert_eq!(Base::read((&bytes).into(), 300), Ok(None), "byte {changed}");
        }
    }
}
