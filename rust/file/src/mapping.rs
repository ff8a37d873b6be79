//! The memory in which the bytes of an archive lie: nearly always a map of its file.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::time::UNIX_EPOCH;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::failure::{Failure, KeepGoing, check};
use crate::map_limit::Claim;
use crate::parts::Reading;
use mmnpz_format::Window;
use mmnpz_format::recover::recovery_scan;

/// Memory that someone else owns.
///
/// # Safety
/// As long as the value lives, `bytes` gives the same slice each time, wherever the value is moved to.
pub unsafe trait Lent: fmt::Debug + Send + Sync {
    /// The memory.
    fn bytes(&self) -> &[u8];
}

// For an archive that a program has made in memory. SAFETY: a box does not move what is in it.
unsafe impl Lent for Box<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// How an archive is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For reading: the process shares the pages of the file.
    Read,
    /// For writing to memory of this process: the file never changes.
    Copy,
    /// For reading by calls of the system: the file is not mapped.
    Unmapped,
}

/// How many bytes are copied between two questions whether to go on.
const STEP: usize = 1 << 26;

/// The memory in which the bytes of an archive lie.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A map that shares the pages of the file.
    Shared(Mmap),
    /// A map for reading that is private to this process, where the file system lets nobody share pages.
    Private(Mmap),
    /// A map to whose pages this process alone may write.
    Copied(MmapMut),
    /// Memory of someone else.
    Lent(Box<dyn Lent>),
    /// No memory, but a file, and how many bytes it has.
    Unmapped(File, usize),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Shared(map) | Memory::Private(map) => map,
            Memory::Copied(map) => map,
            Memory::Lent(memory) => memory.bytes(),
            Memory::Unmapped(..) => &[],
        }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Memory {
    /// The memory of someone else, in this mode: for writing, a copy of it.
    pub(crate) fn lent(
        memory: Box<dyn Lent>,
        mode: Mode,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        if mode != Mode::Copy {
            return Ok(Memory::Lent(memory));
        }
        let mut copy = MmapOptions::new().len(memory.bytes().len()).map_anon()?;
        for (to, from) in copy.chunks_mut(STEP).zip(memory.bytes().chunks(STEP)) {
            check(keep_going)?;
            to.copy_from_slice(from);
        }
        Ok(Memory::Copied(copy))
    }
}

/// The bytes of an archive, for reading; or, if it is not mapped, the open file.
#[derive(Debug)]
pub struct Map {
    memory: Memory,
    /// Where `memory` has its bytes: to ask it each time would take longer.
    start: *const u8,
    /// How many: none if the file is not mapped.
    mapped: usize,
    /// How many bytes the file has, mapped or not.
    len: usize,
    /// The right to the map, given back once the map is gone.
    _claim: Option<Claim>,
}

// SAFETY: `start` and `mapped` are those of `memory`, which may be sent to and used by other threads; they
// are only read.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Memory that, if it is a map, there is a [claim](Claim::new) for.
    pub(crate) fn new(memory: Memory, claim: Option<Claim>) -> Self {
        let (start, mapped) = (memory.as_ptr(), memory.len());
        let len = if let Memory::Unmapped(_, len) = memory { len } else { mapped };
        Map { memory, start, mapped, len, _claim: claim }
    }

    /// How many bytes the file has.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file, if it is not mapped.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.memory {
            Memory::Unmapped(file, _) => Some(file),
            _ => None,
        }
    }

    /// The bytes of the file; none if it is not mapped.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory has these bytes for as long as it lives, wherever it is moved to: a map does not
        // move, and `Lent` says so for the memory of others. Others may write to the bytes meanwhile, with
        // `Copied` and `Lent` other threads of this process, through NumPy: see `map`.
        unsafe { std::slice::from_raw_parts(self.start, self.mapped) }
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The address of the first byte.
    #[inline]
    pub fn start(&self) -> *const u8 {
        self.start
    }

    /// Whether a program may write to the memory, which nobody else then sees.
    #[inline]
    pub fn is_writable(&self) -> bool {
        matches!(self.memory, Memory::Copied(_))
    }

    /// Whether the file system let nobody share the pages of the file.
    pub fn is_private(&self) -> bool {
        matches!(self.memory, Memory::Private(_))
    }
}

/// The identity of a file, which tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The size of the file.
    pub size: u64,
    /// The time of its last change, in ns.
    pub modified: u128,
    /// Its inode: its number in the file system.
    pub inode: u64,
}

/// A file that was just mapped.
pub(crate) struct MappedFile {
    pub(crate) memory: Memory,
    pub(crate) identity: Identity,
    /// Its holes, as they were right after it was mapped.
    pub(crate) holes: Vec<Range<u64>>,
}

impl MappedFile {
    /// The bytes and the holes.
    pub(crate) fn window(&self) -> Window<'_> {
        Window::whole(&self.memory, &self.holes)
    }
}

/// Opens the file at `path` for reading.
pub(crate) fn open_file(path: &Path) -> Result<(File, Metadata, Identity), Failure> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        // Without it, opening a FIFO would wait for a writer.
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    let (metadata, identity) = identify(&file)?;
    Ok((file, metadata, identity))
}

/// What tells an open file from others.
pub(crate) fn identify(file: &File) -> Result<(Metadata, Identity), Failure> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        #[cfg(unix)]
        return Err(std::io::Error::from_raw_os_error(libc::EISDIR).into());
    }
    if !metadata.is_file() {
        return Err(Failure::Irregular);
    }
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    let identity = Identity { size: metadata.len(), modified, inode };
    Ok((metadata, identity))
}

/// An open file with a position of its own, where the system has a path for each descriptor: opened once
/// more. Elsewhere the same file. Returns whether the position is its own.
pub(crate) fn opened_again(file: File) -> (File, bool) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;

        let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Ok(again) = again
            && crate::lock::is_same(&again, &file).unwrap_or(false)
        {
            return (again, true);
        }
    }
    (file, false)
}

/// Maps a whole open file. Looks for its holes only if its position is its own, as that moves the position.
pub(crate) fn map_open(file: &File, mode: Mode, is_own: bool) -> Result<MappedFile, Failure> {
    let (metadata, identity) = identify(file)?;
    let memory = match mode {
        Mode::Read => map(file)?,
        Mode::Copy => map_copied(file)?,
        Mode::Unmapped => {
            let size =
                usize::try_from(metadata.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            Memory::Unmapped(file.try_clone()?, size)
        }
    };
    let holes = match &memory {
        _ if !is_own => Vec::new(),
        Memory::Unmapped(file, _) => {
            Reading::of_directory(file, metadata.len()).alone(|window| Ok(holes(file, &metadata, window)))?
        }
        memory => holes(file, &metadata, memory.deref().into()),
    };
    Ok(MappedFile { memory, identity, holes })
}

/// Maps the whole file at `path`. Closes the descriptor before it returns.
pub(crate) fn map_file(path: &Path, mode: Mode) -> Result<MappedFile, Failure> {
    let (file, ..) = open_file(path)?;
    map_open(&file, mode, true)
}

/// Maps a file for reading if it has this identity: the one that it had in another process, which knows what
/// is in it.
///
/// # Errors
/// If the system refuses, or the file has another identity.
pub fn map_again(path: &Path, identity: Identity) -> Result<Map, Failure> {
    let claim = Claim::new()?;
    let (file, _, found) = open_file(path)?;
    if found != identity {
        return Err(Failure::Changed);
    }
    Ok(Map::new(map(&file)?, Some(claim)))
}

/// The most holes that are found: a file can have any number of them.
const MOST_HOLES: usize = 1 << 12;

/// The holes of a file with these bytes, in ascending order. The room in front of a closed directory counts
/// as a hole, although there are fences in it: readers do not look there.
pub(crate) fn holes(file: &File, metadata: &Metadata, window: Window<'_>) -> Vec<Range<u64>> {
    if !has_holes(metadata) {
        return Vec::new();
    }
    // That bytes cannot be read is found out by who needs them.
    let room = recovery_scan::closed_room(window).unwrap_or(0..0);
    let mut holes = holes_in(file, 0..room.start);
    holes.extend((!room.is_empty()).then_some(room.clone()));
    holes.extend(holes_in(file, room.end..window.len()));
    holes
}

/// Whether a file can have holes.
#[cfg(unix)]
fn has_holes(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    /// The unit in which `stat` counts space.
    const BLOCK: u64 = 512;

    metadata.blocks().saturating_mul(BLOCK) < metadata.len()
}

/// Other systems do not tell where the holes of a file are.
#[cfg(not(unix))]
fn has_holes(_metadata: &Metadata) -> bool {
    false
}

/// The holes in a range of a file, in ascending order.
#[cfg(target_os = "linux")]
pub(crate) fn holes_in(file: &File, range: Range<u64>) -> Vec<Range<u64>> {
    use std::os::fd::AsRawFd;

    let seek = |at: u64, whence| {
        let at = i64::try_from(at).ok()?;
        // SAFETY: the descriptor is open as long as `file` is borrowed. No code relies on the position that
        // this moves: all reads and writes name their places.
        let found = unsafe { libc::lseek64(file.as_raw_fd(), at, whence) };
        u64::try_from(found).ok()
    };
    let mut holes = Vec::new();
    let mut at = range.start;
    while holes.len() < MOST_HOLES
        && at < range.end
        && let Some(start) = seek(at, libc::SEEK_HOLE).filter(|&start| start < range.end)
    {
        // The seek fails behind the last data of the file.
        let end = seek(start, libc::SEEK_DATA).unwrap_or(range.end).min(range.end);
        if end <= start {
            break;
        }
        holes.push(start..end);
        at = end;
    }
    holes
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn holes_in(_file: &File, _range: Range<u64>) -> Vec<Range<u64>> {
    Vec::new()
}

/// Maps a whole open file for reading: shares its pages, if the file system lets anybody share pages.
pub(crate) fn map(file: &File) -> io::Result<Memory> {
    // SAFETY: other processes can change a mapped file while this process holds `&[u8]` to it, and no lock of
    // mmnpz can stop that: this is the risk of every memory map, and documented for users. mmnpz upholds:
    // nothing is interpreted without a check against the map's own length at that moment; no check relies on
    // two reads of the same byte being equal; text is copied before it is checked and kept. (The descr of an
    // ordinary `.npy` header is not copied, and is only compared, and copied by Python.) The writer of mmnpz
    // never makes a file shorter: it overwrites what is behind the last member, and appends; or it overwrites
    // all bytes with zeros, in mode "w". A file that another program cuts short ends the process with SIGBUS,
    // which is not undefined behaviour.
    match unsafe { Mmap::map(file) } {
        Err(error) if shares_no_pages(&error) => {
            // SAFETY: as above.
            unsafe { MmapOptions::new().map_copy_read_only(file) }.map(Memory::Private)
        }
        shared => shared.map(Memory::Shared),
    }
}

/// Maps a whole open file so that this process can write to its copies of pages.
fn map_copied(file: &File) -> io::Result<Memory> {
    // SAFETY: as for `map`; here other threads of this process change bytes, through arrays, as others may
    // change those of the file. No swap space is set aside for pages of which most are never written to.
    unsafe { MmapOptions::new().no_reserve_swap().map_copy(file) }.map(Memory::Copied)
}

/// Whether the system refuses a map because the file system cannot keep the maps of several processes the
/// same, as FUSE with direct I/O and some network file systems cannot. They do not agree on the error: where
/// it has another reason, the private map is refused, too.
fn shares_no_pages(error: &io::Error) -> bool {
    #[cfg(unix)]
    return matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP | libc::EINVAL));
    #[cfg(not(unix))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Extent;

    #[test]
    fn a_file_that_is_not_mapped_has_no_addresses() {
        let map = Map::new(Memory::Unmapped(tempfile::tempfile().unwrap(), usize::MAX / 2), None);
        let array = [0_u8; 100];
        let start = array.as_ptr();
        let extent = Extent { addresses: start.addr()..start.addr() + 100, bytes: 100 };
        assert!(!map.contains(start) && !map.overlaps(&extent) && map.place_of(&extent).is_none());
        assert_eq!((map.offset_of(start), map.len(), map.bytes()), (usize::MAX / 2, usize::MAX / 2, &[][..]));
    }
}
