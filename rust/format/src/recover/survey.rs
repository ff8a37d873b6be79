//! What was found in a file: the answer of a [recovery scan](crate::recover::recovery_scan).

use std::ops::Range;

use memchr::memmem;

use crate::additions::array_field::{self, ArrayField, Described};
use crate::additions::filler::Filler;
use crate::additions::local_member::LocalMember;
use crate::additions::seal::Seal;
use crate::error::{Missing, Result};
use crate::npy::header::{Header, MAX_HEADER_SIZE};
use crate::npy::literal;
use crate::window::Window;
use crate::zip::encode;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

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

/// What tells of the members of a file.
#[derive(Debug, Clone, Default)]
pub enum Source {
    /// The marks in their local headers, if there is any member: no directory was found.
    #[default]
    Marks,
    /// Their local headers and checksums: another program was killed before it wrote a directory.
    LocalHeaders,
    /// A directory. The marks tell of the members that it does not list.
    Directory(FoundDirectory),
}

/// The last directory of a file that is whole.
#[derive(Debug, Clone)]
pub struct FoundDirectory {
    /// Where it is.
    pub location: DirectoryLocation,
    /// What vouches for it.
    pub witness: Witness,
    /// Whether zip readers find it.
    pub visibility: Visibility,
}

/// What vouches for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Its end record alone: it is not as a writer of mmnpz left it.
    EndRecord,
    /// A base behind it: another program wrote it, and a writer of mmnpz kept it.
    Base,
    /// The seal in front of it: mmnpz wrote it.
    Seal(Seal, DirectoryState),
}

/// What is known of the records of a directory with a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryState {
    /// Nothing: the scan only read them, or they are not what the seal says.
    Unknown,
    /// They are what the seal says.
    Sound,
    /// Nothing, and nobody need know: an append adds members to the directory where it is. It ends the file,
    /// and no member of the file is missing in it.
    CanGrow,
}

/// Whether zip readers find a directory. They look for the last end record near the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// They do not: only a seal or a base leads to it.
    Hidden,
    /// They do, but behind it is what an unfinished append left there.
    NearEnd,
    /// They do, and nothing is behind it.
    AtEnd,
}

/// What was found in a file.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// What tells of the members.
    pub source: Source,
    /// Finished members that the directory does not list, in the order in which they lie in the file.
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
}

impl Survey {
    /// The directory with what vouches for it, if there is one.
    pub fn directory(&self) -> Option<&FoundDirectory> {
        match &self.source {
            Source::Directory(directory) => Some(directory),
            Source::Marks | Source::LocalHeaders => None,
        }
    }

    /// Where the directory is, if there is one.
    pub fn location(&self) -> Option<&DirectoryLocation> {
        self.directory().map(|directory| &directory.location)
    }

    /// The seal in front of the directory, if that is how mmnpz wrote it.
    pub fn seal(&self) -> Option<Seal> {
        match self.directory()?.witness {
            Witness::Seal(seal, _) => Some(seal),
            Witness::EndRecord | Witness::Base => None,
        }
    }

    /// Whether zip readers find the directory.
    pub fn visibility(&self) -> Visibility {
        self.directory().map_or(Visibility::Hidden, |directory| directory.visibility)
    }

    /// Whether zip readers find all members: the directory ends the file, and lists them.
    pub fn is_listed(&self) -> bool {
        self.visibility() == Visibility::AtEnd && self.found.is_empty()
    }

    /// Whether zip readers find all members, and programs that read without the directory come across nothing
    /// else.
    pub fn is_whole(&self) -> bool {
        let is_walkable = || self.gaps.is_empty() && self.stale_headers().next().is_none();
        self.is_listed() && is_walkable()
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

    /// Where there are end records behind the members, other than that of the directory, which readers would
    /// find once that one is gone: a power failure can have kept from the disk what had taken them away.
    ///
    /// # Errors
    /// If the end of the file was not fetched.
    pub fn stale_end_records(&self, window: Window<'_>) -> Result<Vec<u64>, Missing> {
        let tail = DirectoryLocation::tail(window.len());
        let start = tail.start.max(self.end);
        let directory = self.location().map_or(0..0, |location| location.range.start..location.comment.end);
        let signature = EndRecord::SIGNATURE.to_le_bytes();
        let mut stale = Vec::new();
        for data in window.data_in(start..tail.end) {
            let found = memmem::find_iter(window.get_inside(data.clone())?, &signature);
            stale.extend(found.map(|at| data.start + at as u64).filter(|at| !directory.contains(at)));
        }
        Ok(stale)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.directory().is_none() && self.found.is_empty()
    }

    /// The records for a central directory of the members that were found and that none lists.
    ///
    /// # Errors
    /// If the headers of those members were not fetched.
    pub fn found_records(&self, window: Window<'_>) -> Result<Vec<u8>> {
        let prefix_len = self.location().map_or(0, |directory| directory.prefix_len);
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
