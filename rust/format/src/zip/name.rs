//! Member names: from the bytes of a record to the text that users look up.
//!
//! The rules are those of Python's `zipfile`: UTF-8 where flag bit 11 says so, otherwise code page 437
//! (APPNOTE appendix D), cut at the first NUL.

use std::borrow::Cow;

use crate::error::{self, ErrorKind};
use crate::zip::records::flags;

/// The extension of the members that are arrays.
pub const EXTENSION: &str = ".npy";

/// Code page 437, upper half.
const CP437: [char; 128] = [
    'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å', //
    'É', 'æ', 'Æ', 'ô', 'ö', 'ò', 'û', 'ù', 'ÿ', 'Ö', 'Ü', '¢', '£', '¥', '₧', 'ƒ', //
    'á', 'í', 'ó', 'ú', 'ñ', 'Ñ', 'ª', 'º', '¿', '⌐', '¬', '½', '¼', '¡', '«', '»', //
    '░', '▒', '▓', '│', '┤', '╡', '╢', '╖', '╕', '╣', '║', '╗', '╝', '╜', '╛', '┐', //
    '└', '┴', '┬', '├', '─', '┼', '╞', '╟', '╚', '╔', '╩', '╦', '╠', '═', '╬', '╧', //
    '╨', '╤', '╥', '╙', '╘', '╒', '╓', '╫', '╪', '┘', '┌', '█', '▄', '▌', '▐', '▀', //
    'α', 'ß', 'Γ', 'π', 'Σ', 'σ', 'µ', 'τ', 'Φ', 'Θ', 'Ω', 'δ', '∞', 'φ', 'ε', '∩', //
    '≡', '±', '≥', '≤', '⌠', '⌡', '÷', '≈', '°', '∙', '·', '√', 'ⁿ', '²', '■', '\u{a0}',
];

/// A name is flagged as UTF-8 and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// The text of a name as `zipfile` shows it.
///
/// # Errors
/// [`NotUtf8`] if it is flagged as UTF-8 and is not.
pub fn decode(raw: &[u8], flag_bits: u16) -> Result<Cow<'_, str>, NotUtf8> {
    let cut = raw.iter().position(|&byte| byte == 0);
    if raw.is_ascii() || flag_bits & flags::UTF8 != 0 {
        let text = std::str::from_utf8(raw).map_err(|_| NotUtf8)?;
        Ok(Cow::Borrowed(cut.map_or(text, |end| &text[..end])))
    } else {
        let raw = cut.map_or(raw, |end| &raw[..end]);
        let text = raw.iter().map(|&byte| match byte {
            0..=0x7f => char::from(byte),
            _ => CP437[usize::from(byte & 0x7f)],
        });
        Ok(Cow::Owned(text.collect()))
    }
}

/// The name under which an array is listed, as UTF-8: without its extension; `None` for other members.
///
/// # Errors
/// [`NotUtf8`] as for [`decode`].
#[inline]
pub fn array_name(raw: &[u8], flag_bits: u16) -> Result<Option<Cow<'_, [u8]>>, NotUtf8> {
    // Nearly all names are their own text, and an archive can have a million of them.
    if is_plain(raw) {
        return Ok(raw.strip_suffix(EXTENSION.as_bytes()).map(Cow::Borrowed));
    }
    decoded_array_name(raw, flag_bits)
}

/// The name under which a member is found: that of an array or, with `is_whole`, the whole name. None if it
/// has no such name.
#[inline]
pub(crate) fn key(raw: &[u8], flag_bits: u16, is_whole: bool) -> Option<Cow<'_, [u8]>> {
    if is_whole { whole_key(raw, flag_bits) } else { array_name(raw, flag_bits).ok()? }
}

#[cold]
fn whole_key(raw: &[u8], flag_bits: u16) -> Option<Cow<'_, [u8]>> {
    Some(match decode(raw, flag_bits).ok()? {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

#[cold]
fn decoded_array_name(raw: &[u8], flag_bits: u16) -> Result<Option<Cow<'_, [u8]>>, NotUtf8> {
    Ok(match decode(raw, flag_bits)? {
        Cow::Borrowed(text) => text.strip_suffix(EXTENSION).map(|name| Cow::Borrowed(name.as_bytes())),
        Cow::Owned(text) => text.strip_suffix(EXTENSION).map(|name| Cow::Owned(name.as_bytes().to_vec())),
    })
}

/// ASCII without a NUL, eight bytes at a time.
#[inline]
fn is_plain(raw: &[u8]) -> bool {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (chunks, rest) = raw.as_chunks::<8>();
    let plain = |&chunk: &[u8; 8]| {
        let word = u64::from_ne_bytes(chunk);
        // If no byte has its high bit set, subtracting 1 from each sets the high bit only where a byte was
        // zero.
        (word | word.wrapping_sub(LOW)) & HIGH == 0
    };
    match raw.last_chunk::<8>() {
        Some(last) => chunks.iter().all(plain) && plain(last),
        None => rest.iter().all(|byte| (1..0x80).contains(byte)),
    }
}

/// Whether an array of this stored name is listed as `name`.
#[inline]
pub fn is_array_name(raw: &[u8], flag_bits: u16, name: &[u8]) -> bool {
    array_name(raw, flag_bits).is_ok_and(|other| other.as_deref() == Some(name))
}

/// The name of a member as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    pub(crate) bytes: Vec<u8>,
    pub(crate) flags: u16,
}

impl StoredName {
    /// The stored name of the array `name`: UTF-8, flagged as such where it is not ASCII.
    ///
    /// # Errors
    /// If it is too long for a ZIP record or contains a NUL.
    #[inline]
    pub fn new(name: &str) -> error::Result<Self> {
        let bytes = [name.as_bytes(), EXTENSION.as_bytes()].concat();
        if u16::try_from(bytes.len()).is_err() {
            return Err(ErrorKind::NameTooLong { length: bytes.len() }.into());
        }
        if name.contains('\0') {
            return Err(ErrorKind::NameWithNul.into());
        }
        let flags = if bytes.is_ascii() { 0 } else { flags::UTF8 };
        Ok(StoredName { bytes, flags })
    }

    /// The name without its extension.
    pub fn array_name(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - EXTENSION.len()]
    }

    /// The whole name.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of the whole name; `new` checks that it is less than 2**16.
    pub(crate) fn len(&self) -> u16 {
        self.bytes.len() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decode_as_zipfile_does() {
        assert_eq!(decode(b"a/b.npy", 0).unwrap(), "a/b.npy");
        assert_eq!(decode("ünï.npy".as_bytes(), flags::UTF8).unwrap(), "ünï.npy");
        assert_eq!(decode(b"\x81\xff.npy", 0).unwrap(), "ü\u{a0}.npy");
        assert_eq!(decode(b"a\0b.npy", 0).unwrap(), "a");
        assert_eq!(decode(b"\x81\0b.npy", 0).unwrap(), "ü");
        assert_eq!(decode(b"\xff", flags::UTF8), Err(NotUtf8));
    }

    #[test]
    fn plain_names_are_ascii_without_nul() {
        for length in 0..20 {
            let name = vec![b'x'; length];
            assert!(is_plain(&name));
            for at in 0..length {
                for (byte, plain) in [(0, false), (1, true), (0x7f, true), (0x80, false), (0xff, false)] {
                    let mut name = name.clone();
                    name[at] = byte;
                    assert_eq!(is_plain(&name), plain, "{name:?}");
                }
            }
        }
    }

    #[test]
    fn only_arrays_are_listed() {
        let name =
            |raw| array_name(raw, 0).unwrap().map(|name| String::from_utf8(name.into_owned()).unwrap());
        assert_eq!(name(b"x.npy").as_deref(), Some("x"));
        assert_eq!(name(b".npy").as_deref(), Some(""));
        assert_eq!(name(b"\x81.npy").as_deref(), Some("ü"));
        assert_eq!(name(b"x.npy\0").as_deref(), Some("x"));
        assert_eq!(name(b"x\0.npy"), None);
        assert_eq!(name(b"x.txt"), None);
        assert_eq!(name(b"dir/"), None);
    }

    #[test]
    fn names_that_zip_cannot_hold_are_refused() {
        assert!(StoredName::new(&"x".repeat(65_531)).is_ok());
        let kind = |name: &str| StoredName::new(name).unwrap_err().kind;
        assert_eq!(kind(&"x".repeat(65_532)), ErrorKind::NameTooLong { length: 65_536 });
        assert_eq!(kind("a\0b"), ErrorKind::NameWithNul);
        assert_eq!(StoredName::new("é").unwrap().flags, flags::UTF8);
        assert_eq!(StoredName::new("e").unwrap().flags, 0);
    }
}
