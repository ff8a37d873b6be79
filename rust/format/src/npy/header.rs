//! The `.npy` header (NEP 1; versions 1.0 to 3.0 of `numpy.lib.format`).

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Missing, Result};
use crate::npy::literal::{self, Literal};
use crate::window::Window;

/// The first six bytes of an `.npy` file.
pub const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// By default, headers of more characters are refused, as by NumPy: to evaluate a header takes time and
/// memory in proportion to its length.
pub const MAX_HEADER_SIZE: usize = 10_000;

/// The data of an `.npy` file starts at a multiple of this, counted from the magic string.
const HEADER_ALIGN: usize = 64;

/// The digits that NumPy leaves room for in the axis along which an array may grow: `len(str(8 * 2**64 -
/// 1))`.
const GROWTH_DIGITS: usize = 21;

/// The shape of an array: a Python tuple of dimensions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "$tuple")]
pub struct Shape(pub Vec<u64>);

/// What an `.npy` header says of its array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header<'a> {
    /// The dtype, as `numpy.lib.format.dtype_to_descr` describes it.
    #[serde(borrow)]
    pub descr: Literal<'a>,
    /// Fortran order (first axis fastest) instead of C order.
    pub fortran_order: bool,
    /// The dimensions.
    pub shape: Shape,
}

impl<'a> Header<'a> {
    /// Reads the header at the start of `file`, the bytes of one `.npy` file, and says where its data starts.
    ///
    /// # Errors
    /// For everything that `numpy.lib.format` refuses, and for negative or boolean dimensions.
    pub fn parse(file: &'a [u8], max_header_size: usize) -> Result<(Self, usize)> {
        Self::read(file.into(), 0..file.len() as u64, max_header_size)
    }

    /// Reads the header of the `.npy` file in this range of an archive, and says where its data starts in it.
    ///
    /// # Errors
    /// As for [`Header::parse`], and [`ErrorKind::Missing`].
    pub fn read(window: Window<'a>, file: Range<u64>, max_header_size: usize) -> Result<(Self, usize)> {
        let found = file.end.saturating_sub(file.start);
        let part = |part: Range<u64>| -> Result<&'a [u8]> {
            let truncated = ErrorKind::NpyTruncated { needed: part.end, found };
            if part.end > found {
                return Err(truncated.into());
            }
            window.get(file.start + part.start..file.start + part.end)?.ok_or_else(|| truncated.into())
        };
        let start = part(0..8)?.first_chunk::<8>();
        let [magic @ .., major, minor] = *start.ok_or(ErrorKind::NpyTruncated { needed: 8, found })?;
        if magic != MAGIC {
            return Err(ErrorKind::NpyMagic { found: magic }.into());
        }
        let prefix: u64 = match (major, minor) {
            (1, 0) => 10,
            (2 | 3, 0) => 12,
            _ => return Err(ErrorKind::NpyVersion(major, minor).into()),
        };
        let mut length = [0; 4];
        length.iter_mut().zip(part(8..prefix)?).for_each(|(to, from)| *to = *from);
        let length = u32::from_le_bytes(length) as usize;
        let end = prefix + length as u64;
        let too_long = |length| Error::from(ErrorKind::NpyHeaderTooLong { length, limit: max_header_size });
        // A character has at most four bytes. So a header that is too long by its bytes is refused before it
        // is decoded or fetched.
        if end <= found && length / 4 > max_header_size {
            return Err(too_long(length));
        }
        let bytes = part(prefix..end)?;
        let end = prefix as usize + length;
        if bytes.len() <= max_header_size
            && let Some(header) = canonical(bytes)
        {
            return Ok((header, end));
        }
        // First copied, then looked at: others may write to a map.
        let bytes = bytes.to_vec();
        let text = if major == 3 || bytes.is_ascii() {
            String::from_utf8(bytes).map_err(|_| ErrorKind::NpyEncoding)?
        } else {
            bytes.into_iter().map(char::from).collect()
        };
        if text.len() > max_header_size {
            let characters = text.chars().count();
            if characters > max_header_size {
                return Err(too_long(characters));
            }
        }
        let python2 = major < 3;
        let header = literal::from_str::<Header<'_>>(&text, python2).map(Header::into_owned);
        Ok((header.map_err(ErrorKind::NpyHeader)?, end))
    }

    /// The header, with no part of the bytes that it was read from.
    #[must_use]
    pub fn into_owned(self) -> Header<'static> {
        Header { descr: self.descr.into_owned(), fortran_order: self.fortran_order, shape: self.shape }
    }

    /// How many bytes the array has if an item has `itemsize`, checked against the `stored` bytes behind the
    /// header. Further bytes are ignored, as NumPy does.
    ///
    /// # Errors
    /// [`ErrorKind::ShapeMismatch`] if the stored bytes are too few.
    pub fn data_len(&self, itemsize: u64, stored: u64) -> Result<u64> {
        let dimensions = &self.shape.0;
        let empty = dimensions.contains(&0);
        // NumPy leaves axes of length zero out when it asks whether an array is too large, and counts the
        // elements of others even if they have no bytes.
        let each = if empty { itemsize } else { itemsize.max(1) };
        let mut nonzero = dimensions.iter().filter(|&&dimension| dimension != 0);
        let product = nonzero.try_fold(each, |product, &dimension| product.checked_mul(dimension));
        let length = product
            .filter(|&product| i64::try_from(product).is_ok())
            .map(|product| if itemsize == 0 || empty { 0 } else { product });
        match length {
            Some(length) if length <= stored => Ok(length),
            _ => {
                let shape = literal::to_string(&self.shape).unwrap_or_default();
                Err(ErrorKind::ShapeMismatch { shape, itemsize, stored }.into())
            }
        }
    }
}

/// Reads a header of a plain dtype that is spelt exactly as NumPy spells it. The general reader reads all
/// others, and would read this one the same way, but slower: it takes a third of the time of a first access
/// to a member.
fn canonical(text: &[u8]) -> Option<Header<'_>> {
    let rest = text.strip_prefix(b"{'descr': '")?;
    let (descr, rest) =
        rest.split_at(rest.iter().position(|byte| !matches!(byte, b'!'..=b'&' | b'('..=b'[' | b']'..=b'~'))?);
    let descr = std::str::from_utf8(descr).ok()?;
    let rest = rest.strip_prefix(b"', 'fortran_order': ")?;
    let (fortran_order, rest) = match rest.strip_prefix(b"False") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix(b"True")?),
    };
    let mut rest = rest.strip_prefix(b", 'shape': (")?;
    let mut shape = Vec::with_capacity(4);
    while let [b'0'..=b'9', ..] = rest {
        let mut dimension = 0u64;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 18 || (rest[0] == b'0' && digits > 1) {
            return None;
        }
        for byte in &rest[..digits] {
            dimension = dimension * 10 + u64::from(byte - b'0');
        }
        shape.push(dimension);
        rest = &rest[digits..];
        match rest {
            [b',', b' ', b'0'..=b'9', ..] => rest = &rest[2..],
            [b',', b')', ..] if shape.len() == 1 => rest = &rest[1..],
            [b')', ..] if shape.len() > 1 => break,
            _ => return None,
        }
    }
    let padding = rest.strip_prefix(b"), }")?;
    let blank = padding.iter().all(|byte| matches!(byte, b' ' | b'\n'));
    blank.then_some(Header { descr: Literal::Str(Cow::Borrowed(descr)), fortran_order, shape: Shape(shape) })
}

/// The bytes of a header, from its magic string to the newline in front of the data, as `numpy.save` writes
/// it.
///
/// `descr` is the Python source of the dtype's description. `growth` leaves room for a longer first (or, in
/// Fortran order, last) dimension: NumPy 1.24 and newer do, NumPy 1.23 does not.
///
/// # Errors
/// If the header would be longer than 4 GiB.
pub fn encode(descr: &str, fortran_order: bool, shape: &[u64], growth: bool) -> Result<Vec<u8>> {
    let mut header = Vec::new();
    encode_to(&mut header, descr, fortran_order, shape, growth)?;
    Ok(header)
}

/// As [`encode`], into `header`, whose content it replaces.
///
/// # Errors
/// As for [`encode`].
pub fn encode_to(
    header: &mut Vec<u8>,
    descr: &str,
    fortran_order: bool,
    shape: &[u64],
    growth: bool,
) -> Result<()> {
    // Nearly all headers fit into version 1.0, whose length has two bytes.
    header.clear();
    header.reserve(descr.len() + 256);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&[1, 0, 0, 0]);
    let text_start = header.len();
    header.extend_from_slice(b"{'descr': ");
    let is_ascii = descr.is_ascii();
    let is_latin1 = is_ascii || descr.chars().all(|character| u32::from(character) < 256);
    if is_ascii || !is_latin1 {
        header.extend_from_slice(descr.as_bytes());
    } else {
        // Every character is one byte of Latin-1.
        header.extend(descr.chars().map(|character| (u32::from(character) & 0xff) as u8));
    }
    header.extend_from_slice(if fortran_order {
        b", 'fortran_order': True"
    } else {
        b", 'fortran_order': False"
    });
    header.extend_from_slice(b", 'shape': (");
    for (axis, &dimension) in shape.iter().enumerate() {
        if axis > 0 {
            header.extend_from_slice(b", ");
        }
        push_decimal(dimension, header);
    }
    header.extend_from_slice(if shape.len() == 1 { b",), }" } else { b"), }" });
    let axis = if fortran_order { shape.last() } else { shape.first() };
    if let (true, Some(dimension)) = (growth, axis) {
        let digits = dimension.checked_ilog10().map_or(1, |log| log as usize + 1);
        header.resize(header.len() + GROWTH_DIGITS - digits, b' ');
    }
    if is_latin1 && let Ok(length) = u16::try_from(padded_len(text_start, header.len() - text_start)) {
        header[8..10].copy_from_slice(&length.to_le_bytes());
    } else {
        let length = padded_len(text_start + 2, header.len() - text_start);
        let length = u32::try_from(length).map_err(|_| ErrorKind::TooLarge)?;
        // A header that Latin-1 cannot hold is UTF-8, in version 3.0. The length counts bytes.
        header[6] = if is_latin1 { 2 } else { 3 };
        header.splice(8..10, length.to_le_bytes());
    }
    // At least one byte of padding, for the newline.
    let end = (header.len() + 1) / HEADER_ALIGN * HEADER_ALIGN + HEADER_ALIGN;
    header.resize(end - 1, b' ');
    header.push(b'\n');
    Ok(())
}

/// The length of a header's text with its padding and newline, behind a prefix of `prefix` bytes. NumPy pads
/// by 1 to 64 bytes, never by none, counting the newline as part of the text.
fn padded_len(prefix: usize, text: usize) -> usize {
    text + 1 + HEADER_ALIGN - (prefix + text + 1) % HEADER_ALIGN
}

/// The header of the `.npy` file at byte `at`, from its magic string to the newline in front of the data, if
/// it has at most `most` bytes.
///
/// # Errors
/// If it was not fetched.
pub fn bytes_at(window: Window<'_>, at: u64, most: usize) -> Result<Option<&[u8]>, Missing> {
    let Some(start) = window.get(at..at.saturating_add(12))? else { return Ok(None) };
    let length = match start {
        [magic @ .., 1, 0, low, high, _, _] if *magic == MAGIC => {
            10 + usize::from(u16::from_le_bytes([*low, *high]))
        }
        [magic @ .., 2 | 3, 0, a, b, c, d] if *magic == MAGIC => {
            12 + u32::from_le_bytes([*a, *b, *c, *d]) as usize
        }
        _ => return Ok(None),
    };
    if length > most { Ok(None) } else { window.get(at..at + length as u64) }
}

/// A header that [`encode`] made, for an array with another first dimension: of the same length, as it has
/// room for any. None if it is no such header.
pub fn with_rows(header: &[u8], rows: u64) -> Option<Vec<u8>> {
    const SHAPE: &[u8] = b", 'shape': (";
    let at = header.windows(SHAPE.len()).rposition(|part| part == SHAPE)? + SHAPE.len();
    let digits = header[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut out = header[..at].to_vec();
    push_decimal(rows, &mut out);
    let text = header[at + digits..].strip_suffix(b"\n")?.trim_ascii_end();
    out.extend_from_slice(text);
    if digits == 0 || out.len() >= header.len() {
        return None;
    }
    out.resize(header.len() - 1, b' ');
    out.push(b'\n');
    Some(out)
}

fn push_decimal(mut number: u64, text: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        // A digit.
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(version: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        } else {
            bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        }
        bytes.extend(text);
        bytes
    }

    fn kind(bytes: &[u8]) -> ErrorKind {
        Header::parse(bytes, MAX_HEADER_SIZE).unwrap_err().kind
    }

    const GOOD: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }";

    #[test]
    fn reads_all_versions() {
        for version in 1..=3 {
            let bytes = file(version, GOOD.as_bytes());
            let (header, end) = Header::parse(&bytes, MAX_HEADER_SIZE).unwrap();
            assert_eq!(end, bytes.len());
            assert_eq!(header.descr, Literal::Str("<f4".into()));
            assert_eq!((header.fortran_order, header.shape), (false, Shape(vec![3, 4])));
        }
    }

    #[test]
    fn version_1_is_latin_1_and_version_3_is_utf_8() {
        let text = |name: &[u8]| {
            [b"{'descr': [('", name, b"', '<f4')], 'fortran_order': True, 'shape': ()}"].concat()
        };
        for (version, name) in [(1, &b"\xe9"[..]), (2, b"\xe9"), (3, b"\xc3\xa9")] {
            let bytes = file(version, &text(name));
            let (header, _) = Header::parse(&bytes, MAX_HEADER_SIZE).unwrap();
            let field = Literal::Tuple(vec![Literal::Str("é".into()), Literal::Str("<f4".into())]);
            assert_eq!(header.descr, Literal::List(vec![field]));
        }
        assert_eq!(kind(&file(3, &text(b"\xe9"))), ErrorKind::NpyEncoding);
    }

    #[test]
    fn python_2_headers_are_read_but_not_as_version_3() {
        let text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10L,)}";
        assert_eq!(Header::parse(&file(1, text), MAX_HEADER_SIZE).unwrap().0.shape, Shape(vec![10]));
        assert!(matches!(kind(&file(3, text)), ErrorKind::NpyHeader(_)));
    }

    #[test]
    fn truncation_anywhere_is_reported_with_what_is_needed() {
        let bytes = file(2, GOOD.as_bytes());
        for length in 0..bytes.len() {
            let found = length as u64;
            let needed = [8, 12, bytes.len()].into_iter().find(|&n| n > length).unwrap() as u64;
            assert_eq!(kind(&bytes[..length]), ErrorKind::NpyTruncated { needed, found });
        }
    }

    #[test]
    fn magic_and_version_are_checked() {
        assert_eq!(kind(b"\x93NUMPX\x01\x00"), ErrorKind::NpyMagic { found: *b"\x93NUMPX" });
        assert_eq!(kind(b"\x93NUMPY\x04\x00"), ErrorKind::NpyVersion(4, 0));
        assert_eq!(kind(b"\x93NUMPY\x01\x01"), ErrorKind::NpyVersion(1, 1));
    }

    #[test]
    fn long_headers_are_refused_by_their_characters() {
        let padded = |length: usize| GOOD.to_owned() + &" ".repeat(length - GOOD.len());
        assert!(Header::parse(&file(2, padded(10_000).as_bytes()), MAX_HEADER_SIZE).is_ok());
        let too_long = |length| ErrorKind::NpyHeaderTooLong { length, limit: MAX_HEADER_SIZE };
        assert_eq!(kind(&file(2, padded(10_001).as_bytes())), too_long(10_001));
        assert_eq!(kind(&file(2, padded(1_000_000).as_bytes())), too_long(1_000_000));
        let name = "é".repeat(6_000);
        let text = format!("{{'descr': [('{name}', '<f4')], 'fortran_order': True, 'shape': ()}}");
        assert!(Header::parse(&file(3, text.as_bytes()), MAX_HEADER_SIZE).is_ok());
    }

    #[test]
    fn what_numpy_refuses_is_refused() {
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': [3]}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3.0,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}",
            "{'descr': None, 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)},",
            "[]",
            "__import__('os')",
        ] {
            assert!(matches!(kind(&file(1, text.as_bytes())), ErrorKind::NpyHeader(_)), "{text}");
        }
    }

    #[test]
    fn shapes_must_fit_what_is_stored() {
        let header = |shape: &[u64]| Header {
            descr: Literal::Str("<f4".into()),
            fortran_order: false,
            shape: Shape(shape.to_vec()),
        };
        assert_eq!(header(&[3, 4]).data_len(4, 48), Ok(48));
        assert_eq!(header(&[3, 4]).data_len(4, 100), Ok(48));
        assert_eq!(header(&[]).data_len(4, 4), Ok(4));
        assert_eq!(header(&[1 << 60, 0]).data_len(4, 0), Ok(0));
        assert_eq!(header(&[1 << 62]).data_len(0, 0), Ok(0));
        assert_eq!(header(&[1 << 62, 1 << 62, 0]).data_len(0, 0), Ok(0));
        for (shape, itemsize) in [(&[1 << 32, 1 << 32][..], 0), (&[1 << 62, 0], 8)] {
            let kind = header(shape).data_len(itemsize, 100).unwrap_err().kind;
            assert!(matches!(kind, ErrorKind::ShapeMismatch { .. }), "{shape:?} {itemsize}");
        }
        for (shape, stored) in [(&[3, 4][..], 47), (&[1 << 32, 1 << 32], 1 << 40), (&[u64::MAX], u64::MAX)] {
            let kind = header(shape).data_len(4, stored).unwrap_err().kind;
            assert!(matches!(kind, ErrorKind::ShapeMismatch { itemsize: 4, .. }));
        }
    }

    #[test]
    fn what_numpy_writes_goes_the_short_way() {
        for (shape, fortran_order) in [(&[][..], false), (&[7], false), (&[0], true), (&[3, 40, 500], true)] {
            let bytes = encode("'<f4'", fortran_order, shape, true).unwrap();
            let header = canonical(&bytes[10..]).unwrap();
            assert_eq!((header.fortran_order, &header.shape.0[..]), (fortran_order, shape));
        }
    }

    #[test]
    fn headers_are_those_of_numpy_save() {
        // From numpy.save(file, numpy.zeros((3, 4), "<f4")) of NumPy 2.4 and of NumPy 1.23.
        let text = format!("{GOOD:117}\n");
        assert_eq!(encode("'<f4'", false, &[3, 4], true).unwrap(), file(1, text.as_bytes()));
        assert_eq!(encode("'<f4'", false, &[3, 4], false).unwrap(), file(1, text.as_bytes()));
        // 21 more characters make this one cross a multiple of 64.
        let descr = "'<U10000000000000000000000000000000000000000000000000000'";
        assert_eq!(encode(descr, false, &[], true).unwrap().len(), 128);
        assert_eq!(encode(descr, false, &[3], false).unwrap().len(), 128);
        assert_eq!(encode(descr, false, &[3], true).unwrap().len(), 192);
        assert_eq!(encode(&format!("'{}'", "x".repeat(70_000)), false, &[], true).unwrap()[6], 2);
        assert_eq!(encode("[('é', '<f4')]", false, &[], true).unwrap()[6], 1);
        assert_eq!(encode("[('日', '<f4')]", false, &[], true).unwrap()[6], 3);
    }

    proptest! {
        #[test]
        fn parse_undoes_encode(
            descr in "'[<>|][a-zA-Z][0-9]{0,3}'|\\[\\('[a-zé日]{1,70}', '<f4', \\(2, 3\\)\\)\\]",
            fortran_order: bool,
            shape in prop::collection::vec(0..=u64::MAX >> 1, 0..5),
            growth: bool,
        ) {
            let bytes = encode(&descr, fortran_order, &shape, growth).unwrap();
            prop_assert_eq!(bytes.len() % 64, 0);
            let (header, end) = Header::parse(&bytes, MAX_HEADER_SIZE).unwrap();
            prop_assert_eq!(end, bytes.len());
            prop_assert_eq!(literal::to_string(&header.descr).unwrap(), descr);
            prop_assert_eq!((header.fortran_order, &header.shape.0), (fortran_order, &shape));
            // The derived form is the same literal.
            let text = literal::to_string(&header).unwrap();
            prop_assert_eq!(literal::from_str::<Header<'_>>(&text, false), Ok(header));
        }

        #[test]
        fn the_short_way_reads_what_the_general_one_reads(
            text in r"\{'descr': '[<>|a-z0-9\\ ]{0,5}', 'fortran_order': (True|False|1), 'shape': \([0-9]{0,3}(, ?[0-9]{1,20}){0,3},?\), \}[ #\n,]{0,4}",
        ) {
            if let Some(header) = canonical(text.as_bytes()) {
                prop_assert_eq!(literal::from_str::<Header<'_>>(&text, true), Ok(header));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, version in 1u8..4) {
            let _ = Header::parse(&bytes, MAX_HEADER_SIZE);
            let _ = Header::parse(&file(version, &bytes), MAX_HEADER_SIZE);
        }
    }
}
