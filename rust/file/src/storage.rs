//! The storage to which an archive is written: a file of the system, or a simulated disk.
//!
//! Writer, recovery and repair use a file only through this trait. So tests can run them on every state in
//! which a kill or a power failure can leave a file (`simulated_disk`).

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::failure::{Failure, KeepGoing, check};
use mmnpz_format::Window;
use mmnpz_format::additions::filler::Filler;
use mmnpz_format::write::grow_in_place::SharedBytes;

/// The length of the signature of a local header. No program finds a local header without its signature.
pub(crate) const SIGNATURE: usize = 4;

/// How many zeros one write puts into a range that cannot be cleared otherwise.
const BLOCK: u64 = 1 << 20;

/// The bytes of a file, and which of them are in holes.
pub struct Contents {
    /// All bytes.
    pub bytes: SharedBytes,
    /// The holes, in ascending order and without overlap.
    pub holes: Vec<Range<u64>>,
}

impl Contents {
    /// The file, as the format crate reads it.
    pub(crate) fn window(&self) -> Window<'_> {
        Window::whole((*self.bytes).as_ref(), &self.holes)
    }
}

/// A file to which one process alone writes, with any number of threads.
///
/// The trait has no method that makes the file shorter: a process may have it mapped.
pub trait Storage: Sync {
    /// How many bytes the file has.
    ///
    /// # Errors
    /// Those of the system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all of these bytes at a place, which may be behind the end of the file.
    ///
    /// # Errors
    /// Those of the system. Some of the bytes may then be in the file.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Waits until all writes so far are on the disk.
    ///
    /// # Errors
    /// Those of the system.
    fn sync(&self) -> io::Result<()>;

    /// The bytes of the file, for as long as the caller keeps them. Later writes may show in them.
    ///
    /// # Errors
    /// Those of the system.
    fn contents(&self) -> io::Result<Contents>;

    /// Overwrites a range with zeros, as far as the file reaches.
    ///
    /// # Errors
    /// Those of the system.
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let end = range.end.min(self.len()?);
        with_zeros(range.start..end, |zeros, at| self.write_at(zeros, at))
    }

    /// Gives up a range without members, as far as the file reaches. No reader finds a member there
    /// afterwards, and the space goes back to the disk if the file system can do that.
    ///
    /// # Errors
    /// Those of the system.
    fn release(&self, range: Range<u64>) -> io::Result<()> {
        let end = range.end.min(self.len()?);
        match (SIGNATURE as u64).min(end.saturating_sub(range.start)) {
            0 => Ok(()),
            count => self.write_at(&[0; SIGNATURE][..count as usize], range.start),
        }
    }

    /// Has the file system reserve the space of a room, if a read of a hole would take that space anyway. If
    /// there is no space, the room stays a hole.
    fn occupy(&self, room: &Range<u64>) {
        let _ = room;
    }

    /// Makes a range zeros, and has the file system set its space aside, so that no later write to it finds
    /// the disk full. The file then reaches to its end at least.
    ///
    /// # Errors
    /// Those of the system, and [`Failure::Interrupted`].
    fn allocate(&self, range: Range<u64>, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        write_zeros(self, range, keep_going)
    }

    /// Copies a range, which the file has, to another place, with which it has no byte in common.
    ///
    /// # Errors
    /// Those of the system.
    fn copy(&self, range: Range<u64>, to: u64) -> io::Result<()> {
        let contents = self.contents()?;
        let bytes = (*contents.bytes).as_ref().get(range.start as usize..range.end as usize);
        self.write_at(bytes.ok_or(io::ErrorKind::UnexpectedEof)?, to)
    }

    /// Whether there can have been a power failure since the file was last written.
    ///
    /// # Errors
    /// Those of the system.
    fn may_be_torn(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Makes sure that the name of the file survives a power failure. `path` is where it was opened.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_name(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
}

/// Calls `write` with zeros and a place, until a range is covered.
pub(crate) fn with_zeros<E>(
    range: Range<u64>,
    mut write: impl FnMut(&[u8], u64) -> Result<(), E>,
) -> Result<(), E> {
    let zeros = vec![0; BLOCK.min(range.end.saturating_sub(range.start)) as usize];
    let mut at = range.start;
    while at < range.end {
        let count = BLOCK.min(range.end - at);
        write(&zeros[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

/// Writes zeros to a range.
pub(crate) fn write_zeros<S: Storage + ?Sized>(
    storage: &S,
    range: Range<u64>,
    keep_going: KeepGoing<'_>,
) -> Result<(), Failure> {
    with_zeros(range, |zeros, at| {
        check(keep_going)?;
        Ok(storage.write_at(zeros, at)?)
    })
}

/// Writes a filler.
pub(crate) fn fill(storage: &impl Storage, filler: &Filler) -> io::Result<()> {
    storage.clear(filler.zeros..filler.range.end)?;
    storage.write_at(&filler.head(), filler.range.start)
}

/// Writes a filler, its head first: for a range whose last bytes show that it must be filled, or if only the
/// head shows that mmnpz wrote the file.
pub(crate) fn fill_from_its_head(storage: &impl Storage, filler: &Filler) -> io::Result<()> {
    storage.write_at(&filler.head(), filler.range.start)?;
    storage.clear(filler.zeros..filler.range.end)
}
