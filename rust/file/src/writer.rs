//! An archive that is open for writing: threads, and what they write to the file.
//!
//! Where things go is the core's to say ([`mmnpz_format::write`]). What is written here in which order, and
//! what is synced, makes that come true: a large member's local header after all else of it, a directory
//! after its members.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mmnpz_format::additions::array_field::ArrayField;
use mmnpz_format::additions::filler::Filler;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::write::appender::{Appender, Reserved};
use mmnpz_format::write::directory_plan::{NewDirectory, Publish};
use mmnpz_format::write::patch::Patch;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::name::StoredName;

use crate::failure::{Failure, KeepGoing, Progress, check};
use crate::items::Items;
use crate::storage::{self, SIGNATURE, Storage};
use crate::stream::Stream;
use crate::writable_file::{self, WritableFile};
use crate::{blocks, fork, recovery, replace};

pub use creating::Created;
pub use streaming::Added;

mod creating;
mod streaming;
mod together;

/// `close` asks the caller whether to go on each time it has waited this long for other threads.
const PATIENCE: Duration = Duration::from_millis(50);

/// The index of at least this many members is made while the directory is being written.
const MANY: u64 = 1 << 14;

/// No local header is longer, padding included.
const LONGEST_HEADER: u64 = 1 << 17;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Fails if there is one.
    Create,
    /// A new one in place of the one there is.
    Replace,
    /// Goes on behind the members that are there, or creates it.
    Append,
}

/// An archive that is open for writing.
pub struct ArchiveWriter<S = WritableFile> {
    /// What messages call the file: its path, as it was given.
    pub shown: PathBuf,
    /// The path, whatever the working folder is.
    absolute: PathBuf,
    storage: S,
    /// Whether all that is said to be written survives a power failure.
    sync: bool,
    /// Whether rows of a stream were synced: then no directory may be torn, as nobody would look for them in
    /// front of one that has lost its seal.
    has_synced_rows: AtomicBool,
    /// The fork generation of the process that opened it. A forked child has a copy of the state that
    /// nobody tells of further members.
    forks: u64,
    state: Mutex<State>,
    /// Signalled when a member is finished.
    finished: Condvar,
    /// Held by the one that writes a directory: whether the one in the file is on the disk, where no power
    /// failure may lose it while it is replaced.
    publishing: Mutex<bool>,
}

/// What the threads that write share. It is locked for moments: to reserve a range, and to enter what was
/// written.
struct State {
    appender: Appender,
    /// Gaps that could not be filled yet, as writing failed.
    gaps: Vec<Filler>,
    /// Where there can be headers of members that could not be written.
    stale: Vec<u64>,
    /// The threads that write a large member, or have a batch written: these look at signals meanwhile.
    large: Vec<ThreadId>,
    /// The arrays in the file that programs fill.
    created: Vec<Arc<Created>>,
    /// The arrays that grow.
    streams: Vec<Arc<Stream>>,
    /// How many threads close the writer, or have closed it. While there is any, no member is reserved.
    closers: usize,
}

/// The answer to a thread that wants to write a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its place. [`ArchiveWriter::write`] must be called with it.
    Place(Placement),
    /// There is one of this name already, and it was not said that this is meant.
    Duplicate,
    /// At least this many bytes are needed in front of the directory: call [`ArchiveWriter::make_room`].
    NoRoom(u64),
    /// The file must be made ready first, which waits for the disk: call [`ArchiveWriter::prepare`].
    Unprepared,
    /// The writer is closed.
    Closed,
}

/// A member on its way to the file.
#[derive(Debug)]
pub struct NewMember<'a> {
    /// Its name.
    pub name: StoredName,
    /// Its `.npy` header.
    pub header: &'a [u8],
    /// What the header says, for the directory.
    pub array_field: Option<&'a ArrayField>,
    /// What follows the header.
    pub items: Items<'a>,
}

impl ArchiveWriter {
    /// Opens or creates the file at `path`. With `sync`, all that is said to be written survives a power
    /// failure.
    ///
    /// # Errors
    /// If the system refuses it, another writer has the file, or what is there is no archive.
    pub fn open(
        path: PathBuf,
        mode: Mode,
        alignment: Alignment,
        sync: bool,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let locked = match mode {
            Mode::Create => writable_file::create_new(&path)?,
            Mode::Replace => replace::replace(&path, keep_going)?,
            Mode::Append => writable_file::open_or_create(&path)?,
        };
        if sync && locked.is_new {
            locked.file.sync_all()?;
            locked.sync_name(&path)?;
        }
        let appender = match mode {
            Mode::Append => recovery::append_to(&locked, alignment, keep_going)?,
            Mode::Create | Mode::Replace => Appender::new(alignment),
        };
        Ok(Self::new(path, locked, appender, sync))
    }

    /// Whether another writer of the file is noticed: not where the file system has no locks.
    pub fn excludes_others(&self) -> bool {
        self.storage.excludes_others()
    }
}

impl<S: Storage> ArchiveWriter<S> {
    /// Goes on behind what is in a file that is open, at `path`; see [`ArchiveWriter::open`].
    ///
    /// # Errors
    /// Those of [`ArchiveWriter::open`].
    pub fn append_to(
        storage: S,
        path: PathBuf,
        alignment: Alignment,
        sync: bool,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let appender = recovery::append_to(&storage, alignment, keep_going)?;
        Ok(Self::new(path, storage, appender, sync))
    }

    /// A writer that goes on as `appender` says.
    pub(crate) fn new(path: PathBuf, storage: S, appender: Appender, sync: bool) -> Self {
        // One that was there before may have been there for long.
        let is_on_disk = appender.count() > 0;
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        ArchiveWriter {
            shown: path,
            absolute,
            storage,
            sync,
            has_synced_rows: AtomicBool::new(false),
            forks: fork::generation(),
            state: Mutex::new(State {
                appender,
                gaps: Vec::new(),
                stale: Vec::new(),
                large: Vec::new(),
                created: Vec::new(),
                streams: Vec::new(),
                closers: 0,
            }),
            finished: Condvar::new(),
            publishing: Mutex::new(is_on_disk),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock().map_err(|_| Failure::Poisoned)
    }

    /// Whether all that is said to be written survives a power failure.
    pub fn syncs(&self) -> bool {
        self.sync
    }

    /// Whether this process opened it. In a forked child nothing may be written.
    pub fn is_own(&self) -> bool {
        self.forks == fork::generation()
    }

    /// Reserves a range for a member; says if there is one of this name already, unless it `is_repeated` all
    /// the same.
    ///
    /// # Errors
    /// If the system cannot write, or the member does not fit into any archive.
    pub fn reserve(&self, member: &NewMember<'_>, is_repeated: bool) -> Result<Answer, Failure> {
        self.reserve_in(&mut *self.lock()?, member, is_repeated)
    }

    /// As [`ArchiveWriter::reserve`], unless another thread has the lock: then None.
    ///
    /// # Errors
    /// Those.
    pub fn try_reserve(&self, member: &NewMember<'_>, is_repeated: bool) -> Result<Option<Answer>, Failure> {
        match self.state.try_lock() {
            Ok(mut state) => self.reserve_in(&mut state, member, is_repeated).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Poisoned(_)) => Err(Failure::Poisoned),
        }
    }

    fn reserve_in(
        &self,
        state: &mut State,
        member: &NewMember<'_>,
        is_repeated: bool,
    ) -> Result<Answer, Failure> {
        let header = member.header.len() as u64;
        let answer = self.place(state, &member.name, (header, header + member.items.len()), is_repeated)?;
        if let Answer::Place(place) = answer
            && place.is_large()
        {
            state.large.push(thread::current().id());
        }
        Ok(answer)
    }

    /// A place for an `.npy` file whose header and which itself have these sizes.
    fn place(
        &self,
        state: &mut State,
        name: &StoredName,
        (header, size): (u64, u64),
        is_repeated: bool,
    ) -> Result<Answer, Failure> {
        if let Some(answer) = self.not_yet(state) {
            return Ok(answer);
        }
        if is_repeated {
            state.appender.repeats_name();
        } else if state.appender.is_likely(name)? {
            return Ok(Answer::Duplicate);
        }
        self.begin(state)?;
        Ok(match state.appender.reserve(name, header, size)? {
            Reserved::NoRoom(size) => Answer::NoRoom(size),
            Reserved::Place(place) => Answer::Place(place),
        })
    }

    /// What must be done before a member can have a place.
    fn not_yet(&self, state: &State) -> Option<Answer> {
        if state.closers > 0 {
            return Some(Answer::Closed);
        }
        (state.appender.has_prologue() && self.must_sync_prologue(state)).then_some(Answer::Unprepared)
    }

    /// Takes headers away of members that could not be written together with others. Nothing else is written
    /// before that is done.
    fn erase_stale(&self, state: &mut State) -> Result<(), Failure> {
        while let Some(&at) = state.stale.last() {
            self.storage.release(at..at + SIGNATURE as u64)?;
            state.stale.pop();
        }
        Ok(())
    }

    /// A thread has had as many large members or batches written, or given up.
    fn is_over(&self, state: &mut State, count: usize, thread: Option<ThreadId>) {
        for _ in 0..count {
            let found = state.large.iter().position(|&other| Some(other) == thread);
            found.map(|at| state.large.swap_remove(at));
        }
        if state.closers > 0 {
            // Somebody waits in `close`. Telling nobody would cost a system call too.
            self.finished.notify_all();
        }
    }

    /// Gives a range up, under the lock, before anybody else gets it. The file does not get shorter: a reader
    /// may have mapped it. What cannot be done here only leaves bytes that nobody reads.
    /// Says whether the range is a gap now, which a filler fills.
    fn abandon(&self, state: &mut State, range: Range<u64>) -> bool {
        // Where nothing was ever finished, the first header is all that tells that the file is ours: it stays
        // until a member takes its place.
        let is_all = range.start == 0 && state.appender.count() == 0;
        let released = if is_all { LONGEST_HEADER.min(range.end) } else { range.start };
        let _ = self.storage.release(released..range.end);
        let gap = state.appender.abandon(range);
        let is_gap = gap.is_some();
        state.gaps.extend(gap);
        self.fill_gaps(state);
        is_gap
    }

    /// Writes what must be in the file before members are appended, under the lock: nobody may be ahead of
    /// it.
    fn begin(&self, state: &mut State) -> Result<(), Failure> {
        self.erase_stale(state)?;
        if !state.appender.has_prologue() {
            return Ok(());
        }
        for Patch { at, bytes } in state.appender.prologue() {
            self.storage.write_at(&bytes, at)?;
            if self.must_sync_prologue(state) {
                self.storage.sync()?;
            }
            state.appender.prologue_part_is_written();
        }
        state.appender.prologue_is_written();
        Ok(())
    }

    /// A writer that syncs never has a member on the disk in a room that a seal says to be empty, either.
    fn must_sync_prologue(&self, state: &State) -> bool {
        self.sync || state.appender.must_sync_prologue()
    }

    /// Writes what must be in the file before members are appended, and waits for the disk.
    ///
    /// # Errors
    /// If the system cannot write.
    pub fn prepare(&self) -> Result<(), Failure> {
        let mut state = self.lock()?;
        self.begin(&mut state)
    }

    /// Writes a member into its range and enters it in the directory.
    ///
    /// # Errors
    /// If the system cannot write, or `progress` said no: then the range is given up.
    pub fn write(
        &self,
        place: &Placement,
        member: &mut NewMember<'_>,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let large = place.is_large();
        let written =
            if large { self.write_large(place, member, progress) } else { self.write_small(place, member) };
        let mut state = self.lock()?;
        match &written {
            Ok(crc) => state.appender.finish(place, &member.name, *crc, member.array_field),
            Err(_) => {
                self.abandon(&mut state, place.header..place.end);
            }
        }
        self.is_over(&mut state, usize::from(large), Some(thread::current().id()));
        drop(state);
        written.map(|_| ())
    }

    /// Fills gaps, so that members follow one another. Where that fails, the next directory tries again:
    /// until then, only programs that read without a directory miss what is behind.
    fn fill_gaps(&self, state: &mut State) {
        state.gaps.retain(|filler| storage::fill(&self.storage, filler).is_err());
    }

    /// One buffer, one system call.
    fn write_small(&self, place: &Placement, member: &mut NewMember<'_>) -> Result<u32, Failure> {
        let head = (place.file - place.header) as usize;
        let mut bytes = Vec::with_capacity((place.end - place.header) as usize);
        // The local header needs the checksum of what follows it.
        bytes.resize(head, 0);
        bytes.extend_from_slice(member.header);
        member.items.read(member.items.len() as usize, &mut bytes);
        let crc = crc32fast::hash(&bytes[head..]);
        if self.sync || place.header == 0 {
            // A new file shows that it is ours, however little of its first member is there.
            self.begin_member(place, &member.name)?;
            self.storage.write_at(&bytes[head..], place.file)?;
            self.complete(place, &member.name, crc)?;
        } else {
            place.write_local(&member.name, MemberState::Finished, crc, &mut bytes[..head]);
            self.storage.write_at(&bytes, place.header)?;
        }
        Ok(crc)
    }

    /// Block by block, and the local header once more at the end, when the checksum is known.
    fn write_large(
        &self,
        place: &Placement,
        member: &NewMember<'_>,
        progress: Progress<'_>,
    ) -> Result<u32, Failure> {
        self.begin_member(place, &member.name)?;
        let crc = blocks::write(&self.storage, place.file, member.header, &member.items, progress)?;
        self.complete(place, &member.name, crc)?;
        Ok(crc)
    }

    /// Writes a header that says that the member is being written.
    fn begin_member(&self, place: &Placement, name: &StoredName) -> Result<(), Failure> {
        self.write_head(place, name, MemberState::Begun, 0)?;
        if self.sync && place.header == 0 {
            // What is in a file without this could be anybody's.
            self.storage.sync()?;
        }
        Ok(())
    }

    /// Writes what is in front of a member's `.npy` file.
    fn write_head(
        &self,
        place: &Placement,
        name: &StoredName,
        state: MemberState,
        crc: u32,
    ) -> Result<(), Failure> {
        Ok(self.storage.write_at(&place.local_header(name, state, crc), place.header)?)
    }

    /// Makes a member count whose bytes are all there. The header comes last: until then, it says that the
    /// member is being written, and that the file is ours.
    fn complete(&self, place: &Placement, name: &StoredName, crc: u32) -> Result<(), Failure> {
        if self.sync {
            self.storage.sync()?;
        }
        self.write_head(place, name, MemberState::Finished, crc)?;
        if self.sync {
            self.storage.sync()?;
        }
        Ok(())
    }

    /// Writes a directory of all that is written, in front of which further members have room.
    ///
    /// # Errors
    /// If the system cannot write.
    pub fn flush(&self, sync: bool) -> Result<(), Failure> {
        self.publish(Publish::Flush(0), sync || self.sync)?;
        if sync && !self.sync {
            // Otherwise done when the file was opened.
            self.storage.sync_name(&self.absolute)?;
        }
        Ok(())
    }

    /// Makes room for a member of `size` bytes.
    ///
    /// # Errors
    /// If the system cannot write.
    pub fn make_room(&self, size: u64) -> Result<(), Failure> {
        if self.lock()?.appender.make_way()? {
            return Ok(());
        }
        self.publish(Publish::Flush(size), self.sync)
    }

    fn publish(&self, publish: Publish, sync: bool) -> Result<(), Failure> {
        // One at a time, and without the state's own lock while it is being written.
        let mut is_on_disk = self.publishing.lock().map_err(|_| Failure::Poisoned)?;
        let sync = sync || self.has_synced_rows.load(Ordering::Relaxed);
        if sync {
            // The members first. So is the directory that is there: also if there is nothing to write.
            self.storage.sync()?;
            *is_on_disk = true;
        }
        let length = self.storage.len()?;
        let mut new = {
            let mut state = self.lock()?;
            if !state.appender.needs(publish) {
                return Ok(());
            }
            self.fill_gaps(&mut state);
            self.begin(&mut state)?;
            state.appender.publish(publish, length)?
        };
        let written = self.write_directory(&mut new, sync, &mut is_on_disk);
        let mut state = self.lock()?;
        if written.is_err() {
            let length = self.storage.len().unwrap_or(u64::MAX);
            state.appender.publish_failed(&new, length);
            return written;
        }
        *is_on_disk = sync;
        state.appender.is_published(&new);
        Ok(())
    }

    /// Writes a directory; `is_on_disk` says whether the one in the file is there, as long as it is needed.
    fn write_directory(
        &self,
        new: &mut NewDirectory,
        sync: bool,
        is_on_disk: &mut bool,
    ) -> Result<(), Failure> {
        let names = new.take_names();
        let new = &*new;
        if let Some(filler) = new.filler() {
            storage::fill_from_its_head(&self.storage, filler)?;
        }
        if new.grows() && *is_on_disk && !sync {
            // That it grows must be on the disk before its end record goes.
            self.storage.sync()?;
            *is_on_disk = false;
        }
        let mut write = |bytes: &[u8], at| {
            self.storage.write_at(bytes, at)?;
            if sync || (*is_on_disk && new.overwrites()) {
                self.storage.sync()?;
                // Once it is not to be found any more, its members do not need it.
                *is_on_disk &= !new.is_done_with_old(at);
            }
            Ok::<_, Failure>(())
        };
        let head = if names.is_none() || new.count() < MANY {
            new.first_writes().try_for_each(|(bytes, at)| write(bytes, at))?;
            new.changes().try_for_each(|(bytes, at)| self.storage.write_at(bytes, at))?;
            new.head(names)
        } else {
            thread::scope(|scope| {
                let other = thread::Builder::new().spawn_scoped(scope, || new.head(names));
                new.first_writes().try_for_each(|(bytes, at)| write(bytes, at))?;
                // Where there can be no more threads, the directory has to do without an index.
                other.map_or_else(|_| Ok(new.head(None)), |other| other.join().map_err(|_| Failure::Poisoned))
            })?
        };
        new.last_writes(&head).try_for_each(|(bytes, at)| write(bytes, at))?;
        if let Some(room) = new.room() {
            self.storage.occupy(&room);
        }
        Ok(())
    }

    /// The names of all arrays, in the order of their members; a name as often as it was written.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        Ok(self.lock()?.appender.names()?)
    }

    /// Whether there is a member of this name.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn contains(&self, name: &StoredName) -> Result<bool, Failure> {
        Ok(self.lock()?.appender.contains(name)?)
    }

    /// Finishes arrays that grow, gives up arrays that programs still fill, waits for members that are being
    /// written, writes the directory, and lets nothing more be written.
    ///
    /// # Errors
    /// If the system cannot write: it can be called again. [`Failure::Writing`] in the middle of a write of
    /// this thread.
    pub fn close(&self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let mut state = self.lock()?;
        if state.large.contains(&thread::current().id()) {
            // A signal handler that runs in the middle of `write`, which would wait for itself.
            return Err(Failure::Writing);
        }
        while !state.streams.is_empty() {
            drop(state);
            self.finish_streams(keep_going)?;
            state = self.lock()?;
        }
        state.closers += 1;
        loop {
            state = self.give_up_created(state)?;
            if !state.appender.is_busy() {
                break;
            }
            state = self.finished.wait_timeout(state, PATIENCE).map_err(|_| Failure::Poisoned)?.0;
            if state.appender.is_busy() {
                drop(state);
                let interrupted = check(keep_going);
                state = self.lock()?;
                if interrupted.is_err() {
                    // Another thread may close it, or have closed it: then it stays so.
                    state.closers -= 1;
                    return interrupted;
                }
            }
        }
        drop(state);
        let finished = self.publish(Publish::Close, self.sync);
        if finished.is_err() {
            // There may be room later.
            self.lock()?.closers -= 1;
        }
        finished
    }
}
