//! The `KeyError` of a name that is not there.

use std::sync::atomic::Ordering;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use mmnpz_file::Failure;
use mmnpz_file::nearest::nearest;

use crate::detach::detached;
use crate::error::shown;
use crate::views::open_file::OpenFile;

/// How many errors of an open file have a note. A program that asks for many names to see whether they are
/// there should not pay for a text that nobody reads.
const NOTES: u32 = 3;

/// How many names a note has.
const SHOWN: usize = 3;

/// The `KeyError` of a name that is not there. Its argument is the name, as that of a dict. To the first ones
/// of a file, a note is added, which a traceback shows: it names the file, and what may have been meant.
#[cold]
pub(crate) fn unknown_name(file: &OpenFile, name: &Bound<'_, PyAny>) -> PyErr {
    let py = name.py();
    let error = PyKeyError::new_err((name.clone().unbind(),));
    // The text is made now: the file may be closed when it is shown.
    if file.misses.load(Ordering::Relaxed) < NOTES
        && file.misses.fetch_add(1, Ordering::Relaxed) < NOTES
        && let Some(text) = name.cast::<PyString>().ok().and_then(|name| name.to_str().ok())
        && let Some(note) = detached(py, || note(file, text))
    {
        // An error without a note is as good.
        let _ = error.value(py).call_method1(pyo3::intern!(py, "add_note"), (note,));
    }
    error
}

/// The text, if the names can be read.
fn note(file: &OpenFile, name: &str) -> Option<String> {
    let lookup = file.lookup();
    let path = file.snapshot.shown().display();
    // A file that was cut short has no bytes behind the map. No text is worth a SIGBUS.
    if file.snapshot.was_changed() {
        return Some(format!("{path}: the file was changed since it was opened: open it again"));
    }
    let names = file.snapshot.reading(|window| {
        let names = || Ok::<_, Failure>(lookup.members(window)?.map_while(|member| Some(member.ok()?.1)));
        let near = nearest(name, names()?, SHOWN);
        Ok(if near.is_empty() { (names()?.take(SHOWN).collect(), false) } else { (near, true) })
    });
    let (names, is_near): (Vec<String>, _) = names.ok()?;
    let list = names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    Some(match (lookup.len(), is_near, names.len()) {
        (0, ..) => format!("{path}: there are no arrays"),
        (1, ..) => format!("{path}: the only array is {list}"),
        (count, true, _) => format!("{path}: among the names of {count} arrays are {list}"),
        (count, false, _) => format!("{path}: of the names of {count} arrays, the first are {list}"),
    })
}
