//! What an archive is written to: a file of the system, or a disk that is simulated.
//!
//! The writer, the recovery and the repair know nothing else of a file, so that all of them can be tested in
//! every state in which a kill or a power failure can leave one (`simulated_disk`).

use std::io;
use std::ops::Range;
use std::path::Path;

use mmnpz_format::Window;
use mmnpz_format::additions::filler::Filler;
use mmnpz_format::write::grow_in_place::SharedBytes;

/// The length of the signature of a local header; without it, nobody finds one.
pub(crate) const SIGNATURE: usize = 4;

/// Bytes that are written at once where a range cannot be cleared otherwise.
const BLOCK: u64 = 1 << 20;

/// The bytes of a file, and which of them are in holes.
pub struct Contents {
    /// All of them.
    pub bytes: SharedBytes,
    /// In ascending order and apart from one another.
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
/// It never gets shorter: somebody may have mapped it. So there is no way to make it shorter.
pub trait Storage: Sync {
    /// How long it is.
    ///
    /// # Errors
    /// Those of the system; so in all that follows.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As above.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all of these bytes at a place, which may be behind the end.
    ///
    /// # Errors
    /// As above. Some of them may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// As above.
    fn sync(&self) -> io::Result<()>;

    /// What is in it now, for as long as anybody keeps it; what is written later may be seen in it.
    ///
    /// # Errors
    /// As above.
    fn contents(&self) -> io::Result<Contents>;

    /// Puts zeros in a range, as far as the file reaches.
    ///
    /// # Errors
    /// As above.
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let end = range.end.min(self.len()?);
        let zeros = vec![0; BLOCK.min(end.saturating_sub(range.start)) as usize];
        let mut at = range.start;
        while at < end {
            let count = BLOCK.min(end - at);
            self.write_at(&zeros[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Gives a range up in which there is no member, as far as the file reaches: nobody finds one there any
    /// more, and its space goes back to the disk where the file system can do that.
    ///
    /// # Errors
    /// As above.
    fn release(&self, range: Range<u64>) -> io::Result<()> {
        let end = range.end.min(self.len()?);
        match (SIGNATURE as u64).min(end.saturating_sub(range.start)) {
            0 => Ok(()),
            count => self.write_at(&[0; SIGNATURE][..count as usize], range.start),
        }
    }

    /// Has a room take its space where a look at a hole would. Where there is no space, it stays a hole.
    fn occupy(&self, room: &Range<u64>) {
        let _ = room;
    }

    /// Whether a power failure can have come since it was written to last.
    ///
    /// # Errors
    /// As above.
    fn may_be_torn(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Makes sure that the name of the file survives a power failure. `path` is where it was opened.
    ///
    /// # Errors
    /// As above.
    fn sync_name(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
}

/// Fills a range that has no member.
pub(crate) fn fill(storage: &impl Storage, filler: &Filler) -> io::Result<()> {
    storage.clear(filler.zeros..filler.range.end)?;
    storage.write_at(&filler.head(), filler.range.start)
}

/// Fills a range from its head on: where its last bytes tell that it is to be filled, or nothing but that
/// head whose file this is.
pub(crate) fn fill_from_its_head(storage: &impl Storage, filler: &Filler) -> io::Result<()> {
    storage.write_at(&filler.head(), filler.range.start)?;
    storage.clear(filler.zeros..filler.range.end)
}
