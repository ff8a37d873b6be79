//! Whether the last change of a file is older than the running system.

use std::fs::Metadata;
use std::time::{Duration, SystemTime};

/// Programs set the clock, and file systems round: a change this close to the start of the system counts as
/// older.
const SLACK: Duration = Duration::from_secs(10);

/// Whether the last change of a file may be older than the running system, so that a power failure may have
/// come since.
pub(crate) fn is_older(metadata: &Metadata) -> bool {
    let changed = metadata.modified().ok();
    let booted = uptime().and_then(|uptime| SystemTime::now().checked_sub(uptime));
    // If the system tells only one of the two times, the file may be older.
    changed.zip(booted).is_none_or(|(changed, booted)| changed < booted + SLACK)
}

/// How long the system has been running, also asleep.
#[cfg(target_os = "linux")]
fn uptime() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time`, which is valid for it, and nothing else.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    (status == 0).then(|| Duration::new(time.tv_sec.unsigned_abs(), nanoseconds))
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Option<Duration> {
    None
}
