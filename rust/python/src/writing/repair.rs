//! `repair`: the Python side of [`mmnpz_file::repair`].

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::detach::detached_on;
use crate::error::keep_going;
use crate::progress::tell_of_some;

/// A member that is not in the archive: its name, where its local header is, and the reason.
type Dropped = (String, u64, &'static str);

/// An array of the rows of a stream that was not finished: its name, that of the stream, and how many rows.
type Kept = (String, String, u64);

/// The parts of a report.
type Report = (u64, Vec<String>, Vec<Dropped>, bool, Vec<Kept>);

#[doc = docstring!("_repair")]
#[pyfunction]
#[pyo3(name = "_repair")]
pub(crate) fn repair(
    py: Python<'_>,
    path: PathBuf,
    keep_partial: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let tell = |done, total| tell_of_some(progress.as_ref(), done, total);
    let repair = || mmnpz_file::repair::repair(&path, keep_partial, &tell, &keep_going);
    let repaired = detached_on(py, &path, repair)?;
    let dropped = repaired.dropped.into_iter().map(|member| (member.name, member.header, member.why));
    let kept = repaired.kept.into_iter().map(|kept| (kept.name, kept.stream, kept.rows)).collect();
    Ok((repaired.count, repaired.recovered, dropped.collect(), repaired.changed, kept))
}
