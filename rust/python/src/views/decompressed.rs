//! Arrays of compressed members, each in memory of its own.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use mmnpz_file::decompress::{Packed, for_all};
use mmnpz_file::fetch;
use mmnpz_file::{Failure, KeepGoing};
use mmnpz_format::npy::header::Header;
use mmnpz_format::read::lookup::LocatedArray;
use mmnpz_format::read::walked_index::Member;
use numpy::PyUntypedArray;

use crate::detach::detached;
use crate::error::{in_member, keep_going};
use crate::numpy::array::{self, Memory};
use crate::views::open_file::OpenFile;

/// This many bytes are decompressed in some ten microseconds: to get the interpreter back from other threads
/// can take milliseconds.
const DETACH_FROM: usize = 1 << 14;

/// The arrays of compressed members with their names: new, and read-only unless the map is writable. Up to
/// `threads` threads decompress them, the calling one included.
pub(crate) fn arrays<'py>(
    py: Python<'py>,
    file: &OpenFile,
    members: &[(Member, &str)],
    threads: usize,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let failed = |number: usize, failure| file.member_err(py, failure, members[number].1);
    let described = |number: usize, error| in_member(py, file.snapshot.shown(), members[number].1, error);
    let packed = || {
        let verify = || Python::attach(|py| file.verify(py));
        let packed = members.iter().enumerate().map(|(number, (member, name))| {
            let packed = file.snapshot.packed(member, name, &verify);
            let packed = packed.map_err(|failure| (number, failure))?;
            Ok(Seen { packed, header: None })
        });
        packed.collect::<Result<Vec<_>, _>>()
    };
    let packed = if file.snapshot.is_unmapped() { detached(py, packed) } else { packed() };
    let mut all = packed.map_err(|(number, failure)| failed(number, failure))?;
    if let Err(failure) = read_headers(py, file, &mut all, threads) {
        if let Failure::Forked = failure {
            // What a lost thread has left half done must not be dropped.
            std::mem::forget(all);
            return arrays(py, file, members, 1);
        }
        return Err(file.err(py, failure));
    }
    let is_writable = file.snapshot.map().is_writable() || file.snapshot.reads_arrays();
    let mut parts = Vec::with_capacity(members.len());
    for (number, Seen { packed, header }) in all.into_iter().enumerate() {
        let Some(header) = header else { continue };
        let (header, data) = header.map_err(|failure| failed(number, failure))?;
        parts.push(
            Part::new(py, packed, header, data, is_writable).map_err(|error| described(number, error))?,
        );
    }
    let mut all: Vec<_> = parts.iter_mut().map(Part::unpacking).collect();
    let work = |(packed, out, done): &mut Unpacking<'_>, keep_going: KeepGoing<'_>| {
        *done = packed.decompress(out, keep_going);
    };
    let is_short = all.iter().map(|(_, out, _)| out.len()).sum::<usize>() < DETACH_FROM;
    let decompressed = if is_short && !file.snapshot.is_unmapped() {
        for_all(&mut all, 1, &keep_going, &work)
    } else {
        detached(py, || for_all(&mut all, threads, &keep_going, &work))
    };
    if let Err(failure) = decompressed {
        if let Failure::Forked = failure {
            std::mem::forget(all);
            return arrays(py, file, members, 1);
        }
        return Err(file.err(py, failure));
    }
    let done: Vec<_> = all.into_iter().map(|(.., done)| done).collect();
    let finished = parts.into_iter().zip(done).enumerate().map(|(number, (part, done))| {
        done.map_err(|failure| failed(number, failure))?;
        part.finish(py).map_err(|error| described(number, error))
    });
    finished.collect()
}

/// A member, and its header with where the data start behind it, once that was read.
struct Seen<'a> {
    packed: Packed<'a>,
    header: Option<Result<(Header<'static>, usize), Failure>>,
}

/// A member, the memory for it, and what is wrong with it, once it was decompressed.
type Unpacking<'a> = (&'a Packed<'a>, &'a mut [u8], Result<(), Failure>);

/// Reads the headers of members. All their bytes are on the way then.
fn read_headers(
    py: Python<'_>,
    file: &OpenFile,
    all: &mut [Seen<'_>],
    threads: usize,
) -> Result<(), Failure> {
    let map = file.snapshot.map();
    let places: Vec<_> = all.iter().map(|seen| seen.packed.place(map)).collect();
    let is_cold = fetch::are_cold(map, &places);
    // Small members are decompressed as a whole for that, and any input can have few bytes in it.
    let weight = |seen: &Seen<'_>| seen.packed.size().min(DETACH_FROM as u64) + seen.packed.stored_size();
    let size = all.iter().map(weight).sum::<u64>();
    let max_header_size = file.max_header_size;
    let work = |seen: &mut Seen<'_>, keep_going: KeepGoing<'_>| {
        seen.header = Some(seen.packed.header(max_header_size, keep_going));
    };
    let is_here = !is_cold && !file.snapshot.is_unmapped();
    if is_here && size <= 2 * DETACH_FROM as u64 {
        return for_all(all, 1, &keep_going, &work);
    }
    detached(py, || {
        if is_cold {
            fetch::fetch(map, &places, &keep_going)?;
        }
        for_all(all, threads, &keep_going, &work)
    })
}

/// An array whose bytes are not yet there.
struct Part<'a, 'py> {
    packed: Packed<'a>,
    header: Header<'static>,
    /// An array of bytes: `before` that are not used, then those of the member up to the end of the array.
    memory: Bound<'py, PyAny>,
    before: usize,
    /// Where the data start in the member.
    data: usize,
    /// How many bytes the data are.
    length: usize,
    /// Whether a program may write to the array.
    is_writable: bool,
}

impl<'a, 'py> Part<'a, 'py> {
    /// Takes memory for what the header says, if the member has as many bytes.
    fn new(
        py: Python<'py>,
        packed: Packed<'a>,
        header: Header<'static>,
        data: usize,
        is_writable: bool,
    ) -> PyResult<Self> {
        let room = packed.size() - data as u64;
        let length = array::with_dtype(py, &header.descr, |dtype| array::data_len(&header, room, dtype))?;
        let too_large = || PyMemoryError::new_err("the array is too large");
        let length = usize::try_from(length).map_err(|_| too_large())?;
        let size = data.checked_add(length).ok_or_else(too_large)?;
        let (memory, before) = array::aligned(py, size, data)?;
        Ok(Part { packed, header, memory, before, data, length, is_writable })
    }

    /// The member, and all bytes of the memory.
    fn bytes(&mut self) -> (&Packed<'a>, &mut [u8]) {
        let Some(layout) = array::layout(&self.memory) else { return (&self.packed, &mut []) };
        // SAFETY: an array of this many bytes, which `new` made of zeros, and which nobody else has as long
        // as `self` is there.
        let bytes = unsafe { std::slice::from_raw_parts_mut(layout.start, layout.shape[0].cast_unsigned()) };
        (&self.packed, bytes)
    }

    fn unpacking(&mut self) -> Unpacking<'_> {
        let place = self.before..self.before + self.data + self.length;
        let (packed, bytes) = self.bytes();
        (packed, &mut bytes[place], Ok(()))
    }

    /// The array, once its bytes are there.
    fn finish(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let located = LocatedArray {
            header: self.header.clone(),
            offset: (self.before + self.data) as u64,
            stored: self.length as u64,
        };
        let memory = self.memory.clone();
        // Or a view of it could be made writable, and all who look the array up have the same view.
        if !self.is_writable {
            array::make_read_only(&memory);
        }
        let view_type = py.get_type::<PyUntypedArray>();
        array::with_dtype(py, &located.header.descr, |dtype| {
            let is_writable = self.is_writable;
            array::map_array(
                Memory { bytes: self.bytes().1, is_writable },
                &memory,
                &view_type,
                &located,
                dtype,
            )
        })
    }
}
