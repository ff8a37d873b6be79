//! Mode `"w"` on a file that is there: a new one takes its place, so that whoever has the old one mapped keeps its bytes.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Failure, check_signals};
use crate::file::{self, Locked};

/// So many bytes are overwritten between two looks at pending signals.
const STEP: u64 = 1 << 26;

/// So many symbolic links in a row are followed.
const MOST_LINKS: usize = 40;

/// A new, empty file in place of the one at `path`, with its owner, permissions and attributes as far as the system lets
/// this process set them.
///
/// Where the system lets no other file take that place (a folder that may not be written to, a file of somebody else in one
/// with the sticky bit, a file that is mounted by itself), the one that is there gets nothing but zeros. It does not get
/// shorter: who has it mapped would die.
pub(crate) fn replace(path: &Path) -> Result<Locked, Failure> {
    loop {
        let target = followed(path);
        let metadata = match fs::metadata(&target) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return file::open_or_create(path),
            Err(error) => return Err(error.into()),
        };
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(file::irregular());
        }
        // What may not be written may not be replaced, nor what somebody else is writing; and a folder is refused
        // as the system words it.
        let Some(old) = file::open_once(&target)? else { continue };
        match put_in_place(&target, &old.file, &metadata) {
            Err(Failure::Io(error)) if cannot_be_replaced(&error) => {
                blank(&old.file)?;
                return Ok(old.made_new());
            }
            new => return new,
        }
    }
}

/// What a path leads to through symbolic links, as open(path, "w") follows them. Nothing is asked of the folders above, which
/// may be closed to this process.
fn followed(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    // More links than this no system follows: opening tells.
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}

/// Whether the system refuses another file in this place, and not just any file.
fn cannot_be_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

fn put_in_place(target: &Path, old: &File, metadata: &Metadata) -> Result<Locked, Failure> {
    let (temporary, new) = create_temporary(target)?;
    let kept = keep(old, &new.file, metadata);
    if let Err(error) = kept.and_then(|()| fs::rename(&temporary, target)) {
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(new)
}

/// A new file beside another, under a name that is short and nobody else's.
fn create_temporary(beside: &Path) -> Result<(PathBuf, Locked), Failure> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = beside.with_file_name(format!(".mmnpz-{}-{number}.tmp", std::process::id()));
        match file::create_private(&path) {
            Ok(locked) => return Ok((path, locked)),
            // Left by a killed process of the same number.
            Err(Failure::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives a new file what tells of the old one who it belongs to and who may do what with it.
#[cfg(unix)]
fn keep(old: &File, new: &File, metadata: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    use xattr::FileExt;

    let (uid, gid) = (metadata.uid(), metadata.gid());
    let created = new.metadata()?;
    let mut mode = metadata.permissions().mode() & 0o7777;
    if (uid, gid) != (created.uid(), created.gid()) && fchown(new, Some(uid), Some(gid)).is_err() {
        // Only the superuser gives files away; a group of one's own can be set.
        if gid != created.gid() && fchown(new, None, Some(gid)).is_err() {
            // Another group has no more rights than anybody.
            mode &= !0o2070 | ((mode & 0o007) << 3);
        }
        mode &= !0o4000;
    }
    // Access control lists are among them, which change the permissions: these come last. What a process may not set,
    // and what this file system does not have, is left out.
    for name in old.list_xattr().into_iter().flatten().filter(|name| is_of_the_file(name)) {
        if let Ok(Some(value)) = old.get_xattr(&name) {
            let _ = new.set_xattr(&name, &value);
        }
    }
    new.set_permissions(fs::Permissions::from_mode(mode))
}

/// Whether an attribute says something of the file, and not of its bytes as a security module has seen them.
#[cfg(unix)]
fn is_of_the_file(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b"security.") || name == b"security.selinux"
}

#[cfg(not(unix))]
fn keep(_: &File, new: &File, metadata: &Metadata) -> io::Result<()> {
    new.set_permissions(metadata.permissions())
}

/// Puts zeros in place of all that a file holds: what a killed writer leaves must not be taken for a part of the new file.
fn blank(file: &File) -> Result<(), Failure> {
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        check_signals()?;
        let end = length.min(at + STEP);
        file::clear(file, at..end)?;
        at = end;
    }
    Ok(())
}
