//! What mmnpz adds to an archive so that its members are found again without a directory.
//!
//! A directory is derived from what is in front of it, and can be lost with a process that is killed. Members follow
//! one another without a byte in between, so that programs that go from local header to local header read all of them;
//! what mmnpz adds is in an extra field of each local header, or behind the last member. Each addition holds its own
//! place in the file under a checksum, so that neither chance nor an archive inside of an array can pass for one:
//!
//! - a *mark* in the local header of a member says whether the member is begun or finished, and below which byte all
//!   members were finished when this one was begun: the *low-water mark*;
//! - a *base* behind a directory of another program says that this was whole when we began to append;
//! - a *seal* in front of a directory of ours says that it is ours, and what it lists.

use std::collections::BTreeMap;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{ErrorKind, Result};
use crate::index::{Directory, slice};
use crate::layout::FENCE;
use crate::sparse::Sparse;
use crate::table::{self, Stored};
use crate::zip::{
    CentralHeader, EndRecord, LocalHeader, Record, SATURATED, STORED, ZIP64_EXTRA, Zip64EndRecord,
    Zip64Locator, extra_field, flags,
};

/// An odd number without a pattern (2 to the 64th, divided by the golden ratio): multiplying by it spreads each bit of a
/// word over those above.
pub(crate) const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The extra field with a mark. The central directory has another field under this number, see [`crate::hint`].
pub const MARK_EXTRA: u16 = 0x6d6d;

/// What precedes the content of every extra field: its number and its length.
const EXTRA_HEAD: u64 = 4;

/// The smallest mark: the head of the field and the checksum.
const MARK_MIN: u64 = EXTRA_HEAD + 4;

/// A member of more than this many bytes, headers included, is *large*: its local header says that it is finished only
/// once all of its bytes are in the file. A smaller one may be written in one piece, of which a kill can leave a part.
pub const LARGE: u64 = 1 << 20;

/// What a mark says of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Its range is reserved, and its bytes need not be there.
    Begun,
    /// Its checksum is in the header. If it is not large, its bytes need not all be there.
    Finished,
}

/// How far below a member's local header its low-water mark is: nothing, or a power of two. Rounding up only makes the
/// mark say less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowWater(u8);

impl LowWater {
    /// That of a member at `header`, if all members in front of `finished` are finished.
    pub fn new(header: u64, finished: u64) -> Self {
        match header.saturating_sub(finished) {
            0 => LowWater(0),
            // At most 2**63, which no file reaches: then it vouches for nothing.
            distance => {
                LowWater(distance.checked_next_power_of_two().map_or(63, u64::trailing_zeros).max(1) as u8)
            }
        }
    }

    /// The byte below which all members were finished when the one at `header` was begun.
    fn below(self, header: u64) -> u64 {
        match self.0 {
            0 => header,
            power => header.saturating_sub(1 << power.min(63)),
        }
    }

    /// The least number of bytes of the extra field that holds it.
    pub fn field_len(self) -> u64 {
        MARK_MIN + u64::from(self.0 > 0)
    }

    /// Writes the extra field that marks a member into `out`, which is all of the field and zeroed: what the mark does
    /// not need is padding.
    pub fn write(self, checksum: u32, out: &mut [u8]) {
        let length = out.len().saturating_sub(EXTRA_HEAD as usize) as u16;
        let mut all = [0; MARK_MIN as usize + 1];
        all[..2].copy_from_slice(&MARK_EXTRA.to_le_bytes());
        all[2..4].copy_from_slice(&length.to_le_bytes());
        all[4..8].copy_from_slice(&checksum.to_le_bytes());
        all[8] = self.0;
        let length = all.len().min(out.len());
        out[..length].copy_from_slice(&all[..length]);
    }

    /// The checksum of the mark of a member whose local header is at `header`, whose stored bytes are those from `file`
    /// to `end`, with this CRC-32. Of a member that is begun, the CRC-32 does not count.
    pub fn checksum(
        self,
        state: MemberState,
        (header, file, end): (u64, u64, u64),
        crc: u32,
        name: &[u8],
    ) -> u32 {
        let (kind, crc) = match state {
            MemberState::Begun => (1, 0),
            MemberState::Finished => (2, crc),
        };
        checksum(u64::from(self.0) << 8 | kind, (header, file, end), crc, name)
    }
}

/// A checksum of numbers and a name. It is computed for every member. A second CRC-32 cost 2 % of writing a small array;
/// this mixer costs 0.4 %.
fn checksum(kind: u64, (header, file, end): (u64, u64, u64), crc: u32, name: &[u8]) -> u32 {
    let numbers = [kind, header, file, end, u64::from(crc), name.len() as u64];
    let state = numbers.into_iter().fold(0, step);
    // The upper half: every bit of the words has reached it.
    (through(state, name) >> 32) as u32
}

fn step(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(MULTIPLIER);
    state ^ (state >> 32)
}

/// Goes on with bytes in words of eight, the last one filled with zeros; a word of zeros if none is left over.
#[inline]
fn through(state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| step(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(state, u64::from_le_bytes(last))
}

/// The same checksum, before it is cut, of byte strings and their lengths.
#[inline]
pub(crate) fn state_of(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |state, part| through(step(state, part.len() as u64), part))
}

pub(crate) fn checksum_of(parts: &[&[u8]]) -> u32 {
    (state_of(parts) >> 32) as u32
}

/// A stored member as its local header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Where the local header starts.
    pub header: u64,
    /// Where the stored bytes start.
    pub file: u64,
    /// Where they end.
    pub end: u64,
    /// Their checksum.
    pub crc: u32,
    /// General-purpose flags.
    pub flags: u16,
    name_len: u16,
}

/// A member of mmnpz as its local header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// The member.
    pub member: Local,
    /// Whether it is finished.
    pub state: MemberState,
    /// All members below this byte of the file were finished when this one was begun.
    pub low_water: u64,
}

impl Local {
    /// The member whose local header is at `at`, if that says how large it is. It may end behind the file.
    pub fn read(bytes: &[u8], at: u64) -> Option<Self> {
        let header = LocalHeader::read(bytes, at, ErrorKind::LocalOutside).ok()?;
        let flag_bits = header.flags.get();
        if header.method.get() != STORED
            || flag_bits & (flags::DATA_DESCRIPTOR | flags::ENCRYPTED) != 0
            || header.compressed != header.uncompressed
        {
            return None;
        }
        let name_end = at + LocalHeader::SIZE as u64 + u64::from(header.name_len.get());
        let file = name_end + u64::from(header.extra_len.get());
        let mut size = u64::from(header.compressed.get());
        if header.compressed.get() == SATURATED {
            // Section 4.5.3: in a local header both sizes are there. Only the start of it may be in the file.
            let extra = slice(bytes, &(name_end..file.min(bytes.len() as u64)))?;
            let field = extra_field(extra, ZIP64_EXTRA)?;
            size = u64::from_le_bytes(*field.first_chunk()?);
        }
        let end = file.checked_add(size)?;
        Some(Local {
            header: at,
            file,
            end,
            crc: header.crc.get(),
            flags: flag_bits,
            name_len: header.name_len.get(),
        })
    }

    /// The member of mmnpz whose local header is at `at`, if its mark is right. It may end behind the file.
    pub fn marked(bytes: &[u8], at: u64) -> Option<Marked> {
        let member = Self::read(bytes, at)?;
        let name = member.name(bytes);
        let extra_start = at + LocalHeader::SIZE as u64 + u64::from(member.name_len);
        // Only the start of the padding may be in the file.
        let extra = slice(bytes, &(extra_start..member.file.min(bytes.len() as u64)))?;
        let field = mark_field(extra)?;
        let found = u32::from_le_bytes(*field.first_chunk()?);
        let low_water = LowWater(field.get(4).copied().unwrap_or_default());
        let places = (at, member.file, member.end);
        let is = |state: &MemberState| found == low_water.checksum(*state, places, member.crc, name);
        let state = [MemberState::Finished, MemberState::Begun].into_iter().find(is)?;
        Some(Marked { member, state, low_water: low_water.below(at) })
    }

    /// The name, as stored.
    pub fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.header + LocalHeader::SIZE as u64;
        slice(bytes, &(start..start + u64::from(self.name_len))).unwrap_or_default()
    }

    /// Whether the stored bytes have the checksum that the header says.
    pub fn is_sound(&self, bytes: &[u8]) -> bool {
        slice(bytes, &(self.file..self.end)).is_some_and(|file| crc32fast::hash(file) == self.crc)
    }

    /// Whether the local header comes after all other bytes of the member, see [`LARGE`].
    pub fn is_large(&self) -> bool {
        self.end - self.header > LARGE
    }
}

/// What there is of the content of the field with the mark, which is the last one.
fn mark_field(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = extra.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if head[..2] == MARK_EXTRA.to_le_bytes() {
            return Some(&rest[..length.min(rest.len())]);
        }
        extra = rest.get(length..)?;
    }
}

/// What is behind the end records of another program's directory, in its archive or in a filler that keeps it.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Base {
    signature: [u8; 8],
    at: U64,
    end_record: U64,
    check: U32,
    kind: U32,
}

/// What is in front of a directory of ours.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Seal {
    signature: [u8; 8],
    at: U64,
    listed: U64,
    next: U64,
    size: U64,
    file_len: U64,
    members: U64,
    hinted: U64,
    index: U64,
    crc: U32,
    index_crc: U32,
    end_crc: U32,
    state: U32,
    check: U32,
    indexed: U16,
    version: U16,
}

/// The version of all that mmnpz adds to an archive, the first that was published. What has another version is read as
/// another program's archive.
const VERSION: u16 = 0;

/// What a seal says of what is in front of it: no index; one in one piece; one in blocks, see [`crate::table`].
const UNINDEXED: u16 = 0;
const IN_ONE_PIECE: u16 = 1;
const IN_BLOCKS: u16 = 2;

/// What a seal says of the directory behind it, apart from what is in it: there can be other members.
const OPEN: u32 = 0;
/// There are none.
const CLOSED: u32 = 1;
/// Others are being added to it behind those that it has, and its end record may be gone.
const GROWING: u32 = 2;

/// What a seal says of the directory behind it.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// All members that start in front of this and are ever finished are in the directory.
    pub listed: u64,
    /// None that it has reaches past this.
    pub next: u64,
    /// Its records.
    pub directory: &'a [u8],
    /// How many they are.
    pub members: u64,
    /// The `.npy` headers in the records from this byte of the directory on can be believed.
    pub hinted: u64,
    /// What is in front of the seal: the stored index of them, or zeros.
    pub index: &'a [u8],
    /// Whether it is an index.
    pub indexed: bool,
    /// What ends the file.
    pub end_records: &'a [u8],
    /// There is no other member, as the writer was closed.
    pub last: bool,
}

/// What is added to a directory where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Added<'a> {
    /// As in [`Sealed`].
    pub(crate) listed: u64,
    /// As in [`Sealed`].
    pub(crate) next: u64,
    /// The records behind those that it has.
    pub(crate) records: &'a [u8],
    /// How many it has with them.
    pub(crate) members: u64,
    /// What changes in the index.
    pub(crate) index: &'a BTreeMap<usize, Vec<u8>>,
    /// What ends the file.
    pub(crate) end_records: &'a [u8],
}

/// By what the CRC-32 of a byte string changes if its end does: `change` is by what that of its first part does, and so
/// many bytes follow that part. CRC-32 is linear: what follows does not matter.
fn with_zeros_behind(change: u32, count: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(change);
    crc.combine(&crc32fast::Hasher::new_with_initial_len(0, count));
    crc.finalize()
}

/// A record with a checksum and its own place.
trait Certificate: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy {
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

    fn read_at(bytes: &[u8], at: u64) -> Option<Self> {
        let raw = slice(bytes, &(at..at.checked_add(size_of::<Self>() as u64)?))?;
        let record = Self::read_from_bytes(raw).ok()?;
        (record.claims() == (Self::SIGNATURE, at, record.checksum())).then_some(record)
    }
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

impl Certificate for Seal {
    const SIGNATURE: [u8; 8] = *b"PKmmseal";

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

    /// The record at `at` behind an archive whose end record is at `end_record`. That of one that is kept for good has no
    /// signature, or is going to lose it: other programs must not find it, as it does not lead to all members.
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

    /// The record at `at`, if there is one that is sound.
    pub fn read(bytes: &[u8], at: u64) -> Option<Self> {
        Self::read_at(bytes, at)
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> u64 {
        self.at.get() + Self::SIZE as u64
    }

    /// The directory that it vouches for.
    ///
    /// # Errors
    /// If there is none.
    pub fn directory(&self, bytes: &[u8]) -> Result<Directory> {
        let end_record = match self.kind.get() {
            0 => EndRecord::read(bytes, self.end_record(), ErrorKind::NoEndRecord)?,
            _ => EndRecord::read_unsigned(bytes, self.end_record()).ok_or(ErrorKind::NoEndRecord)?,
        };
        Directory::of_end_record(bytes, self.end_record(), end_record)
    }

    /// Where the end record of the archive is.
    pub fn end_record(&self) -> u64 {
        self.end_record.get()
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

    /// The record at `at`, behind an index and in front of a directory and the end records that end the file.
    pub fn new(at: u64, sealed: &Sealed<'_>) -> Self {
        let file_len = at + (Self::SIZE + sealed.directory.len() + sealed.end_records.len()) as u64;
        let seal = Seal {
            signature: Self::SIGNATURE,
            at: at.into(),
            listed: sealed.listed.into(),
            next: sealed.next.into(),
            size: (sealed.directory.len() as u64).into(),
            file_len: file_len.into(),
            members: sealed.members.into(),
            hinted: sealed.hinted.into(),
            index: (sealed.index.len() as u64).into(),
            crc: crc32fast::hash(sealed.directory).into(),
            index_crc: crc32fast::hash(sealed.index).into(),
            end_crc: crc32fast::hash(sealed.end_records).into(),
            state: if sealed.last { CLOSED } else { OPEN }.into(),
            check: 0.into(),
            indexed: match (sealed.indexed, table::is_cut(sealed.index.len() as u64)) {
                (false, _) => UNINDEXED,
                (true, false) => IN_ONE_PIECE,
                (true, true) => IN_BLOCKS,
            }
            .into(),
            version: VERSION.into(),
        };
        seal.certified()
    }

    /// The record at `at`, if there is one that is sound.
    pub fn read(bytes: &[u8], at: u64) -> Option<Self> {
        Self::read_at(bytes, at).filter(Self::is_possible)
    }

    /// Whether it can be one that was written: what it says is used to ask for memory, and for places in the file.
    fn is_possible(&self) -> bool {
        let least = self.members().checked_mul(CentralHeader::SIZE as u64);
        let end_records = self.file_len.get().checked_sub(self.directory_end());
        self.version.get() == VERSION
            && END_RECORDS.contains(&end_records.unwrap_or_default())
            && least.is_some_and(|least| least <= self.size.get())
            && self.index.get() <= self.at()
            && self.listed() <= self.next()
            && self.next() <= self.start()
    }

    /// Where it is.
    pub fn at(&self) -> u64 {
        self.at.get()
    }

    /// Where the index in front of it starts.
    pub fn start(&self) -> u64 {
        self.at().saturating_sub(self.index.get())
    }

    /// The stored index, if there is one.
    pub(crate) fn index<'a>(&self, bytes: &'a [u8]) -> Option<Stored<'a>> {
        let start = self.at().checked_sub(self.index.get()).filter(|_| self.is_indexed())?;
        let bytes = slice(bytes, &(start..self.at()))?;
        Some(Stored { bytes, members: self.members.get(), is_cut: self.is_fenced() })
    }

    fn is_indexed(&self) -> bool {
        matches!(self.indexed.get(), IN_ONE_PIECE | IN_BLOCKS)
    }

    /// Whether there is an index, and that begins with a fence.
    pub(crate) fn is_fenced(&self) -> bool {
        self.indexed.get() == IN_BLOCKS
    }

    /// Whether the stored index still is what it was.
    pub(crate) fn has_index(&self, bytes: &[u8]) -> bool {
        self.index(bytes).is_some_and(|index| crc32fast::hash(index.bytes) == self.index_crc.get())
    }

    /// From which byte of the directory on the `.npy` headers in it can be believed: those in front were not written by
    /// us, or another program has changed the archive since.
    pub(crate) fn hinted(&self) -> u64 {
        self.hinted.get()
    }

    /// How many members the directory has.
    pub(crate) fn members(&self) -> u64 {
        self.members.get()
    }

    /// Where members may be that are not in the directory.
    pub fn listed(&self) -> u64 {
        self.listed.get()
    }

    /// Behind all members that are in the directory.
    pub fn next(&self) -> u64 {
        self.next.get()
    }

    /// Whether there is more than a fence between the last member and what vouches for the directory.
    pub(crate) fn has_room(&self) -> bool {
        self.next().saturating_add(FENCE) < self.start()
    }

    /// Where the directory starts.
    pub fn directory(&self) -> u64 {
        self.at.get() + Self::SIZE as u64
    }

    /// Where it ends.
    pub fn directory_end(&self) -> u64 {
        self.directory().saturating_add(self.size.get())
    }

    /// Whether the end records are there, and the end of the file.
    pub fn ends(&self, bytes: &[u8]) -> bool {
        self.file_len.get() == bytes.len() as u64 && self.has_end_records(bytes)
    }

    /// Whether the end records are there.
    pub fn has_end_records(&self, bytes: &[u8]) -> bool {
        let end_records = slice(bytes, &(self.directory_end()..self.file_len.get()));
        end_records.is_some_and(|end_records| crc32fast::hash(end_records) == self.end_crc.get())
    }

    /// Whether no member was written after the directory.
    pub fn is_last(&self) -> bool {
        self.state.get() == CLOSED
    }

    /// Whether members are being added to the directory, so that its end record need not be there.
    pub(crate) fn is_growing(&self) -> bool {
        self.state.get() == GROWING
    }

    /// The same, saying that members may be written after the directory: in the room in front of it.
    #[must_use]
    pub fn reopened(self) -> Self {
        Seal { state: OPEN.into(), ..self }.certified()
    }

    /// The same, saying that these members are being added to the directory.
    #[must_use]
    pub(crate) fn growing(self) -> Self {
        Seal { state: GROWING.into(), ..self }.certified()
    }

    /// Whether members can be added to the directory where it is, as long as there is room in front of it. It is the
    /// last one and ends the file; what is in it is not looked at.
    pub(crate) fn can_grow(&self, bytes: &[u8]) -> bool {
        self.is_last() && self.ends(bytes) && self.has_room() && self.index(bytes).is_some()
    }

    /// The seal of the directory with what was added to it. The checksums are those that it would have had from the
    /// start: of a directory or an index that is not what its seal said, the new seal says it neither.
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
            listed: added.listed.into(),
            next: added.next.into(),
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

    /// Whether it is where it was, and at most says by now that members may be written in front of it.
    pub(crate) fn is_there(&self, bytes: &[u8]) -> bool {
        Self::read(bytes, self.at()).is_some_and(|found| found.reopened() == self.reopened())
    }

    /// Whether the directory and its stored index still are what they were.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub(crate) fn is_right(&self, file: Sparse<'_>, go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
        let index = file.crc(&(self.start()..self.at()), &mut *go_on)?;
        let has_index = self.is_indexed() && index == Some(self.index_crc.get());
        Ok(has_index && self.is_whole(file, go_on)?)
    }

    /// Whether the directory still is what it was, as [`Seal::holds`] says of a file without holes.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub(crate) fn is_whole(&self, file: Sparse<'_>, go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
        let directory = file.crc(&(self.directory()..self.directory_end()), go_on)?;
        Ok(directory == Some(self.crc.get()))
    }

    /// Whether the directory still is what it was.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        slice(bytes, &(self.directory()..self.directory_end())).is_some_and(|directory| self.is_of(directory))
    }

    /// Whether these are the records of the directory.
    pub(crate) fn is_of(&self, directory: &[u8]) -> bool {
        directory.len() as u64 == self.size.get() && crc32fast::hash(directory) == self.crc.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Alignment, Placement, StoredName};

    use MemberState::{Begun, Finished};

    fn member(at: usize, name: &str, data: &[u8], align: u64, finished: u64) -> Vec<u8> {
        let name = StoredName::new(name).unwrap();
        let align = Alignment::new(align).unwrap();
        let place = Placement::new(at as u64, &name, 0, data.len() as u64, align, finished).unwrap();
        let mut bytes = place.local_header(&name, Finished, crc32fast::hash(data));
        bytes.extend(data);
        assert_eq!(bytes.len() as u64, place.end - at as u64);
        bytes
    }

    #[test]
    fn a_mark_holds_only_where_and_as_it_was_written() {
        for (align, finished) in [(1, 100), (1, 3), (64, 100), (64, 0), (32768, 99)] {
            let mut bytes = vec![0; 100];
            bytes.extend(member(100, "ä", &[7; 300], align, finished));
            let marked = Local::marked(&bytes, 100).unwrap();
            let local = marked.member;
            assert_eq!(marked.state, Finished);
            assert!(marked.low_water <= finished, "{marked:?}");
            assert_eq!(finished == 100, marked.low_water == 100);
            assert_eq!(local.name(&bytes), "ä.npy".as_bytes());
            assert_eq!(slice(&bytes, &(local.file..local.end)), Some(&[7; 300][..]));
            assert!(local.is_sound(&bytes));
            assert_eq!(local.end, bytes.len() as u64);
            // Moved by one, or with any byte of the header, the name or the mark changed.
            assert_eq!(Local::marked(&bytes[1..], 99), None);
            let field = 100 + LocalHeader::SIZE + local.name(&bytes).len();
            let mark = field + 4..field + 8 + usize::from(finished < 100);
            for changed in (100..104).chain(114..field + 2).chain(mark) {
                let mut bytes = bytes.clone();
                bytes[changed] ^= 0x10;
                assert_eq!(Local::marked(&bytes, 100), None, "byte {changed}");
            }
        }
    }

    #[test]
    fn a_low_water_mark_says_at_most_what_is_so() {
        for header in [0, 1, 1000, 1 << 40, (1 << 62) + 1] {
            for distance in [0, 1, 2, 3, 100, 1 << 33, (1 << 62) + 1, u64::MAX] {
                let finished = header - distance.min(header);
                let below = LowWater::new(header, finished).below(header);
                assert!(below <= finished, "{header} {distance}");
                assert!(header - below <= 2 * (header - finished), "{header} {distance}");
            }
        }
    }

    #[test]
    fn members_without_a_size_in_front_are_not_read() {
        let mut bytes = member(0, "a", &[1; 20], 1, 0);
        assert!(Local::read(&bytes, 0).is_some());
        for (at, value) in [(6, 8), (6, 1), (8, 8), (18, 0xff)] {
            let before = std::mem::replace(&mut bytes[at], value);
            assert_eq!(Local::read(&bytes, 0), None, "{at}");
            bytes[at] = before;
        }
    }

    #[test]
    fn a_member_that_is_begun_is_known_by_its_first_bytes() {
        for size in [100, 1 << 33] {
            let name = StoredName::new("a").unwrap();
            let place = Placement::new(0, &name, 0, size, Alignment::new(32768).unwrap(), 0).unwrap();
            let bytes = place.local_header(&name, Begun, 5);
            let state = |bytes: &[u8]| Local::marked(bytes, 0).map(|marked| marked.state);
            assert_eq!((state(&bytes), state(&bytes[..100])), (Some(Begun), Some(Begun)));
            assert_eq!(state(&place.local_header(&name, Finished, 0)), Some(Finished));
            assert_eq!(state(&bytes[..33]), None);
        }
    }

    #[test]
    fn a_seal_that_has_grown_is_the_one_of_the_whole() {
        let (records, index, more) = ([3; 500], [5; 208], [4; 70]);
        let of = |directory: &[u8], index: &[u8], members, end_records: &[u8]| {
            let sealed = Sealed {
                listed: 5,
                next: 7,
                directory,
                members,
                hinted: 0,
                index,
                indexed: true,
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
            listed: 5,
            next: 7,
            records: &more,
            members: 3,
            index: &patches,
            end_records: b"the end",
        };
        let whole = [&records[..], &more[..]].concat();
        assert_eq!(seal.grown(&added, &index), of(&whole, &changed, 3, b"the end"));
        assert!(seal.growing().is_growing() && !seal.growing().is_last());
        assert_eq!(seal.growing().reopened(), seal.reopened());
        // What was not what the seal said is not what the next one says.
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
            listed: 5,
            next: 7,
            directory: &directory,
            members: 1,
            hinted: 0,
            index: &[9; 3],
            indexed: true,
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
        assert_eq!(Seal::read(&bytes, 10), Some(seal));
        bytes[7..10].copy_from_slice(&[9; 3]);
        assert!(seal.start() == 7 && seal.has_index(&bytes));
        assert_eq!(seal.index(&bytes), Some(Stored { bytes: &[9; 3], members: 1, is_cut: false }));
        assert!(seal.holds(&bytes) && seal.is_last() && seal.has_end_records(&bytes));
        assert!(seal.ends(&bytes[..behind + 72]) && !seal.ends(&bytes) && !seal.ends(&bytes[..behind + 71]));
        assert_eq!((seal.listed(), seal.next(), seal.directory()), (5, 7, behind as u64));
        assert_eq!(Base::read(&bytes, 300).unwrap().end_record(), 77);
        assert_eq!(Seal::read(&bytes[1..], 9), None);
        assert_eq!(Base::read(&bytes[1..], 299), None);
        assert_eq!(Seal::read(&bytes, u64::MAX), None);
        for changed in 0..Seal::SIZE {
            let mut bytes = bytes.clone();
            bytes[10 + changed] ^= 1;
            assert_eq!(Seal::read(&bytes, 10), None, "byte {changed}");
        }
        for changed in 0..50 {
            let mut bytes = bytes.clone();
            bytes[10 + Seal::SIZE + changed] ^= 1;
            assert!(!seal.holds(&bytes));
        }
        for changed in 0..Base::SIZE {
            let mut bytes = bytes.clone();
            bytes[300 + changed] ^= 1;
            assert_eq!(Base::read(&bytes, 300), None, "byte {changed}");
        }
    }
}
