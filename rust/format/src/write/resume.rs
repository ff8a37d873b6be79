//! From what was found in a file to the state of a writer that goes on behind it.

use crate::additions::base::Base;
use crate::error::Result;
use crate::recover::survey::{DirectoryState, FoundDirectory, Survey, Visibility, Witness};
use crate::window::Window;
use crate::write::directory_writer::{DirectoryWriter, OldDirectory};
use crate::write::grow_in_place::{Growing, SharedBytes};
use crate::write::kept_directory;
use crate::write::prologue::Prologue;
use crate::write::remark;
use crate::write::tail::{Kind, Listing, Room, Tail, before_fence};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// How a writer begins that goes on behind what is in a file; the fields are those of
/// [`Appender`](crate::write::appender::Appender).
pub(super) struct Start {
    pub(super) next: u64,
    pub(super) length: u64,
    pub(super) prologue: Option<Prologue>,
    pub(super) directory: DirectoryWriter,
    pub(super) tail: Tail,
    pub(super) listing: Listing,
}

impl Start {
    /// Behind what was found in a file.
    ///
    /// # Errors
    /// If the directory cannot be read to its end.
    pub(super) fn behind(file: &SharedBytes, survey: &Survey) -> Result<Self> {
        let window = Window::from((**file).as_ref());
        let found = survey.directory();
        let listing = if survey.is_whole() { Listing::Untouched } else { Listing::Partial };
        if let Some(FoundDirectory { location, witness, .. }) = found
            && let Witness::Seal(seal, DirectoryState::CanGrow) = *witness
        {
            let growing = Growing::new(file, location, seal);
            return Ok(Start {
                next: survey.end,
                length: window.len(),
                prologue: Some(Prologue::Seal(seal.growing())),
                directory: growing.writer()?,
                tail: Tail::Growing { end_record: growing.end_record(), growing, reached: 0 },
                listing,
            });
        }
        let holds = match found.map(|found| found.witness) {
            Some(Witness::Seal(seal, DirectoryState::Sound)) => Some(seal),
            _ => None,
        };
        let old = OldDirectory::of(window, survey.location(), holds.as_ref())?;
        let mut start = Start {
            next: survey.end,
            length: window.len(),
            prologue: None,
            directory: DirectoryWriter::resume(&old, &survey.found_records(window)?)?,
            tail: Tail::Free,
            listing,
        };
        if let Some(found) = found {
            start.leave(window, survey, found)?;
        }
        Ok(start)
    }

    /// Says what becomes of a directory that does not grow.
    fn leave(&mut self, window: Window<'_>, survey: &Survey, found: &FoundDirectory) -> Result<()> {
        let FoundDirectory { location, witness, visibility } = found;
        let end_record = location.comment.start.checked_sub(EndRecord::SIZE as u64);
        let visible = end_record.filter(|_| *visibility != Visibility::Hidden);
        match *witness {
            Witness::Seal(seal, state) if !seal.is_last() => {
                // An earlier writer flushed it, or was adding to it.
                let kind = match state {
                    DirectoryState::Sound if seal.is_growing() => Kind::Grew { seal: seal.reopened() },
                    DirectoryState::Sound => Kind::Own,
                    _ => Kind::Edited { remarks: remark::remarks(window, location)? },
                };
                let limit = before_fence(seal.start());
                self.tail = Tail::Room(Room { limit, end_record: visible, kind });
                if self.listing == Listing::Untouched {
                    self.listing = Listing::Flushed;
                }
            }
            Witness::Seal(seal, DirectoryState::Sound) if seal.has_room() => {
                let limit = before_fence(seal.start());
                self.tail = Tail::Room(Room { limit, end_record: visible, kind: Kind::Own });
                self.prologue = Some(Prologue::Seal(seal.reopened()));
            }
            Witness::Seal(_, DirectoryState::Sound) => {
                self.prologue = visible.map(|end_record| Prologue::Blank { end_record });
            }
            Witness::EndRecord if location.range == (0..0) && survey.found.is_empty() => {
                // Nothing but an end record.
                self.next = 0;
            }
            Witness::EndRecord | Witness::Base | Witness::Seal(..) => {
                let is_all = survey.found.is_empty()
                    && kept_directory::is_all(window, location, (witness, survey.end))?;
                let end = if is_all { kept_directory::end_of_members(window, location)? } else { None };
                if let Some(end) = end {
                    self.next = end;
                    let first = end_record_of_first(window, location)?;
                    self.prologue = end_record.map(|end_record| Prologue::Keep { end_record, first });
                } else if let Some(end_record) = end_record.filter(|_| *witness != Witness::Base) {
                    // Another program wrote it, or changed it: it stays, and members go behind it.
                    self.next = self.length;
                    self.tail = Tail::Foreign { end_record };
                    self.prologue = Some(Prologue::Base { end_record });
                }
            }
        }
        Ok(())
    }
}

/// If a directory is a copy, and its writer was killed before it took the first end record away: that one.
fn end_record_of_first(window: Window<'_>, copy: &DirectoryLocation) -> Result<Option<u64>> {
    let before = copy.range.start.checked_sub(Base::SIZE as u64);
    let base = before.map_or(Ok(None), |at| Base::read(window, at))?;
    let Some(at) = base.map(|base| base.end_record()) else { return Ok(None) };
    Ok(EndRecord::find(window, at)?.map(|_| at))
}
