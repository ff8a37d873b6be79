//! The array field: an extra field of a member's entry that repeats the member's `.npy` header.
//!
//! A reader that has the directory can make a view of a member without reading a page of the member. The
//! field starts with a checksum of the whole record, so a reader ignores it once a program has changed
//! anything in the record. A reader believes it only while the archive is laid out as mmnpz wrote it, which
//! the seal tells: a program that moves a member and keeps its record moves other parts of the archive, too.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::additions::checksum;
use crate::npy::axes::Axes;
use crate::npy::header::{Header, Shape};
use crate::npy::literal::{self, Literal};
use crate::zip::central::CentralRecord;
use crate::zip::records::{CentralHeader, extra_field};

/// The id of the extra field.
const EXTRA: u16 = 0x6d6d;

/// The number and the length of the field. A checksum follows, and then the content.
const HEAD: usize = 4;

const CHECK: usize = 4;

/// For a longer description of a dtype there is no array field, and readers read the `.npy` header: such an
/// archive is not hurt by one more page for a member.
const MAX_DESCR: usize = 1024;

/// The most axes that a NumPy array has.
const MAX_AXES: usize = 64;

/// An array, as the writer describes it.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// Python source of the dtype's description.
    pub descr: &'a str,
    /// Fortran order (first axis fastest) instead of C order.
    pub fortran_order: bool,
    /// The dimensions.
    pub shape: &'a [u64],
    /// The length of its `.npy` header.
    pub header: usize,
}

/// The extra field behind the checksum, in the format of `postcard`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content<'a, S> {
    /// The distance from the local header to the array.
    data: u32,
    #[serde(borrow)]
    array: Array<'a, S>,
}

/// The part that all arrays with the same header share. A reader chooses what it makes of the shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Array<'a, S> {
    /// The length of the `.npy` header, which ends where the array starts.
    header: u32,
    fortran_order: bool,
    /// A dtype string without quotes, or the Python source of any other description, which starts with a
    /// bracket or a quote.
    descr: &'a str,
    shape: S,
}

/// The array field of all arrays with the same header, without what differs. Programs write many such arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayField {
    bytes: Vec<u8>,
    /// The length of the `.npy` header.
    header: u64,
}

impl ArrayField {
    /// The array field of such an array. None if the description or the shape is too long.
    pub fn new(array: &Described<'_>) -> Option<Self> {
        let quoted = array.descr.strip_prefix('\'').and_then(|descr| descr.strip_suffix('\''));
        let plain =
            quoted.filter(|descr| !descr.contains(['\\', '\'']) && !descr.starts_with(['[', '(', '\'', '"']));
        let descr = plain.unwrap_or(array.descr);
        if descr.len() > MAX_DESCR || array.shape.len() > MAX_AXES {
            return None;
        }
        let content = Array {
            header: array.header.try_into().ok()?,
            fortran_order: array.fortran_order,
            descr,
            shape: Cow::Borrowed(array.shape),
        };
        let mut short = [0; 64];
        let bytes = match postcard::to_slice(&content, &mut short) {
            Ok(bytes) => bytes.to_vec(),
            Err(_) => postcard::to_allocvec(&content).ok()?,
        };
        Some(ArrayField { bytes, header: array.header as u64 })
    }
}

/// What an array field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldContent {
    /// What the `.npy` header of the member says.
    pub header: Header<'static>,
    /// The distance from the local header to the array.
    pub data: u64,
    /// The length of the `.npy` header, which ends where the array starts.
    pub npy_header: u64,
}

/// Adds the array field to a record, which is all of `out` from `start` on. The `.npy` file of the member
/// starts `file` bytes behind its local header.
pub(crate) fn append(array_field: &ArrayField, file: u64, out: &mut Vec<u8>, start: usize) {
    let mut data = [0; 5];
    let number = u32::try_from(file + array_field.header).ok();
    let Some(Ok(data)) = number.map(|number| postcard::to_slice(&number, &mut data)) else { return };
    let field = out.len() - start;
    // Less than 2**16: a description and 64 numbers of at most ten bytes.
    let length = (CHECK + data.len() + array_field.bytes.len()) as u16;
    out.reserve(HEAD + usize::from(length));
    out.extend_from_slice(&EXTRA.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; CHECK]);
    out.extend_from_slice(data);
    out.extend_from_slice(&array_field.bytes);
    let record = &mut out[start..];
    let extra_len = std::mem::offset_of!(CentralHeader, extra_len);
    let before = u16::from_le_bytes([record[extra_len], record[extra_len + 1]]);
    // The record has a zip64 field of at most 28 bytes already, or no extra field.
    record[extra_len..extra_len + 2].copy_from_slice(&(before + HEAD as u16 + length).to_le_bytes());
    let check = check_of(record, field);
    record[field + HEAD..field + HEAD + CHECK].copy_from_slice(&check.to_le_bytes());
}

/// The checksum of a record whose array field starts at `field`. It covers all bytes but its own.
fn check_of(record: &[u8], field: usize) -> u32 {
    checksum::checksum_of(&[&record[..field + HEAD], &record[field + HEAD + CHECK..]])
}

/// What the array field of a record says, if the record is as mmnpz wrote it. The bytes must not change
/// meanwhile: `record` is over a copy, or the caller checks the bytes again afterwards.
pub(crate) fn read(record: &CentralRecord<'_>, whole: &[u8]) -> Option<FieldContent> {
    let Content::<Vec<u64>> { data, array } = content(record, whole)?;
    let descr = parse_descr(array.descr)?;
    let header = Header { descr, fortran_order: array.fortran_order, shape: Shape(array.shape) };
    Some(FieldContent { header, data: data.into(), npy_header: array.header.into() })
}

/// What an array field says, in short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortContent<'a> {
    /// The description as [`parse_descr`] takes it.
    pub(crate) descr: &'a str,
    /// Of the shape.
    pub(crate) axes: Axes,
    /// The distance from the local header to the array.
    pub(crate) data: u64,
    /// The length of the `.npy` header, which ends where the array starts.
    pub(crate) npy_header: u64,
}

/// As [`read`], in short.
pub(crate) fn read_short<'a>(record: &CentralRecord<'a>, whole: &'a [u8]) -> Option<ShortContent<'a>> {
    let Content::<Axes> { data, array } = content(record, whole)?;
    let (descr, axes) = (array.descr, array.shape);
    Some(ShortContent { descr, axes, data: data.into(), npy_header: array.header.into() })
}

/// The description of a dtype, as the field has it.
pub(crate) fn parse_descr(descr: &str) -> Option<Literal<'static>> {
    Some(if descr.starts_with(['[', '(', '\'', '"']) {
        literal::from_str::<Literal<'_>>(descr, false).ok()?.into_owned()
    } else {
        Literal::Str(descr.to_owned().into())
    })
}

fn content<'a, S: Deserialize<'a>>(record: &CentralRecord<'a>, whole: &'a [u8]) -> Option<Content<'a, S>> {
    let value = extra_field(record.extra, EXTRA)?;
    let (check, rest) = value.split_first_chunk::<CHECK>()?;
    // The array field is the last part of the record, which has no comment.
    let field = whole.len().checked_sub(HEAD + value.len())?;
    let is_last = whole.get(field + HEAD..)? == value && record.header.comment_len.get() == 0;
    (is_last && u32::from_le_bytes(*check) == check_of(whole, field)).then_some(())?;
    postcard::from_bytes(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::placement::{Alignment, Placement};
    use crate::zip::name::StoredName;
    use proptest::prelude::*;

    fn record(array: &Described<'_>, size: u64) -> Vec<u8> {
        let name = StoredName::new("a name").unwrap();
        let place = Placement::new(1000, &name, array.header as u64, size, Alignment::new(64).unwrap(), 1000)
            .unwrap();
        let mut out = b"before".to_vec();
        place.write_central(&name, 77, 0, ArrayField::new(array).as_ref(), &mut out);
        out.split_off(6)
    }

    fn read_all(bytes: &[u8]) -> Option<FieldContent> {
        let (record, end) = CentralRecord::read(bytes, 0)?;
        read(&record, bytes.get(..end)?)
    }

    #[test]
    fn an_ordinary_array_costs_few_bytes() {
        let array = Described { descr: "'<f4'", fortran_order: false, shape: &[100, 80], header: 128 };
        assert_eq!(record(&array, 32_128).len() - 46 - 10, 20);
    }

    #[test]
    fn what_was_changed_says_nothing() {
        for size in [1000, 1 << 33] {
            let array = Described { descr: "'<f4'", fortran_order: true, shape: &[3, 4], header: 128 };
            let bytes = record(&array, size);
            assert!(read_all(&bytes).is_some());
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1 << bit;
                    assert_eq!(read_all(&bytes), None, "byte {at}, bit {bit}");
                }
            }
            for length in 0..bytes.len() {
                assert_eq!(read_all(&bytes[..length]), None);
            }
        }
    }

    #[test]
    fn what_is_long_is_left_out() {
        let descr = format!("[('{}', '<f4')]", "x".repeat(MAX_DESCR));
        let shape = [1; MAX_AXES + 1];
        let long = Described { descr: &descr, fortran_order: false, shape: &[], header: 2048 };
        let deep = Described { descr: "'<f4'", fortran_order: false, shape: &shape, header: 512 };
        for array in [long, deep] {
            let bytes = record(&array, 4096);
            assert_eq!(bytes.len(), 56);
            assert_eq!(read_all(&bytes), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            descr in "'[<>|][a-zA-Z][0-9]{0,3}'|\\[\\('[a-zé日]{1,70}', '<f4', \\(2, 3\\)\\)\\]|'\\[x'|'a\\\\n'",
            fortran_order: bool,
            shape in prop::collection::vec(0..=u64::MAX >> 1, 0..8),
            header in 1..100usize,
        ) {
            let array = Described { descr: &descr, fortran_order, shape: &shape, header: header * 64 };
            let found = read_all(&record(&array, 100_000)).unwrap();
            prop_assert_eq!(&found.header.descr, &literal::from_str::<Literal<'_>>(&descr, false).unwrap());
            prop_assert_eq!((found.header.fortran_order, &found.header.shape.0), (fortran_order, &shape));
            prop_assert_eq!((1000 + found.data) % 64, 0);
            prop_assert_eq!(found.npy_header, header as u64 * 64);
        }
    }
}
