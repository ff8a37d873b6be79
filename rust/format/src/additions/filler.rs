//! Fillers: members that stand where a member could not be written, so that members still follow one another.
//!
//! When a write fails, another thread may already have written behind its range; a killed writer leaves such
//! ranges, too. Programs that go from local header to local header must get across. A *filler* is a stored
//! member that no directory lists. Its name does not end in `.npy`, so readers do not take it for an array.
//! Yet it holds an array of bytes, because readers such as cnpy parse every member that they meet. The bytes
//! are zeros, or a directory of another program.

use std::ops::Range;

use crate::additions::local_member::LocalMember;
use crate::error::Missing;
use crate::window::{Window, of_zeros};
use crate::zip::encode;
use crate::zip::records::{LocalHeader, Record};

/// The name of a filler.
pub const NAME: &[u8] = b"mmnpz.gap";

/// The start of an `.npy` header of 96 bytes, which has room for a dimension of any size: magic string,
/// version 1.0, length. With so short a header, a filler fits where a fence and a seal were.
const NPY_HEAD: [u8; 10] = *b"\x93NUMPY\x01\x00\x56\x00";

pub(crate) const NPY_HEADER: u64 = 96;

/// A range of the file, and the filler to write there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filler {
    /// The range of the file that it fills.
    pub range: Range<u64>,
    /// Where the headers of the filler end. From here to the end of the range, all bytes must be zeros.
    pub zeros: u64,
    npy: Vec<u8>,
}

impl Filler {
    /// The shortest range that can be filled.
    pub const LEAST: u64 = LocalHeader::SIZE as u64 + NAME.len() as u64 + NPY_HEADER;

    /// The filler of this range, if the range is large enough. The range of any member is.
    pub fn new(range: Range<u64>) -> Option<Self> {
        let size = range.end.checked_sub(range.start)?;
        let file = range.start + encode::local_len(NAME.len(), size);
        let zeros = file + NPY_HEADER;
        let count = range.end.checked_sub(zeros)?;
        Some(Filler { range, zeros, npy: npy_header(count) })
    }

    /// The bytes from the start of the range up to [`Filler::zeros`].
    pub fn head(&self) -> Vec<u8> {
        let zeros = self.range.end - self.zeros;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.npy);
        crc.combine(&of_zeros(zeros));
        let mut out =
            encode::plain_local(NAME, NPY_HEADER + zeros, self.range.end - self.range.start, crc.finalize());
        out.extend_from_slice(&self.npy);
        out
    }

    /// Whether a filler starts at this byte, by its name.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    pub fn is_at(window: Window<'_>, at: u64) -> Result<bool, Missing> {
        let name_at = at.saturating_add(LocalHeader::SIZE as u64);
        Ok(LocalHeader::find(window, at)?
            .is_some_and(|header| usize::from(header.name_len.get()) == NAME.len())
            && window.get(name_at..name_at.saturating_add(NAME.len() as u64))? == Some(NAME))
    }
}

/// The filler that starts at this byte, if there is one.
pub(crate) fn read(window: Window<'_>, at: u64) -> Result<Option<LocalMember>, Missing> {
    if Filler::is_at(window, at)? { LocalMember::read(window, at) } else { Ok(None) }
}

/// The header of an `.npy` file with an array of `count` bytes.
pub(crate) fn npy_header(count: u64) -> Vec<u8> {
    let mut npy = NPY_HEAD.to_vec();
    npy.extend_from_slice(
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count},), }}").as_bytes(),
    );
    npy.resize(NPY_HEADER as usize - 1, b' ');
    npy.push(b'\n');
    npy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filler_is_a_stored_member_with_the_right_checksum() {
        assert_eq!(Filler::new(100..100 + Filler::LEAST - 1), None);
        for size in [Filler::LEAST, 142, 1000, 70_000] {
            let filler = Filler::new(100..100 + size).unwrap();
            let mut bytes = vec![7; 100];
            bytes.extend(filler.head());
            assert_eq!(bytes.len() as u64, filler.zeros);
            bytes.resize(100 + size as usize, 0);
            let file = Window::from(&bytes);
            let local = read(file, 100).unwrap().unwrap();
            assert_eq!((local.name(file), local.end), (Ok(NAME), 100 + size));
            assert!(local.is_sound(file).unwrap() && !Filler::is_at(file, 99).unwrap());
            assert_eq!(LocalMember::marked(file, 100), Ok(None));
        }
        let large = Filler::new(0..10 << 30).unwrap();
        let local = LocalMember::read((&large.head()).into(), 0).unwrap().unwrap();
        assert_eq!(local.end, 10 << 30);
    }
}
