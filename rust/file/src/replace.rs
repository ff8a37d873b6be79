//! Mode `"w"` on a file that is there: a new one takes its place, so that whoever has the old one mapped
//! keeps its bytes.

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

/// The caller is asked whether to go on every time this many bytes were overwritten: some ten milliseconds.
const STEP: u64 = 1 << 26;

/// An end record is looked for in this many bytes at the end of a file.
const TAIL: u64 = 1 << 17;

/// More symbolic links in a row than this no system follows.
const MOST_LINKS: usize = 40;

/// A new, empty file in place of the one at `path`, with its owner, permissions and attributes as far as the
/// system lets this process set them.
///
/// Where the system lets no other file take that place (a folder that may not be written to, a file of
/// somebody else in one with the sticky bit, a file that is mounted by itself), the one that is there gets
/// nothing but zeros. It does not get shorter: who has it mapped would die.
pub(crate) fn replace(path: &Path, keep_going: KeepGoing<'_>) -> Result<WritableFile, Failure> {
    loop {
        let target = followed(path);
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() || metadata.is_file() => {}
            Ok(_) => return Err(writable_file::irregular()),
            // A dangling link creates what it leads to; a file without a name can be opened where a process
            // has it open.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let found = writable_file::open_or_create(path)?;
                if !found.is_new {
                    blank(&found.file, keep_going)?;
                }
                return Ok(found.made_new());
            }
            Err(error) => return Err(error.into()),
        }
        // What may not be written may not be replaced, nor what somebody else is writing; and a folder is
        // refused as the system words it. The path is the one that was given: the system may not let this
        // process follow the links of others.
        let Some(old) =
            writable_file::open_once(path)?.filter(|old| writable_file::is_at(&old.file, &target))
        else {
            continue;
        };
        match put_in_place(&target, &old.file, &old.file.metadata()?) {
            Err(Failure::Io(error)) if cannot_be_replaced(&error) => {
                blank(&old.file, keep_going)?;
                return Ok(old.made_new());
            }
            new => return new,
        }
    }
}

/// What a path leads to through symbolic links, as open(path, "w") follows them. Nothing is asked of the
/// folders above, which may be closed to this process.
fn followed(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    // Opening tells of a circle.
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}

/// Whether the system refuses another file in this place, and not just any file.
fn cannot_be_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    // Windows does not replace a file that somebody has mapped, whose bytes must stay.
    let is_this_file =
        matches!(error.kind(), CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy);
    cfg!(unix) && is_this_file
}

fn put_in_place(target: &Path, old: &File, metadata: &Metadata) -> Result<WritableFile, Failure> {
    let (temporary, new) = create_temporary(target)?;
    keep(old, &new.file, metadata);
    if let Err(error) = fs::rename(&temporary, target) {
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(new)
}

/// A new file beside another, under a name that is short and nobody else's.
fn create_temporary(beside: &Path) -> Result<(PathBuf, WritableFile), Failure> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = beside.with_file_name(format!(".mmnpz-{}-{number}.tmp", std::process::id()));
        match writable_file::create_private(&path) {
            Ok(locked) => return Ok((path, locked)),
            // Left by a killed process of the same number.
            Err(Failure::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives a new file the owner, the permissions and the attributes of an old one. What a process may not set,
/// and what this file system does not have, is left out.
#[cfg(unix)]
fn keep(old: &File, new: &File, metadata: &Metadata) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    use xattr::FileExt;

    let (uid, gid) = (metadata.uid(), metadata.gid());
    let Ok(created) = new.metadata() else { return };
    let mut mode = metadata.permissions().mode() & 0o7777;
    if (uid, gid) != (created.uid(), created.gid()) && fchown(new, Some(uid), Some(gid)).is_err() {
        // Only the superuser gives files away; a group of one's own can be set.
        if gid != created.gid() && fchown(new, None, Some(gid)).is_err() {
            // Another group has no more rights than anybody.
            mode &= !0o2070 | ((mode & 0o007) << 3);
        }
        mode &= !0o4000;
    }
    // Access control lists are among them, which change the permissions: these come last.
    let had: Vec<_> = old.list_xattr().into_iter().flatten().filter(|name| is_of_the_file(name)).collect();
    for name in &had {
        if let Ok(Some(value)) = old.get_xattr(name) {
            let _ = new.set_xattr(name, &value);
        }
    }
    // The folder can have given it a list that the old one did not have.
    for name in new.list_xattr().into_iter().flatten().filter(|name| is_of_the_file(name)) {
        if !had.contains(&name) {
            let _ = new.remove_xattr(&name);
        }
    }
    let _ = new.set_permissions(fs::Permissions::from_mode(mode));
}

/// Whether an attribute says something of the file, and not of its bytes as a security module has seen them.
#[cfg(unix)]
fn is_of_the_file(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b"security.") || name == b"security.selinux"
}

#[cfg(not(unix))]
fn keep(_: &File, new: &File, metadata: &Metadata) {
    let _ = new.set_permissions(metadata.permissions());
}

/// Where that starts which is behind the members of the file, as far as anybody can tell.
fn end_of_archive(file: &File, keep_going: KeepGoing<'_>) -> Result<u64, Failure> {
    let metadata = file.metadata()?;
    let length = metadata.len();
    if length == 0 {
        return Ok(0);
    }
    let map = mapping::map(file)?;
    let holes = mapping::holes(file, &metadata, &map);
    let window = Window::whole(&map, &holes);
    let survey = match polled(keep_going, |keep_going| Survey::new(window, Effort::Read, keep_going)) {
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        survey => survey.unwrap_or_default(),
    };
    let seal = survey.seal().map(|seal| seal.start());
    let directory = survey.location().map(|directory| directory.range.start);
    Ok(seal.or(directory).unwrap_or(length).min(length.saturating_sub(TAIL)))
}

/// Puts zeros in place of all that a file holds: what a killed writer leaves must not be taken for a part of
/// the new file.
fn blank(file: &File, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
    let length = file.metadata()?.len();
    // What leads to members first, the last directory: while they go, from the start on, each loses its
    // header before its data, and nothing lists it.
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
