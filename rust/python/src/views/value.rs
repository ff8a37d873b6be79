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
use crate::views::decompressed;
use crate::views::open_file::OpenFile;

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
    let fetch = |bytes: &[u8]| {
        let place = Place { offset: file.snapshot.map().offset_of(bytes.as_ptr()), bytes: bytes.len() };
        file.fetch_cold(py, &[place])
    };
    if member.is_compressed() {
        let packed = file.snapshot.packed(member, name, &|| file.verify(py)).map_err(failed)?;
        fetch(packed.bytes())?;
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
    let (bytes, expected) = file.snapshot.bytes_of(member, name).map_err(failed)?;
    if bytes.starts_with(&MAGIC) {
        return Ok(None);
    }
    fetch(bytes)?;
    // The checksum is that of the bytes that are handed out: another program may write to the file.
    let made = PyBytes::new_with(py, bytes.len(), |out| {
        detached(py, || checksums::copy(bytes, out, expected, &keep_going)).map_err(failed)
    });
    made.map(Some)
}
