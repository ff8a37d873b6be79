//! The plan of a directory that is going to be written: which bytes go where, in which order.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::additions::fence::FENCE;
use crate::additions::filler::Filler;
use crate::additions::seal::{IndexForm, Seal, Sealed};
use crate::additions::stored_index::{self, StoredIndexBuilder};
use crate::write::grow_in_place::Growth;
use crate::write::patch::Patch;

/// What a directory is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// A flush: readers use it while the writer goes on. It leaves room for at least this many bytes of
    /// members.
    Flush(u64),
    /// The final directory, written by `close`.
    Close,
}

/// Zeros over the signature of an end record hide it from all readers. They must be in the file before
/// anything of its directory is overwritten: readers trust whatever an end record with a signature leads to.
pub(crate) const BLANK: [u8; 4] = [0; 4];

/// A directory that is to be written.
#[derive(Debug, Clone)]
pub struct NewDirectory {
    /// Where the index in front of it starts, or the seal, if there are such.
    pub(crate) at: u64,
    /// Where the records start.
    pub(crate) start: u64,
    /// What its index is made of.
    pub(crate) names: Option<StoredIndexBuilder>,
    pub(crate) complete_below: u64,
    pub(crate) members_end: u64,
    pub(crate) records: Arc<Vec<u8>>,
    pub(crate) end_records: Vec<u8>,
    /// How many of the bytes of the end records are those of zip64.
    pub(crate) zip64: usize,
    /// What becomes of the one before.
    pub(crate) replaced: Replaced,
    /// How many members it lists.
    pub(crate) count: u64,
    /// From which byte on the `.npy` headers in it can be believed.
    pub(crate) fields_from: u64,
    pub(crate) publish: Publish,
    /// If it stays where it is, and `records` are only those that are new.
    pub(crate) growth: Option<Growth>,
    /// The fences that stand where members end, and their places.
    pub(crate) before: Vec<(Vec<u8>, u64)>,
    /// What stands in front of it if there is no member, and failed writes have made the file longer.
    pub(crate) filler: Option<Filler>,
}

/// What becomes of a directory when another one takes its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replaced {
    /// Marks that are written before anything else.
    pub(crate) remarks: Vec<Patch>,
    /// Its end record, which goes before anything is overwritten.
    pub(crate) overwritten: Option<u64>,
    /// What stands in place of its seal while the other one is written, if it matters.
    pub(crate) meanwhile: Option<Seal>,
    /// The end record of another program's archive, which goes when the other directory is there. From then
    /// on only a base leads to the directory of that archive.
    pub(crate) superseded: Option<u64>,
}

/// What vouches for a directory, and lets members of it be found by their names.
#[derive(Debug)]
pub struct Head {
    index: Vec<u8>,
    /// None in front of an empty directory of an empty file.
    seal: Option<Seal>,
}

impl NewDirectory {
    /// Where the file ends with it.
    pub fn end(&self) -> u64 {
        self.behind() + self.end_records.len() as u64
    }

    /// Where the records end.
    pub(crate) fn behind(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    /// How many members it lists.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it overwrites a directory that readers use, or a seal.
    pub fn overwrites(&self) -> bool {
        self.replaced.overwritten.is_some() || self.replaced.meanwhile.is_some()
    }

    /// The room that a closed writer leaves in front of it, unless that was there before.
    pub fn room(&self) -> Option<Range<u64>> {
        let is_new = self.publish == Publish::Close && self.growth.is_none();
        (is_new && self.members_end + FENCE < self.at).then_some(self.members_end..self.at)
    }

    /// What to write first in an archive without a member, and that from its head on: the header of the
    /// member that was begun there, which is all that tells whose file it is, can be where the filler has its
    /// zeros.
    pub fn filler(&self) -> Option<&Filler> {
        self.filler.as_ref()
    }

    /// What its index is made of, once.
    pub fn take_names(&mut self) -> Option<StoredIndexBuilder> {
        self.names.take()
    }

    /// What is in front of it, with an index made of this. With many members that takes a while.
    pub fn head(&self, names: Option<StoredIndexBuilder>) -> Head {
        if let Some(growth) = &self.growth {
            return Head { index: Vec::new(), seal: Some(growth.seal) };
        }
        let index = names.and_then(|names| names.build(&self.records, self.count));
        let form = index.as_ref().map_or(IndexForm::None, |index| stored_index::form(index.len() as u64));
        // Where it cannot be made after all, as a name is there twice, its place stays empty.
        let size = self.start.saturating_sub(Seal::SIZE as u64).saturating_sub(self.at);
        let index = index.unwrap_or_else(|| stored_index::empty(size));
        let seal = self.start.checked_sub(Seal::SIZE as u64).filter(|&at| at >= self.at).map(|at| {
            let sealed = Sealed {
                complete_below: self.complete_below,
                members_end: self.members_end,
                directory: &self.records,
                members: self.count,
                fields_from: self.fields_from,
                index: &index,
                form,
                end_records: &self.end_records,
                last: self.publish == Publish::Close,
            };
            Seal::new(at, &sealed)
        });
        Head { index, seal }
    }

    /// What to write where, one after the other, and each only when what was written before cannot be lost
    /// any more: at no time does anybody find a directory that lists only some of the members. It is the old
    /// one, the new one, or none. This comes first, then what [`NewDirectory::changes`] gives, and then
    /// [`NewDirectory::last_writes`].
    pub fn first_writes(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let Replaced { remarks, overwritten, meanwhile, superseded: _ } = &self.replaced;
        let meanwhile = meanwhile.as_ref().map(|seal| (seal.as_bytes(), seal.at()));
        let blank = overwritten.map(|end_record| (&BLANK[..], end_record));
        let records = [(&self.records[..], self.start)];
        // In front of a directory that stays, so that the next member can always follow the last one.
        let early = self.fence().filter(|_| !self.is_sealed());
        // The seal of one that does not grow any more changes only when nobody looks for members by it. One
        // that grows has said so since the first member was begun, and is found without its end record.
        let remarks = remarks.iter().map(|mark| (&mark.bytes[..], mark.at));
        remarks
            .chain(early)
            .chain(blank)
            .chain(meanwhile)
            .chain(records)
            .filter(|(bytes, _)| !bytes.is_empty())
    }

    fn fence(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.before.iter().map(|(bytes, at)| (&bytes[..], *at))
    }

    fn is_sealed(&self) -> bool {
        self.start > self.at || self.growth.is_some()
    }

    /// Whether the old directory stays where it is and is added to.
    pub fn grows(&self) -> bool {
        self.growth.is_some()
    }

    /// Whether the old directory is not needed any more once what goes there is written, too: nobody finds
    /// it.
    pub fn is_done_with_old(&self, at: u64) -> bool {
        let last = self.replaced.meanwhile.as_ref().map(Seal::at).or(self.replaced.overwritten);
        last.is_none_or(|last| last == at)
    }

    /// What to write behind that, in whatever order.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let growth = self.growth.iter();
        growth.flat_map(|growth| &growth.changes).map(|change| (&change.bytes[..], change.at))
    }

    /// What to write behind that.
    pub fn last_writes<'a>(&'a self, head: &'a Head) -> impl Iterator<Item = (&'a [u8], u64)> {
        let seal = head.seal.iter().map(|seal| (seal.as_bytes(), seal.at()));
        let index_at = head.seal.as_ref().map_or(self.start, Seal::at) - head.index.len() as u64;
        // The signature of the end record comes last: a part of the record would lead to somewhere else.
        let (zip64, end_record) = self.end_records.split_at(self.zip64);
        let (signature, rest) = end_record.split_at(BLANK.len());
        let at = self.behind() + zip64.len() as u64;
        let end_records = [(zip64, self.behind()), (rest, at + BLANK.len() as u64), (signature, at)];
        // The seal of one that has grown only once the new end record is there: until then the old seal,
        // which says that it grows, lets the old records be found without any.
        let (before, after) = if self.growth.is_some() { (None, Some(seal)) } else { (Some(seal), None) };
        let fence = self.fence().filter(|_| self.is_sealed());
        let superseded = self.replaced.superseded.map(|end_record| (&BLANK[..], end_record));
        let head = std::iter::once((&head.index[..], index_at)).chain(before.into_iter().flatten());
        let head = fence.chain(head);
        let all = head.chain(end_records).chain(after.into_iter().flatten()).chain(superseded);
        all.filter(|(bytes, _)| !bytes.is_empty())
    }
}
