//! One state of a file that others may write to, and the protocol by which it is read.
//!
//! A file is mapped once, and what is in it is found out once. But the bytes of the map are those of the
//! file: a writer of mmnpz overwrites the directory when it appends, and another program may edit an entry in
//! place. So every read follows the same steps:
//!
//! 1. *Read.* What the [`Lookup`] finds by the bytes that are there now is checked against those bytes, and
//!    can be trusted: a name that was found is that of the member.
//! 2. *Verify.* That a name is *not* there, and what all names are, counts only while the directory and its
//!    index are what they were when the file was closed ([`Lookup::is_verified`]). Where they are not,
//!    [`Snapshot::verify`] makes an index of the directory as it is now, or searches for the members that the
//!    old one listed.
//! 3. *Read again*, until what was read was verified before and still is behind it.
//!
//! Whether a writer has the file is asked *after* something was read: that nobody had it before says nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::read::lookup::{Found, LocatedArray, Lookup};
use mmnpz_format::read::walked_index::Member;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Place, Survey};
use mmnpz_format::zip::end::DirectoryLocation;

use crate::failure::{Failure, KeepGoing, polled};
use crate::lock;
use crate::map_limit::Claim;
use crate::mapping::{self, Identity, Map, MappedFile};

/// How often a file is opened that is being written, at most, with a pause in between.
const ATTEMPTS: u32 = 1000;
const PAUSE: Duration = Duration::from_micros(500);

/// How long a file that is being written is looked at again for members that are hard to find.
const PATIENCE: Duration = Duration::from_secs(1);

/// Called where a read needs the snapshot to be verified: calls [`Snapshot::verify`], in its own way.
pub type Verify<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// Members that are in no directory where readers look for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlisted {
    /// How many were found.
    pub count: usize,
    /// There is no such directory at all.
    pub is_lost: bool,
}

/// One state of a file: its bytes, and what is in them.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    identity: Identity,
    /// The holes of the file, as they were when it was opened.
    holes: Vec<Range<u64>>,
    map: Arc<Map>,
    lookup: Lookup,
    unlisted: Option<Unlisted>,
}

impl Snapshot {
    /// Opens, maps and indexes a file, which must be in the `expected` state if one is given.
    ///
    /// A writer can put another directory in place of the one that is being read: then it is opened again.
    ///
    /// # Errors
    /// If the system refuses it, it is no archive, or it is not in that state; and [`Failure::Interrupted`].
    pub fn open(path: &Path, expected: Option<Identity>, keep_going: KeepGoing<'_>) -> Result<Self, Failure> {
        let claim = Claim::new()?;
        for _ in 0..ATTEMPTS {
            match Opened::once(path, expected, keep_going) {
                Ok(opened) if opened.is_same => return Ok(opened.into_snapshot(path, claim)),
                Ok(_) => {}
                Err(Failure::Format(_)) => {
                    if !lock::is_taken(path) {
                        break;
                    }
                }
                Err(failure) => return Err(failure),
            }
            thread::sleep(PAUSE);
        }
        Ok(Opened::once(path, expected, keep_going)?.into_snapshot(path, claim))
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells this state of the file from another.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The map, for whoever keeps a part of it.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The bytes of the file.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// The file, as what finds members reads it.
    #[inline]
    pub fn window(&self) -> Window<'_> {
        Window::whole(self.bytes(), &self.holes)
    }

    /// What finds members by the bytes that are there now.
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// What a writer had left, or was writing, when the file was opened.
    pub fn unlisted(&self) -> Option<Unlisted> {
        self.unlisted
    }

    /// Whether some writer has the file now.
    pub fn is_being_written(&self) -> bool {
        lock::is_taken(&self.path)
    }

    /// Whether what the lookup says of all members, and of those that are not there, is right.
    #[inline]
    pub fn is_verified(&self) -> bool {
        // A map has all bytes.
        self.lookup.is_verified(self.window()).unwrap_or(false)
    }

    /// Makes sure that it is. This can take as long as reading the directory, or the file where there is
    /// none.
    ///
    /// # Errors
    /// If what members there are cannot be told any more, and [`Failure::Interrupted`].
    pub fn verify(&self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let before = state_of(&self.path);
            let is_quiet = !self.is_being_written();
            match self.try_to_verify(is_quiet, keep_going) {
                // A writer can overwrite whatever was found, and is done with it in a moment. That none was
                // there before says nothing: one can have come, and gone again.
                Err(Failure::Format(_))
                    if !is_quiet || self.is_being_written() || state_of(&self.path) != before => {}
                done => return done,
            }
            thread::sleep(PAUSE);
        }
        self.try_to_verify(true, keep_going)
    }

    fn try_to_verify(&self, is_quiet: bool, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let window = self.window();
        // The file as it is now, if a writer has appended to it.
        let is_there = self.lookup.is_there(window)?;
        let newer = if is_there { None } else { mapping::map_file(&self.path).ok() };
        let is_same_file = |file: &MappedFile| file.identity.inode == self.identity.inode;
        let newer = newer.filter(|file| is_same_file(file) && file.map.len() as u64 >= window.len());
        let newer = newer.as_ref().map(MappedFile::window);
        polled(keep_going, |keep_going| self.lookup.verify(window, newer, is_quiet, keep_going))
    }

    /// The member of a name; `again` is for one that is not going to be read.
    ///
    /// # Errors
    /// If it was given another name since; and those of `verify`.
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

    /// The array of a member, as the directory has it now or, where that was overwritten, as it had it.
    ///
    /// # Errors
    /// If the member or its header is not what it should be; and those of `verify`.
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

    /// What `read` tells of all members, or of where they are in their order, once that is verified.
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

/// What a writer changes of a file: its length and the time of the last change.
fn state_of(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// A file that was opened once.
struct Opened {
    file: MappedFile,
    lookup: Lookup,
    unlisted: Option<Unlisted>,
    /// Whether the directory that was read still is what it was.
    is_same: bool,
}

impl Opened {
    fn once(path: &Path, expected: Option<Identity>, keep_going: KeepGoing<'_>) -> Result<Self, Failure> {
        let file = mapping::map_file(path)?;
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
            // Where the last end record is torn, an earlier one counts, and only what is behind it tells.
            let is_lost = survey.place() == Place::Hidden;
            (!survey.is_listed()).then_some(Unlisted { count: survey.found.len(), is_lost })
        };
        // Its end record is taken away before anything of it is overwritten. One that was found without stays
        // as long as nobody writes to the file.
        let is_same = if survey.place() == Place::Hidden {
            let holds = match survey.seal() {
                Some(seal) => seal.holds(window)?,
                None => true,
            };
            holds || !lock::is_taken(path)
        } else {
            DirectoryLocation::locate(window).ok().as_ref() == survey.location()
        };
        Ok(Opened { file, lookup, unlisted, is_same })
    }

    fn into_snapshot(self, path: &Path, claim: Claim) -> Snapshot {
        let MappedFile { map, identity, holes } = self.file;
        Snapshot {
            path: path.to_owned(),
            identity,
            holes,
            map: Arc::new(Map::new(map, claim)),
            lookup: self.lookup,
            unlisted: self.unlisted,
        }
    }
}
