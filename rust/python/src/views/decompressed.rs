//! Arrays of compressed members, each in memory of its own.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use mmnpz_file::decompress::{Packed, Unpacking, decompress_all};
use mmnpz_file::fetch::{self, Place};
use mmnpz_format::npy::header::Header;
use mmnpz_format::read::lookup::LocatedArray;
use mmnpz_format::read::walked_index::Member;
use numpy::PyUntypedArray;

use crate::detach::detached;
use crate::error::{in_member, keep_going};
use crate::numpy::array;
use crate::views::open_file::OpenFile;

/// This many bytes are decompressed in some ten microseconds: to get the interpreter back from other threads
/// can take milliseconds.
const DETACH_FROM: usize = 1 << 14;

/// The data start at a multiple of this.
const ALIGN: usize = 64;

/// The arrays of compressed members with their names: new, and read-only. Up to `threads` threads decompress
/// them, the calling one included.
pub(crate) fn arrays<'py>(
    py: Python<'py>,
    file: &OpenFile,
    members: &[(Member, &str)],
    threads: usize,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let failed = |number: usize, failure| file.member_err(py, failure, members[number].1);
    let described = |number: usize, error| in_member(py, file.snapshot.path(), members[number].1, error);
    let mut packed = Vec::with_capacity(members.len());
    for (number, (member, name)) in members.iter().enumerate() {
        let found = file.snapshot.packed(member, name, &|| file.verify(py));
        packed.push(found.map_err(|failure| failed(number, failure))?);
    }
    let mut parts = Vec::with_capacity(members.len());
    for (number, header) in headers(py, file, &mut packed)?.into_iter().enumerate() {
        let (header, data) = header.map_err(|error| failed(number, error.into()))?;
        let part = Part::new(py, header, data, packed[number].size());
        parts.push(part.map_err(|error| described(number, error))?);
    }
    let all = packed.iter().zip(&mut parts);
    let mut all: Vec<_> =
        all.map(|(packed, part)| Unpacking { packed, out: part.out(), failure: None }).collect();
    if all.iter().map(|one| one.out.len()).sum::<usize>() < DETACH_FROM {
        decompress_all(&mut all, 1, &keep_going)
    } else {
        detached(py, || decompress_all(&mut all, threads, &keep_going))
    }
    .map_err(|failure| failed(0, failure))?;
    let failures: Vec<_> = all.into_iter().map(|one| one.failure).collect();
    let finished = parts.into_iter().zip(failures).enumerate().map(|(number, (part, failure))| {
        failure.map_or(Ok(()), |failure| Err(failed(number, failure)))?;
        part.finish(py).map_err(|error| described(number, error))
    });
    finished.collect()
}

type Found = mmnpz_format::error::Result<(Header<'static>, usize)>;

/// The headers of members, and where the data start behind them. All their bytes are on the way then.
fn headers(py: Python<'_>, file: &OpenFile, packed: &mut [Packed<'_>]) -> PyResult<Vec<Found>> {
    let map = file.snapshot.map();
    let place = |bytes: &[u8]| Place { offset: map.offset_of(bytes.as_ptr()), bytes: bytes.len() };
    let places: Vec<_> = packed.iter().map(|one| place(one.bytes())).collect();
    let max_header_size = file.max_header_size;
    let mut read = || packed.iter_mut().map(|one| one.header(max_header_size)).collect();
    if !fetch::are_cold(map, &places) {
        return Ok(read());
    }
    file.fetch(py, &places)?;
    Ok(detached(py, read))
}

/// An array whose bytes are not yet there.
struct Part<'py> {
    header: Header<'static>,
    /// An array of bytes: `before` that are not used, then those of the member.
    memory: Bound<'py, PyAny>,
    before: usize,
    /// Where the data start in the member.
    data: usize,
}

impl<'py> Part<'py> {
    /// Takes memory, if the header justifies it.
    fn new(py: Python<'py>, header: Header<'static>, data: usize, size: u64) -> PyResult<Self> {
        array::with_dtype(py, &header.descr, |dtype| {
            array::data_len(&header, size - data as u64, dtype).map(drop)
        })?;
        let too_large = |_| PyMemoryError::new_err("the array is too large");
        let size = usize::try_from(size).map_err(too_large)?;
        let memory = array::empty(&numpy::dtype::<u8>(py), &[size.saturating_add(ALIGN)])?;
        let start = array::layout(&memory).map_or(0, |layout| layout.start.addr());
        let before = (start + data).wrapping_neg() % ALIGN;
        let mut part = Part { header, memory, before, data };
        part.bytes()[..before].fill(0);
        Ok(part)
    }

    /// All bytes that are used.
    fn bytes(&mut self) -> &mut [u8] {
        let Some(layout) = array::layout(&self.memory) else { return &mut [] };
        // SAFETY: an array of this many bytes, which `new` made, and which nobody else has as long as `self`
        // is there. Nobody reads bytes of it that were not written.
        unsafe { std::slice::from_raw_parts_mut(layout.start, layout.shape[0].cast_unsigned()) }
    }

    /// The bytes of the member.
    fn out(&mut self) -> &mut [u8] {
        let before = self.before;
        let memory = self.bytes();
        let size = memory.len().saturating_sub(ALIGN);
        &mut memory[before..before + size]
    }

    /// The array, once its bytes are there.
    fn finish(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stored = self.out().len() - self.data;
        let located = LocatedArray {
            header: self.header.clone(),
            offset: (self.before + self.data) as u64,
            stored: stored as u64,
        };
        let memory = self.memory.clone();
        let view_type = py.get_type::<PyUntypedArray>();
        array::with_dtype(py, &located.header.descr, |dtype| {
            array::map_array(self.bytes(), &memory, &view_type, &located, dtype)
        })
    }
}
