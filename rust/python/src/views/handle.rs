//! An open file with its view cache.

use std::sync::Arc;
use std::thread;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use mmnpz_format::read::walked_index::Member;

use crate::numpy::{array, memmap};
use crate::views::decompressed;
use crate::views::open_file::{OpenFile, SOME};
use crate::views::unknown_name::unknown_name;
use crate::views::value::value;
use crate::views::view_cache::{Preload, ViewCache};

/// An open file and the views into it that are kept. Any number of readers share a handle.
pub(crate) struct Handle {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) views: ViewCache,
}

impl Handle {
    /// A handle with new views: all of them with `preload`, otherwise none yet.
    pub(crate) fn new(py: Python<'_>, file: Arc<OpenFile>, preload: bool) -> PyResult<Arc<Self>> {
        let mmap = array::whole_map(file.mapping.bind(py), file.types.map.bind(py))?;
        let views = ViewCache::new(py, mmap.unbind());
        let handle = Handle { file, views };
        if preload {
            handle.preload(py)?;
        }
        Ok(Arc::new(handle))
    }

    fn view<'py>(&self, py: Python<'py>, member: &Member, name: &str) -> PyResult<Bound<'py, PyAny>> {
        value(&self.file, self.views.mmap.bind(py), member, name)
    }

    /// The view of a name that had none yet: a new view or, with `keep`, the one that the cache then has.
    #[cold]
    pub(crate) fn first_access<'py>(
        &self,
        asked: &Bound<'py, PyAny>,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = asked.py();
        let file = &self.file;
        let key = asked.cast::<PyString>().ok();
        // A name with lone surrogates is in no archive.
        let text = key.and_then(|key| key.to_str().ok());
        let found = text.map_or(Ok(None), |text| file.find(py, text, false))?;
        let (Some(key), Some(text), Some((member, name))) = (key, text, found) else {
            // As a dict does: an object that cannot be hashed is a TypeError.
            asked.hash()?;
            return Err(unknown_name(file, asked));
        };
        if member.has_whole_name() || name.len() < text.len() {
            return self.view_of(&member, &PyString::new(py, name), keep);
        }
        let view = self.view(py, &member, text)?;
        let key = || {
            if key.is_exact_instance_of::<PyString>() { key.clone() } else { PyString::new(py, text) }
        };
        self.kept_or_own(&member, view, keep.then(key))
    }

    /// A new view: the one that the cache has from now on, if there is a key for it; else the caller's own.
    fn kept_or_own<'py>(
        &self,
        member: &Member,
        view: Bound<'py, PyAny>,
        key: Option<Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(key) = key
            && !is_bytes(member, &view)
        {
            return self.views.publish(member.id, &key, view);
        }
        memmap::make_own(&view);
        Ok(view)
    }

    /// The view of a member whose name the caller knows.
    pub(crate) fn view_of<'py>(
        &self,
        member: &Member,
        name: &Bound<'py, PyString>,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = name.py();
        if keep && let Some(view) = self.views.get(py, member.id) {
            return Ok(view);
        }
        let view = self.view(py, member, name.to_str()?)?;
        self.kept_or_own(member, view, keep.then(|| name.clone()))
    }

    /// The arrays of compressed members, of which none is there twice: those that are kept, and new ones,
    /// which up to `threads` threads decompress. They are kept from now on with `keep`.
    pub(crate) fn decompressed<'py>(
        &self,
        py: Python<'py>,
        members: &[(Member, Bound<'py, PyString>)],
        threads: usize,
        keep: bool,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let kept = |member: &Member| if keep { self.views.get(py, member.id) } else { None };
        let mut arrays: Vec<_> = members.iter().map(|(member, _)| kept(member)).collect();
        let missing = members.iter().zip(&arrays).filter(|(_, array)| array.is_none());
        let missing = missing.map(|((member, name), _)| Ok((*member, name.to_str()?)));
        let missing = missing.collect::<PyResult<Vec<_>>>()?;
        let mut made = decompressed::arrays(py, &self.file, &missing, threads)?.into_iter();
        for (array, (member, name)) in arrays.iter_mut().zip(members) {
            if array.is_none() {
                let new = made.next().map(|new| self.kept_or_own(member, new, keep.then(|| name.clone())));
                *array = new.transpose()?;
            }
        }
        Ok(arrays.into_iter().flatten().collect())
    }

    /// The view of the member at a position in archive order, which had none yet; as for `first_access`.
    #[cold]
    pub(crate) fn first_access_at<'py>(
        &self,
        py: Python<'py>,
        position: usize,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (member, name) = self.file.at(py, position)?;
        let view = self.view(py, &member, &name)?;
        self.kept_or_own(&member, view, keep.then(|| PyString::new(py, &name)))
    }

    /// Makes and keeps all views.
    fn preload(&self, py: Python<'_>) -> PyResult<()> {
        let mut preload = None;
        // Where there are compressed members, the views that wait for the arrays of those in front of them.
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        self.file.for_each(py, |number, member, name| {
            if number == 0 {
                // Only now is known how many members there are. Where all begins again, all views are made
                // again.
                preload = Some(Preload::new(&self.views, self.file.lookup().len()));
                waiting.clear();
            }
            let Some(preload) = &mut preload else { return Ok(()) };
            if number % SOME == 0 {
                let next = (number..number + SOME).map_while(|at| self.file.lookup().known(at));
                self.file.fetch_headers(py, next)?;
            }
            let is_packed = member.is_compressed() && !member.has_whole_name();
            let view = if is_packed { None } else { Some(self.view(py, member, name.to_str()?)?) };
            match view {
                Some(view) if is_bytes(member, &view) => return Ok(()),
                Some(view) if waiting.is_empty() => return preload.add(member.id, name, view),
                view => waiting.push(Waiting { member: *member, name: name.clone(), view }),
            }
            if waiting.len() < SOME { Ok(()) } else { self.preload_waiting(py, preload, &mut waiting) }
        })?;
        if let Some(mut preload) = preload {
            self.preload_waiting(py, &mut preload, &mut waiting)?;
            preload.finish();
        }
        Ok(())
    }

    /// Makes the arrays of the compressed members that wait, with all processors, and keeps all that wait.
    fn preload_waiting<'py>(
        &self,
        py: Python<'py>,
        preload: &mut Preload<'_>,
        waiting: &mut Vec<Waiting<'py>>,
    ) -> PyResult<()> {
        let packed = waiting.iter().filter(|one| one.view.is_none());
        let packed = packed.map(|one| Ok((one.member, one.name.to_str()?)));
        let packed = packed.collect::<PyResult<Vec<_>>>()?;
        let threads = thread::available_parallelism().map_or(1, Into::into);
        let mut arrays = decompressed::arrays(py, &self.file, &packed, threads)?.into_iter();
        for Waiting { member, name, view } in waiting.drain(..) {
            if let Some(view) = view.or_else(|| arrays.next()) {
                preload.add(member.id, &name, view)?;
            }
        }
        Ok(())
    }

    /// The dict of all views that are kept.
    pub(crate) fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.views.arrays(py, |member| Ok(PyString::new(py, &self.file.name(py, member)?).into_any()))
    }
}

/// A member whose view is to be kept: the view, unless it is compressed.
struct Waiting<'py> {
    member: Member,
    name: Bound<'py, PyString>,
    view: Option<Bound<'py, PyAny>>,
}

/// Whether what a member gives are bytes, which are not kept.
fn is_bytes(member: &Member, value: &Bound<'_, PyAny>) -> bool {
    member.has_whole_name() && value.is_instance_of::<PyBytes>()
}
