//! All members with what is known of their arrays, in one pass over the directory.

use crate::additions::array_field::{self, ShortContent};
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::npy::axes::Axes;
use crate::npy::header::MAX_HEADER_SIZE;
use crate::npy::literal::Literal;
use crate::read::lookup::{LocatedArray, Lookup, ORDINARY_RECORD};
use crate::read::walked_index::Member;
use crate::window::Window;
use crate::zip::central::CentralRecord;

/// A member, and what is known of it.
#[derive(Debug)]
pub struct MemberFacts<'a> {
    /// Where it is.
    pub member: Member,
    /// The CRC-32 that the archive has of it.
    pub crc: u32,
    /// Its array.
    pub array: ArrayFacts<'a>,
}

/// What is known of the array of a member.
#[derive(Debug)]
pub enum ArrayFacts<'a> {
    /// What the directory says of it.
    Listed(ListedArray<'a>),
    /// What its headers say, or what is wrong with them.
    Located(Result<LocatedArray<'a>>),
    /// It has to be decompressed. The name of the member.
    Compressed(&'a str),
}

/// What the directory says of an array.
#[derive(Debug, Clone, Copy)]
pub struct ListedArray<'a> {
    descr: &'a str,
    /// Of its shape.
    pub axes: Axes,
    /// Where it starts in the file.
    pub offset: u64,
    /// How many stored bytes of the member follow from there on.
    pub stored: u64,
}

impl ListedArray<'_> {
    /// The description of its dtype, in the words of the directory: equal ones are equal dtypes.
    pub fn text(&self) -> &str {
        self.descr
    }

    /// The description of its dtype. None if it is none.
    pub fn descr(&self) -> Option<Literal<'static>> {
        array_field::parse_descr(self.descr)
    }
}

/// Whether to go on.
type Done<E> = std::result::Result<(), E>;

impl Lookup {
    /// Calls `each` with all members, in archive order. The lookup must be verified. `of_headers` calls what
    /// it is given with the window through which the headers of a member are read, if they are needed.
    ///
    /// # Errors
    /// If the directory was not fetched, or was edited since, and those of `each`. What is wrong with one
    /// member takes the place of its array.
    pub fn facts<E: From<Missing> + From<Error>>(
        &self,
        window: Window<'_>,
        max_header_size: usize,
        of_headers: impl Fn(&mut dyn FnMut(Window<'_>) -> Done<E>) -> Done<E>,
        mut each: impl FnMut(MemberFacts<'_>) -> Done<E>,
    ) -> Done<E> {
        let by_headers = |member: Member, name: &str, each: &mut dyn FnMut(MemberFacts<'_>) -> Done<E>| {
            of_headers(&mut |window| each(self.facts_of(window, member, name, max_header_size)))
        };
        if let Some(walked) = self.walked.get() {
            return walked.index.ids().filter_map(|id| Some((id, walked.get(id)?))).try_for_each(
                |(id, member)| {
                    let name = walked.index.name(window, id);
                    match name {
                        Ok(name) => by_headers(member, &name, &mut each),
                        Err(error) => each(wrong(member, error)),
                    }
                },
            );
        }
        let Some(walk) = self.walk_from(window, 0)? else { return Ok(()) };
        let records = window.get(self.directory.range.clone())?.unwrap_or_default();
        let fields_from = self.fields_from.filter(|_| max_header_size >= MAX_HEADER_SIZE);
        let mut copy = [0; ORDINARY_RECORD];
        for (record, number) in walk {
            let member = Member::of(window.len(), &record, self.directory.prefix_len, number);
            // Edited since: all others are in doubt, too.
            let at = self.directory.range.start + record.at as u64;
            let member = member.ok_or_else(|| Error::at(ErrorKind::NamesDiffer, at))?;
            // A writer may overwrite the record at any time. So the checks and the reads use one copy of it.
            let raw = records.get(record.at..record.at + record.len()).unwrap_or_default();
            let raw = copy.get_mut(..raw.len()).map(|copy| {
                copy.copy_from_slice(raw);
                &*copy
            });
            let has_field = fields_from.is_some_and(|from| record.at as u64 >= from);
            match raw.filter(|_| has_field).and_then(|raw| self.listed_array(window.len(), raw)) {
                Some((crc, array)) => {
                    each(MemberFacts { member, crc, array: ArrayFacts::Listed(array) })?;
                }
                None => match self.listed(window.len(), &record, number) {
                    Ok((member, name)) => by_headers(member, &name, &mut each)?,
                    Err(error) => each(wrong(member, error))?,
                },
            }
        }
        Ok(())
    }

    fn facts_of<'a>(
        &self,
        window: Window<'a>,
        member: Member,
        name: &'a str,
        max_header_size: usize,
    ) -> MemberFacts<'a> {
        let crc = self.checksum(window, &member, name);
        let crc = crc.and_then(|crc| crc.map_or_else(|| member.local_checksum(window), Ok));
        let crc = match crc {
            Ok(crc) => crc,
            Err(error) => return wrong(member, error),
        };
        let array = if member.is_compressed() {
            ArrayFacts::Compressed(name)
        } else {
            ArrayFacts::Located(self.locate(window, &member, name, max_header_size))
        };
        MemberFacts { member, crc, array }
    }

    /// The CRC-32 and the array of a record, if it is as mmnpz wrote it.
    fn listed_array<'a>(&self, file_len: u64, whole: &'a [u8]) -> Option<(u32, ListedArray<'a>)> {
        let (record, _) = CentralRecord::read(whole, 0)?;
        let ShortContent { descr, axes, data, npy_header } = array_field::read_short(&record, whole)?;
        let member = Member::of(file_len, &record, self.directory.prefix_len, 0)?;
        member.check().ok()?;
        let (local, size) = member.extent();
        let offset = local.checked_add(data)?;
        let stored = size.checked_sub(npy_header)?;
        let is_inside = offset.checked_add(stored)? <= file_len;
        is_inside.then_some((record.header.crc.get(), ListedArray { descr, axes, offset, stored }))
    }
}

fn wrong(member: Member, error: Error) -> MemberFacts<'static> {
    MemberFacts { member, crc: 0, array: ArrayFacts::Located(Err(error)) }
}
