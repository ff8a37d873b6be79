//! Checking the bytes of arrays against their checksums: the CRC-32 that the directory has of each member
//! (APPNOTE 6.3.10, 4.4.7).
//!
//! The bytes are read from the file, not through the map: what a disk cannot read, or what another program
//! has cut off, is damage of one member, where a look through the map would end the process. Only if the path
//! leads to another file by now is the map all that there is.
//!
//! Members are checked some at a time. Threads first take whole members, of which one read gets the headers
//! and the first bytes; most end there. What is left of large ones is cut into pieces, so that the threads
//! share a single member, too.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::read::entry::Compressed;
use mmnpz_format::read::lookup::Lookup;
use mmnpz_format::read::walked_index::Member;
use mmnpz_format::window::{Fetched, Part};

use crate::decompress::Summing;
use crate::failure::{Failure, KeepGoing, check as check_going};
use crate::fork;
use crate::mapping::{self, Identity};
use crate::pread;
use crate::share::{self, Share};
use crate::snapshot::Snapshot;

/// How many members are looked up, and then checked, at a time.
pub const SOME: usize = 1 << 12;

/// How many of them a thread takes at a time.
const TAKEN: usize = 16;

/// How many small ones, at most.
const TAKEN_SMALL: usize = 128;

/// How much one read gets of a file. It holds the longest local header that there can be, of 131,100 bytes.
const BLOCK: usize = 1 << 18;

/// How much is read at once where small members lie near each other, and how near.
const AHEAD: usize = 1 << 16;
const NEAR: u64 = 1 << 12;

/// How much of a large member a thread takes at a time.
const PIECE: u64 = 1 << 23;

/// A member that is to be checked.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Where it is.
    pub member: Member,
    /// The name of its array.
    pub name: String,
    /// The checksum that the directory has. Without one, that of the local header counts.
    pub crc: Option<u32>,
    /// How to decompress it, if it is compressed.
    pub compressed: Option<Compressed>,
}

impl Listed {
    /// The member `member`, whose array is called `name`, with its checksum.
    ///
    /// # Errors
    /// None where all of the directory is there.
    pub fn new(
        lookup: &Lookup,
        window: Window<'_>,
        (member, name): (Member, String),
    ) -> Result<Self, Failure> {
        let crc = lookup.checksum(window, &member, &name)?;
        let compressed = lookup.compressed(&member);
        Ok(Listed { member, name, crc, compressed })
    }
}

/// A member whose bytes are not those that were written, or cannot be read.
#[derive(Debug)]
pub struct Damage {
    /// Its position among the members that were to be checked.
    pub number: usize,
    /// What is wrong.
    pub what: Wrong,
}

/// What is wrong with a member.
#[derive(Debug)]
pub enum Wrong {
    /// Its bytes have another checksum.
    Checksum {
        /// That of the directory.
        expected: u32,
        /// That of the bytes.
        found: u32,
    },
    /// Its headers do not fit the directory, or the file ends inside of it.
    Headers(Error),
    /// The system cannot read it.
    Unreadable(io::Error),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Checksum { expected, found } => {
                write!(f, "its bytes have the CRC-32 {found:#010x}, and the archive says {expected:#010x}")
            }
            Wrong::Headers(error) => error.fmt(f),
            Wrong::Unreadable(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the file ends inside of it")
            }
            Wrong::Unreadable(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Wrong::Headers(error)
    }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Wrong::Unreadable(error)
    }
}

/// Reads bytes from a place of a file on, as many as `to` has, and makes sure that they have this checksum.
///
/// # Errors
/// If they have another one, those of the system, and [`Failure::Interrupted`].
pub fn read(
    snapshot: &Snapshot,
    from: u64,
    to: &mut [u8],
    expected: u32,
    keep_going: KeepGoing<'_>,
) -> Result<(), Failure> {
    let mut crc = crc32fast::Hasher::new();
    for (number, to) in to.chunks_mut(PIECE as usize).enumerate() {
        snapshot.read_to(from + number as u64 * PIECE, to, keep_going)?;
        crc.update(to);
    }
    let found = crc.finalize();
    if found == expected { Ok(()) } else { Err(ErrorKind::Checksum { expected, found }.into()) }
}

/// A file that was opened to be checked, or that a reader has open.
#[derive(Debug)]
enum Opened<'a> {
    Now(File),
    Before(&'a File),
}

impl Deref for Opened<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Now(file) => file,
            Opened::Before(file) => file,
        }
    }
}

/// Where bytes are read from.
#[derive(Debug)]
pub struct Source<'a> {
    snapshot: &'a Snapshot,
    /// The file, if it is open, or can still be opened by its path.
    file: Option<Opened<'a>>,
}

impl<'a> Source<'a> {
    /// Opens the file of a snapshot once more, if a path led to it.
    ///
    /// # Errors
    /// If the system cannot open it, although there is a file. If it has become shorter: the directory is not
    /// there any more.
    pub fn new(snapshot: &'a Snapshot) -> Result<Self, Failure> {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
        if let Some(file) = snapshot.map().file() {
            let source = Source { snapshot, file: Some(Opened::Before(file)) };
            source.check_length()?;
            return Ok(source);
        }
        let opened = match snapshot.path().map(mapping::open_file).transpose() {
            Ok(opened) => opened,
            Err(Failure::Irregular) => None,
            Err(Failure::Io(error)) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => {
                None
            }
            Err(failure) => return Err(failure),
        };
        let is_same = |identity: &Identity| identity.inode == snapshot.identity().inode;
        let file = opened.and_then(|(file, _, identity)| is_same(&identity).then_some(Opened::Now(file)));
        let source = Source { snapshot, file };
        source.check_length()?;
        Ok(source)
    }

    /// Makes sure that the directory is where it was, before anyone looks at it through the map.
    ///
    /// # Errors
    /// If the file has become shorter.
    pub fn check_length(&self) -> Result<(), Failure> {
        match &self.file {
            Some(file) if file.metadata()?.len() < self.snapshot.identity().size => {
                Err(pread::cut_short().into())
            }
            _ => Ok(()),
        }
    }

    /// Reads as many bytes from `at` on as `block` has, less at the end of the file.
    fn read(&self, at: u64, block: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &self.file else {
            let bytes = self.snapshot.bytes();
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            let count = rest.len().min(block.len());
            block[..count].copy_from_slice(&rest[..count]);
            return Ok(count);
        };
        pread::read_up_to(file, block, at)
    }

    /// Adds the bytes of a range to a checksum.
    fn add(&self, range: Range<u64>, crc: &mut crc32fast::Hasher, block: &mut [u8]) -> Result<(), Wrong> {
        let mut at = range.start;
        while at < range.end {
            let count = (block.len() as u64).min(range.end - at) as usize;
            if self.read(at, &mut block[..count])? < count {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            crc.update(&block[..count]);
            at += count as u64;
        }
        Ok(())
    }
}

/// The memory of a thread.
struct Room {
    /// What is being checked.
    block: Vec<u8>,
    /// Bytes of the file from `ahead_at` on, in which several small members lie.
    ahead: Vec<u8>,
    ahead_at: u64,
}

impl Room {
    fn new() -> Self {
        Room { block: vec![0; BLOCK], ahead: Vec::new(), ahead_at: 0 }
    }

    /// Reads the first bytes of a member, which starts at `at`, into the block. Of members that lie near each
    /// other, one read gets many. `next` is where the next member starts.
    fn read(&mut self, source: &Source<'_>, at: u64, count: usize, next: Option<u64>) -> io::Result<usize> {
        let has = |room: &Self| {
            let start = usize::try_from(at.checked_sub(room.ahead_at)?).ok()?;
            room.ahead.get(start..start.checked_add(count)?).map(|_| start)
        };
        if has(self).is_none() && next.is_some_and(|next| (at..at + NEAR).contains(&next)) {
            self.ahead_at = at;
            self.ahead.resize(AHEAD, 0);
            // Where something cannot be read, each member is read for itself.
            let read = source.read(at, &mut self.ahead).unwrap_or(0);
            self.ahead.truncate(read);
        }
        match has(self) {
            Some(start) => {
                self.block[..count].copy_from_slice(&self.ahead[start..start + count]);
                Ok(count)
            }
            None => source.read(at, &mut self.block[..count]),
        }
    }
}

/// What is behind the first bytes of a large member.
struct Rest {
    number: usize,
    expected: u32,
    /// The checksum of what was read.
    crc: crc32fast::Hasher,
    range: Range<u64>,
    /// The first of its pieces.
    first: usize,
}

/// The members that are checked together.
struct Check<'a> {
    source: &'a Source<'a>,
    members: &'a [Listed],
    is_first_enough: bool,
    /// How many bytes were checked.
    done: &'a AtomicU64,
    damages: Mutex<Vec<Damage>>,
    rests: Mutex<Vec<Rest>>,
    stop: AtomicBool,
    is_interrupted: AtomicBool,
}

/// Checks members with as many threads as `threads` says, this one included, and returns those that are
/// damaged, in their order; no more than one, if that `is_first_enough`. `done` counts the bytes that were
/// checked; the calling thread asks `go_on` now and then.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn check(
    source: &Source<'_>,
    members: &[Listed],
    threads: usize,
    is_first_enough: bool,
    done: &AtomicU64,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Damage>, Failure> {
    let (forks, before) = (fork::generation(), done.load(Ordering::Relaxed));
    let new = || Check {
        source,
        members,
        is_first_enough,
        done,
        damages: Mutex::default(),
        rests: Mutex::default(),
        stop: AtomicBool::new(false),
        is_interrupted: AtomicBool::new(false),
    };
    // In a child that a signal handler forks off, other threads are lost in the middle of what they did.
    let check = ManuallyDrop::new(new());
    let damages = check.all(threads, go_on);
    if forks == fork::generation() {
        drop(ManuallyDrop::into_inner(check));
        return damages;
    }
    if let Err(Failure::Forked) = damages {
        done.store(before, Ordering::Relaxed);
        return new().all(1, go_on);
    }
    damages
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Check<'_> {
    /// Checks all members.
    fn all(&self, threads: usize, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Damage>, Failure> {
        // Other threads may be done with all members before this one is first asked.
        check_going(&|| go_on())?;
        let caller = thread::current().id();
        let is_long =
            |listed: &Listed| listed.compressed.is_some() && listed.member.extent().1 > BLOCK as u64;
        let is_small = |listed: &Listed| listed.member.extent().1 < NEAR;
        // Small ones lie near each other, and one read gets many.
        let taken = match (self.members.iter().any(is_long), self.members.iter().all(is_small)) {
            (true, _) => 1,
            (_, true) => self.members.len().div_ceil(4 * threads.max(1)).clamp(TAKEN, TAKEN_SMALL),
            (_, false) => TAKEN,
        };
        self.share(self.members.len(), taken, threads, go_on, &|number, room| {
            // A compressed member is not cut into pieces, and the calling thread alone asks.
            let go_on = || {
                if thread::current().id() == caller && !go_on() {
                    self.is_interrupted.store(true, Ordering::Relaxed);
                    self.stop.store(true, Ordering::Relaxed);
                }
                !self.stop.load(Ordering::Relaxed)
            };
            self.member(number, room, &go_on);
        })?;
        let mut rests = std::mem::take(&mut *lock(&self.rests));
        let mut pieces = 0;
        for rest in &mut rests {
            rest.first = pieces;
            pieces += (rest.range.end - rest.range.start).div_ceil(PIECE) as usize;
        }
        let crcs = (0..pieces).map(|_| Mutex::new(None)).collect::<Vec<_>>();
        self.share(pieces, 1, threads, go_on, &|piece, room| {
            self.piece(&rests, piece, &crcs[piece], &mut room.block);
        })?;
        for rest in rests {
            let count = (rest.range.end - rest.range.start).div_ceil(PIECE) as usize;
            let mut whole = rest.crc;
            let is_complete = crcs[rest.first..rest.first + count].iter().all(|crc| {
                lock(crc).take().is_some_and(|crc| {
                    whole.combine(&crc);
                    true
                })
            });
            if is_complete {
                self.compare(rest.number, rest.expected, whole.finalize());
            }
        }
        let mut damages = std::mem::take(&mut *lock(&self.damages));
        damages.sort_by_key(|damage| damage.number);
        damages.dedup_by_key(|damage| damage.number);
        if self.is_first_enough {
            damages.truncate(1);
        }
        Ok(damages)
    }

    /// Has threads do work of `count` numbers, each of which takes `taken` of them at a time.
    fn share(
        &self,
        count: usize,
        taken: usize,
        threads: usize,
        go_on: &dyn Fn() -> bool,
        work: &(dyn Fn(usize, &mut Room) + Sync),
    ) -> Result<(), Failure> {
        let go_on = || !self.is_interrupted.load(Ordering::Relaxed) && go_on();
        share::share(&Share { count, taken, threads, stop: &self.stop }, &go_on, &Room::new, work)
    }

    fn member(&self, number: usize, room: &mut Room, go_on: &dyn Fn() -> bool) {
        let done = match &self.members[number].compressed {
            Some(compressed) => self.decompress(number, compressed, room, go_on),
            None => self.begin(number, room).map(|rest| lock(&self.rests).extend(rest)),
        };
        if let Err(what) = done {
            self.damaged(number, what);
        }
    }

    /// Checks a compressed member.
    fn decompress(
        &self,
        number: usize,
        compressed: &Compressed,
        room: &mut Room,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), Wrong> {
        let (mut range, expected, count) = self.locate(number, room)?;
        let block = &mut room.block;
        let at = self.members[number].member.extent().0;
        let mut sum = Summing::new(compressed)?;
        let read = range.end.min(at + count as u64).max(range.start);
        let first = &block[(range.start - at) as usize..(read - at) as usize];
        if !sum.add(first, read == range.end, go_on)? {
            return Ok(());
        }
        self.done.fetch_add(read - range.start, Ordering::Relaxed);
        range.start = read;
        while !range.is_empty() {
            let count = (block.len() as u64).min(range.end - range.start) as usize;
            if self.source.read(range.start, &mut block[..count])? < count {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            range.start += count as u64;
            if !sum.add(&block[..count], range.is_empty(), go_on)? {
                return Ok(());
            }
            self.done.fetch_add(count as u64, Ordering::Relaxed);
        }
        self.compare(number, expected, sum.end()?);
        Ok(())
    }

    /// The place of a member's bytes, their checksum, and how many bytes from the local header on are in the
    /// block now.
    fn locate(&self, number: usize, room: &mut Room) -> Result<(Range<u64>, u32, usize), Wrong> {
        let Listed { member, name, crc, .. } = &self.members[number];
        let (at, size) = member.extent();
        // In front of the data are some hundred bytes, in nearly all files.
        let ahead = usize::try_from(size).unwrap_or(BLOCK).saturating_add(1 << 10).min(BLOCK);
        let next = self.members.get(number + 1).map(|next| next.member.extent().0);
        // If something there cannot be read, it may belong to another member.
        let mut count = room.read(self.source, at, ahead, next).unwrap_or(0);
        let block = &mut room.block;
        let file_len = self.source.snapshot.window().len();
        let located = |bytes: &[u8]| -> Result<_, Error> {
            let parts = [Part::new(at, bytes)];
            let fetched = Fetched::new(&parts, file_len);
            let window = Window::of_fetched(&fetched);
            let crc = crc.map_or_else(|| member.local_checksum(window), Ok)?;
            Ok((member.file(window, name)?, crc))
        };
        loop {
            let missing = match located(&block[..count]) {
                Ok((range, expected)) => return Ok((range, expected, count)),
                Err(Error { kind: ErrorKind::Missing(range), .. }) => range,
                Err(error) => return Err(error.into()),
            };
            let needed = missing.end.saturating_sub(at).min(BLOCK as u64) as usize;
            let read = self.source.read(at, &mut block[..needed])?;
            if read <= count {
                // The file has become shorter.
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            count = read;
        }
    }

    /// Checks a member that one read gets all of; else returns what is left to be checked.
    fn begin(&self, number: usize, room: &mut Room) -> Result<Option<Rest>, Wrong> {
        let (range, expected, count) = self.locate(number, room)?;
        let block = &room.block;
        let at = self.members[number].member.extent().0;
        // As far as it was read: behind a long extra field, that may be nothing.
        let rest = range.end.min(at + count as u64).max(range.start)..range.end;
        let data = &block[(range.start - at) as usize..(rest.start - at) as usize];
        let mut crc = crc32fast::Hasher::new();
        crc.update(data);
        self.done.fetch_add(data.len() as u64, Ordering::Relaxed);
        if rest.is_empty() {
            self.compare(number, expected, crc.finalize());
            return Ok(None);
        }
        Ok(Some(Rest { number, expected, crc, range: rest, first: 0 }))
    }

    /// Makes the checksum of a piece.
    fn piece(&self, rests: &[Rest], piece: usize, crc: &Mutex<Option<crc32fast::Hasher>>, block: &mut [u8]) {
        let rest = &rests[rests.partition_point(|rest| rest.first <= piece) - 1];
        let start = rest.range.start + (piece - rest.first) as u64 * PIECE;
        let range = start..rest.range.end.min(start + PIECE);
        let mut hasher = crc32fast::Hasher::new();
        match self.source.add(range.clone(), &mut hasher, block) {
            Ok(()) => *lock(crc) = Some(hasher),
            Err(what) => self.damaged(rest.number, what),
        }
        self.done.fetch_add(range.end - range.start, Ordering::Relaxed);
    }

    fn compare(&self, number: usize, expected: u32, found: u32) {
        if expected != found {
            self.damaged(number, Wrong::Checksum { expected, found });
        }
    }

    fn damaged(&self, number: usize, what: Wrong) {
        lock(&self.damages).push(Damage { number, what });
        if self.is_first_enough {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}
