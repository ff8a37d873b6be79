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
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::read::lookup::{Found, LocatedArray, Lookup};
use mmnpz_format::read::walked_index::{Member, MemberId};
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Survey, Visibility};
use mmnpz_format::zip::end::DirectoryLocation;

use crate::decompress::Packed;
use crate::failure::{Failure, KeepGoing, polled};
use crate::fetch::Place;
use crate::lock;
use crate::map_limit::Claim;
use crate::mapping::{self, Identity, Lent, Map, MappedFile, Memory, Mode};

/// How often a reader opens a file that is being written, at most, with a pause in between.
const ATTEMPTS: u32 = 1000;
const PAUSE: Duration = Duration::from_micros(500);

/// How long a reader tries again to find the members of a file that is being written.
const PATIENCE: Duration = Duration::from_secs(1);

/// A function of the caller that calls [`Snapshot::verify`]. Reads call it when the snapshot has to be
/// verified.
pub type Verify<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// Members that the directory at the end of the file does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlisted {
    /// How many were found.
    pub count: usize,
    /// Whether there is no directory at the end of the file.
    pub is_lost: bool,
}

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
                let opened = Opened::once(file, || false, || true, expected, keep_going)?;
                return Ok(opened.into_snapshot(name, None, claim));
            }
        };
        let claim = Some(Claim::new()?);
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
            Opened::once(file, is_taken, is_quiet, expected, keep_going)
        };
        for _ in 0..ATTEMPTS {
            match once() {
                Ok(opened) if opened.is_same => return Ok(opened.into_snapshot(name, path, claim)),
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
        Ok(once()?.into_snapshot(name, path, claim))
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
        Window::whole(self.bytes(), &self.holes)
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
        let Self { map, holes, lookup, .. } = self;
        let window = Window::whole(map.bytes(), holes);
        polled(keep_going, |keep_going| lookup.leave_out(window, members, keep_going))
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
        // A map has all bytes.
        self.lookup.is_verified(self.window()).unwrap_or(false)
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
        let is_there = self.lookup.is_there(window)?;
        let path = self.path.as_deref().filter(|_| !is_there);
        let newer = path.and_then(|path| mapping::map_file(path, Mode::Read).ok());
        let is_same_file = |file: &MappedFile| file.identity.inode == self.identity.inode;
        let newer = newer.filter(|file| is_same_file(file) && file.memory.len() as u64 >= window.len());
        let newer = newer.as_ref().map(MappedFile::window);
        polled(keep_going, |keep_going| self.lookup.verify(window, newer, is_quiet, keep_going))
    }

    /// The member of a name. `again` is for a caller that does not then read the member.
    ///
    /// # Errors
    /// If another program has renamed the member since; and those of `verify`.
    pub fn find(&self, name: &str, again: bool, verify: Verify<'_>) -> Result<Option<Member>, Failure> {
        loop {
            let (window, lookup) = (self.window(), &self.lookup);
            match if again { lookup.find_again(window, name)? } else { lookup.find(window, name)? } {
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
    pub fn bytes_of(&self, member: &Member, name: &str) -> Result<(&[u8], u32), Failure> {
        let window = self.window();
        let bytes = window.get(member.file(window, name)?)?.unwrap_or_default();
        let crc = self.lookup.checksum(window, member, name)?;
        Ok((bytes, crc.map_or_else(|| member.local_checksum(window), Ok)?))
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
        let window = self.window();
        let packed = |member: &Member| -> Result<Packed<'_>, Error> {
            let compressed = self.lookup.compressed(member).ok_or(ErrorKind::NamesDiffer)?;
            let range = member.file(window, name)?;
            Packed::new(window.get(range)?.unwrap_or_default(), compressed)
        };
        let found = packed(member);
        if found.is_ok() || self.is_verified() {
            return Ok(found?);
        }
        verify()?;
        let member = self.lookup.find(window, name)?.member().unwrap_or(*member);
        Ok(packed(&member)?)
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
            let found = read(&self.lookup, self.window());
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

/// A file that was opened once.
struct Opened {
    file: MappedFile,
    lookup: Lookup,
    unlisted: Option<Unlisted>,
    /// Whether the directory did not change while it was read.
    is_same: bool,
}

impl Opened {
    fn once(
        file: MappedFile,
        is_taken: impl Fn() -> bool,
        is_quiet: impl Fn() -> bool,
        expected: Option<Identity>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let window = file.window();
        if expected.is_some_and(|expected| expected != file.identity) {
            return Err(Failure::Changed);
        }
        let survey = polled(keep_going, |keep_going| Survey::new(window, Effort::Read, keep_going))?;
        let lookup =
            |survey: &Survey| polled(keep_going, |keep_going| Lookup::new(window, survey, keep_going));
        let (survey, lookup) = match lookup(&survey) {
            Ok(lookup) => (survey, lookup),
            Err(Failure::Format(error)) => {
                let survey = polled(keep_going, |keep_going| {
                    Survey::without_directory(window, error, Effort::Read, keep_going)
                })?;
                let lookup = lookup(&survey)?;
                (survey, lookup)
            }
            Err(failure) => return Err(failure),
        };
        let unlisted = if lookup.is_recovered() {
            Some(Unlisted { count: lookup.len(), is_lost: true })
        } else {
            // If the last end record is torn, an earlier one counts. Only the bytes behind that one tell that
            // there were more members.
            let is_lost = survey.visibility() == Visibility::Hidden;
            (!survey.is_listed()).then_some(Unlisted { count: survey.found.len(), is_lost })
        };
        // A writer overwrites the end record before it overwrites the directory. A directory that was found
        // without an end record stays as long as no writer has the file.
        let is_same = if survey.visibility() == Visibility::Hidden {
            match survey.seal() {
                Some(seal) => seal.holds(window)? || is_quiet(),
                // Members are found one by one, also beside a writer.
                None => is_taken() || is_quiet(),
            }
        } else {
            let is_there = DirectoryLocation::locate(window).ok().as_ref() == survey.location();
            is_there && (survey.found.is_empty() || is_taken() || is_quiet())
        };
        Ok(Opened { file, lookup, unlisted, is_same })
    }

    fn into_snapshot(self, shown: PathBuf, path: Option<PathBuf>, claim: Option<Claim>) -> Snapshot {
        let MappedFile { memory, identity, holes } = self.file;
        Snapshot {
            shown,
            path,
            identity,
            holes,
            map: Arc::new(Map::new(memory, claim)),
            lookup: self.lookup,
            unlisted: self.unlisted,
        }
    }
}
