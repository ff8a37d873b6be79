//! An archive that is open for writing, without Python: ranges, members, directories.
//!
//! What can be lost at any moment is the directory, which is derived. Members are what counts: one is there once
//! its end mark is ([`mmnpz_core::mark`]), and that is written last. So whatever stands in the file when a process
//! is killed, [`Survey`] finds every member whose `write` had returned.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mmnpz_core::directory::DirectoryWriter;
use mmnpz_core::layout::{Alignment, Placement, StoredName};
use mmnpz_core::mark::{Base, Seal};
use mmnpz_core::survey::{Effort, Survey};
use mmnpz_core::zip::{EndRecord, LocalHeader, Record};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use zerocopy::IntoBytes;

use crate::error::{Failure, check_signals, polled};
use crate::file::{self, Locked, write_all_at};
use crate::source::Items;
use crate::{fork, mapping, repair};

/// Members up to this size are put together in memory and handed over in one system call.
const SMALL: u64 = 1 << 20;

/// Larger ones are copied, checksummed and written in blocks of this size, which stay in a core's cache. With
/// blocks of 512 KiB the two threads wait more for each other.
const BLOCK: u64 = 1 << 20;

/// `close` looks at pending signals so often while it waits for other threads.
const PATIENCE: Duration = Duration::from_millis(50);

/// So many blocks are written between two looks at pending signals.
const POLL_BLOCKS: usize = 16;

/// The room that a flushed directory leaves in front of it: so much at least and at most, and else a share of the
/// file. It is a hole in the file, which takes no space on the disk until something is written there.
const LEAST_ROOM: u64 = 1 << 16;
const MOST_ROOM: u64 = 1 << 30;
const ROOM_SHARE: u64 = 8;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Fails if there is one.
    Create,
    /// A new one in place of the one there is.
    Replace,
    /// Goes on behind the members that are there, or creates it.
    Append,
}

/// An archive that is open for writing.
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    locked: Locked,
    alignment: Alignment,
    /// Whether all that is said to be written survives a power failure.
    sync: bool,
    /// How often this process was forked off when it was opened. A forked child has a copy of the state that
    /// nobody tells of further members.
    pub(crate) forks: u64,
    state: Mutex<State>,
    /// Signalled when a member is finished.
    finished: Condvar,
    /// Held by the one that writes a directory.
    publishing: Mutex<()>,
}

/// What the threads that write share. It is locked for moments: to reserve a range, and to enter what was
/// written.
pub(crate) struct State {
    /// Where the next member starts.
    next: u64,
    /// What reaches past this byte would overwrite a directory that readers use.
    limit: Option<u64>,
    /// How long the file is: it never gets shorter, as others may have it mapped.
    length: u64,
    /// The end record of an archive of another program, as long as nothing is behind it.
    base: Option<u64>,
    /// The end record of a directory of ours, as long as zip readers find it.
    end_record: Option<u64>,
    directory: DirectoryWriter,
    /// Where the members start that are being written.
    starts: Vec<u64>,
    /// The threads that write a large member: these look at signals meanwhile.
    large: Vec<ThreadId>,
    /// The directory in the file does not list all that is there, or leaves room.
    unfinished: bool,
    /// Something was written that the directory in the file does not list.
    unlisted: bool,
    pub(crate) closed: bool,
}

/// A member on its way to the file.
pub(crate) struct Member {
    pub(crate) name: StoredName,
    pub(crate) header: Vec<u8>,
    pub(crate) items: Items,
}

/// What a thread gets that wants to write a member.
pub(crate) enum Reserved {
    Place(Placement),
    /// There is no room in front of the directory that readers use: a new one must be written first, with so much
    /// room.
    NoRoom(u64),
}

/// What a directory is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publish {
    /// Readers, while writing goes on: with room for at least so much.
    Room(u64),
    /// Good.
    Last,
}

impl State {
    /// Nothing is there.
    pub(crate) fn empty() -> Self {
        State {
            next: 0,
            limit: None,
            length: 0,
            base: None,
            end_record: None,
            directory: DirectoryWriter::default(),
            starts: Vec::new(),
            large: Vec::new(),
            unfinished: true,
            unlisted: true,
            closed: false,
        }
    }

    /// What is in a file. Members that no directory lists are taken up if their checksums are right.
    fn of_file(file: &File) -> Result<Self, Failure> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(Self::empty());
        }
        let map = mapping::map(file)?;
        let mut survey = match polled(|go_on| Survey::new(&map, Effort::Ours, go_on)) {
            // What a power failure leaves of a new file can be its size alone.
            Err(Failure::Format(_)) if map.iter().all(|&byte| byte == 0) => Survey::default(),
            survey => survey?,
        };
        repair::sort_out(file, &map, &mut survey, |_| Ok(()))?;
        Self::of_survey(file, &map, &survey)
    }

    /// The state that goes on behind what was found in a file.
    pub(crate) fn of_survey(file: &File, bytes: &[u8], survey: &Survey) -> Result<Self, Failure> {
        let directory = survey.directory.as_ref();
        let part = |range| mmnpz_core::index::slice(bytes, range).unwrap_or_default();
        let records = directory.map_or(&[][..], |directory| part(&directory.range));
        let comment = directory.map_or(&[][..], |directory| part(&directory.comment));
        let shift = directory.map_or(0, |directory| directory.shift);
        let directory_writer =
            DirectoryWriter::resume(records, &survey.found_records(bytes), shift, comment)?;
        let mut state = State {
            next: survey.end,
            length: bytes.len() as u64,
            directory: directory_writer,
            unfinished: !survey.is_whole(),
            unlisted: !survey.is_whole(),
            ..Self::empty()
        };
        let end_record =
            directory.and_then(|directory| directory.comment.start.checked_sub(EndRecord::SIZE as u64));
        let head = LocalHeader::SIGNATURE.to_le_bytes();
        if !survey.is_whole() && bytes.starts_with(&[0; 4]) {
            // NumPy knows an archive by its first bytes, which a power failure can have kept from the disk.
            write_all_at(file, &head, 0)?;
        }
        if survey.is_foreign {
            // Nothing vouches for these members but a directory, which therefore comes first.
            state.end_foreign(file)?;
        } else if let Some(seal) = survey.seal.filter(|seal| !seal.is_last()) {
            // Readers may use the directory that was flushed last.
            state.limit = Some(seal.at());
            state.unfinished = true;
            state.end_record = end_record.filter(|_| survey.is_at_end);
        } else if let Some(directory) = directory
            && survey.is_at_end
            && survey.found.is_empty()
        {
            if survey.seal.is_some_and(|seal| seal.holds(bytes)) {
                state.end_record = end_record;
                return Ok(state);
            }
            if directory.range == (0..0) {
                // Nothing but an end record.
                state.next = 0;
                return Ok(state);
            }
            // Another program's, or not what we wrote any more: it stays, and members go behind it.
            state.next = state.length;
            state.base = end_record;
        }
        Ok(state)
    }

    /// Whether there is a member of this name.
    pub(crate) fn contains(&mut self, name: &StoredName) -> bool {
        self.directory.contains(name)
    }

    /// The names of all arrays, in the order of their members; a name as often as it was written.
    pub(crate) fn names(&self) -> Vec<String> {
        self.directory.names().collect()
    }

    /// How many members there are.
    pub(crate) fn count(&self) -> u64 {
        self.directory.count()
    }

    /// Writes the directory of members of another program, whose own was lost, as that program would have.
    fn end_foreign(&mut self, file: &File) -> Result<(), Failure> {
        let end_records = self.directory.end_records(self.length);
        let bytes = [self.directory.records(), &end_records].concat();
        write_all_at(file, &bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.next = self.length;
        self.base = Some(self.length - EndRecord::SIZE as u64);
        (self.unfinished, self.unlisted) = (false, false);
        Ok(())
    }

    /// Once, and before anything else is written to an archive that was there: without it, nothing would vouch for
    /// the directory of another program in front of the members that follow; and a directory of ours of which members
    /// overwrite a part could still be believed.
    fn prepare(&mut self, file: &File, sync: bool) -> Result<(), Failure> {
        if let Some(end_record) = self.base {
            write_all_at(file, Base::new(self.next, end_record).as_bytes(), self.next)?;
            self.next += Base::SIZE as u64;
            if sync {
                file.sync_data()?;
            }
            self.length = self.length.max(self.next);
            (self.unfinished, self.unlisted) = (true, true);
            self.base = None;
        }
        if self.limit.is_none()
            && let Some(end_record) = self.end_record.take()
        {
            blank(file, end_record)?;
        }
        Ok(())
    }

    /// Reserves a range for a member.
    fn reserve(&mut self, archive: &Archive, member: &Member) -> Result<Reserved, Failure> {
        self.prepare(archive.file(), archive.sync)?;
        let header = member.header.len() as u64;
        let size = header + member.items.len();
        let place = Placement::new(self.next, &member.name, header, size, archive.alignment)?;
        if self.limit.is_some_and(|limit| place.next() > limit) {
            return Ok(Reserved::NoRoom(place.next() - self.next));
        }
        self.next = place.next();
        self.starts.push(place.start());
        if is_large(&place) {
            self.large.push(thread::current().id());
        }
        (self.unfinished, self.unlisted) = (true, true);
        Ok(Reserved::Place(place))
    }

    /// Enters a member that has been written, or gives its range back.
    fn settle(&mut self, file: &File, place: &Placement, name: &StoredName, written: Result<u32, &Failure>) {
        forget(&mut self.starts, &place.start());
        if is_large(place) {
            forget(&mut self.large, &thread::current().id());
        }
        match written {
            Ok(crc) => {
                self.directory.push(place, name, crc);
                self.length = self.length.max(place.next());
            }
            // The range is free again if nobody reserved one behind it; else it stays a gap.
            Err(_) if self.next == place.next() => {
                self.next = place.start();
                if self.limit.is_none() {
                    // So is what it took of the disk. No reader has been told of anything there.
                    let _ = file.set_len(self.length.max(self.next));
                }
            }
            Err(_) => {}
        }
    }

    /// Where the seal of a directory of so many bytes goes, end records included, and what it says. Readers may use
    /// the one that is there until this one is whole, if there is one and `next` leaves room for it.
    fn place_directory(&self, publish: Publish) -> NewDirectory {
        let records = self.directory.records();
        let size = |at: u64| {
            let directory = at + Seal::SIZE as u64;
            let end_records = self.directory.end_records(directory);
            (directory + (records.len() + end_records.len()) as u64, end_records)
        };
        // So that it ends where the file does: it must not get shorter.
        let shortest = size(0).0;
        let mut at = self.length.saturating_sub(shortest).max(self.next);
        if self.next == 0 && self.length > 0 {
            // Behind what a killed writer left of its first member, see `State::of_survey`.
            at = at.max(LocalHeader::SIZE as u64);
        }
        if let Publish::Room(room) = publish {
            // In place of the one that was flushed before, if that leaves room enough; else behind it.
            let in_place = self.limit.is_some() && at >= self.next.saturating_add(room);
            if !in_place {
                let share = (self.next / ROOM_SHARE).clamp(LEAST_ROOM, MOST_ROOM);
                at = self.length.max(self.next).saturating_add(room.saturating_add(share));
            }
        }
        let (mut end, mut end_records) = size(at);
        if end < self.length {
            // A larger offset can only make the end records longer.
            at += self.length - end;
            (end, end_records) = size(at);
        }
        let listed = self.starts.iter().copied().min().unwrap_or(self.next);
        let last = publish == Publish::Last;
        let seal = Seal::new(at, (listed, self.next), records, &end_records, last);
        // An empty archive is an end record and nothing else: that is how NumPy knows it.
        let body = if self.length == 0 && self.next == 0 {
            end_records = self.directory.end_records(0);
            end = end_records.len() as u64;
            Vec::new()
        } else {
            [seal.as_bytes(), records].concat()
        };
        // One that is wholly behind the old one leaves it to readers until it is whole.
        let old_end_record = self.end_record.filter(|_| at < self.length);
        NewDirectory { at, body, end_records, end, old_end_record }
    }
}

/// A directory that is going to be written.
struct NewDirectory {
    at: u64,
    /// Seal and records.
    body: Vec<u8>,
    end_records: Vec<u8>,
    /// Where the end records end, and so the file.
    end: u64,
    /// The end record of a directory that it overwrites.
    old_end_record: Option<u64>,
}

impl NewDirectory {
    /// Writes it so that at no time anybody finds a directory that lists only some of the members: it is the old
    /// one, the new one, or none, in which case we look for the members themselves.
    fn write(&self, file: &File, sync: bool) -> io::Result<()> {
        let barrier = || if sync { file.sync_data() } else { Ok(()) };
        if let Some(end_record) = self.old_end_record {
            blank(file, end_record)?;
        }
        // The members, too.
        barrier()?;
        write_all_at(file, &self.body, self.at)?;
        barrier()?;
        write_all_at(file, &self.end_records, self.at + self.body.len() as u64)?;
        barrier()
    }
}

/// Makes an end record one that nobody finds: however few of the bytes are written, no signature is left.
fn blank(file: &File, end_record: u64) -> io::Result<()> {
    write_all_at(file, &[0; 4], end_record)
}

fn forget<T: PartialEq>(list: &mut Vec<T>, item: &T) {
    if let Some(at) = list.iter().position(|other| other == item) {
        list.swap_remove(at);
    }
}

/// Whether a member is written in blocks.
fn is_large(place: &Placement) -> bool {
    place.end - place.start() > SMALL
}

impl Archive {
    pub(crate) fn open(path: PathBuf, mode: Mode, alignment: Alignment, sync: bool) -> Result<Self, Failure> {
        let locked = match mode {
            Mode::Create => file::create_new(&path)?,
            Mode::Replace => file::replace(&path)?,
            Mode::Append => file::open_or_create(&path)?,
        };
        if sync && locked.is_new {
            locked.file.sync_all()?;
            file::sync_folder(&path)?;
        }
        let state = if mode == Mode::Append { State::of_file(&locked.file)? } else { State::empty() };
        Ok(Self::new(path, locked, state, alignment, sync))
    }

    pub(crate) fn new(path: PathBuf, locked: Locked, state: State, alignment: Alignment, sync: bool) -> Self {
        Archive {
            path,
            locked,
            alignment,
            sync,
            forks: fork::count(),
            state: Mutex::new(state),
            finished: Condvar::new(),
            publishing: Mutex::default(),
        }
    }

    fn file(&self) -> &File {
        &self.locked.file
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock().map_err(|_| Failure::Poisoned)
    }

    /// The same for a thread that is attached to the interpreter: it lets go of it while it waits.
    pub(crate) fn lock_attached(&self, py: Python<'_>) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock_py_attached(py).map_err(|_| Failure::Poisoned)
    }

    /// Reserves a range for a member, in the state that is locked already.
    pub(crate) fn reserve(&self, state: &mut State, member: &Member) -> Result<Reserved, Failure> {
        state.reserve(self, member)
    }

    /// Writes a member into its range and enters it in the directory.
    pub(crate) fn write(&self, place: &Placement, mut member: Member) -> Result<(), Failure> {
        let written = if is_large(place) {
            self.write_large(place, &member)
        } else {
            self.write_small(place, &mut member)
        };
        let mut state = self.lock()?;
        state.settle(self.file(), place, &member.name, written.as_ref().copied());
        if state.closed {
            // Somebody waits in `close`. Telling nobody would cost a system call too.
            self.finished.notify_all();
        }
        drop(state);
        written.map(|_| ())
    }

    /// One buffer, one system call.
    fn write_small(&self, place: &Placement, member: &mut Member) -> Result<u32, Failure> {
        if place.start() == 0 {
            // A new file shows that it is ours, however little of its first member is there.
            self.write_head(place, member, place.provisional_crc(&member.name))?;
        }
        let head = (place.file - place.start()) as usize;
        let mut bytes = Vec::with_capacity((place.next() - place.start()) as usize);
        // The local header needs the checksum of what follows it.
        bytes.resize(head, 0);
        bytes.extend_from_slice(&member.header);
        member.items.read(member.items.len() as usize, &mut bytes);
        let crc = crc32fast::hash(&bytes[head..]);
        if place.start() == 0 {
            write_all_at(self.file(), &bytes[head..], place.file)?;
            self.finish(place, member, crc)?;
            return Ok(crc);
        }
        place.write_local(&member.name, crc, &mut bytes[place.gap as usize..head]);
        let mark = place.end_mark(&member.name, crc);
        if self.sync {
            write_all_at(self.file(), &bytes, place.start())?;
            self.write_mark(place, &mark)?;
        } else {
            // In this order in the file, and so in memory: the mark is there last, wherever the system call ends.
            bytes.extend_from_slice(&mark);
            write_all_at(self.file(), &bytes, place.start())?;
        }
        Ok(crc)
    }

    /// Block by block, and the local header and the end mark last, when the checksum is known.
    ///
    /// A second thread takes every other block: while one copies and checksums, the other is in the system call,
    /// so that the bytes which are stored are those that were checksummed, whatever happens to the array, and
    /// writing still goes at the pace of the system call alone. If there is no free core, nothing is lost.
    fn write_large(&self, place: &Placement, member: &Member) -> Result<u32, Failure> {
        self.write_head(place, member, place.provisional_crc(&member.name))?;
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let job = Job { file: self.file(), place, member, next: &next, stop: &stop };
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
        self.finish(place, member, crc)?;
        Ok(crc)
    }

    /// Makes a member count whose bytes are written, and whose head is the provisional one.
    ///
    /// The head comes last: as long as it is provisional, a file with nothing but this member is known as ours.
    fn finish(&self, place: &Placement, member: &Member, crc: u32) -> Result<(), Failure> {
        if self.sync {
            self.file().sync_data()?;
        }
        write_all_at(self.file(), &place.end_mark(&member.name, crc), place.end)?;
        if self.sync && place.start() == 0 {
            self.file().sync_data()?;
        }
        self.write_head(place, member, crc)?;
        if self.sync {
            self.file().sync_data()?;
        }
        Ok(())
    }

    /// Writes what is in front of a member's `.npy` file.
    fn write_head(&self, place: &Placement, member: &Member, crc: u32) -> Result<(), Failure> {
        let mut head = vec![0; (place.file - place.start()) as usize];
        place.write_local(&member.name, crc, &mut head[place.gap as usize..]);
        Ok(write_all_at(self.file(), &head, place.start())?)
    }

    /// Writes what makes a member count, after all else of it.
    fn write_mark(&self, place: &Placement, mark: &[u8]) -> Result<(), Failure> {
        if self.sync {
            self.file().sync_data()?;
        }
        write_all_at(self.file(), mark, place.end)?;
        if self.sync {
            self.file().sync_data()?;
        }
        Ok(())
    }

    /// Writes a directory of all that is written, in front of which further members have room.
    pub(crate) fn flush(&self, sync: bool) -> Result<(), Failure> {
        self.publish(Publish::Room(0), sync || self.sync)?;
        if sync && !self.sync {
            // Otherwise done when the file was opened.
            file::sync_folder(&self.path)?;
        }
        Ok(())
    }

    /// Makes room for a member of so many bytes.
    pub(crate) fn make_room(&self, size: u64) -> Result<(), Failure> {
        self.publish(Publish::Room(size), self.sync)
    }

    fn publish(&self, publish: Publish, sync: bool) -> Result<(), Failure> {
        let publishing = self.publishing.lock().map_err(|_| Failure::Poisoned)?;
        let length = self.file().metadata()?.len();
        let (new, listed) = {
            let mut state = self.lock()?;
            let needed = match publish {
                Publish::Last => state.unfinished,
                // Of a new file there is nothing to show; room in front of an end record would be no archive.
                Publish::Room(0) => state.unlisted && state.next > 0,
                Publish::Room(size) => state.limit.is_some_and(|limit| state.next + size > limit),
            };
            if !needed {
                return Ok(());
            }
            // A failed write may have made the file longer than is known.
            state.length = state.length.max(length);
            state.prepare(self.file(), sync)?;
            let new = state.place_directory(publish);
            if new.old_end_record.is_some() || state.limit.is_none() {
                state.limit = Some(new.at);
            }
            if new.old_end_record.is_some() {
                state.end_record = None;
            }
            (new, state.directory.count())
        };
        new.write(self.file(), sync)?;
        let mut state = self.lock()?;
        state.length = state.length.max(new.end);
        state.end_record = Some(state.directory.end_record(new.end));
        state.limit = (publish != Publish::Last).then_some(new.at);
        state.unfinished = publish != Publish::Last;
        state.unlisted = state.directory.count() != listed || !state.starts.is_empty();
        drop(state);
        drop(publishing);
        Ok(())
    }

    /// Waits for members that are being written, writes the directory, and lets nothing more be written.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        let mut state = self.lock()?;
        if state.large.contains(&thread::current().id()) {
            // A signal handler that runs in the middle of `write`, which would wait for itself.
            return Err(Failure::Writing);
        }
        state.closed = true;
        while !state.starts.is_empty() {
            state = self.finished.wait_timeout(state, PATIENCE).map_err(|_| Failure::Poisoned)?.0;
            if !state.starts.is_empty() {
                drop(state);
                let interrupted = check_signals();
                state = self.lock()?;
                if interrupted.is_err() {
                    state.closed = false;
                    return interrupted;
                }
            }
        }
        drop(state);
        let finished = self.publish(Publish::Last, self.sync);
        if finished.is_err() {
            // There may be room later.
            self.lock()?.closed = false;
        }
        finished
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
