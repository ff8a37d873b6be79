//! The writer: from arrays to members.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mmnpz_core::directory::DirectoryWriter;
use mmnpz_core::index::Directory;
use mmnpz_core::layout::{Alignment, Placement, StoredName};
use pyo3::exceptions::{PyRuntimeError, PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::detach::detached;
use crate::error::{Failure, check_signals};
use crate::source::{Items, as_array, npy_header};
use crate::{fork, mapping};

/// Whether a member is written in blocks.
fn is_large(place: &Placement) -> bool {
    place.end - place.header + place.gap > SMALL
}

/// Members up to this size are put together in memory and handed over in one system call.
const SMALL: u64 = 1 << 20;

/// Larger ones are copied, checksummed and written in blocks of this size, which stay in a core's cache. With
/// blocks of 512 KiB the two threads wait more for each other.
const BLOCK: u64 = 1 << 20;

/// `close` looks at pending signals so often while it waits for other threads.
const PATIENCE: Duration = Duration::from_millis(50);

/// So many blocks are written between two looks at pending signals.
const POLL_BLOCKS: usize = 16;

/// An archive that is open for writing.
struct Archive {
    path: PathBuf,
    file: File,
    alignment: Alignment,
    /// How often this process was forked off when it was opened. A forked child has a copy of the state that
    /// nobody tells of further members.
    forks: u64,
    state: Mutex<State>,
    /// Signalled when a member is finished.
    finished: Condvar,
}

/// What the threads that write share. It is locked for moments: to reserve a range, and to enter what was
/// written.
struct State {
    /// Where the next member starts.
    next: u64,
    directory: DirectoryWriter,
    /// Members whose range is reserved and that are being written.
    writing: usize,
    /// The threads that write a large member: these look at signals meanwhile.
    large: Vec<ThreadId>,
    /// How long the file was when it was opened.
    opened_len: u64,
    /// The file has no directory behind its last member: none was written yet, or it was overwritten.
    unfinished: bool,
    closed: bool,
}

/// A member on its way to the file.
struct Member {
    name: StoredName,
    header: Vec<u8>,
    items: Items,
}

impl Archive {
    fn open(path: PathBuf, mode: char, alignment: Alignment) -> Result<Self, Failure> {
        let (file, directory, next) = match mode {
            'x' => (create_new(&path)?, DirectoryWriter::default(), None),
            'w' => (replace(&path)?, DirectoryWriter::default(), None),
            _ => open_to_append(&path)?,
        };
        let opened_len = file.metadata()?.len();
        let state = State {
            next: next.unwrap_or(0),
            directory,
            writing: 0,
            large: Vec::new(),
            opened_len,
            unfinished: next.is_none(),
            closed: false,
        };
        Ok(Archive {
            path,
            file,
            alignment,
            forks: fork::count(),
            state: Mutex::new(state),
            finished: Condvar::new(),
        })
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock().map_err(|_| Failure::Poisoned)
    }

    /// The same for a thread that is attached to the interpreter: it lets go of it while it waits.
    fn lock_attached(&self, py: Python<'_>) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock_py_attached(py).map_err(|_| Failure::Poisoned)
    }

    /// Reserves a range for a member.
    fn reserve(&self, state: &mut State, member: &Member) -> Result<Placement, Failure> {
        let header = member.header.len() as u64;
        let size = header + member.items.len();
        let place = Placement::new(state.next, &member.name, header, size, self.alignment)?;
        state.next = place.end;
        state.writing += 1;
        if is_large(&place) {
            state.large.push(thread::current().id());
        }
        state.unfinished = true;
        Ok(place)
    }

    /// Writes a member into its range and enters it in the directory.
    fn write(&self, place: &Placement, mut member: Member) -> Result<(), Failure> {
        let large = is_large(place);
        let written =
            if large { self.write_large(place, &member) } else { self.write_small(place, &mut member) };
        let mut state = self.lock()?;
        state.writing -= 1;
        if large {
            let this = thread::current().id();
            let found = state.large.iter().position(|&thread| thread == this);
            found.map(|at| state.large.swap_remove(at));
        }
        match &written {
            Ok(crc) => state.directory.push(place, &member.name, *crc),
            // The range is free again if nobody reserved one behind it; else it stays a gap.
            Err(_) if state.next == place.end => state.next = place.header - place.gap,
            Err(_) => {}
        }
        if state.closed {
            // Somebody waits in `close`. Telling nobody would cost a system call too.
            self.finished.notify_all();
        }
        drop(state);
        written.map(|_| ())
    }

    /// One buffer, one system call.
    fn write_small(&self, place: &Placement, member: &mut Member) -> Result<u32, Failure> {
        let start = place.header - place.gap;
        let head = (place.file - start) as usize;
        let mut bytes = Vec::with_capacity((place.end - start) as usize);
        // The local header needs the checksum of what follows it.
        bytes.resize(head, 0);
        bytes.extend_from_slice(&member.header);
        member.items.read(member.items.len() as usize, &mut bytes);
        let crc = crc32fast::hash(&bytes[head..]);
        place.write_local(&member.name, crc, &mut bytes[place.gap as usize..head]);
        write_all_at(&self.file, &bytes, start)?;
        Ok(crc)
    }

    /// Block by block, and the local header last, when the checksum is known.
    ///
    /// A second thread takes every other block: while one copies and checksums, the other is in the system call,
    /// so that the bytes which are stored are those that were checksummed, whatever happens to the array, and
    /// writing still goes at the pace of the system call alone. If there is no free core, nothing is lost.
    fn write_large(&self, place: &Placement, member: &Member) -> Result<u32, Failure> {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let job = Job { file: &self.file, place, member, next: &next, stop: &stop };
        let mut blocks = thread::scope(|scope| {
            // Without another thread (there can be a limit) one does it all.
            let other = thread::Builder::new().spawn_scoped(scope, || job.write_blocks(|| Ok(()))).ok();
            let mine = job.write_blocks(check_signals);
            let others = other.map_or(Ok(Ok(Vec::new())), thread::ScopedJoinHandle::join);
            let mut blocks = mine?;
            blocks.extend(others.map_err(|_| Failure::Poisoned)??);
            Ok::<_, Failure>(blocks)
        })?;
        blocks.sort_unstable_by_key(|(number, _)| *number);
        let mut crc = crc32fast::Hasher::new();
        for (_, block) in &blocks {
            crc.combine(block);
        }
        let crc = crc.finalize();
        let start = place.header - place.gap;
        let mut head = vec![0; (place.file - start) as usize];
        place.write_local(&member.name, crc, &mut head[place.gap as usize..]);
        write_all_at(&self.file, &head, start)?;
        Ok(crc)
    }

    /// Waits for members that are being written, writes the directory, and lets nothing more be written.
    fn close(&self) -> Result<(), Failure> {
        let mut state = self.lock()?;
        if state.large.contains(&thread::current().id()) {
            // A signal handler that runs in the middle of `write`, which would wait for itself.
            return Err(Failure::Writing);
        }
        state.closed = true;
        while state.writing > 0 {
            state = self.finished.wait_timeout(state, PATIENCE).map_err(|_| Failure::Poisoned)?.0;
            if state.writing > 0 {
                drop(state);
                let interrupted = check_signals();
                state = self.lock()?;
                if interrupted.is_err() {
                    state.closed = false;
                    return interrupted;
                }
            }
        }
        let finished = if state.unfinished { self.finish(&state) } else { Ok(()) };
        match finished {
            Ok(()) => state.unfinished = false,
            // There may be room later.
            Err(_) => state.closed = false,
        }
        finished
    }

    /// Writes the directory and the end records behind the last member.
    fn finish(&self, state: &State) -> Result<(), Failure> {
        let records = state.directory.records();
        let mut at = state.next;
        let mut end_records = state.directory.end_records(at);
        let length = (records.len() + end_records.len()) as u64;
        if at + length < state.opened_len {
            // Something stood behind the archive. A file that is mapped must not get shorter.
            at = state.opened_len - length;
            end_records = state.directory.end_records(at);
        }
        write_all_at(&self.file, records, at)?;
        let behind = at + records.len() as u64;
        write_all_at(&self.file, &end_records, behind)?;
        self.file.set_len(behind + end_records.len() as u64)?;
        Ok(())
    }
}

/// A large member whose blocks are written by several threads.
struct Job<'a> {
    file: &'a File,
    place: &'a Placement,
    member: &'a Member,
    /// The next block that nobody took.
    next: &'a AtomicU64,
    /// Some thread failed: the others need not go on.
    stop: &'a AtomicBool,
}

impl Job<'_> {
    /// Takes blocks and writes them until none is left; gives back their checksums.
    fn write_blocks(
        &self,
        poll: impl Fn() -> Result<(), Failure>,
    ) -> Result<Vec<(u64, crc32fast::Hasher)>, Failure> {
        let result = self.try_write_blocks(poll);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn try_write_blocks(
        &self,
        poll: impl Fn() -> Result<(), Failure>,
    ) -> Result<Vec<(u64, crc32fast::Hasher)>, Failure> {
        let size = self.place.end - self.place.file;
        let mut items = self.member.items.clone();
        let mut block = Vec::with_capacity(BLOCK as usize);
        let mut written = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let at = number.saturating_mul(BLOCK);
            if at >= size {
                break;
            }
            let mut left = BLOCK.min(size - at);
            block.clear();
            let header = self.member.header.get(at as usize..).unwrap_or_default();
            block.extend_from_slice(&header[..header.len().min(left as usize)]);
            left -= block.len() as u64;
            if left > 0 {
                items.seek(at + block.len() as u64 - self.member.header.len() as u64);
                items.read(left as usize, &mut block);
            }
            let mut crc = crc32fast::Hasher::new();
            crc.update(&block);
            written.push((number, crc));
            write_all_at(self.file, &block, self.place.file + at)?;
            if written.len() % POLL_BLOCKS == 0 {
                poll()?;
            }
        }
        Ok(written)
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// A pipe or a device: it cannot hold an archive, and is not to be replaced by one.
fn irregular() -> Failure {
    io::Error::other("not a regular file").into()
}

/// A new file beside another, under a name that is short and nobody else's.
fn create_temporary(beside: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = beside.with_file_name(format!(".mmnpz-{}-{number}.tmp", std::process::id()));
        match create_new(&path) {
            Ok(file) => return Ok((path, file)),
            // Left by a killed process of the same number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A new, empty file in place of the one at `path`, whose bytes stay as they are for whoever has it mapped.
fn replace(path: &Path) -> Result<File, Failure> {
    // Through symbolic links, as open(path, "w") does.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?);
        }
        Err(error) => return Err(error.into()),
    };
    let metadata = fs::metadata(&target)?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(irregular());
    }
    // What may not be written may not be replaced; and a folder is refused as the system words it.
    OpenOptions::new().write(true).open(&target)?;
    let (temporary, file) = create_temporary(&target)?;
    let replaced =
        file.set_permissions(metadata.permissions()).and_then(|()| fs::rename(&temporary, &target));
    if let Err(error) = replaced {
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(file)
}

/// Opens an archive to go on behind its last member, or creates it; with where that is.
fn open_to_append(path: &Path) -> Result<(File, DirectoryWriter, Option<u64>), Failure> {
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options
    };
    let file = match options().open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options().create(true).truncate(false).open(path)?
        }
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(irregular());
    }
    if metadata.len() == 0 {
        return Ok((file, DirectoryWriter::default(), None));
    }
    let map = mapping::map(&file)?;
    let bytes = |range| mmnpz_core::index::slice(&map, range).unwrap_or_default();
    let directory = Directory::locate(&map)?;
    let (records, comment) = (bytes(&directory.range), bytes(&directory.comment));
    let writer = DirectoryWriter::resume(records, directory.shift, comment)?;
    Ok((file, writer, Some(directory.range.start)))
}

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

/// The compiled base of `mmnpz.NpzWriter`.
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Writer {
    archive: Mutex<Option<Arc<Archive>>>,
}

impl Writer {
    fn archive(&self) -> PyResult<Arc<Archive>> {
        let archive = self.archive.lock().ok().and_then(|archive| archive.clone());
        archive.ok_or_else(|| PyValueError::new_err("the writer is closed"))
    }
}

#[pymethods]
impl Writer {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Writer { archive: Mutex::default() }
    }

    /// Opens an archive; one that is open is closed first.
    fn _open(&self, py: Python<'_>, path: PathBuf, mode: char, align: u64) -> PyResult<()> {
        self.close(py)?;
        let alignment = Alignment::new(align).map_err(|error| Failure::from(error).into_err(py, &path))?;
        let opened = detached(py, || Archive::open(path.clone(), mode, alignment));
        let opened = opened.map_err(|failure| failure.into_err(py, &path))?;
        if let Ok(mut archive) = self.archive.lock() {
            *archive = Some(Arc::new(opened));
        }
        Ok(())
    }

    /// Writes an array as a member of the archive.
    ///
    /// When this returns, the member is in the operating system's hands. Threads may call it at the same time.
    ///
    /// Parameters
    /// ----------
    /// name : str
    ///     The member's name without its ``.npy`` extension; slashes make folders. Of two members with one
    ///     name the last is read.
    /// array : array_like
    ///     Anything that `numpy.asanyarray` takes, of any size, memory order and strides. It is stored as
    ///     `numpy.save` would, byte for byte. Arrays that are not in memory (memory maps) are streamed.
    ///
    /// Warns
    /// -----
    /// UserWarning
    ///     If the archive has a member of this name.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If the array holds Python objects, the name cannot be stored (a NUL in it, more than 65531 bytes of
    ///     UTF-8), or the writer is closed. Nothing is written then.
    /// OSError
    ///     If the operating system cannot write. The members before stay, and the writer can go on.
    fn write(&self, name: &str, array: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = array.py();
        let archive = self.archive()?;
        let fail = |failure: Failure| failure.into_err(py, &archive.path);
        if archive.forks != fork::count() {
            let path = archive.path.to_string_lossy();
            let message =
                format!("{path}: the writer belongs to the process that opened it, not to its fork");
            return Err(PyRuntimeError::new_err(message));
        }
        let stored_name = StoredName::new(name).map_err(|error| fail(error.in_member(name).into()))?;
        let array = as_array(array)?;
        let header = npy_header(&array).map_err(|error| {
            if error.is_instance_of::<PyValueError>(py) {
                let path = archive.path.to_string_lossy();
                PyValueError::new_err(format!("{path}: member {name:?}: {}", error.value(py)))
            } else {
                error
            }
        })?;
        let member = Member { name: stored_name, header, items: Items::new(&array)? };
        let closed = || PyValueError::new_err("the writer is closed");
        // The lock is released before anything of Python runs.
        let reserved = {
            let mut state = archive.lock_attached(py).map_err(fail)?;
            if state.closed {
                return Err(closed());
            }
            if state.directory.contains(&member.name) {
                None
            } else {
                Some(archive.reserve(&mut state, &member).map_err(fail)?)
            }
        };
        let place = if let Some(place) = reserved {
            place
        } else {
            let full = PyString::new(py, &format!("{name}.npy")).repr()?;
            // No NUL: StoredName has none.
            let message = std::ffi::CString::new(format!("Duplicate name: {full}"))?;
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 1)?;
            let mut state = archive.lock_attached(py).map_err(fail)?;
            if state.closed {
                return Err(closed());
            }
            archive.reserve(&mut state, &member).map_err(fail)?
        };
        // `array` keeps the memory that `member` points to until this returns.
        detached(py, || archive.write(&place, member)).map_err(fail)
    }

    fn __setitem__(&self, name: &str, array: &Bound<'_, PyAny>) -> PyResult<()> {
        self.write(name, array)
    }

    /// Writes the archive's directory and closes the file; waits for members that other threads are writing.
    ///
    /// Closing again does nothing. In a forked child it leaves the file alone.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     If the operating system cannot write the directory. The writer stays open: `close` can be called
    ///     again when there is room.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Ok(archive) = self.archive() else {
            return Ok(());
        };
        if archive.forks == fork::count() {
            detached(py, || archive.close()).map_err(|failure| failure.into_err(py, &archive.path))?;
        }
        if let Ok(mut current) = self.archive.lock() {
            *current = None;
        }
        Ok(())
    }

    /// Whether the writer is closed (bool).
    #[getter]
    fn closed(&self) -> bool {
        self.archive().is_err()
    }
}
