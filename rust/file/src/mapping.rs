//! Memory maps of archives.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

use memmap2::Mmap;

use crate::failure::Failure;
use crate::map_limit::Claim;
use mmnpz_format::Window;
use mmnpz_format::recover::recovery_scan;

/// A file that is mapped for reading.
#[derive(Debug)]
pub struct Map {
    map: Mmap,
    /// The right to the map, given back once the map is gone.
    _claim: Claim,
}

impl Map {
    /// A map for which there is a [claim](Claim::new).
    pub(crate) fn new(map: Mmap, claim: Claim) -> Self {
        Map { map, _claim: claim }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn mapped(&self) -> &Mmap {
        &self.map
    }

    /// The address of the first byte.
    pub fn start(&self) -> *const u8 {
        self.map.as_ptr()
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
    pub(crate) map: Mmap,
    pub(crate) identity: Identity,
    /// Its holes, as they were right after it was mapped.
    pub(crate) holes: Vec<Range<u64>>,
}

impl MappedFile {
    /// The bytes and the holes.
    pub(crate) fn window(&self) -> Window<'_> {
        Window::whole(&self.map, &self.holes)
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
    Ok((file, metadata, identity))
}

/// Maps the whole file at `path` for reading. Closes the descriptor before it returns.
pub(crate) fn map_file(path: &Path) -> Result<MappedFile, Failure> {
    let (file, metadata, identity) = open_file(path)?;
    let map = map(&file)?;
    let holes = holes(&file, &metadata, &map);
    Ok(MappedFile { map, identity, holes })
}

/// Maps a file if it has this identity: the one that it had in another process, which knows what is in it.
///
/// # Errors
/// If the system refuses, or the file has another identity.
pub fn map_again(path: &Path, identity: Identity) -> Result<Map, Failure> {
    let claim = Claim::new()?;
    let (file, _, found) = open_file(path)?;
    if found != identity {
        return Err(Failure::Changed);
    }
    Ok(Map::new(map(&file)?, claim))
}

/// The most holes that are found: a file can have any number of them.
const MOST_HOLES: usize = 1 << 12;

/// The holes of a file with these bytes, in ascending order. The room in front of a closed directory counts
/// as a hole, although there are fences in it: readers do not look there.
pub(crate) fn holes(file: &File, metadata: &Metadata, bytes: &[u8]) -> Vec<Range<u64>> {
    if !has_holes(metadata) {
        return Vec::new();
    }
    // The window has all bytes, so no error means that some were not fetched.
    let room = recovery_scan::closed_room(bytes.into()).unwrap_or(0..0);
    let mut holes = holes_in(file, 0..room.start);
    holes.extend((!room.is_empty()).then_some(room.clone()));
    holes.extend(holes_in(file, room.end..metadata.len()));
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

/// Maps a whole open file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: other processes can change a mapped file while this process holds `&[u8]` to it, and no lock of
    // mmnpz can stop that: this is the risk of every memory map, and documented for users. mmnpz upholds:
    // nothing is interpreted without a check against the map's own length at that moment; no check relies on
    // two reads of the same byte being equal; no `str` or reference made from the map outlives the call that
    // made it and was not validated in it. The writer of mmnpz never makes a file shorter: it overwrites what
    // is behind the last member, and appends; or it overwrites all bytes with zeros, in mode "w". A file that
    // another program cuts short ends the process with SIGBUS, which is not undefined behaviour.
    unsafe { Mmap::map(file) }
}
