//! The Python object that keeps an archive mapped, and the memory of other Python objects.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use mmnpz_file::mapping::{Identity, Lent, Map};
use mmnpz_file::snapshot::Source;

#[doc = docstring!("Mapping")]
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Mapping {
    pub(crate) map: Arc<Map>,
    #[doc = docstring!("Mapping.filename")]
    #[pyo3(get)]
    filename: Py<PyAny>,
    identity: Identity,
}

#[pymethods]
impl Mapping {
    #[doc = docstring!("Mapping.mode")]
    #[getter]
    fn mode(&self) -> &'static str {
        if self.map.is_writable() { "c" } else { "r" }
    }

    #[doc = docstring!("Mapping.identity")]
    #[getter]
    pub(crate) fn identity(&self) -> (u64, u128, u64) {
        let Identity { size, modified, inode } = self.identity;
        (size, modified, inode)
    }
}

impl Mapping {
    pub(crate) fn new(map: Arc<Map>, filename: Py<PyAny>, identity: Identity) -> Self {
        Mapping { map, filename, identity }
    }
}

/// The memory of a Python object that has the buffer protocol.
#[derive(Debug)]
struct Exported(PyBuffer<u8>);

// SAFETY: the buffer protocol keeps the memory where it is, and as long as it is, until the buffer is
// released, which this value does when it is dropped.
unsafe impl Lent for Exported {
    fn bytes(&self) -> &[u8] {
        let length = self.0.len_bytes();
        if length == 0 {
            return &[];
        }
        // SAFETY: `source` has seen that the bytes lie one behind the other. As for a map (`mapping::map`),
        // others may change them meanwhile, and nothing relies on two reads of a byte being equal.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast(), length) }
    }
}

/// Where the bytes of an archive come from: the file that has a path, by default; an open file, by its
/// descriptor, to which the path `filename` leads unless that is None; or an object with the buffer protocol.
pub(crate) fn source(source: Option<Bound<'_, PyAny>>, filename: &Bound<'_, PyAny>) -> PyResult<Source> {
    let Some(source) = source else { return Ok(Source::Path) };
    if let Ok(descriptor) = source.cast::<PyInt>() {
        let path = filename.extract::<Option<PathBuf>>()?;
        return Ok(Source::Open(duplicate(descriptor)?, path));
    }
    let buffer = PyBuffer::get(&source)?;
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("the bytes of a buffer must lie one behind the other"));
    }
    Ok(Source::Lent(Box::new(Exported(buffer))))
}

/// A descriptor of its own for an open file, which the caller may then close.
#[cfg(unix)]
fn duplicate(descriptor: &Bound<'_, PyInt>) -> PyResult<File> {
    use std::os::fd::BorrowedFd;

    let number = descriptor.extract()?;
    if number < 0 {
        return Err(PyValueError::new_err("a descriptor cannot be negative"));
    }
    // SAFETY: not negative. The caller has the file open during this call. If another thread closes it
    // meanwhile, the system refuses to duplicate the descriptor, or it is that of a file opened since.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(borrowed.try_clone_to_owned()?.into())
}

/// Other systems have no descriptors of files: the package passes none.
#[cfg(not(unix))]
fn duplicate(_: &Bound<'_, PyInt>) -> PyResult<File> {
    Err(PyValueError::new_err("this system has no descriptors"))
}
