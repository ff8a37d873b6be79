//! Columns: what an archive tells of all members, as lists of numbers.
//!
//! In a file that is as mmnpz wrote it, all of this is in the directory. Elsewhere, the headers of the
//! members have it, and those of compressed members are decompressed.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use mmnpz_format::Window;
use mmnpz_format::npy::axes::Axes;
use mmnpz_format::npy::header::Header;
use mmnpz_format::npy::literal::Literal;
use mmnpz_format::read::facts::{ArrayFacts, ListedArray, MemberFacts};
use mmnpz_format::read::lookup::LocatedArray;
use mmnpz_format::read::walked_index::Member;

use crate::failure::{Failure, KeepGoing, check};
use crate::fetch;
use crate::snapshot::{Snapshot, Verify};

/// How many headers are fetched together.
const TOGETHER: usize = 128;

/// How many members are read between two questions whether to go on.
const POLL: usize = 1 << 10;

/// The most axes that an array of NumPy has.
pub const MAX_AXES: usize = 64;

/// What stands for a number that is not known.
const UNKNOWN: i64 = -1;

/// What stands for a description that is not known.
const UNKNOWN_DTYPE: i32 = -1;

/// The columns, in archive order. Of a member whose headers tell of no array, only the last three are known,
/// and the CRC-32 is 0 if it is not known either.
#[derive(Debug, Default)]
pub struct Columns {
    /// The descriptions of the dtypes, in the order in which they come first.
    pub descrs: Vec<Literal<'static>>,
    /// The number of the description, after [`Columns::set_dtypes`] that of the dtype; or -1.
    pub dtype: Vec<i32>,
    /// How many axes the array has.
    pub ndim: Vec<i32>,
    /// The length of its first axis, if it has one.
    pub length: Vec<i64>,
    /// The product of its dimensions but zero, negative if one is zero; after [`Columns::set_dtypes`], how
    /// many bytes its items take.
    pub items: Vec<i64>,
    /// How many bytes of the member follow its header.
    pub room: Vec<i64>,
    /// Where its items start in the file, if they are not compressed.
    pub offset: Vec<i64>,
    /// The compression method (APPNOTE 4.4.5).
    pub compress_type: Vec<u16>,
    /// How many bytes the member has in the file.
    pub compress_size: Vec<i64>,
    /// Its CRC-32.
    pub crc: Vec<u32>,
}

impl Columns {
    /// The columns of all members of an archive.
    ///
    /// # Errors
    /// If the directory cannot be read, and [`Failure::Interrupted`].
    pub fn new(
        snapshot: &Snapshot,
        max_header_size: usize,
        verify: Verify<'_>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        snapshot.verified(verify, |lookup, window| {
            let mut columns = Columns::default();
            columns.reserve(lookup.len());
            let mut codes = Codes::default();
            // The headers are not held any longer than one member is looked at.
            let of_headers = |read: &mut dyn FnMut(Window<'_>) -> Result<(), Failure>| snapshot.reading(read);
            lookup.facts(window, max_header_size, of_headers, |facts| {
                let number = columns.crc.len();
                if number % TOGETHER == 0 {
                    let next = (number..number + TOGETHER).map_while(|at| lookup.known(at));
                    let places = snapshot.headers_of(next);
                    if fetch::are_cold(snapshot.map(), &places) {
                        fetch::fetch(snapshot.map(), &places, keep_going)?;
                    }
                }
                if number % POLL == 0 {
                    check(keep_going)?;
                }
                columns.add(snapshot, facts, max_header_size, &mut codes, keep_going)
            })?;
            Ok(columns)
        })
    }

    fn reserve(&mut self, count: usize) {
        self.dtype.reserve_exact(count);
        self.ndim.reserve_exact(count);
        for column in
            [&mut self.length, &mut self.items, &mut self.room, &mut self.offset, &mut self.compress_size]
        {
            column.reserve_exact(count);
        }
        self.compress_type.reserve_exact(count);
        self.crc.reserve_exact(count);
    }

    fn add(
        &mut self,
        snapshot: &Snapshot,
        facts: MemberFacts<'_>,
        max_header_size: usize,
        codes: &mut Codes,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let MemberFacts { member, crc, array } = facts;
        let method = snapshot.lookup().compressed(&member).map_or(0, |compressed| compressed.method);
        self.compress_type.push(method);
        self.compress_size.push(member.extent().1.cast_signed());
        self.crc.push(crc);
        match array {
            ArrayFacts::Listed(array) => {
                let code = codes.of_text(&array, &mut self.descrs);
                self.add_array(code, array.axes, array.offset.cast_signed(), array.stored);
            }
            ArrayFacts::Located(Ok(LocatedArray { header, offset, stored })) => {
                let axes = Axes::of(&header.shape.0);
                let code = codes.of(header.descr, &mut self.descrs);
                self.add_array(code, axes, offset.cast_signed(), stored);
            }
            ArrayFacts::Located(Err(error)) if !error.is_about_file() => return Err(error.into()),
            ArrayFacts::Located(Err(_)) => self.add_array(UNKNOWN_DTYPE, Axes::NONE, UNKNOWN, 0),
            ArrayFacts::Compressed(name) => {
                let packed = snapshot.packed(&member, name, &|| Ok(()));
                let found = packed.and_then(|mut packed| {
                    let (header, data) = packed.header(max_header_size, keep_going)?;
                    Ok((header, packed.size() - data as u64))
                });
                match found {
                    Ok((header, room)) => {
                        let axes = Axes::of(&header.shape.0);
                        let code = codes.of(header.descr, &mut self.descrs);
                        self.add_array(code, axes, UNKNOWN, room);
                    }
                    Err(failure @ (Failure::Interrupted | Failure::Io(_))) => return Err(failure),
                    Err(_) => self.add_array(UNKNOWN_DTYPE, Axes::NONE, UNKNOWN, 0),
                }
            }
        }
        Ok(())
    }

    fn add_array(&mut self, code: i32, axes: Axes, offset: i64, room: u64) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // As NumPy asks whether an array is too large.
        let product = i64::try_from(axes.product).ok();
        let is_known = code != UNKNOWN_DTYPE && axes.count <= MAX_AXES && product.is_some();
        self.dtype.push(if is_known { code } else { UNKNOWN_DTYPE });
        // No more than `MAX_AXES`.
        self.ndim.push(if is_known { axes.count as i32 } else { -1 });
        self.length.push(axes.first.filter(|_| is_known).map_or(UNKNOWN, number));
        let product = product.unwrap_or(UNKNOWN);
        self.items.push(if axes.is_empty { -product } else { product });
        self.room.push(number(room));
        self.offset.push(if is_known { offset } else { UNKNOWN });
    }

    /// Gives each description the number and the item size of its dtype, with whether arrays that are not
    /// empty can have it, and makes the numbers of items numbers of bytes. An array whose description has no
    /// dtype, or that does not fit into its member, cannot be read, and nothing is known of it.
    pub fn set_dtypes(&mut self, dtypes: &[Option<(i32, u64, bool)>]) {
        for number in 0..self.dtype.len() {
            let code = usize::try_from(self.dtype[number]).ok();
            let dtype = code.and_then(|code| dtypes.get(code).copied().flatten());
            let (product, room) = (self.items[number], self.room[number]);
            let bytes = |(code, size, is_of_items): (i32, u64, bool)| {
                let bytes = i64::try_from(size).ok()?.checked_mul(product)?;
                (bytes <= room && (is_of_items || product < 0)).then_some((code, bytes.max(0)))
            };
            let known = dtype.and_then(bytes);
            (self.dtype[number], self.items[number]) = known.unwrap_or((UNKNOWN_DTYPE, UNKNOWN));
            if known.is_none() {
                self.ndim[number] = -1;
                (self.length[number], self.offset[number]) = (UNKNOWN, UNKNOWN);
            }
        }
    }
}

/// The numbers of descriptions.
#[derive(Default)]
struct Codes {
    known: HashMap<Literal<'static>, i32, FixedState>,
    /// The last description in the words of the directory. Most archives have one.
    last: Option<(String, i32)>,
}

impl Codes {
    /// That of a description, which is added to the list if it is new.
    fn of(&mut self, descr: Literal<'_>, descrs: &mut Vec<Literal<'static>>) -> i32 {
        let next = descrs.len();
        *self.known.entry(descr.into_owned()).or_insert_with_key(|descr| {
            descrs.push(descr.clone());
            i32::try_from(next).unwrap_or(UNKNOWN_DTYPE)
        })
    }

    /// That of an array which the directory describes.
    fn of_text(&mut self, array: &ListedArray<'_>, descrs: &mut Vec<Literal<'static>>) -> i32 {
        if let Some((text, code)) = &self.last
            && text == array.text()
        {
            return *code;
        }
        let Some(descr) = array.descr() else { return UNKNOWN_DTYPE };
        let code = self.of(descr, descrs);
        self.last = Some((array.text().to_owned(), code));
        code
    }
}

/// What an archive tells of one member.
#[derive(Debug)]
pub struct Info {
    /// What its header says.
    pub header: Header<'static>,
    /// Where its items start in the file, if they are not compressed.
    pub offset: Option<u64>,
    /// How many bytes of the member follow its header.
    pub room: u64,
    /// The compression method (APPNOTE 4.4.5).
    pub compress_type: u16,
    /// How many bytes the member has in the file.
    pub compress_size: u64,
    /// Its CRC-32.
    pub crc: u32,
}

impl Info {
    /// What an archive tells of a member whose name is `name`.
    ///
    /// # Errors
    /// If its header cannot be read; and those of `verify`.
    pub fn of(
        snapshot: &Snapshot,
        member: &Member,
        name: &str,
        max_header_size: usize,
        verify: Verify<'_>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let (header, offset, room) = if member.is_compressed() {
            let mut packed = snapshot.packed(member, name, verify)?;
            let (header, data) = packed.header(max_header_size, keep_going)?;
            (header, None, packed.size() - data as u64)
        } else {
            let located = snapshot.locate(member, name, max_header_size, verify)?;
            (located.header.into_owned(), Some(located.offset), located.stored)
        };
        let lookup = snapshot.lookup();
        Ok(Info {
            header,
            offset,
            room,
            compress_type: lookup.compressed(member).map_or(0, |compressed| compressed.method),
            compress_size: member.extent().1,
            crc: snapshot.checksum(member, name)?,
        })
    }
}
