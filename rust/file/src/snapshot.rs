//! A snapshot: one state of a file to which others may write, and the protocol for reading it.
//!
//! A reader maps a file once, and finds its members once. But the map shows the file as it is now: a writer
//! of mmnpz overwrites the directory when it appends, and another program may edit an entry in place. So
//! every read follows the same steps:
//!
//! 1. *Read.* The [`Lookup`] checks what it finds against the bytes of that moment. So what it finds is
//!    right: a member that it finds has that name.
//! 2. *Verify.* That a name is *not* there, and what all names are, counts only while the directory and its
//!    index are what they were when the file was closed ([`Lookup::is_verified`]). If they are not,
//!    [`Snapshot::verify`] makes an index of the directory as it is now, or searches for the members that the
//!    old directory listed.
//! 3. *Read again*, until the snapshot is verified both before and after the read.
//!
//! A reader asks *after* a read whether a writer has the file: a writer may have come since an earlier
//! answer.

use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::read::lookup::{Found, LocatedArray, Lookup};
use mmnpz_format::read::walked_index::{Member, MemberId};

use crate::decompress::Packed;
use crate::failure::{Failure, KeepGoing, check, polled};
use crate::fetch::Place;
use crate::lock;
use crate::map_limit::Claim;
use crate::mapping::{self, Identity, Lent, Map, MappedFile, Memory, Mode};
pub use crate::opening::Unlisted;
use crate::opening::{Beside, Opened};
use crate::parts::{Kept, Reading};
use crate::pread::{cut_short, read_all_at};

/// How often a reader opens a file that is being written, at most, with a pause in between.
const ATTEMPTS: u32 = 1000;
const PAUSE: Duration = Duration::from_micros(500);

/// How long a reader tries again to find the members of a file that is being written.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes are read between two questions whether to go on.
const STEP: usize = 1 << 26;

/// A function of the caller that calls [`Snapshot::verify`]. Reads call it when the snapshot has to be
/// verified.
pub type Verify<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// Where the bytes of an archive come from.
#[derive(Debug)]
pub enum Source {
    /// The file at the path that is given as its name.
    Path,
    /// A file that is open already, and an absolute path that leads to it, if there is one.
    Open(File, Option<PathBuf>),
    /// Memory that someone else owns.
    Lent(Box<dyn Lent>),
}

/// One state of a file: its bytes, and what is in them.
#[derive(Debug)]
pub struct Snapshot {
    /// What messages call the file.
    shown: PathBuf,
    /// The absolute path that led to the file when it was opened, if one did.
    path: Option<PathBuf>,
    identity: Identity,
    /// The holes of the file, as they were when it was opened.
    holes: Vec<Range<u64>>,
    map: Arc<Map>,
    mode: Mode,
    /// What was read of its directory, if the file is not mapped.
    kept: Option<Kept>,
    lookup: Lookup,
    unlisted: Option<Unlisted>,
}

impl Snapshot {
    /// Opens, maps and indexes an archive, which messages call `name`. With `expected`, it must have that
    /// identity.
    ///
    /// If a writer replaces the directory meanwhile, this opens the file again.
    ///
    /// # Errors
    /// If the system refuses to open or to map the file, the file is no archive, or it has another identity;
    /// and [`Failure::Interrupted`].
    pub fn open(
        source: Source,
        mode: Mode,
        name: PathBuf,
        expected: Option<Identity>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let (file, path) = match source {
            Source::Path if name.is_absolute() => (None, Some(name.clone())),
            // The program may go to another folder.
            Source::Path => (None, std::path::absolute(&name).ok()),
            Source::Open(file, path) => (Some(mapping::opened_again(file)), path),
            Source::Lent(memory) => {
                // A copy is a map.
                let claim = if mode == Mode::Copy { Some(Claim::new()?) } else { None };
                let memory = Memory::lent(memory, mode, keep_going)?;
                let identity = Identity { size: memory.len() as u64, modified: 0, inode: 0 };
                let file = MappedFile { memory, identity, holes: Vec::new() };
                let opened = Opened::once(file, &Beside::nobody(), expected, keep_going)?;
                return Ok(Self::of(opened, mode, name, None, claim));
            }
        };
        // A file that is not mapped takes none of the maps that a process may have.
        let claim = if mode == Mode::Unmapped { None } else { Some(Claim::new()?) };
        let is_taken = || match (&path, &file) {
            (Some(path), _) => lock::is_taken(path),
            (None, Some((file, true))) => lock::is_taken_of(file),
            _ => false,
        };
        let once = || {
            let file = match &file {
                Some((file, is_own)) => mapping::map_open(file, mode, *is_own)?,
                None => mapping::map_file(&name, mode)?,
            };
            let before = file.identity;
            // That no writer has the file says nothing of one that was killed, or has closed it, meanwhile.
            let is_quiet = || !is_taken() && !path.as_deref().is_some_and(|path| was_changed(path, before));
            Opened::once(file, &Beside { is_taken: &is_taken, is_quiet: &is_quiet }, expected, keep_going)
        };
        for _ in 0..ATTEMPTS {
            match once() {
                Ok(opened) if opened.is_same => {
                    return Ok(Self::of(opened, mode, name, path, claim));
                }
                Ok(_) => {}
                Err(Failure::Format(_)) => {
                    if !is_taken() {
                        break;
                    }
                }
                Err(failure) => return Err(failure),
            }
            thread::sleep(PAUSE);
        }
        Ok(Self::of(once()?, mode, name, path, claim))
    }

    fn of(opened: Opened, mode: Mode, shown: PathBuf, path: Option<PathBuf>, claim: Option<Claim>) -> Self {
        let MappedFile { memory, identity, holes } = opened.file;
        Snapshot {
            shown,
            path,
            identity,
            holes,
            map: Arc::new(Map::new(memory, claim)),
            mode,
            kept: opened.kept,
            lookup: opened.lookup,
            unlisted: opened.unlisted,
        }
    }

    /// What messages call the file.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// The absolute path that led to the file when it was opened, if one did.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What tells this state of the file from another.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the file was written to since it was opened, as far as its size and its time tell. Not if
    /// another file has its path now: this one is then as it was.
    pub fn was_changed(&self) -> bool {
        self.path.as_deref().is_some_and(|path| was_changed(path, self.identity))
    }

    /// The map, which a caller can keep.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The bytes of the file.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// The window through which the lookup reads the file.
    #[inline]
    pub fn window(&self) -> Window<'_> {
        match &self.kept {
            None => Window::whole(self.bytes(), &self.holes),
            Some(kept) => Window::of_fetched(kept).with_holes(&self.holes),
        }
    }

    /// Calls `read` with a window in which all is that it needs.
    ///
    /// # Errors
    /// Those of `read`, and of the system.
    #[inline]
    pub fn reading<T>(&self, read: impl FnOnce(Window<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        match &self.kept {
            None => read(Window::whole(self.bytes(), &self.holes)),
            Some(kept) => self.reading_more(kept, read),
        }
    }

    #[cold]
    fn reading_more<T>(
        &self,
        kept: &Kept,
        read: impl FnOnce(Window<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(file) = self.map.file() else { return read(self.window()) };
        let headers = Reading::of_headers(file, kept.file_len());
        headers.with(kept, |window| read(window.with_holes(&self.holes)))
    }

    /// The checksum that the archive has of a member.
    ///
    /// # Errors
    /// Those of [`Lookup::checksum`].
    pub fn checksum(&self, member: &Member, name: &str) -> Result<u32, Failure> {
        self.reading(|window| {
            let crc = self.lookup.checksum(window, member, name)?;
            Ok(crc.map_or_else(|| member.local_checksum(window), Ok)?)
        })
    }

    /// Whether a lookup reads the array, into memory of its own.
    #[inline]
    pub fn reads_arrays(&self) -> bool {
        self.mode == Mode::Unmapped
    }

    /// Whether the file is not mapped.
    #[inline]
    pub fn is_unmapped(&self) -> bool {
        self.kept.is_some()
    }

    /// Reads bytes from a place of the file on, as many as `out` has.
    ///
    /// # Errors
    /// Those of the system, and [`Failure::Interrupted`].
    pub fn read_to(&self, offset: u64, out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        // SAFETY: of the same layout, and only bytes that are initialized are written to it.
        let out = unsafe { &mut *(ptr::from_mut(out) as *mut [MaybeUninit<u8>]) };
        self.read_new(offset, out, keep_going)
    }

    /// As [`Snapshot::read_to`], to memory that need not be initialized. Once it returns without an error, it
    /// is.
    ///
    /// # Errors
    /// Those of the system, and [`Failure::Interrupted`].
    pub fn read_new(
        &self,
        offset: u64,
        out: &mut [MaybeUninit<u8>],
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        if let Some(file) = self.map.file() {
            return read_all_at(file, out, offset, keep_going);
        }
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.bytes().get(offset..));
        let bytes = bytes.and_then(|bytes| bytes.get(..out.len())).ok_or_else(cut_short)?;
        for (out, bytes) in out.chunks_mut(STEP).zip(bytes.chunks(STEP)) {
            check(keep_going)?;
            // SAFETY: as many bytes as `out` has, which nobody else has: the two do not overlap.
            unsafe { out.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), out.len()) };
        }
        Ok(())
    }

    /// Whether the file is not mapped, and was written to since it was opened.
    ///
    /// # Errors
    /// Those of the system.
    pub fn may_be_another(&self) -> Result<bool, Failure> {
        self.map.file().map_or(Ok(false), |file| Ok(mapping::identify(file)?.1 != self.identity))
    }

    /// After items of a member were read: whether they are those of the member. Where the file is not mapped,
    /// and was written to since it was opened, the member's local header tells.
    ///
    /// # Errors
    /// [`ErrorKind::NamesDiffer`] if they are not, and those of the system.
    pub fn check_read(&self, member: &Member, name: &str) -> Result<(), Failure> {
        let Some(file) = self.map.file() else { return Ok(()) };
        if !self.may_be_another()? {
            return Ok(());
        }
        Reading::of_headers(file, self.identity.size).alone(|window| {
            let is_same = match member.file(window, name) {
                Ok(_) => {
                    // Where the header has none, a data descriptor follows the member.
                    let crc = member.local_checksum(window)?;
                    let listed = self.reading(|window| Ok(self.lookup.checksum(window, member, name)?));
                    crc == 0 || crc == listed?.unwrap_or(crc)
                }
                Err(error) if error.is_about_file() => false,
                Err(error) => return Err(error.into()),
            };
            if is_same { Ok(()) } else { Err(Error::at(ErrorKind::NamesDiffer, member.extent().0).into()) }
        })
    }

    /// The lookup, which finds members in the bytes of the moment.
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Leaves members out, as if the file did not have them.
    ///
    /// # Errors
    /// If the directory cannot be read, and [`Failure::Interrupted`].
    pub fn leave_out(&mut self, members: &[MemberId], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let Self { map, holes, lookup, kept, .. } = self;
        let (Some(kept), Some(file)) = (kept, map.file()) else {
            let window = Window::whole(map.bytes(), holes);
            return polled(keep_going, |keep_going| lookup.leave_out(window, members, keep_going));
        };
        Reading::of_headers(file, kept.file_len()).with(kept, |window| {
            polled(keep_going, |keep_going| lookup.leave_out(window, members, keep_going))
        })
    }

    /// The members that the directory did not list when the file was opened: a writer left them, or was just
    /// writing them.
    pub fn unlisted(&self) -> Option<Unlisted> {
        self.unlisted
    }

    /// Whether a writer has the file now. Not known where no path leads to the file.
    pub fn is_being_written(&self) -> bool {
        self.path.as_deref().is_some_and(lock::is_taken)
    }

    /// Whether the lookup can be believed about all members, and about names that it does not find.
    #[inline]
    pub fn is_verified(&self) -> bool {
        // What was kept of a file that is not mapped has what this looks at, if anything is looked at.
        self.lookup.is_verified(self.window()).unwrap_or(self.kept.is_some())
    }

    /// Verifies the snapshot: makes the lookup right about all members, and about names that it does not
    /// find. This can take as long as reading the directory, or the file if it has none.
    ///
    /// # Errors
    /// If the members cannot be found any more, and [`Failure::Interrupted`].
    pub fn verify(&self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let before = self.state_of_file();
            let is_quiet = !self.is_being_written();
            match self.try_to_verify(is_quiet, keep_going) {
                // A writer may just overwrite the directory, which takes a moment. That no writer had the
                // file before says nothing: one may have come and gone since.
                Err(Failure::Format(_))
                    if !is_quiet || self.is_being_written() || self.state_of_file() != before => {}
                done => return done,
            }
            thread::sleep(PAUSE);
        }
        self.try_to_verify(true, keep_going)
    }

    /// The length of the file and the time of its last change, at least one of which a writer changes.
    fn state_of_file(&self) -> Option<(u64, SystemTime)> {
        let metadata = std::fs::metadata(self.path.as_deref()?).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    }

    fn try_to_verify(&self, is_quiet: bool, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let window = self.window();
        // The file as it is now, if a writer has appended to it.
        let is_there = self.kept.is_some() || self.lookup.is_there(window)?;
        let path = self.path.as_deref().filter(|_| !is_there);
        let newer = path.and_then(|path| mapping::map_file(path, Mode::Read).ok());
        let is_same_file = |file: &MappedFile| file.identity.inode == self.identity.inode;
        let newer = newer.filter(|file| is_same_file(file) && file.memory.len() as u64 >= window.len());
        let newer = newer.as_ref().map(MappedFile::window);
        self.reading(|window| {
            polled(keep_going, |keep_going| self.lookup.verify(window, newer, is_quiet, keep_going))
        })
    }

    /// The member of a name. `again` is for a caller that does not then read the member.
    ///
    /// # Errors
    /// If another program has renamed the member since; and those of `verify`.
    pub fn find(&self, name: &str, again: bool, verify: Verify<'_>) -> Result<Option<Member>, Failure> {
        loop {
            let lookup = &self.lookup;
            // What was kept of a file that is not mapped tells by itself.
            let again = again || self.kept.is_some();
            let found = self.reading(|window| {
                Ok(if again { lookup.find_again(window, name)? } else { lookup.find(window, name)? })
            });
            match found? {
                Found::Member(member) => return Ok(Some(member)),
                Found::Nothing => return Ok(None),
                Found::Renamed(at) => return Err(Error::at(ErrorKind::Renamed, at).into()),
                Found::Unsure => verify()?,
            }
        }
    }

    /// The member that is not listed as an array and has just this name.
    ///
    /// # Errors
    /// Those of `verify`.
    pub fn find_other(&self, name: &str, verify: Verify<'_>) -> Result<Option<Member>, Failure> {
        self.verified(verify, |lookup, window| Ok(lookup.find_other(window, name)?))
    }

    /// The bytes of a member that is not compressed, whose name is `name`, and their checksum.
    ///
    /// # Errors
    /// Those of [`Member::file`].
    pub fn place_of(&self, member: &Member, name: &str) -> Result<(Range<u64>, u32), Failure> {
        let range = self.reading(|window| Ok(member.file(window, name)?))?;
        Ok((range, self.checksum(member, name)?))
    }

    /// The member of a name, by the bytes of the moment. None also if only a verified snapshot could tell
    /// that there is one.
    #[inline]
    pub fn seen(&self, name: &str) -> Option<Member> {
        self.lookup.find_again(self.window(), name).ok()?.member()
    }

    /// The name of a member that was found.
    ///
    /// # Errors
    /// If the archive does not tell it any more; and those of `verify`.
    pub fn name(&self, member: MemberId, verify: Verify<'_>) -> Result<String, Failure> {
        // A name by which the lookup finds the member is right, whatever is wrong with the rest of the
        // directory.
        if let Ok(name) = self.lookup.name(self.window(), member)
            && self.seen(&name).is_some_and(|found| found.id == member)
        {
            return Ok(name);
        }
        self.verified(verify, |lookup, window| Ok(lookup.name(window, member)?))
    }

    /// The places of the headers of members, as far as views of these members need the headers.
    pub fn headers_of(&self, members: impl Iterator<Item = Member>) -> Vec<Place> {
        if self.lookup.has_headers() {
            return Vec::new();
        }
        members.filter_map(|member| self.map.headers_at(member.extent().0)).collect()
    }

    /// Locates the array of a member, by the directory as it is now or, if a writer has overwritten that, as
    /// it was.
    ///
    /// # Errors
    /// If something is wrong with the member or its header; and those of `verify`.
    pub fn locate(
        &self,
        member: &Member,
        name: &str,
        max_header_size: usize,
        verify: Verify<'_>,
    ) -> Result<LocatedArray<'_>, Failure> {
        let window = self.window();
        if self.kept.is_some() {
            return self.reading(|window| {
                Ok(self.lookup.locate(window, member, name, max_header_size)?.into_owned())
            });
        }
        let located = self.lookup.locate(window, member, name, max_header_size);
        if located.is_ok() || self.is_verified() {
            return Ok(located?);
        }
        verify()?;
        let member = self.lookup.find(window, name)?.member().unwrap_or(*member);
        Ok(self.lookup.locate(window, &member, name, max_header_size)?)
    }

    /// A compressed member, found as [`Snapshot::locate`] finds the array of one that is stored.
    ///
    /// # Errors
    /// Those of [`Member::file`] and [`Packed::new`]; and those of `verify`.
    pub fn packed(&self, member: &Member, name: &str, verify: Verify<'_>) -> Result<Packed<'_>, Failure> {
        let packed = |member: &Member| -> Result<Packed<'_>, Failure> {
            let compressed = self.lookup.compressed(member).ok_or(ErrorKind::NamesDiffer)?;
            let range = self.reading(|window| Ok(member.file(window, name)?))?;
            Ok(match self.map.file() {
                Some(file) => Packed::of_file(file, range, compressed)?,
                None => Packed::new(self.window().get(range)?.unwrap_or_default(), compressed)?,
            })
        };
        let found = packed(member);
        if found.is_ok() || self.is_verified() {
            return found;
        }
        verify()?;
        let member = self.lookup.find(self.window(), name)?.member().unwrap_or(*member);
        packed(&member)
    }

    /// Calls `read`, which needs all members or their order, while the snapshot is verified.
    ///
    /// # Errors
    /// Those of both.
    pub fn verified<T>(
        &self,
        verify: Verify<'_>,
        mut read: impl FnMut(&Lookup, Window<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        loop {
            verify()?;
            let found = self.reading(|window| read(&self.lookup, window));
            // A writer can have overwritten the directory meanwhile.
            if self.is_verified() {
                return found;
            }
        }
    }
}

/// Whether a file was written to since it was this one, as far as its size and its time tell.
fn was_changed(path: &Path, before: Identity) -> bool {
    let now = mapping::open_file(path).ok().map(|(.., identity)| identity);
    now.is_some_and(|now| now.inode == before.inode && now != before)
}
