//! The memory map of an archive, and the Python object that keeps it.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::UNIX_EPOCH;

use memmap2::Mmap;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::maps::Claim;

/// Keeps an archive mapped: the last owner in the chain of bases of every view.
///
/// It lives as long as a view does; there is nothing to call.
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Mapping {
    map: Mmap,
    /// Given back once the map is gone.
    _claim: Claim,
    /// The path of the mapped file, absolute, in the type it was given in.
    #[pyo3(get)]
    filename: Py<PyAny>,
}

impl Mapping {
    pub(crate) fn new(map: Mmap, claim: Claim, filename: Py<PyAny>) -> Self {
        Mapping { map, _claim: claim, filename }
    }

    /// The bytes of the archive.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The map itself.
    pub(crate) fn map(&self) -> &Mmap {
        &self.map
    }

    /// Where the bytes are.
    pub(crate) fn start(&self) -> *const u8 {
        self.map.as_ptr()
    }
}

/// What tells one state of a file from another: size, time of the last change in ns, inode.
pub(crate) type Identity = (u64, u128, u64);

/// Maps the whole file at `path` for reading. The descriptor is closed again before this returns.
pub(crate) fn map_file(path: &Path) -> Result<(Mmap, Identity), Failure> {
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
    Ok((map(&file)?, (metadata.len(), modified, inode)))
}

/// Maps a whole open file for reading.
pub(crate) fn map(file: &File) -> Result<Mmap, Failure> {
    // SAFETY: a mapped file can be changed by others while we hold `&[u8]` to it, and no lock of ours can stop
    // that: this is the risk of every memory map, and documented for users. What we uphold: nothing is
    // interpreted without a check against the map's own length at that moment, no check relies on two reads of
    // the same byte being equal, and no `str` or reference made from the map outlives the call that made it
    // and was not validated in it. mmnpz's own writer never makes a file shorter: it
    // overwrites what is behind the last member, and appends. A file that others cut short ends the process with SIGBUS,
    // which is not undefined behaviour.
    Ok(unsafe { Mmap::map(file) }?)
}
