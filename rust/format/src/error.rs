//! Errors as data: what was found, where, and what was expected instead.

use std::fmt;
use std::ops::Range;

/// What went wrong, in which member and where in the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What was found.
    pub kind: ErrorKind,
    /// The member concerned, without its `.npy` extension.
    pub member: Option<Box<str>>,
    /// The byte of the archive at which the problem was seen.
    pub offset: Option<u64>,
}

/// The result of reading an archive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind, seen at this byte of the archive.
    pub fn at(kind: ErrorKind, offset: u64) -> Self {
        Error { kind, member: None, offset: Some(offset) }
    }

    /// Whether the error tells something about the file, so that another way to read the file may succeed.
    /// Otherwise the caller asked to stop, or has to fetch bytes first.
    pub fn is_about_file(&self) -> bool {
        !matches!(self.kind.part(), Part::Interrupted | Part::Missing)
    }

    /// The same error, with the member that it is about.
    #[must_use]
    pub fn in_member(mut self, name: &str) -> Self {
        self.member.get_or_insert_with(|| name.into());
        self
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Error { kind, member: None, offset: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(member) = &self.member {
            write!(f, "member {member:?}: ")?;
        }
        write!(f, "{}", self.kind)?;
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset} of the archive)")?;
        }
        Ok(())
    }
}

/// A range of the file that the caller has to fetch before it calls again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Range<u64>);

/// The part of an archive that a problem lies in; it decides who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The ZIP structure itself: not an archive that can be read.
    Archive,
    /// One member's content: its `.npy` header or its array.
    Member,
    /// What the caller asked to be written cannot be put into a ZIP archive.
    Request,
    /// Nothing is wrong with the archive, but it needs what this implementation does not have.
    Unsupported,
    /// Nothing is wrong with the archive, but there is too little memory.
    Memory,
    /// Nothing is wrong; the caller asked to stop.
    Interrupted,
    /// Nothing is wrong; the caller has to fetch more of the file.
    Missing,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No end-of-central-directory record in the last 64 KiB.
    #[error("not a zip archive: no end-of-central-directory record")]
    NoEndRecord,
    /// A single `.npy` file, not an archive of them.
    #[error("a single .npy file, not a zip archive")]
    SingleNpy,
    /// The archive continues in other files.
    #[error("the archive spans several disks")]
    MultiDisk,
    /// The end record points to a directory that is not inside the file.
    #[error("the central directory ({size} bytes) does not fit in front of its end record at byte {end}")]
    DirectoryOutside {
        /// The size that the end record gives.
        size: u64,
        /// Where the directory would have to end.
        end: u64,
    },
    /// A record of the directory runs past the directory's end.
    #[error("the central directory is cut short")]
    DirectoryTruncated,
    /// A record should start here, and other bytes do.
    #[error("expected the signature of a {record}, found {found:02x?}")]
    Signature {
        /// The record's name in the standard.
        record: &'static str,
        /// The bytes in its place.
        found: [u8; 4],
    },
    /// A size or offset should be in the zip64 extra field, and is not.
    #[error("the zip64 extra field lacks the {field}")]
    Zip64Missing {
        /// The number that is missing.
        field: &'static str,
    },
    /// A name is flagged as UTF-8, and is not.
    #[error("a member's name is flagged as UTF-8 and is not")]
    NameEncoding,
    /// More members than this implementation can number.
    #[error("more than 2**32 - 1 members")]
    TooManyMembers,
    /// The directory gives a place for the local header that is not in the file.
    #[error("the local header lies outside the file")]
    LocalOutside,
    /// Directory and local header name different members.
    #[error("the names in the central directory and in the local header differ")]
    NamesDiffer,
    /// Another program changed the member's name where it stands.
    #[error("the member was given another name while the file was open")]
    Renamed,
    /// The member's bytes are said to reach past the end of the file.
    #[error("the member's {size} bytes reach past the end of the file")]
    DataOutside {
        /// The stored size.
        size: u64,
    },
    /// Flag bit 5: a patch to data that is elsewhere.
    #[error("the member is compressed patched data (flag bit 5)")]
    Patched,
    /// Flag bits 0, 6 or 13.
    #[error("the member is encrypted")]
    Encrypted,
    /// A compression method that this implementation does not have.
    #[error("the member is compressed by {}, which mmnpz does not decompress", Method(*.0))]
    Method(u16),
    /// What the compressed bytes of a member say is not what they should say.
    #[error("the member cannot be decompressed: {0}")]
    Compression(&'static str),
    /// Compressed bytes that cannot be those of so many.
    #[error("the member is said to have {size} bytes, which {stored} compressed bytes cannot be")]
    CompressedTooSmall {
        /// The size that the archive gives.
        size: u64,
        /// How many compressed bytes there are.
        stored: u64,
    },
    /// The bytes of a member are not those that were compressed.
    #[error("the member has the CRC-32 {found:#010x}, and the archive says {expected:#010x}")]
    Checksum {
        /// That of the directory.
        expected: u32,
        /// That of the bytes.
        found: u32,
    },
    /// The member ends before its `.npy` header does.
    #[error("the .npy header is cut short: {needed} bytes needed, {found} there")]
    NpyTruncated {
        /// How many bytes the header needs.
        needed: u64,
        /// How many the member has.
        found: u64,
    },
    /// The file does not start with the magic string of NEP 1.
    #[error("not an .npy file: the magic string is {found:02x?}")]
    NpyMagic {
        /// The first six bytes.
        found: [u8; 6],
    },
    /// A format version that `numpy.lib.format` does not define.
    #[error(".npy format version {0}.{1} is unknown (1.0, 2.0 and 3.0 are)")]
    NpyVersion(u8, u8),
    /// The header is longer than the caller allows.
    #[error("the .npy header has {length} characters, more than max_header_size={limit} allows")]
    NpyHeaderTooLong {
        /// Its length in characters.
        length: usize,
        /// The longest one that is allowed.
        limit: usize,
    },
    /// A version 3.0 header that is not UTF-8.
    #[error("the .npy header is not valid UTF-8")]
    NpyEncoding,
    /// The header is not the literal that it should be.
    #[error("bad .npy header: {0}")]
    NpyHeader(LiteralError),
    /// The array needs more bytes than the member stores.
    #[error("shape {shape} with items of {itemsize} bytes does not fit the {stored} bytes that are stored")]
    ShapeMismatch {
        /// The shape, as Python writes it.
        shape: String,
        /// The size of an item.
        itemsize: u64,
        /// The bytes behind the header.
        stored: u64,
    },
    /// A name that no ZIP record can hold.
    #[error(
        "a member's name may have at most 65535 bytes of UTF-8 with its extension, this one has {length}"
    )]
    NameTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A name that other readers would cut short.
    #[error("a member's name may not contain a NUL character")]
    NameWithNul,
    /// Not a power of two, or beyond what a padding field can reach.
    #[error("align must be a power of two from 1 to 32768, got {0}")]
    Alignment(u64),
    /// Sizes that add up to more than 2**64 bytes.
    #[error("the archive would be larger than 2**63 bytes")]
    TooLarge,
    /// An archive gives a size for which there is no memory.
    #[error("no memory for a directory of {size} bytes")]
    NoMemory {
        /// The size of what was to be copied.
        size: usize,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The caller has not fetched a range that must be read.
    #[error("bytes {} to {} of the file were not read", .0.start, .0.end)]
    Missing(Range<u64>),
}

/// A compression method, by its number (APPNOTE 4.4.5).
struct Method(u16);

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "Shrink",
            6 => "Implode",
            9 => "Deflate64",
            12 => "bzip2",
            14 => "LZMA",
            95 => "xz",
            98 => "PPMd",
            method => return write!(f, "method {method}"),
        };
        write!(f, "{name} (method {})", self.0)
    }
}

impl From<Missing> for ErrorKind {
    fn from(Missing(range): Missing) -> Self {
        ErrorKind::Missing(range)
    }
}

impl From<Missing> for Error {
    #[cold]
    fn from(missing: Missing) -> Self {
        ErrorKind::from(missing).into()
    }
}

impl ErrorKind {
    /// The part of the archive that this kind of problem lies in.
    pub fn part(&self) -> Part {
        use ErrorKind as K;
        match self {
            K::NoEndRecord
            | K::SingleNpy
            | K::MultiDisk
            | K::DirectoryOutside { .. }
            | K::DirectoryTruncated
            | K::Signature { .. }
            | K::Zip64Missing { .. }
            | K::NameEncoding
            | K::TooManyMembers
            | K::LocalOutside
            | K::NamesDiffer
            | K::Renamed
            | K::DataOutside { .. }
            | K::Patched
            | K::Compression(_)
            | K::CompressedTooSmall { .. }
            | K::Checksum { .. } => Part::Archive,
            K::Method(_) => Part::Unsupported,
            K::Encrypted
            | K::NpyTruncated { .. }
            | K::NpyMagic { .. }
            | K::NpyVersion(..)
            | K::NpyHeaderTooLong { .. }
            | K::NpyEncoding
            | K::NpyHeader(_)
            | K::ShapeMismatch { .. } => Part::Member,
            K::NameTooLong { .. } | K::NameWithNul | K::Alignment(_) | K::TooLarge => Part::Request,
            K::NoMemory { .. } => Part::Memory,
            K::Interrupted => Part::Interrupted,
            K::Missing(_) => Part::Missing,
        }
    }
}

/// Why a text is not the literal that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LiteralError {
    /// Something else stands there.
    #[error("expected {expected} at character {at}")]
    Expected {
        /// What was expected.
        expected: &'static str,
        /// The byte of the text.
        at: usize,
    },
    /// Brackets nested deeper than any dtype.
    #[error("nested more than 100 levels deep")]
    Depth,
    /// An integer that no dimension can have.
    #[error("the integer at character {at} is out of range")]
    Range {
        /// The byte of the text.
        at: usize,
    },
    /// The text is a literal, but not of the right type: a key is missing, unknown or doubled.
    #[error("{0}")]
    Type(String),
}
