//! What a member gives: a view, an array of its own if it is compressed, or bytes if it is no array.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use mmnpz_file::checksums;
use mmnpz_file::fetch::Place;
use mmnpz_format::npy::header::MAGIC;
use mmnpz_format::read::walked_index::Member;

use crate::detach::detached;
use crate::error::keep_going;
use crate::views::open_file::OpenFile;
use crate::views::{decompressed, fresh};

/// What a member gives. A view has `mmap` as its base.
pub(crate) fn value<'py>(
    file: &OpenFile,
    mmap: &Bound<'py, PyAny>,
    member: &Member,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let py = mmap.py();
    if member.has_whole_name()
        && let Some(bytes) = bytes(py, file, member, name)?
    {
        return Ok(bytes.into_any());
    }
    if !member.is_compressed() && file.snapshot.reads_arrays() {
        return fresh::array(py, file, member, name);
    }
    if !member.is_compressed() {
        return file.view(mmap, member, name);
    }
    decompressed::arrays(py, file, &[(*member, name)], 1).map(|mut arrays| arrays.swap_remove(0))
}

/// The bytes of a member that is no array, of which NumPy judges by how it starts. They are compared with
/// their checksum.
#[cold]
fn bytes<'py>(
    py: Python<'py>,
    file: &OpenFile,
    member: &Member,
    name: &str,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let failed = |failure| file.member_err(py, failure, name);
    if member.is_compressed() {
        let packed = || file.snapshot.packed(member, name, &|| Python::attach(|py| file.verify(py)));
        let packed = if file.snapshot.is_unmapped() { detached(py, packed) } else { packed() };
        let packed = packed.map_err(failed)?;
        file.fetch_cold(py, &[packed.place(file.snapshot.map())])?;
        if detached(py, || packed.starts_with(&MAGIC, &keep_going)).map_err(failed)? {
            return Ok(None);
        }
        detached(py, || packed.check_size(&keep_going)).map_err(failed)?;
        // No larger than what was just counted, or than what is decompressed at once.
        let size = usize::try_from(packed.size());
        let size = size.map_err(|_| PyMemoryError::new_err("the member is too large"))?;
        let made = PyBytes::new_with(py, size, |out| {
            detached(py, || packed.decompress(out, &keep_going)).map_err(failed)
        });
        return made.map(Some);
    }
    let look = || {
        let (range, expected) = file.snapshot.place_of(member, name)?;
        let mut start = [0; MAGIC.len()];
        let length = (range.end - range.start).min(MAGIC.len() as u64) as usize;
        file.snapshot.read_to(range.start, &mut start[..length], &keep_going)?;
        Ok((range, expected, start == MAGIC))
    };
    let found = if file.snapshot.is_unmapped() { detached(py, look) } else { look() };
    let (range, expected, is_array) = found.map_err(failed)?;
    if is_array {
        return Ok(None);
    }
    let size = usize::try_from(range.end - range.start);
    let size = size.map_err(|_| PyMemoryError::new_err("the member is too large"))?;
    file.fetch_cold(py, &[Place { offset: range.start as usize, bytes: size }])?;
    // The checksum is that of the bytes that are handed out: another program may write to the file.
    let made = PyBytes::new_with(py, size, |out| {
        let read = || checksums::read(&file.snapshot, range.start, out, expected, &keep_going);
        detached(py, read).map_err(failed)
    });
    made.map(Some)
}
