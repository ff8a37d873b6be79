//! What was found in a file: the answer of a [recovery scan](crate::recover::recovery_scan).

use std::ops::Range;

use crate::additions::array_field::{self, ArrayField, Described};
use crate::additions::filler::Filler;
use crate::additions::local_member::LocalMember;
use crate::additions::seal::Seal;
use crate::error::Result;
use crate::npy::header::{Header, MAX_HEADER_SIZE};
use crate::npy::literal;
use crate::window::Window;
use crate::zip::encode;
use crate::zip::end::DirectoryLocation;

/// A member that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Where its local header is.
    pub header: u64,
    /// Its name without the extension.
    pub name: String,
    /// Where its range ends, if its mark says so; it may end behind the file.
    pub end: Option<u64>,
}

/// What tells of members that we did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The end record, if anything.
    #[default]
    EndRecord,
    /// A base, which vouches for the directory of another program.
    Base,
    /// Nothing but they themselves: these are what was found.
    Members,
}

/// What is known of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectoryState {
    /// Not whether it is what a seal says; who only reads does not ask.
    #[default]
    Unknown,
    /// It is what its seal says.
    Sound,
    /// Nobody looked, as members can be added to it where it is.
    CanGrow,
}

/// What was found in a file.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The last directory that is whole.
    pub directory: Option<DirectoryLocation>,
    /// The seal in front of it, if it is ours.
    pub seal: Option<Seal>,
    /// What is known of what is in the directory.
    pub state: DirectoryState,
    /// Finished members that it does not list, in the order in which they lie in the file.
    pub found: Vec<LocalMember>,
    /// Members that were begun and not finished.
    pub unfinished: Vec<Unfinished>,
    /// Ranges between members in which there is none, nor a filler, in the order in which they lie in the
    /// file.
    pub gaps: Vec<Range<u64>>,
    /// Ranges between members in which there are an index and a seal that another program has left there.
    pub stale_indexes: Vec<Range<u64>>,
    /// Where further members can go: behind all that were found or are listed.
    pub end: u64,
    /// The directory is where zip readers look for it.
    pub is_at_end: bool,
    /// Behind the end record is nothing that an unfinished append left there.
    pub is_clean: bool,
    /// What tells of the members that have no marks.
    pub origin: Origin,
}

impl Survey {
    /// Whether the directory is where zip readers look for it, lists all there is, and is the end of the
    /// file; and those that read without it come across nothing else.
    pub fn is_whole(&self) -> bool {
        let is_walkable = || self.gaps.is_empty() && self.stale_headers().next().is_none();
        self.is_at_end && self.is_clean && self.found.is_empty() && is_walkable()
    }

    /// Takes found members out, as their bytes are not what was written. Their ranges are gaps, or at the end
    /// to be used again.
    pub fn drop_found(&mut self, mut is_sound: impl FnMut(&LocalMember) -> bool) {
        let gaps = &mut self.gaps;
        self.found.retain(|member| {
            let keep = is_sound(member);
            if !keep {
                gaps.push(member.header..member.end);
            }
            keep
        });
        gaps.sort_unstable_by_key(|gap| gap.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(gaps.len());
        for gap in gaps.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end == gap.start => last.end = gap.end,
                _ => merged.push(gap),
            }
        }
        if let Some(last) = merged.pop_if(|last| last.end == self.end) {
            self.end = last.start;
        }
        self.gaps = merged;
    }

    /// Where the local headers are that a later recovery scan must not follow: those of members that are not
    /// finished where others will be written. Where a filler goes, that takes its place.
    pub fn stale_headers(&self) -> impl Iterator<Item = u64> {
        let in_gap = |gap: &Range<u64>, at: u64| {
            gap.contains(&at) && (at != gap.start || gap.end - gap.start < Filler::LEAST)
        };
        // Gaps are in the order in which they lie, so that one look finds the one in which something is.
        let gap_of = |at: u64| self.gaps.get(self.gaps.partition_point(|gap| gap.end <= at));
        let is_stale = move |member: &&Unfinished| {
            let at = member.header;
            // One that is torn at the end of the file reaches over what is written there next.
            at >= self.end
                || member.end.is_some_and(|end| end > self.end)
                || gap_of(at).is_some_and(|gap| in_gap(gap, at))
        };
        self.unfinished.iter().filter(is_stale).map(|member| member.header)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.directory.is_none() && self.found.is_empty()
    }

    /// The records for a central directory of the members that were found and that none lists.
    ///
    /// # Errors
    /// If the headers of those members were not fetched.
    pub fn found_records(&self, window: Window<'_>) -> Result<Vec<u8>> {
        let prefix_len = self.directory.as_ref().map_or(0, |directory| directory.prefix_len);
        let mut records = Vec::new();
        for member in &self.found {
            let name = (member.name(window)?, member.flags);
            let start = records.len();
            encode::write_central(
                member.header,
                member.end - member.file,
                member.crc,
                name,
                prefix_len,
                &mut records,
            );
            let header = match Header::read(window, member.file..member.end, MAX_HEADER_SIZE) {
                Err(error) if !error.is_about_file() => return Err(error),
                header => header,
            };
            if let Ok((header, length)) = header
                && let Ok(descr) = literal::to_string(&header.descr)
            {
                let array = Described {
                    descr: &descr,
                    fortran_order: header.fortran_order,
                    shape: &header.shape.0,
                    header: length,
                };
                if let Some(array_field) = ArrayField::new(&array) {
                    array_field::append(&array_field, member.file - member.header, &mut records, start);
                }
            }
        }
        Ok(records)
    }
}
