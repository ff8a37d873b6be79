//! The ZIP records, as structs that lie over the bytes (APPNOTE 6.3.10, sections 4.3 and 4.5).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, ErrorKind, Missing, Result};
use crate::window::Window;

/// General-purpose flag bits, section 4.4.4.
pub mod flags {
    /// Bit 0: encrypted.
    pub const ENCRYPTED: u16 = 1;
    /// Bit 3: sizes and CRC follow the data.
    pub const DATA_DESCRIPTOR: u16 = 1 << 3;
    /// Bit 5: compressed patched data.
    pub const PATCHED: u16 = 1 << 5;
    /// Bit 6: strong encryption.
    pub const STRONG_ENCRYPTION: u16 = 1 << 6;
    /// Bit 11: the name is UTF-8.
    pub const UTF8: u16 = 1 << 11;
}

/// Compression method 0, section 4.4.5.
pub const STORED: u16 = 0;

/// The compression method "deflated" (APPNOTE 4.4.5).
pub const DEFLATED: u16 = 8;

/// The compression method "Zstandard" (APPNOTE 4.4.5).
pub const ZSTANDARD: u16 = 93;

/// What stands in place of the compression method where a member is encrypted as WinZip does it.
pub const AES: u16 = 99;

/// The id of the zip64 extra field, section 4.5.3.
pub const ZIP64_EXTRA: u16 = 0x0001;

/// The signature that a data descriptor mostly has, section 4.3.9.3.
pub const DATA_DESCRIPTOR: u32 = 0x0807_4b50;

/// A 32-bit field with this value has its number in the zip64 extra field.
pub const SATURATED: u32 = u32::MAX;

/// A record with a fixed signature and a fixed first part.
pub trait Record: FromBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The four bytes with which such a record starts.
    const SIGNATURE: u32;
    /// Its name in the standard, for messages.
    const NAME: &'static str;
    /// The four bytes with which this one starts.
    fn signature(&self) -> U32;

    /// The record at `offset`, or what is wrong there; `short` if the bytes end before the record does.
    ///
    /// # Errors
    /// `short`, or [`ErrorKind::Signature`].
    fn read(window: Window<'_>, offset: u64, short: ErrorKind) -> Result<&Self> {
        let Some(record) = peek::<Self>(window, offset)? else {
            return Err(Error::at(short, offset));
        };
        if record.signature().get() != Self::SIGNATURE {
            let found = record.signature().to_bytes();
            return Err(Error::at(ErrorKind::Signature { record: Self::NAME, found }, offset));
        }
        Ok(record)
    }

    /// The record at `offset`, if there is one.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    #[inline]
    fn find(window: Window<'_>, offset: u64) -> Result<Option<&Self>, Missing> {
        Ok(peek::<Self>(window, offset)?.filter(|record| record.signature().get() == Self::SIGNATURE))
    }
}

impl EndRecord {
    /// The record at `offset`, whose signature a writer has overwritten.
    pub(crate) fn find_unsigned(window: Window<'_>, offset: u64) -> Result<Option<&Self>, Missing> {
        peek(window, offset)
    }
}

/// The bytes at `offset` seen as a record, whatever its signature.
#[inline]
fn peek<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    window: Window<'_>,
    offset: u64,
) -> Result<Option<&T>, Missing> {
    let bytes = window.get(offset..offset.saturating_add(size_of::<T>() as u64))?;
    Ok(bytes.and_then(|bytes| T::ref_from_bytes(bytes).ok()))
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $signature:literal, $title:literal,
     { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name {
            /// The record's signature.
            pub signature: U32,
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl $name {
            /// The size of the fixed part in bytes.
            pub const SIZE: usize = size_of::<Self>();
        }

        impl Record for $name {
            const SIGNATURE: u32 = $signature;
            const NAME: &'static str = $title;
            fn signature(&self) -> U32 {
                self.signature
            }
        }
    };
}

record! {
    /// Section 4.3.7.
    LocalHeader, 0x0403_4b50, "local file header", {
        /// Version needed to extract.
        version_needed: U16,
        /// General-purpose flags.
        flags: U16,
        /// Compression method.
        method: U16,
        /// MS-DOS time.
        time: U16,
        /// MS-DOS date.
        date: U16,
        /// CRC-32 of the uncompressed data.
        crc: U32,
        /// Compressed size.
        compressed: U32,
        /// Uncompressed size.
        uncompressed: U32,
        /// Length of the name.
        name_len: U16,
        /// Length of the extra field.
        extra_len: U16,
    }
}

record! {
    /// Section 4.3.12.
    CentralHeader, 0x0201_4b50, "central directory header", {
        /// Version made by.
        version_made_by: U16,
        /// Version needed to extract.
        version_needed: U16,
        /// General-purpose flags.
        flags: U16,
        /// Compression method.
        method: U16,
        /// MS-DOS time.
        time: U16,
        /// MS-DOS date.
        date: U16,
        /// CRC-32 of the uncompressed data.
        crc: U32,
        /// Compressed size.
        compressed: U32,
        /// Uncompressed size.
        uncompressed: U32,
        /// Length of the name.
        name_len: U16,
        /// Length of the extra field.
        extra_len: U16,
        /// Length of the comment.
        comment_len: U16,
        /// Disk on which the member starts.
        disk: U16,
        /// Internal attributes.
        internal_attributes: U16,
        /// External attributes.
        external_attributes: U32,
        /// Offset of the local header.
        local_offset: U32,
    }
}

record! {
    /// Section 4.3.16.
    EndRecord, 0x0605_4b50, "end of central directory record", {
        /// This disk.
        disk: U16,
        /// Disk with the start of the directory.
        directory_disk: U16,
        /// Entries on this disk.
        entries_here: U16,
        /// Entries in all.
        entries: U16,
        /// Size of the directory.
        directory_size: U32,
        /// Offset of the directory.
        directory_offset: U32,
        /// Length of the archive comment.
        comment_len: U16,
    }
}

record! {
    /// Section 4.3.14.
    Zip64EndRecord, 0x0606_4b50, "zip64 end of central directory record", {
        /// Size of the rest of this record.
        size: U64,
        /// Version made by.
        version_made_by: U16,
        /// Version needed to extract.
        version_needed: U16,
        /// This disk.
        disk: U32,
        /// Disk with the start of the directory.
        directory_disk: U32,
        /// Entries on this disk.
        entries_here: U64,
        /// Entries in all.
        entries: U64,
        /// Size of the directory.
        directory_size: U64,
        /// Offset of the directory.
        directory_offset: U64,
    }
}

record! {
    /// Section 4.3.15.
    Zip64Locator, 0x0706_4b50, "zip64 end of central directory locator", {
        /// Disk with the zip64 end record.
        disk: U32,
        /// Offset of the zip64 end record.
        end_offset: U64,
        /// Number of disks.
        disks: U32,
    }
}

/// The value of the extra field with this id, if all of it is there.
pub fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if u16::from_le_bytes([head[0], head[1]]) == id {
            return rest.get(..length);
        }
        extra = rest.get(length..)?;
    }
    None
}

/// The numbers of a central header that may overflow into the zip64 extra field (section 4.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Compressed size.
    pub compressed: u64,
    /// Uncompressed size.
    pub uncompressed: u64,
    /// Offset of the local header, as stored.
    pub local_offset: u64,
}

impl Extent {
    /// Reads the numbers of a header whose extra field is `extra`.
    ///
    /// # Errors
    /// [`ErrorKind::Zip64Missing`] if the zip64 field is too short. Without a zip64 field, a saturated number
    /// is the number itself, as for Python's `zipfile`.
    pub fn read(header: &CentralHeader, extra: &[u8]) -> Result<Self, ErrorKind> {
        let mut extent = Extent {
            compressed: header.compressed.get().into(),
            uncompressed: header.uncompressed.get().into(),
            local_offset: header.local_offset.get().into(),
        };
        let saturated = u64::from(SATURATED);
        let numbers = [
            (&mut extent.uncompressed, "uncompressed size"),
            (&mut extent.compressed, "compressed size"),
            (&mut extent.local_offset, "local header offset"),
        ];
        if numbers.iter().all(|(number, _)| **number != saturated) {
            return Ok(extent);
        }
        let Some(mut field) = extra_field(extra, ZIP64_EXTRA) else {
            return Ok(extent);
        };
        for (number, name) in numbers {
            if *number == saturated {
                let Some((value, rest)) = field.split_first_chunk::<8>() else {
                    return Err(ErrorKind::Zip64Missing { field: name });
                };
                *number = u64::from_le_bytes(*value);
                field = rest;
            }
        }
        Ok(extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_sizes_of_the_standard() {
        assert_eq!(LocalHeader::SIZE, 30);
        assert_eq!(CentralHeader::SIZE, 46);
        assert_eq!(EndRecord::SIZE, 22);
        assert_eq!(Zip64EndRecord::SIZE, 56);
        assert_eq!(Zip64Locator::SIZE, 20);
    }

    #[test]
    fn a_wrong_signature_is_reported_with_its_bytes_and_place() {
        let mut bytes = vec![0; 64];
        bytes[8..12].copy_from_slice(b"PK\x03\x05");
        let error = LocalHeader::read((&bytes).into(), 8, ErrorKind::LocalOutside).unwrap_err();
        assert_eq!(error.offset, Some(8));
        assert!(matches!(error.kind, ErrorKind::Signature { found: [b'P', b'K', 3, 5], .. }));
        let error = LocalHeader::read((&bytes).into(), 40, ErrorKind::LocalOutside).unwrap_err();
        assert_eq!(error.kind, ErrorKind::LocalOutside);
    }

    #[test]
    fn extra_fields_are_found_behind_others_and_never_past_the_end() {
        let extra = [0xfe, 0xca, 2, 0, 9, 9, 1, 0, 3, 0, 1, 2, 3];
        assert_eq!(extra_field(&extra, 1), Some(&[1, 2, 3][..]));
        assert_eq!(extra_field(&extra[..12], 1), None);
        assert_eq!(extra_field(&extra, 7), None);
        assert_eq!(extra_field(&extra[..8], 1), None);
    }
}
