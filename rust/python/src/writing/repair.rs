//! `repair`: the Python side of [`mmnpz_file::repair`].

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::detach::detached_on;
use crate::error::keep_going;
use crate::progress::tell_of_some;

/// A member that is not in the archive: its name, where its local header is, and the reason.
type Dropped = (String, u64, &'static str);

#[doc = docstring!("_repair")]
#[pyfunction]
#[pyo3(name = "_repair")]
pub(crate) fn repair(
    py: Python<'_>,
    path: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, Vec<String>, Vec<Dropped>, bool)> {
    let tell = |done, total| tell_of_some(progress.as_ref(), done, total);
    let repaired = detached_on(py, &path, || mmnpz_file::repair::repair(&path, &tell, &keep_going))?;
    let dropped = repaired.dropped.into_iter().map(|member| (member.name, member.header, member.why));
    Ok((repaired.count, repaired.recovered, dropped.collect(), repaired.changed))
}
