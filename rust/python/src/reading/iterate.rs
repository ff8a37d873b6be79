//! All arrays of an archive, one after the other: `data.values()` and `data.items()`.
//!
//! The iterator reads members from the directory, some at a time, in the order of the directory. To look each
//! name up would jump to another place of the index, and of the directory, for each member.

use std::sync::Arc;
use std::vec;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::reading::reader::Reader;
use crate::views::handle::Handle;
use mmnpz_format::read::walked_index::Member;

/// An iterator over the views of a reader.
#[pyclass(module = "mmnpz._mmnpz")]
pub(crate) struct ViewIterator {
    reader: Py<Reader>,
    /// None once the iterator has come to its end.
    way: Option<Way>,
    /// Whether names come with the views.
    pairs: bool,
}

/// The members that are still to come.
struct Way {
    /// The file that the reader had open at first: a program may open the reader anew meanwhile.
    handle: Arc<Handle>,
    keep: bool,
    /// The list `files` of the reader. If a program has put it in another order, the iterator follows that
    /// order.
    names: Py<PyList>,
    /// The position of the next name.
    position: usize,
    /// The members that are expected from this position on.
    ahead: vec::IntoIter<(Member, String)>,
}

/// The views of all arrays in archive order, with their names if `pairs`.
#[pyfunction]
pub(crate) fn _walk(reader: &Bound<'_, Reader>, pairs: bool) -> PyResult<ViewIterator> {
    let (handle, keep) = reader.get().handle(reader.py())?;
    let names = handle.file.files(reader.py())?.unbind();
    let way = Way { handle, keep, names, position: 0, ahead: Vec::new().into_iter() };
    Ok(ViewIterator { reader: reader.clone().unbind(), way: Some(way), pairs })
}

impl Way {
    /// The next name.
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let names = self.names.bind(py);
        (self.position < names.len()).then(|| names.get_item(self.position)).transpose()
    }

    /// The view of this name. The name behind it is the next one, even if this fails.
    fn view<'py>(&mut self, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, position) = (name.py(), self.position);
        self.position += 1;
        if self.ahead.len() == 0 {
            py.check_signals()?;
            self.ahead = self.handle.file.some(py, position)?.into_iter();
        }
        if let Some((member, expected)) = self.ahead.next()
            && let Ok(name) = name.cast_exact::<PyString>()
            && name.to_str().is_ok_and(|name| name == expected)
        {
            return self.handle.view_of(&member, name, self.keep);
        }
        self.handle.first_access(name, self.keep)
    }
}

#[pymethods]
impl ViewIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(way) = &mut self.way else { return Ok(None) };
        let Some(name) = way.next(py)? else {
            self.way = None;
            return Ok(None);
        };
        if let Err(closed) = self.reader.get().with_file(py, |_| ()) {
            // The iterator does not keep the map of a closed reader.
            self.way = None;
            return Err(closed);
        }
        let view = way.view(&name)?;
        if self.pairs { Ok(Some(PyTuple::new(py, [name, view])?.into_any())) } else { Ok(Some(view)) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.reader)?;
        self.way.as_ref().map_or(Ok(()), |way| visit.call(&way.names))
    }
}
