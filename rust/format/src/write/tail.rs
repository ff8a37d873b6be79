//! What is behind the members while an archive is written: the phases of a writer.
//!
//! A writer begins in any of them. From [`Tail::Free`] and [`Tail::Foreign`], the first directory leads to
//! [`Tail::Room`], and each further one from there to there. [`Tail::Growing`] lasts until the directory has
//! grown, unless the writer finds that it cannot: then it reads the directory, to write it elsewhere. That
//! leads to [`Tail::Room`]; or to [`Tail::Free`], if it does so for a member that does not fit into the room.

use crate::additions::fence::FENCE;
use crate::additions::seal::Seal;
use crate::write::directory_plan::Replaced;
use crate::write::grow_in_place::Growing;
use crate::write::patch::Patch;

/// What is behind the members. While there is a [prologue](crate::write::prologue), this is what will be
/// there once that is written: the writer writes nothing else before.
#[derive(Debug, Clone)]
pub(super) enum Tail {
    /// Nothing that a reader needs: members overwrite whatever is there. The file is new, or the prologue has
    /// hidden the old directory from readers.
    Free,
    /// Nothing that a reader needs, either. In front of the members is another program's archive, and a base
    /// that vouches for its directory. Readers find that directory by this end record until the first one of
    /// mmnpz is whole.
    Foreign { end_record: u64 },
    /// A directory with room in front of it. Members go into the room, and the next directory takes the place
    /// of this one.
    Room(Room),
    /// A directory with room in front of it. Members go into the room, and the last directory is this one
    /// with further entries. The writer has not read it, and need not as long as it can grow.
    Growing {
        growing: Growing,
        /// The end record by which readers find it, or the last one that the writer failed to write.
        end_record: u64,
        /// In front of this byte, members may have overwritten fences.
        reached: u64,
    },
}

/// A directory with room in front of it.
#[derive(Debug, Clone)]
pub(super) struct Room {
    /// Where members must end: what reaches further would overwrite the directory, or the place of the fence
    /// in front of it.
    pub(super) limit: u64,
    /// The end record by which readers find the directory. They do not while the writer writes it, after the
    /// writer failed to, and where it is too far from the end of the file.
    pub(super) end_record: Option<u64>,
    pub(super) kind: Kind,
}

/// What kind of directory has room in front of it, and so what else the next directory has to do.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// It is as mmnpz wrote it, or mmnpz has not finished it. There is nothing else to do.
    Own,
    /// Its seal says that it grows, and leads to it without an end record. This one, which does not, takes
    /// the place of that seal before anything of the directory is overwritten.
    Grew { seal: Seal },
    /// Another program has changed it. It stays where it is, as nothing else tells of what was changed, and
    /// all directories go behind it: the first one after these marks, which the changes have made wrong. The
    /// last one has no seal, as it is not what mmnpz alone wrote.
    Edited { remarks: Vec<Patch> },
    /// It is the first one behind another program's archive, and mmnpz has not finished it. The end record of
    /// that archive, which is here, goes when the next one is whole.
    First { superseded: u64 },
}

/// How much of an archive the directory in the file lists, and so what need there is for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// All of it: it is the last directory of an earlier writer, and nothing was written since.
    Untouched,
    /// Not all of it, or nobody knows, or there is no directory.
    Partial,
    /// All of it, but it is not the last directory: it was flushed.
    Flushed,
    /// All of it: it is the last directory, and this writer wrote it. There is no need for another one.
    Closed,
}

/// Where members must end that leave room for a fence in front of this byte.
pub(super) fn before_fence(start: u64) -> u64 {
    start.saturating_sub(FENCE)
}

impl Tail {
    /// Where members must end, if they may not go as far as they like.
    pub(super) fn limit(&self) -> Option<u64> {
        match self {
            Tail::Free | Tail::Foreign { .. } => None,
            Tail::Room(room) => Some(room.limit),
            Tail::Growing { growing, .. } => Some(before_fence(growing.index())),
        }
    }

    /// The directory that grows, which nobody has read.
    pub(super) fn growing(&self) -> Option<&Growing> {
        match self {
            Tail::Growing { growing, .. } => Some(growing),
            Tail::Free | Tail::Foreign { .. } | Tail::Room(_) => None,
        }
    }

    /// Whether another program has changed the directory that was there when the file was opened.
    pub(super) fn is_edited(&self) -> bool {
        matches!(self, Tail::Room(Room { kind: Kind::Edited { .. }, .. }))
    }

    /// A member is going to be written up to this byte.
    pub(super) fn extend_to(&mut self, end: u64) {
        if let Tail::Growing { reached, .. } = self {
            *reached = end.max(*reached);
        }
    }

    /// What becomes of what is there when another directory is written, over it or wholly behind it.
    pub(super) fn replaced(&self, is_overwritten: bool) -> Replaced {
        let mut replaced = Replaced::default();
        match self {
            Tail::Free | Tail::Growing { .. } => {}
            Tail::Foreign { end_record } => replaced.superseded = Some(*end_record),
            Tail::Room(Room { end_record, kind, .. }) => {
                // One that is wholly behind the old one leaves that to readers until it is there.
                replaced.overwritten = end_record.filter(|_| is_overwritten);
                match kind {
                    Kind::Own => {}
                    Kind::Grew { seal } => replaced.meanwhile = Some(*seal).filter(|_| is_overwritten),
                    Kind::Edited { remarks } => replaced.remarks.clone_from(remarks),
                    Kind::First { superseded } => replaced.superseded = Some(*superseded),
                }
            }
        }
        replaced
    }

    /// A directory is going to be written, over the old one or wholly behind it, in front of which members
    /// must end at `limit`. If it is written over the old one, members that are reserved meanwhile stay in
    /// front of it.
    pub(super) fn begin_directory(&mut self, limit: u64, is_overwritten: bool) {
        let kind = match self {
            Tail::Free => Kind::Own,
            Tail::Foreign { end_record } => Kind::First { superseded: *end_record },
            Tail::Room(room) => {
                if is_overwritten {
                    room.limit = match room.end_record.take() {
                        // That of the old one may have been in front of its index, which is not needed.
                        Some(_) => limit,
                        // The old one may be further in front, and needed all the same; or further behind, if
                        // the writer failed to write it.
                        None => limit.min(room.limit),
                    };
                }
                return;
            }
            Tail::Growing { .. } => return,
        };
        *self = Tail::Room(Room { limit, end_record: None, kind });
    }

    /// A directory is whole that readers find by `end_record`, and in front of which members must end at
    /// `limit`.
    pub(super) fn finish_directory(&mut self, limit: u64, end_record: u64) {
        let kind = match self {
            Tail::Growing { end_record: last, .. } => {
                *last = end_record;
                return;
            }
            Tail::Room(Room { kind: Kind::Edited { .. }, .. }) => Kind::Edited { remarks: Vec::new() },
            Tail::Free | Tail::Foreign { .. } | Tail::Room(_) => Kind::Own,
        };
        *self = Tail::Room(Room { limit, end_record: Some(end_record), kind });
    }
}
