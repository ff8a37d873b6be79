//! A file that is open for writing: creating, opening, locking, writing at a place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::failure::{Failure, KeepGoing, check};
use crate::lock::{self, WriteLock};
use crate::storage::{Contents, SIGNATURE, Storage, with_zeros, write_zeros};
use crate::{boot, mapping, pread};

/// A file that is open for writing, and to which no other process writes.
pub struct WritableFile {
    /// The file, open for reading and writing.
    pub(crate) file: File,
    /// Whether the file is new, or has none of its old bytes.
    pub(crate) is_new: bool,
    lock: WriteLock,
}

impl WritableFile {
    /// Whether another writer is noticed: not where the file system has no locks.
    pub(crate) fn excludes_others(&self) -> bool {
        self.lock.excludes
    }

    /// Marks the file as new, once it has none of its old bytes.
    pub(crate) fn made_new(self) -> Self {
        WritableFile { is_new: true, ..self }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(windows)]
    {
        // Other processes may read, rename and delete the file, but not write to it.
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 1 | 4);
    }
    options
}

/// Creates a new file. Fails if the file exists.
pub(crate) fn create_new(path: &Path) -> Result<WritableFile, Failure> {
    create(path, &mut options())
}

fn create(path: &Path, options: &mut OpenOptions) -> Result<WritableFile, Failure> {
    let file = options.create_new(true).open(path)?;
    match lock::take(path, &file).map_err(Failure::from).and_then(|lock| lock.ok_or(Failure::Locked)) {
        Ok(lock) => Ok(WritableFile { file, is_new: true, lock }),
        Err(failure) => {
            // The creation mask of the process may not even let its owner open it.
            let _ = fs::remove_file(path);
            Err(failure)
        }
    }
}

/// Creates a new file that no other user may open. Fails if the file exists.
pub(crate) fn create_private(path: &Path) -> Result<WritableFile, Failure> {
    let mut options = options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    create(path, &mut options)
}

/// Opens the file, or creates it.
pub(crate) fn open_or_create(path: &Path) -> Result<WritableFile, Failure> {
    loop {
        let opened = match options().open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // `create_new` would not create a file through a symbolic link.
                (options().create(true).truncate(false).open(path)?, true)
            }
            Err(error) => return Err(in_use(error)),
        };
        if let Some(locked) = lock_opened(path, opened)? {
            return Ok(locked);
        }
    }
}

/// Opens the file.
pub(crate) fn open(path: &Path) -> Result<WritableFile, Failure> {
    loop {
        if let Some(locked) = open_once(path)? {
            return Ok(locked);
        }
    }
}

/// As [`open`], but None if another file was put in its place meanwhile.
pub(crate) fn open_once(path: &Path) -> Result<Option<WritableFile>, Failure> {
    lock_opened(path, (options().open(path).map_err(in_use)?, false))
}

/// Locks a file that was opened. None if another file was put in its place meanwhile.
fn lock_opened(path: &Path, (file, is_new): (File, bool)) -> Result<Option<WritableFile>, Failure> {
    if !file.metadata()?.is_file() {
        return Err(irregular());
    }
    let lock = lock::take(path, &file)?;
    if !is_at(&file, path) {
        return Ok(None);
    }
    Ok(Some(WritableFile { file, is_new, lock: lock.ok_or(Failure::Locked)? }))
}

/// Whether this is the file that has this path now.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    return File::open(path).and_then(|other| lock::is_same(file, &other)).unwrap_or(false);
    #[cfg(not(unix))]
    return true;
}

/// Windows refuses to open a file to which another process writes.
fn in_use(error: io::Error) -> Failure {
    const SHARING_VIOLATION: i32 = 32;
    if cfg!(windows) && error.raw_os_error() == Some(SHARING_VIOLATION) {
        return Failure::Locked;
    }
    error.into()
}

/// The error for a pipe or a device, which cannot hold an archive, and must not be replaced by one.
pub(crate) fn irregular() -> Failure {
    io::Error::other("not a regular file").into()
}

/// Makes sure that the name of a file survives a power failure. `path` is where the file was when it was
/// opened.
///
/// The file, its folder and the working folder may have changed since. If the system tells the present path
/// of an open file, that path counts.
fn sync_folder(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;

        if file.metadata()?.nlink() == 0 {
            // The file was deleted, and has no name.
            return Ok(());
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let target = fs::read_link(link).or_else(|_| fs::canonicalize(path))?;
        let folder = target.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = (file, path);
    Ok(())
}

/// How many bytes are copied at once where the system does not copy.
const BLOCK: u64 = 1 << 20;

/// How many bytes are set aside between two questions whether to go on.
const ALLOCATED: u64 = 1 << 30;

impl Storage for WritableFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        write_all_at(&self.file, bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn contents(&self) -> io::Result<Contents> {
        let metadata = self.file.metadata()?;
        if metadata.len() == 0 {
            return Ok(Contents { bytes: Arc::new([]), holes: Vec::new() });
        }
        let map = mapping::map(&self.file)?;
        let holes = mapping::holes(&self.file, &metadata, map[..].into());
        Ok(Contents { bytes: Arc::new(map), holes })
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        clear(&self.file, range)
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        release(&self.file, range)
    }

    fn occupy(&self, room: &Range<u64>) {
        occupy(&self.file, room);
    }

    fn allocate(&self, range: Range<u64>, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        clear(&self.file, range.clone())?;
        // Whoever tries step by step fills the disk for a moment, to the harm of others.
        if has_no_space_for(&self.file, &range)? {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC).into());
        }
        let mut at = range.start;
        while at < range.end {
            check(keep_going)?;
            let part = at..range.end.min(at + ALLOCATED);
            if !set_aside(&self.file, &part)? {
                // What is set aside already is zeros.
                return write_zeros(self, at..range.end, keep_going);
            }
            at = part.end;
        }
        if range.end > self.len()? {
            // Where the file has become longer meanwhile, this byte is that of this range all the same.
            self.write_at(&[0], range.end - 1)?;
        }
        Ok(())
    }

    fn copy(&self, range: Range<u64>, to: u64) -> io::Result<()> {
        copy(&self.file, range, to)
    }

    fn may_be_torn(&self) -> io::Result<bool> {
        Ok(boot::is_older(&self.file.metadata()?))
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        sync_folder(&self.file, path)
    }
}

/// As [`Storage::release`].
fn release(file: &File, range: Range<u64>) -> io::Result<()> {
    let range = range.start..range.end.min(file.metadata()?.len());
    if range.is_empty() {
        return Ok(());
    }
    let count = (SIGNATURE as u64).min(range.end - range.start);
    let cleared = write_all_at(file, &[0; SIGNATURE][..count as usize], range.start);
    // In a file system in memory, a reader that reads a new hole through its map dies if no page is left.
    if !is_in_memory(file) && punch(file, &range) { Ok(()) } else { cleared }
}

/// Reserves the space of a room if the file is in memory: a program that reads all of the file through a map
/// would need that space for the hole. If there is no space, the room stays a hole.
fn occupy(file: &File, room: &Range<u64>) {
    #[cfg(target_os = "linux")]
    if is_in_memory(file) {
        let _ = allocate(file, libc::FALLOC_FL_KEEP_SIZE, room);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, room);
}

/// Whether the file system keeps its files in memory.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File) -> bool {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    let mut found = MaybeUninit::<libc::statfs64>::uninit();
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `found` is room for what the call
    // writes.
    let status = unsafe { libc::fstatfs64(file.as_raw_fd(), found.as_mut_ptr()) };
    // SAFETY: the call has filled `found` if it did not fail.
    status == 0 && unsafe { found.assume_init() }.f_type == libc::TMPFS_MAGIC
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_file: &File) -> bool {
    false
}

/// Overwrites a range with zeros, as far as the file reaches, and gives the space back to the disk if the
/// file system can do that.
pub(crate) fn clear(file: &File, range: Range<u64>) -> io::Result<()> {
    let range = range.start..range.end.min(file.metadata()?.len());
    // Not in a file system in memory, see `release`.
    if range.is_empty() || (!is_in_memory(file) && punch(file, &range)) {
        return Ok(());
    }
    // Holes are zeros already.
    let holes = mapping::holes_in(file, range.clone());
    let mut at = range.start;
    for hole in holes.into_iter().chain(std::iter::once(range.end..range.end)) {
        with_zeros(at..hole.start.min(range.end), |zeros, at| write_all_at(file, zeros, at))?;
        at = at.max(hole.end);
    }
    Ok(())
}

/// As [`Storage::copy`]: the system copies, or shares what is on the disk, where it can.
fn copy(file: &File, range: Range<u64>, to: u64) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let done = copy_in_system(file, at..range.end, to + (at - range.start))?;
        if done == 0 {
            break;
        }
        at += done;
    }
    let mut block = vec![0; BLOCK.min(range.end - at) as usize];
    while at < range.end {
        let block = &mut block[..BLOCK.min(range.end - at) as usize];
        pread::read_exact_at(file, block, at)?;
        write_all_at(file, block, to + (at - range.start))?;
        at += block.len() as u64;
    }
    Ok(())
}

/// Has the system copy some bytes of a range, and returns how many: none if it cannot.
#[cfg(target_os = "linux")]
fn copy_in_system(file: &File, range: Range<u64>, to: u64) -> io::Result<u64> {
    use std::os::fd::AsRawFd;

    let (Ok(mut from), Ok(mut to)) = (i64::try_from(range.start), i64::try_from(to)) else { return Ok(0) };
    let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let file = file.as_raw_fd();
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call writes to two numbers that
    // live as long as it.
    let done = unsafe { libc::copy_file_range(file, &raw mut from, file, &raw mut to, count, 0) };
    if let Ok(done) = u64::try_from(done) {
        return Ok(done);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EXDEV | libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM | libc::EBADF) => {
            Ok(0)
        }
        _ if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn copy_in_system(_file: &File, _range: Range<u64>, _to: u64) -> io::Result<u64> {
    Ok(0)
}

/// Whether the file system says that it has less space than a range takes in addition to what it has.
#[cfg(unix)]
fn has_no_space_for(file: &File, range: &Range<u64>) -> io::Result<bool> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    use libc::{fstatvfs, statvfs};
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    use libc::{fstatvfs64 as fstatvfs, statvfs64 as statvfs};

    let mut found = MaybeUninit::<statvfs>::uninit();
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `found` is room for what the call
    // writes.
    if unsafe { fstatvfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has filled `found`, as it did not fail.
    let found = unsafe { found.assume_init() };
    if found.f_blocks == 0 {
        // It does not tell.
        return Ok(false);
    }
    let inside = range.start..range.end.min(file.metadata()?.len()).max(range.start);
    let holes = mapping::holes_in(file, inside.clone()).into_iter().map(|hole| hole.end - hole.start);
    let needed = holes.sum::<u64>() + (range.end - inside.end);
    #[allow(clippy::unnecessary_cast, reason = "types differ between systems")]
    Ok((found.f_bfree as u64).saturating_mul(found.f_frsize as u64) < needed)
}

/// Other systems are not asked.
#[cfg(not(unix))]
fn has_no_space_for(_file: &File, _range: &Range<u64>) -> io::Result<bool> {
    Ok(false)
}

/// Makes a range a hole. Returns whether the file system did.
#[cfg(target_os = "linux")]
fn punch(file: &File, range: &Range<u64>) -> bool {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, range).is_ok()
}

/// Sets the space of a range aside, in which nothing changes. Returns whether the file system can do that. An
/// error leaves the file as long as it is.
#[cfg(target_os = "linux")]
fn set_aside(file: &File, range: &Range<u64>) -> io::Result<bool> {
    match allocate(file, libc::FALLOC_FL_KEEP_SIZE, range) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Asks for space for a range, or for a hole, as `mode` says.
#[cfg(target_os = "linux")]
fn allocate(file: &File, mode: libc::c_int, range: &Range<u64>) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let start = i64::try_from(range.start).map_err(too_large)?;
    let length = i64::try_from(range.end - range.start).map_err(too_large)?;
    loop {
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the call uses no memory of this
        // process.
        if unsafe { libc::fallocate64(file.as_raw_fd(), mode, start, length) == 0 } {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _range: &Range<u64>) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn set_aside(_file: &File, _range: &Range<u64>) -> io::Result<bool> {
    Ok(false)
}

/// Writes bytes at a place of a file.
#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}
