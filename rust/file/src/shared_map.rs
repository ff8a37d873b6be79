//! A map through which programs write to a part of a file, and which can be cut off from the file.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{MmapMut, MmapOptions};

use crate::map_limit::Claim;

/// A map of a part of a file, shared with all that map the file.
///
/// Nothing reads or writes the memory through this value: it is lent to arrays, whose programs do, with any
/// number of threads.
#[derive(Debug)]
pub(crate) struct SharedMap {
    /// None for a part without bytes, which the system does not map.
    map: Option<MmapMut>,
    range: Range<u64>,
    _claim: Claim,
}

impl SharedMap {
    /// Maps a part of a file, all of which the file has.
    pub(crate) fn new(file: &File, range: Range<u64>) -> io::Result<Self> {
        let claim = Claim::new()?;
        let size = usize::try_from(range.end - range.start).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = if size == 0 {
            None
        } else {
            // SAFETY: this process alone writes to the file, by the lock that its writer holds, and to this
            // part of it only through this map: the part is reserved for one member. The bytes are lent to
            // arrays without references, for which all bytes are valid. mmnpz never makes the file shorter.
            Some(unsafe { MmapOptions::new().offset(range.start).len(size).map_mut(file) }?)
        };
        Ok(SharedMap { map, range, _claim: claim })
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_ref().map_or(std::ptr::dangling_mut(), |map| map.as_ptr().cast_mut())
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// From here on, what is written to this memory stays in this process, and the file is as it is now:
    /// the pages become private. Says whether the system can do that; else the memory stays shared.
    ///
    /// Not in a process with a limit for its data: private pages count for it, whether or not they are
    /// written to, and what is left of it would soon be used up.
    #[cfg(unix)]
    pub(crate) fn keep_from_file(&self, file: &File) -> bool {
        use std::os::fd::AsRawFd;

        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the call writes to `limit` alone.
        let is_known = unsafe { libc::getrlimit(libc::RLIMIT_DATA, &raw mut limit) } == 0;
        if is_known && limit.rlim_cur != libc::RLIM_INFINITY {
            return false;
        }
        self.replace(libc::MAP_PRIVATE, file.as_raw_fd())
    }

    /// From here on, the memory has nothing to do with the file: it is zeros, until something is written to
    /// it. Says whether the system can do that.
    #[cfg(unix)]
    pub(crate) fn forget_file(&self) -> bool {
        self.replace(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Puts another map in the place of this one.
    #[cfg(unix)]
    fn replace(&self, kind: libc::c_int, descriptor: libc::c_int) -> bool {
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        use libc::{mmap, off_t};
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        use libc::{mmap64 as mmap, off64_t as off_t};

        let Some(map) = &self.map else { return true };
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
        let inside = map.as_ptr().addr() % page;
        let Some(offset) = self.range.start.checked_sub(inside as u64) else { return false };
        let Ok(offset) = off_t::try_from(if descriptor < 0 { 0 } else { offset }) else { return false };
        let start = map.as_ptr().wrapping_sub(inside).cast_mut().cast();
        // Most pages are never written to: no swap space is set aside for them.
        let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: these are the pages of `map`, and no others, which nothing but the arrays of programs uses.
        // There are pages at each moment. Those that come in their place are readable and writable as well,
        // and of the same number, so that `map` can remove them.
        unsafe { mmap(start, map.len() + inside, rights, flags, descriptor, offset) != libc::MAP_FAILED }
    }

    /// Other systems cannot put a map in the place of another.
    #[cfg(not(unix))]
    pub(crate) fn keep_from_file(&self, _file: &File) -> bool {
        self.map.is_none()
    }

    /// Other systems cannot put a map in the place of another.
    #[cfg(not(unix))]
    pub(crate) fn forget_file(&self) -> bool {
        self.map.is_none()
    }
}
