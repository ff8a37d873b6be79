//! `verify`: the Python side of [`mmnpz_file::checksums`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyString;

use mmnpz_file::Failure;
use mmnpz_file::checksums::{self, Damage, Listed, SOME, Source, Wrong};

use crate::detach::detached;
use crate::error::keep_going;
use crate::progress::{tell_of_all, tell_of_some};
use crate::reading::reader::Reader;
use crate::views::open_file::OpenFile;
use crate::views::unknown_name::unknown_name;

/// How often Python is asked whether to go on, and told how far this is.
const EVERY: Duration = Duration::from_millis(20);

/// A damaged member: its name, where its local header is, what is wrong, and the checksum that it should have
/// and the one that it has, if that is what is wrong.
pub(crate) type Damaged = (String, u64, String, Option<u32>, Option<u32>);

/// How members are checked.
struct Way {
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
    /// Whether one damaged member is all that the caller wants to know.
    is_first_enough: bool,
}

#[pyfunction]
#[doc = docstring!("_verify")]
pub(crate) fn _verify(
    reader: &Bound<'_, Reader>,
    names: Option<Vec<Bound<'_, PyString>>>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
    is_first_enough: bool,
) -> PyResult<Vec<Damaged>> {
    let file = reader.get().file(reader.py())?;
    // A name with lone surrogates is in no archive.
    let text =
        |name: &Bound<'_, PyString>| name.to_str().map(str::to_owned).map_err(|_| unknown_name(&file, name));
    let names = names.map(|names| names.iter().map(text).collect::<PyResult<Vec<_>>>()).transpose()?;
    damaged(reader.py(), &file, names, &Way { threads, progress, is_first_enough })
}

/// The damaged ones of the members that are named, or of all.
fn damaged(py: Python<'_>, file: &OpenFile, names: Option<Vec<String>>, way: &Way) -> PyResult<Vec<Damaged>> {
    let source = detached(py, || Source::new(&file.snapshot)).map_err(|failure| file.err(py, failure))?;
    let total = if way.progress.is_some() { total(py, file, names.as_deref())? } else { 0 };
    let done = AtomicU64::new(0);
    let mut damaged = Vec::new();
    let mut at = 0;
    loop {
        let members = match &names {
            Some(names) => named(py, file, names.get(at..).unwrap_or_default())?,
            None => listed(py, file, at)?,
        };
        at += members.len();
        let found = detached(py, || check(&source, &members, way, &done, total));
        for Damage { number, what } in found.map_err(|failure| file.err(py, failure))? {
            let Listed { member, name, .. } = &members[number];
            let (expected, found) = match what {
                Wrong::Checksum { expected, found } => (Some(expected), Some(found)),
                _ => (None, None),
            };
            damaged.push((name.clone(), member.extent().0, what.to_string(), expected, found));
            if way.is_first_enough {
                return Ok(damaged);
            }
        }
        if members.len() < SOME {
            break;
        }
        source.check_length().map_err(|failure| file.err(py, failure))?;
    }
    tell_of_all(py, way.progress.as_ref(), total)?;
    Ok(damaged)
}

fn check(
    source: &Source<'_>,
    members: &[Listed],
    way: &Way,
    done: &AtomicU64,
    total: u64,
) -> Result<Vec<Damage>, Failure> {
    // Only the calling thread asks, and no thread waits for it.
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    let go_on = || {
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < EVERY) {
                return true;
            }
            *last = Some(Instant::now());
        }
        let Some(progress) = &way.progress else { return keep_going() };
        keep_going() && tell_of_some(Some(progress), done.load(Ordering::Relaxed), total)
    };
    let threads = way.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    checksums::check(source, members, threads, way.is_first_enough, done, &go_on)
}

/// The next members from a position on.
fn listed(py: Python<'_>, file: &OpenFile, from: usize) -> PyResult<Vec<Listed>> {
    py.check_signals()?;
    file.verified(py, |lookup, window| {
        lookup
            .members_from(window, from)?
            .take(SOME)
            .map(|named| Listed::new(lookup, window, named?))
            .collect()
    })
}

/// The next of the members that are named.
fn named(py: Python<'_>, file: &OpenFile, names: &[String]) -> PyResult<Vec<Listed>> {
    let listed = |name: &String| {
        let found = file.find(py, name, false)?;
        let (member, name) = found.ok_or_else(|| unknown_name(file, &PyString::new(py, name)))?;
        let member = (member, name.to_owned());
        let listed = file.snapshot.reading(|window| Listed::new(file.lookup(), window, member));
        listed.map_err(|failure| file.err(py, failure))
    };
    names.iter().take(SOME).map(listed).collect()
}

/// How many bytes are to be checked.
fn total(py: Python<'_>, file: &OpenFile, names: Option<&[String]>) -> PyResult<u64> {
    let Some(names) = names else {
        return file.verified(py, |lookup, window| {
            lookup
                .members(window)?
                .try_fold(0, |total: u64, named| Ok(total.saturating_add(named?.0.extent().1)))
        });
    };
    names.chunks(SOME).try_fold(0, |total: u64, names| {
        let sizes = named(py, file, names)?.iter().map(|listed| listed.member.extent().1).sum::<u64>();
        Ok(total.saturating_add(sizes))
    })
}
