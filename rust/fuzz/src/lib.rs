//! The parts that fuzz targets share: archives that are nearly right, and a reader too simple to be wrong.
#![forbid(unsafe_code)]

use std::ops::Range;

use arbitrary::Arbitrary;

use mmnpz_format::Window;
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::zip::central::Walk;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name;
use mmnpz_format::zip::records::{Extent, STORED};

/// A plan for an archive. Random bytes are hardly ever an archive; a random plan always makes one, with a few
/// things wrong.
#[derive(Debug, Arbitrary)]
pub struct Plan {
    junk: u8,
    members: Vec<Member>,
    zip64: bool,
    extensible: u8,
    end: Option<[u32; 2]>,
    count: u16,
    comment: Vec<u8>,
    /// Bytes to overwrite.
    spots: Vec<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
struct Member {
    gap: u8,
    name: Name,
    local_name: Option<Name>,
    /// Which of the flags that matter are set.
    flags: u8,
    deflated: bool,
    data: u8,
    extra: Vec<u8>,
    comment: u8,
    /// Sizes and offset in the zip64 field: the true ones, or any.
    zip64: Option<Zip64>,
}

#[derive(Debug, Arbitrary)]
enum Zip64 {
    Some { uncompressed: bool, compressed: bool, offset: bool },
    Any([u64; 3]),
}

/// Mostly one of few names, so that some come twice; now and then any name.
#[derive(Debug, Arbitrary)]
enum Name {
    A,
    B,
    Cp437,
    Utf8,
    Nul,
    Empty,
    Text,
    Any(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> &[u8] {
        match self {
            Name::A => b"a.npy",
            Name::B => b"folder/b.npy",
            Name::Cp437 => b"\x81.npy",
            Name::Utf8 => "ü.npy".as_bytes(),
            Name::Nul => b"a.npy\0x",
            Name::Empty => b".npy",
            Name::Text => b"a.txt",
            Name::Any(bytes) => &bytes[..bytes.len().min(300)],
        }
    }
}

impl Member {
    fn flags(&self) -> u16 {
        let bits = [11, 3, 0, 5, 6, 13];
        // The flag for UTF-8 often, and the others seldom, as they make a member unreadable.
        let chosen = if self.flags < 0xe0 { self.flags & 1 } else { self.flags & 0x3f };
        (0..).zip(bits).filter(|(at, _)| chosen >> at & 1 == 1).fold(0, |all, (_, bit)| all | 1 << bit)
    }

    fn common(&self, sizes: [u32; 2], name: &[u8], extra: &[u8], out: &mut Vec<u8>) {
        let method = if self.deflated { 8u16 } else { 0 };
        for number in [20, self.flags(), method, 0, 33] {
            out.extend(number.to_le_bytes());
        }
        for number in [0, sizes[0], sizes[1]] {
            out.extend(number.to_le_bytes());
        }
        for length in [name.len(), extra.len()] {
            out.extend((length as u16).to_le_bytes());
        }
    }

    fn local_name(&self) -> &[u8] {
        self.local_name.as_ref().unwrap_or(&self.name).bytes()
    }

    fn write_local(&self, out: &mut Vec<u8>) {
        out.extend(b"PK\x03\x04");
        self.common([self.data.into(); 2], self.local_name(), &self.extra, out);
        out.extend(self.local_name());
        out.extend(&self.extra);
        out.resize(out.len() + usize::from(self.data), b'd');
    }

    fn write_central(&self, offset: u64, out: &mut Vec<u8>) {
        // In the order of the zip64 field: uncompressed size, compressed size, offset.
        let (numbers, moved) = match &self.zip64 {
            None => ([self.data.into(), self.data.into(), offset], [false; 3]),
            Some(Zip64::Some { uncompressed, compressed, offset: place }) => {
                ([self.data.into(), self.data.into(), offset], [*uncompressed, *compressed, *place])
            }
            Some(Zip64::Any(numbers)) => (*numbers, [true; 3]),
        };
        let mut field = Vec::new();
        let mut fixed = [0; 3];
        for at in 0..3 {
            fixed[at] = if moved[at] { u32::MAX } else { numbers[at] as u32 };
            if moved[at] {
                field.extend(numbers[at].to_le_bytes());
            }
        }
        let mut extra = self.extra.clone();
        if !field.is_empty() {
            let length = field.len() as u16;
            extra.splice(0..0, [&[1, 0][..], &length.to_le_bytes(), &field].concat());
        }
        out.extend(b"PK\x01\x02\x14\x03");
        self.common([fixed[1], fixed[0]], self.name.bytes(), &extra, out);
        out.extend(u16::from(self.comment).to_le_bytes());
        out.extend([0; 8]);
        out.extend(fixed[2].to_le_bytes());
        out.extend(self.name.bytes());
        out.extend(&extra);
        out.resize(out.len() + usize::from(self.comment), b'c');
    }
}

impl Plan {
    /// The archive.
    pub fn build(&self) -> Vec<u8> {
        let mut out = vec![b'j'; self.junk.into()];
        let mut directory = Vec::new();
        for member in self.members.iter().take(64) {
            out.resize(out.len() + usize::from(member.gap), 0);
            member.write_central((out.len() - usize::from(self.junk)) as u64, &mut directory);
            member.write_local(&mut out);
        }
        let offset = out.len() as u64 - u64::from(self.junk);
        let size = directory.len() as u64;
        out.extend(directory);
        if self.zip64 {
            let at = out.len() as u64;
            out.extend(b"PK\x06\x06");
            out.extend((44 + u64::from(self.extensible)).to_le_bytes());
            out.extend([0; 12]);
            for number in [self.count.into(), self.count.into(), size, offset] {
                out.extend(number.to_le_bytes());
            }
            out.resize(out.len() + usize::from(self.extensible), b'x');
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(at.to_le_bytes());
            out.extend([1, 0, 0, 0]);
        }
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend(self.count.to_le_bytes());
        out.extend(self.count.to_le_bytes());
        for number in self.end.unwrap_or([size as u32, offset as u32]) {
            out.extend(number.to_le_bytes());
        }
        let comment = &self.comment[..self.comment.len().min(1000)];
        out.extend((comment.len() as u16).to_le_bytes());
        out.extend(comment);
        for &(at, byte) in &self.spots {
            let at = usize::from(at) % out.len();
            out[at] = byte;
        }
        out
    }
}

/// A member that a reader must list: its name without extension, where its record says that the local header
/// is, and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// Whether that is the whole name of the member.
    pub is_whole: bool,
    /// The place of the local header in the file; it may be outside.
    pub local: i128,
    /// Its bytes in the file.
    pub size: u64,
}

/// The arrays of these records, in order. The last array of a name takes the place of the first.
/// `None` if a record cannot be read.
pub fn listed(records: &[u8], prefix_len: i64) -> Option<Vec<Listed>> {
    let (mut arrays, mut others): (Vec<Listed>, Vec<Listed>) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(records);
    for record in walk.by_ref() {
        let whole = name::decode(record.name, record.header.flags.get()).ok()?;
        let name = whole.strip_suffix(".npy");
        let extent = Extent::read(record.header, record.extra);
        if name.is_none() && extent.is_err() {
            continue;
        }
        let extent = extent.ok()?;
        let member = Listed {
            name: name.unwrap_or(&whole).to_owned(),
            is_whole: name.is_none(),
            local: i128::from(extent.local_offset) + i128::from(prefix_len),
            size: match record.header.method.get() {
                STORED => extent.compressed.min(extent.uncompressed),
                _ => extent.compressed,
            },
        };
        let list = if name.is_some() { &mut arrays } else { &mut others };
        match list.iter_mut().find(|other| other.name == member.name) {
            Some(other) => *other = member,
            None => list.push(member),
        }
    }
    walk.finish().ok()?;
    // A member of just the name by which an array is listed counts more.
    for other in others {
        if let Some(array) = arrays.iter_mut().find(|array| array.name == other.name) {
            *array = other;
        }
    }
    Some(arrays)
}

/// The bytes of a range of the file.
pub fn cut<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// Reads an archive, and checks what must hold for any bytes.
pub fn check(bytes: &[u8]) -> Option<WalkedIndex> {
    let directory = DirectoryLocation::locate(Window::from(bytes)).ok()?;
    assert!(directory.range.start <= directory.range.end && directory.range.end < bytes.len() as u64);
    assert!(directory.range.end < directory.comment.start && directory.comment.end <= bytes.len() as u64);
    let expected = listed(cut(bytes, &directory.range), directory.prefix_len);
    let index = WalkedIndex::build(Window::from(bytes), directory, || true);
    let Some(expected) = expected else {
        assert!(index.is_err(), "read what the simple reader refuses");
        return None;
    };
    let index = index.expect("the simple reader reads it");
    assert!(index.memory() <= 2 * bytes.len() + 64, "{} for {} bytes", index.memory(), bytes.len());
    assert_eq!(index.len(), expected.len());
    for (id, listed) in index.ids().zip(&expected) {
        let name = &listed.name;
        assert_eq!(index.name(Window::from(bytes), id).expect("it was just indexed"), *name);
        assert_eq!(index.find(Window::from(bytes), name).unwrap(), Some(id), "{name:?}");
        assert!(index.contains(Window::from(bytes), name).unwrap(), "{name:?}");
        let Ok(data) = index.member(Window::from(bytes), id, name) else { continue };
        assert!(data.start <= data.end && data.end <= bytes.len() as u64, "{data:?}");
        assert_eq!(data.end - data.start, listed.size);
        // Behind its own local header, whose name must be the one that was asked for.
        let local = usize::try_from(listed.local).expect("it is inside the file");
        assert_eq!(bytes[local..local + 4], *b"PK\x03\x04");
        let [length, extra] =
            [26, 28].map(|at| u16::from_le_bytes([bytes[local + at], bytes[local + at + 1]]));
        assert_eq!(data.start, local as u64 + 30 + u64::from(length) + u64::from(extra));
        let raw = &bytes[local + 30..][..length.into()];
        let flags = u16::from_le_bytes([bytes[local + 6], bytes[local + 7]]);
        let text = name::decode(raw, flags).expect("a name that was found");
        let found = if listed.is_whole { Some(&*text) } else { text.strip_suffix(".npy") };
        assert_eq!(found, Some(&**name));
    }
    for name in ["a", "folder/b", "ü", "├╝", "", "a.npy", "never"] {
        let there = expected.iter().any(|listed| listed.name == name);
        assert_eq!(index.contains(Window::from(bytes), name).unwrap(), there, "{name:?}");
        assert_eq!(index.find(Window::from(bytes), name).unwrap().is_some(), there, "{name:?}");
    }
    Some(index)
}
