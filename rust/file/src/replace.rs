//! A new file takes the place of one that exists, so that a reader that has the old file mapped keeps its
//! bytes: at once in mode `"w"`, or when it is whole.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::{Failure, KeepGoing, check, polled};
use crate::mapping;
use crate::writable_file::{self, WritableFile};
use mmnpz_format::Window;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;

/// The writer asks the caller whether to go on every time it has overwritten this many bytes, which takes
/// some ten milliseconds.
const STEP: u64 = 1 << 26;

/// An end record lies within this many bytes from the end of a file.
const TAIL: u64 = 1 << 17;

/// No system follows more symbolic links in a row.
const MOST_LINKS: usize = 40;

/// Puts a new, empty file in place of the file at `path`. It gets the owner, the permissions and the
/// attributes of the old file, as far as the system lets this process set them.
///
/// The system may let no other file take that place: the folder may not be writable, or have the sticky bit
/// and the file another owner, or the file may be a mount point. Then the old file is overwritten with zeros.
/// It is not made shorter: a process that has it mapped would die.
pub(crate) fn replace(path: &Path, keep_going: KeepGoing<'_>) -> Result<WritableFile, Failure> {
    loop {
        let (target, is_there) = target_of(path)?;
        if !is_there {
            // Opening a dangling link creates the file to which it leads. A deleted file can still be opened
            // through the process that has it open.
            let found = writable_file::open_or_create(path)?;
            if !found.is_new {
                blank(&found.file, keep_going)?;
            }
            return Ok(found.made_new());
        }
        // Opening the old file refuses a file that this process may not write, or that another writer has
        // open, and a folder, with the error of the system. It uses the path that the caller gave: the system
        // may not let this process follow the links of other users.
        let Some(old) = opened_at(path, &target)? else { continue };
        match put_in_place(&target, &old.file, &old.file.metadata()?) {
            Err(Failure::Io(error)) if cannot_be_replaced(&error) => {
                blank(&old.file, keep_going)?;
                return Ok(old.made_new());
            }
            new => return new,
        }
    }
}

/// A new file that is to take the place of another one when it is whole. While this lives, no writer can open
/// the other one.
pub struct Replacement {
    /// Where the new file is, in the same folder. The caller renames or removes it.
    pub new: PathBuf,
    /// Where it is to be, behind all symbolic links.
    pub target: PathBuf,
    /// The file that is there, if there is one.
    old: Option<WritableFile>,
}

impl Replacement {
    /// Creates an empty file that can take the place of the file at `path`, with its owner, its permissions
    /// and its attributes, as far as the system lets this process set them.
    ///
    /// # Errors
    /// If the file at `path` may not be written, or a writer has it open; or if no file can be created there.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        // The working folder may be another one when the file is renamed.
        let path = &std::path::absolute(path)?;
        loop {
            let (target, is_there) = target_of(path)?;
            if !is_there {
                let (new, _) = create_temporary(&target, writable_file::create_new)?;
                return Ok(Replacement { new, target, old: None });
            }
            let Some(old) = opened_at(path, &target)? else { continue };
            let metadata = old.file.metadata()?;
            let (new, locked) = create_temporary(&target, writable_file::create_private)?;
            keep(&old.file, &locked.file, &metadata);
            return Ok(Replacement { new, target, old: Some(old) });
        }
    }

    /// Whether a writer is noticed that has the file that is there: not where the file system has no locks.
    pub fn excludes_others(&self) -> bool {
        self.old.as_ref().is_none_or(WritableFile::excludes_others)
    }

    /// What comes before the rename: all of the new file is on the disk, so that a power failure leaves the
    /// old one or all of the new one, and no writer has a file that was created at its place meanwhile.
    ///
    /// # Errors
    /// If the system cannot write, or a writer has such a file.
    pub fn finish(&mut self) -> Result<(), Failure> {
        while self.old.is_none() && fs::metadata(&self.target).is_ok_and(|metadata| metadata.is_file()) {
            self.old = opened_at(&self.target, &self.target)?;
        }
        if self.old.is_some() {
            File::options().write(true).open(&self.new)?.sync_all()?;
        }
        if cfg!(windows) {
            // Windows does not replace a file that is open.
            self.old = None;
        }
        Ok(())
    }
}

/// Where a path leads through symbolic links, and whether there is a file, or a folder, which cannot be
/// opened as one.
fn target_of(path: &Path) -> Result<(PathBuf, bool), Failure> {
    let target = followed(path);
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() || metadata.is_file() => Ok((target, true)),
        Ok(_) => Err(writable_file::irregular()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((target, false)),
        Err(error) => Err(error.into()),
    }
}

/// The file at `path`, locked. None if it is not at `target`.
fn opened_at(path: &Path, target: &Path) -> Result<Option<WritableFile>, Failure> {
    Ok(writable_file::open_once(path)?.filter(|old| writable_file::is_at(&old.file, target)))
}

/// Where a path leads through symbolic links, as open(path, "w") follows them. Asks nothing of the folders
/// above, which this process may not be allowed to read.
fn followed(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    // A circle of links is an error when the file is opened.
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}

/// Whether the system refuses only to replace this file, rather than every new file.
fn cannot_be_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    // Windows does not replace a file that a process has mapped; the bytes of that file must stay.
    let is_this_file =
        matches!(error.kind(), CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy);
    cfg!(unix) && is_this_file
}

fn put_in_place(target: &Path, old: &File, metadata: &Metadata) -> Result<WritableFile, Failure> {
    let (temporary, new) = create_temporary(target, writable_file::create_private)?;
    keep(old, &new.file, metadata);
    if let Err(error) = fs::rename(&temporary, target) {
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(new)
}

/// Creates a new file in the same folder as `beside`, with a short name that no other file has.
fn create_temporary(
    beside: &Path,
    create: impl Fn(&Path) -> Result<WritableFile, Failure>,
) -> Result<(PathBuf, WritableFile), Failure> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = beside.with_file_name(format!(".mmnpz-{}-{number}.tmp", std::process::id()));
        match create(&path) {
            Ok(locked) => return Ok((path, locked)),
            // A killed process with the same id has left the file.
            Err(Failure::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives a new file the owner, the permissions and the attributes of an old one. Leaves out what this process
/// may not set, and what the file system does not have.
#[cfg(unix)]
fn keep(old: &File, new: &File, metadata: &Metadata) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    use xattr::FileExt;

    let (uid, gid) = (metadata.uid(), metadata.gid());
    let Ok(created) = new.metadata() else { return };
    let mut mode = metadata.permissions().mode() & 0o7777;
    if (uid, gid) != (created.uid(), created.gid()) && fchown(new, Some(uid), Some(gid)).is_err() {
        // Only the superuser can give a file to another user. Any user can give it to one of their own
        // groups.
        if gid != created.gid() && fchown(new, None, Some(gid)).is_err() {
            // The wrong group gets no more rights than other users have.
            mode &= !0o2070 | ((mode & 0o007) << 3);
        }
        mode &= !0o4000;
    }
    // Attributes include access control lists, which change the permissions. So the permissions come last.
    let had: Vec<_> = old.list_xattr().into_iter().flatten().filter(|name| is_of_the_file(name)).collect();
    for name in &had {
        if let Ok(Some(value)) = old.get_xattr(name) {
            let _ = new.set_xattr(name, &value);
        }
    }
    // The folder can have given the new file an access control list that the old file did not have.
    for name in new.list_xattr().into_iter().flatten().filter(|name| is_of_the_file(name)) {
        if !had.contains(&name) {
            let _ = new.remove_xattr(&name);
        }
    }
    let _ = new.set_permissions(fs::Permissions::from_mode(mode));
}

/// Whether an attribute belongs to the file, rather than to its bytes, as those of some security modules do.
#[cfg(unix)]
fn is_of_the_file(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b"security.") || name == b"security.selinux"
}

#[cfg(not(unix))]
fn keep(_: &File, new: &File, metadata: &Metadata) {
    let _ = new.set_permissions(metadata.permissions());
}

/// Where the bytes behind the last member start, as far as the file tells.
fn end_of_archive(file: &File, keep_going: KeepGoing<'_>) -> Result<u64, Failure> {
    let metadata = file.metadata()?;
    let length = metadata.len();
    if length == 0 {
        return Ok(0);
    }
    let map = mapping::map(file)?;
    let holes = mapping::holes(file, &metadata, map[..].into());
    let window = Window::whole(&map, &holes);
    let survey = match polled(keep_going, |keep_going| Survey::new(window, Effort::Read, keep_going)) {
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        survey => survey.unwrap_or_default(),
    };
    let seal = survey.seal().map(|seal| seal.start());
    let directory = survey.location().map(|directory| directory.range.start);
    Ok(seal.or(directory).unwrap_or(length).min(length.saturating_sub(TAIL)))
}

/// Overwrites a file with zeros: a reader must not take members of the old file for members of the new one,
/// should this writer be killed.
fn blank(file: &File, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
    let length = file.metadata()?.len();
    // First clears the directory, which lists the members. Then clears the members from the start of the file
    // on, so that each loses its header before its data.
    writable_file::clear(file, end_of_archive(file, keep_going)?..length)?;
    file.sync_data()?;
    let mut at = 0;
    while at < length {
        check(keep_going)?;
        let end = length.min(at + STEP);
        writable_file::clear(file, at..end)?;
        at = end;
    }
    Ok(())
}
