//! Builds archives byte by byte, so that every field of every record can be wrong on purpose.
//!
//! This module uses nothing of `mmnpz_format::zip`: it writes the records from APPNOTE 6.3.10, so that the
//! tests see a field at a wrong place there.

use std::ops::Range;

use mmnpz_format::Window;
use mmnpz_format::error::Result;
use mmnpz_format::read::walked_index::{MemberId, WalkedIndex};
use mmnpz_format::zip::end::DirectoryLocation;

/// The value of a 32-bit field whose number is in the zip64 extra field.
pub(crate) const SATURATED: u32 = u32::MAX;
/// The flag of names in UTF-8.
pub(crate) const UTF8: u16 = 1 << 11;
/// The flag of members with a data descriptor.
pub(crate) const DESCRIPTOR: u16 = 1 << 3;
/// The compression method of `zlib`.
pub(crate) const DEFLATED: u16 = 8;

/// The fields that both headers of a member have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) version: u16,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) time: u16,
    pub(crate) date: u16,
    pub(crate) crc: u32,
    pub(crate) compressed: u32,
    pub(crate) uncompressed: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) extra: Vec<u8>,
}

impl Header {
    fn write_common(&self, extra_len: usize, out: &mut Vec<u8>) {
        for number in [self.version, self.flags, self.method, self.time, self.date] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.crc, self.compressed, self.uncompressed] {
            out.extend(number.to_le_bytes());
        }
        out.extend(length16(self.name.len()));
        out.extend(length16(extra_len));
    }
}

/// The numbers of the central header that are moved to its zip64 extra field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Zip64 {
    pub(crate) uncompressed: bool,
    pub(crate) compressed: bool,
    pub(crate) offset: bool,
}

/// A member: its parts in the archive, first to last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    /// Bytes in front of the local header.
    pub(crate) gap: Vec<u8>,
    pub(crate) local: Header,
    pub(crate) data: Vec<u8>,
    /// The data descriptor, or other bytes behind the data.
    pub(crate) after: Vec<u8>,
    pub(crate) central: Header,
    pub(crate) made_by: u16,
    pub(crate) disk: u16,
    pub(crate) internal: u16,
    pub(crate) external: u32,
    /// The offset of the local header, if not the true one.
    pub(crate) offset: Option<u32>,
    pub(crate) zip64: Zip64,
    pub(crate) comment: Vec<u8>,
}

impl Member {
    /// A stored member of this name, with `data` in it.
    pub(crate) fn stored(name: impl AsRef<[u8]>, data: &[u8]) -> Self {
        let size = u32::try_from(data.len()).unwrap();
        let header = Header {
            version: 20,
            date: 33,
            crc: crc32fast::hash(data),
            compressed: size,
            uncompressed: size,
            name: name.as_ref().to_vec(),
            ..Header::default()
        };
        Member { local: header.clone(), data: data.to_vec(), central: header, ..Member::default() }
    }

    /// A member that claims to be compressed. No test decompresses it.
    pub(crate) fn deflated(name: impl AsRef<[u8]>, data: &[u8]) -> Self {
        Member::stored(name, data).both(|header| header.method = DEFLATED)
    }

    /// The member with other fields.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The member with other fields in both headers.
    pub(crate) fn both(mut self, change: impl Fn(&mut Header)) -> Self {
        change(&mut self.local);
        change(&mut self.central);
        self
    }

    /// The member with its sizes and CRC behind the data instead of in the local header (section 4.3.9).
    pub(crate) fn with_descriptor(self) -> Self {
        self.both(|header| header.flags |= DESCRIPTOR).with(|member| {
            let Header { crc, compressed, uncompressed, .. } = member.central;
            member.after = b"PK\x07\x08".to_vec();
            for number in [crc, compressed, uncompressed] {
                member.after.extend(number.to_le_bytes());
            }
            (member.local.crc, member.local.compressed, member.local.uncompressed) = (0, 0, 0);
        })
    }

    fn write_local(&self, out: &mut Vec<u8>) {
        out.extend(b"PK\x03\x04");
        self.local.write_common(self.local.extra.len(), out);
        out.extend(&self.local.name);
        out.extend(&self.local.extra);
    }

    fn write_central(&self, offset: u64, out: &mut Vec<u8>) {
        let mut header = self.central.clone();
        let mut offset32 = self.offset.unwrap_or_else(|| u32::try_from(offset).unwrap());
        let mut moved = Vec::new();
        // The order is that of section 4.5.3, not that of the header.
        if self.zip64.uncompressed {
            moved.push(u64::from(std::mem::replace(&mut header.uncompressed, SATURATED)));
        }
        if self.zip64.compressed {
            moved.push(u64::from(std::mem::replace(&mut header.compressed, SATURATED)));
        }
        if self.zip64.offset {
            moved.push(u64::from(std::mem::replace(&mut offset32, SATURATED)));
        }
        if !moved.is_empty() {
            header.extra.extend(zip64_extra(&moved));
        }
        out.extend(b"PK\x01\x02");
        out.extend(self.made_by.to_le_bytes());
        header.write_common(header.extra.len(), out);
        out.extend(length16(self.comment.len()));
        out.extend(self.disk.to_le_bytes());
        out.extend(self.internal.to_le_bytes());
        out.extend(self.external.to_le_bytes());
        out.extend(offset32.to_le_bytes());
        out.extend(&header.name);
        out.extend(&header.extra);
        out.extend(&self.comment);
    }
}

/// What the end record says, where a test wants it wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    pub(crate) disk: u16,
    pub(crate) directory_disk: u16,
    pub(crate) entries: Option<u16>,
    pub(crate) size: Option<u32>,
    pub(crate) offset: Option<u32>,
    pub(crate) comment_len: Option<u16>,
    /// With zip64 records, the end record has saturated numbers, unless a test gives others.
    pub(crate) zip64: Option<Zip64End>,
}

/// What the zip64 end record and its locator say, where a test wants it wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zip64End {
    pub(crate) entries: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) offset: Option<u64>,
    /// The extensible data sector (section 4.3.14.4).
    pub(crate) extensible: Vec<u8>,
    pub(crate) locator_disk: u32,
    pub(crate) disks: Option<u32>,
    pub(crate) end_offset: Option<u64>,
}

/// An archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive {
    /// Bytes in front of the archive, which its offsets do not count.
    pub(crate) junk: Vec<u8>,
    pub(crate) members: Vec<Member>,
    pub(crate) end: End,
    pub(crate) comment: Vec<u8>,
    /// Bytes behind the archive.
    pub(crate) after: Vec<u8>,
}

/// The bytes of an archive and where things are in them.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    /// The local headers.
    pub(crate) locals: Vec<u64>,
    /// The data of the members.
    pub(crate) data: Vec<Range<u64>>,
    /// The records of the directory.
    pub(crate) records: Vec<u64>,
    pub(crate) directory: Range<u64>,
    /// The end record.
    pub(crate) end: u64,
}

impl Archive {
    /// An archive of these members.
    pub(crate) fn of(members: impl IntoIterator<Item = Member>) -> Self {
        Archive { members: members.into_iter().collect(), ..Archive::default() }
    }

    /// The archive with other parts.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn build(&self) -> Built {
        let mut bytes = self.junk.clone();
        let (mut locals, mut data, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for member in &self.members {
            bytes.extend(&member.gap);
            locals.push(bytes.len() as u64);
            member.write_local(&mut bytes);
            let start = bytes.len() as u64;
            bytes.extend(&member.data);
            data.push(start..bytes.len() as u64);
            bytes.extend(&member.after);
        }
        let start = bytes.len() as u64;
        for (member, local) in self.members.iter().zip(&locals) {
            records.push(bytes.len() as u64);
            member.write_central(local - self.junk.len() as u64, &mut bytes);
        }
        let directory = start..bytes.len() as u64;
        let end = self.write_end(&directory, &mut bytes);
        Built { bytes, locals, data, records, directory, end }
    }

    /// Writes the end records, and returns the place of the last one.
    fn write_end(&self, directory: &Range<u64>, out: &mut Vec<u8>) -> u64 {
        let count = self.members.len();
        let size = directory.end - directory.start;
        let offset = directory.start - self.junk.len() as u64;
        if let Some(zip64) = &self.end.zip64 {
            let end_offset = zip64.end_offset.unwrap_or(directory.end - self.junk.len() as u64);
            out.extend(b"PK\x06\x06");
            out.extend((44 + zip64.extensible.len() as u64).to_le_bytes());
            out.extend([45, 0, 45, 0]);
            out.extend([0; 8]);
            let entries = zip64.entries.unwrap_or(count as u64);
            for number in [entries, entries, zip64.size.unwrap_or(size), zip64.offset.unwrap_or(offset)] {
                out.extend(number.to_le_bytes());
            }
            out.extend(&zip64.extensible);
            out.extend(b"PK\x06\x07");
            out.extend(zip64.locator_disk.to_le_bytes());
            out.extend(end_offset.to_le_bytes());
            out.extend(zip64.disks.unwrap_or(1).to_le_bytes());
        }
        let saturated = self.end.zip64.is_some();
        let number32 = |number: u64| if saturated { SATURATED } else { u32::try_from(number).unwrap() };
        let at = out.len() as u64;
        out.extend(b"PK\x05\x06");
        out.extend(self.end.disk.to_le_bytes());
        out.extend(self.end.directory_disk.to_le_bytes());
        // Many writers let the count wrap if there are no zip64 records.
        let entries = if saturated { u16::MAX } else { (count % (1 << 16)).try_into().unwrap() };
        let entries = self.end.entries.unwrap_or(entries);
        out.extend(entries.to_le_bytes());
        out.extend(entries.to_le_bytes());
        out.extend(self.end.size.unwrap_or_else(|| number32(size)).to_le_bytes());
        out.extend(self.end.offset.unwrap_or_else(|| number32(offset)).to_le_bytes());
        out.extend(self.end.comment_len.map_or_else(|| length16(self.comment.len()), u16::to_le_bytes));
        out.extend(&self.comment);
        out.extend(&self.after);
        at
    }
}

/// An extra field.
pub(crate) fn extra(id: u16, value: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &length16(value.len()), value].concat()
}

/// A zip64 extra field with these numbers.
pub(crate) fn zip64_extra(numbers: &[u64]) -> Vec<u8> {
    let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    extra(1, &value)
}

/// Members `a` and `b` with different bytes in them.
pub(crate) fn two() -> Archive {
    Archive::of([Member::stored("a.npy", b"first"), Member::stored("b.npy", b"second")])
}

/// The index of an archive.
pub(crate) fn open(bytes: &[u8]) -> Result<WalkedIndex> {
    WalkedIndex::build(Window::from(bytes), DirectoryLocation::locate(Window::from(bytes))?, || true)
}

/// The range from which a member of this name is read.
pub(crate) fn range(index: &WalkedIndex, bytes: &[u8], id: MemberId, name: &str) -> Result<Range<u64>> {
    index.member(Window::from(bytes), id, name)
}

/// The range from which the first member is read.
pub(crate) fn first_range(index: &WalkedIndex, bytes: &[u8]) -> Result<Range<u64>> {
    let id = index.ids().next().unwrap();
    range(index, bytes, id, &index.name(Window::from(bytes), id).unwrap())
}

/// The names of all members, in order.
pub(crate) fn names(index: &WalkedIndex, bytes: &[u8]) -> Vec<String> {
    index.ids().map(|id| index.name(Window::from(bytes), id).unwrap()).collect()
}

/// All names and the ranges of their bytes, in order. Looks each name up, so that both ways are tried.
pub(crate) fn contents(index: &WalkedIndex, bytes: &[u8]) -> Vec<(String, Range<u64>)> {
    let read = |name: String| {
        let id = index.find(Window::from(bytes), &name).unwrap().unwrap();
        assert!(index.contains(Window::from(bytes), &name).unwrap(), "{name:?} is found, so it is contained");
        let range = range(index, bytes, id, &name).unwrap();
        (name, range)
    };
    names(index, bytes).into_iter().map(read).collect()
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_le_bytes()
}
