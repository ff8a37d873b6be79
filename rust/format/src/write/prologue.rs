//! What must be in a file before the members that a writer appends: so that they are found whatever becomes
//! of the writer, and nothing leads readers to what they overwrite.

use zerocopy::IntoBytes;

use crate::additions::base::Base;
use crate::additions::seal::Seal;
use crate::write::directory_plan::BLANK;
use crate::write::directory_writer::DirectoryWriter;
use crate::write::kept_directory::KeptDirectory;
use crate::write::patch::Patch;
use crate::zip::records::{EndRecord, Record};

/// What must be in a file before members are appended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prologue {
    /// Behind another program's archive: a base, which vouches for the directory of this end record.
    Base { end_record: u64 },
    /// Behind another program's members: their directory, which has this end record.
    Keep {
        end_record: u64,
        /// The directory is a copy that an earlier writer made. This end record still leads to the first one.
        first: Option<u64>,
    },
    /// In front of a directory of mmnpz with room: a seal that says that it is not the last one, or grows.
    Seal(Seal),
    /// In place of the signature of the end record of a directory of mmnpz, which members are going to
    /// overwrite: zeros.
    Blank { end_record: u64 },
    /// Those zeros for a directory that was to grow, then this seal in place of its own, which says that it
    /// grows.
    BlankAndSeal { end_record: u64, seal: Seal },
    /// Those zeros for a directory that could not be written to its end: nobody knows how much of it is
    /// there. If it was to grow, this seal comes first, which says that it still does.
    Undo { seal: Option<Seal>, end_record: u64 },
}

/// A prologue of which something is not in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unwritten {
    pub(super) prologue: Prologue,
    /// How many of its parts are in the file.
    pub(super) done: usize,
}

/// How far a file is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Where the next member starts.
    pub(super) next: u64,
    /// How long the file is at least.
    pub(super) length: u64,
}

impl From<Prologue> for Unwritten {
    fn from(prologue: Prologue) -> Self {
        Unwritten { prologue, done: 0 }
    }
}

impl Prologue {
    /// What is written, and where, each part behind the one before; of another program's directory these are
    /// the records.
    pub(super) fn parts(&self, reach: Reach, records: &DirectoryWriter) -> Vec<Patch> {
        match self {
            Prologue::Base { end_record } => {
                vec![Patch::new(reach.next, Base::new(reach.next, *end_record, true).as_bytes())]
            }
            Prologue::Keep { end_record, first } => {
                Keeping::new(reach, records).parts(records, *end_record, *first)
            }
            Prologue::Seal(seal) => vec![sealed(seal)],
            Prologue::Blank { end_record } => vec![blank(*end_record)],
            Prologue::BlankAndSeal { end_record, seal } => {
                // As long as there is an end record, members in the room are only found with a whole seal.
                vec![blank(*end_record), sealed(seal)]
            }
            Prologue::Undo { seal, end_record } => {
                // As long as there is an end record, it leads to all members. Without one, this seal or their
                // marks do.
                seal.iter().map(sealed).chain([blank(*end_record)]).collect()
            }
        }
    }

    /// Whether each part must be on the disk before the next thing is written, also if nothing else is
    /// synced. Without it, what is behind another program's archive could hide that from whoever looks for
    /// its end record; and the end record of a large directory, which is not read as a whole when the file is
    /// opened, could be there when members have overwritten that.
    pub(super) fn must_sync(&self) -> bool {
        match self {
            Prologue::Base { .. } | Prologue::Keep { .. } | Prologue::BlankAndSeal { .. } => true,
            Prologue::Seal(_) | Prologue::Blank { .. } | Prologue::Undo { .. } => false,
        }
    }

    /// How far the file is written when it is there.
    pub(super) fn reach(&self, before: Reach, records: &DirectoryWriter) -> Reach {
        match self {
            Prologue::Base { .. } => {
                let next = before.next + Base::SIZE as u64;
                Reach { next, length: before.length.max(next) }
            }
            Prologue::Keep { .. } => Keeping::new(before, records).reach(records),
            Prologue::Seal(_)
            | Prologue::Blank { .. }
            | Prologue::BlankAndSeal { .. }
            | Prologue::Undo { .. } => before,
        }
    }
}

fn sealed(seal: &Seal) -> Patch {
    Patch::new(seal.at(), seal.as_bytes())
}

fn blank(end_record: u64) -> Patch {
    Patch::new(end_record, BLANK)
}

/// Where things go while another program's directory is moved into a filler.
struct Keeping {
    /// Behind its archive: a base, which vouches for it until the filler is there.
    base: u64,
    /// Behind the base and the filler: a copy, which readers use meanwhile.
    copy: u64,
    kept: KeptDirectory,
}

impl Keeping {
    fn new(reach: Reach, records: &DirectoryWriter) -> Self {
        let kept = KeptDirectory::new(reach.next, records);
        let copy = (reach.length + Base::SIZE as u64).max(kept.range().end);
        Keeping { base: reach.length, copy, kept }
    }

    /// The copy, zeros over the end records that lead to the directory as it was, and the directory that is
    /// kept.
    fn parts(&self, directory: &DirectoryWriter, end_record: u64, first: Option<u64>) -> Vec<Patch> {
        let records = &directory.records()[..];
        let mut copied = [records, &directory.end_records(self.copy)].concat();
        let end_record_of_copy = directory.end_record(self.copy + copied.len() as u64);
        // Nobody may find it before all of its comment is there.
        copied[(end_record_of_copy - self.copy) as usize..][..BLANK.len()].copy_from_slice(&BLANK);
        let kept = self.kept.range();
        let mut bytes = self.kept.bytes(directory);
        let base = bytes.split_off(bytes.len() - Base::SIZE);
        let behind = bytes.split_off(BLANK.len());
        let copy = [
            // As long as the copy is there in part, no end record may be near the end.
            Patch::new(self.base, Base::new(self.base, end_record, false).as_bytes()),
            Patch::new(self.copy, copied),
            Patch::new(end_record_of_copy, EndRecord::SIGNATURE.to_le_bytes()),
        ];
        let kept = [
            // Until all of it is there, nothing vouches for it, and no local header leads into it.
            Patch::new(kept.start + BLANK.len() as u64, behind),
            Patch::new(kept.end - Base::SIZE as u64, base),
            Patch::new(kept.start, bytes),
        ];
        // Nobody may find an end record once what it leads to is gone.
        let old = first.into_iter().chain([end_record]).map(blank);
        copy.into_iter().chain(old).chain(kept).chain([blank(end_record_of_copy)]).collect()
    }

    fn reach(&self, directory: &DirectoryWriter) -> Reach {
        let records = self.copy + directory.records().len() as u64;
        let length = records + directory.end_records(self.copy).len() as u64;
        Reach { next: self.kept.range().end, length }
    }
}
