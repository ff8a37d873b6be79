//! Looking the views of many members up.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use mmnpz_file::fetch::Place;
use mmnpz_file::mapping::Map;
use mmnpz_format::read::walked_index::Member;

use crate::views::handle::Handle;

/// A member that is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Key<'a, 'py> {
    Name(Borrowed<'a, 'py, PyAny>),
    /// In archive order, less than the number of members.
    Position(usize),
}

/// The views of many members, of an archive that stays as it is when the reader is closed meanwhile.
pub(crate) struct BatchLookup<'py> {
    pub(crate) py: Python<'py>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) cache: bool,
    /// The dict to ask first for a name, if there is such.
    pub(crate) first: Option<Bound<'py, PyDict>>,
}

/// A view that is kept.
pub(crate) enum Kept<'a, 'py> {
    Own(Bound<'py, PyAny>),
    /// Without a reference of its own, which threads would wait for each other to count.
    Shared(Borrowed<'a, 'py, PyAny>),
}

impl<'py> Deref for Kept<'_, 'py> {
    type Target = Bound<'py, PyAny>;

    fn deref(&self) -> &Self::Target {
        match self {
            Kept::Own(view) => view,
            Kept::Shared(view) => view,
        }
    }
}

impl<'py> BatchLookup<'py> {
    /// What messages call the file.
    pub(crate) fn shown(&self) -> &Path {
        self.handle.file.snapshot.shown()
    }

    pub(crate) fn map(&self) -> &Map {
        self.handle.file.snapshot.map()
    }

    /// How many members there are: only then is known what a position means.
    pub(crate) fn count(&self) -> PyResult<usize> {
        self.handle.file.verify_or_err(self.py)?;
        Ok(self.handle.file.lookup().len())
    }

    /// The name of the member at a position.
    pub(crate) fn name_at(&self, position: usize) -> PyResult<String> {
        self.handle.file.at(self.py, position).map(|(_, name)| name)
    }

    /// The view of a member, if it is kept.
    #[inline]
    pub(crate) fn kept(&self, key: Key<'_, 'py>) -> PyResult<Option<Kept<'_, 'py>>> {
        match (key, &self.first) {
            (Key::Name(name), Some(dict)) => Ok(dict.get_item(name)?.map(Kept::Own)),
            _ if self.cache => {
                let file = &self.handle.file;
                let member = match key {
                    Key::Name(name) => {
                        let name = name.cast::<PyString>().ok();
                        let text = name.as_ref().and_then(|name| name.to_str().ok());
                        text.and_then(|text| file.snapshot.seen(text)).map(|member| member.id)
                    }
                    Key::Position(position) => file.lookup().id(position),
                };
                Ok(member.and_then(|member| self.handle.views.peek(self.py, member)).map(Kept::Shared))
            }
            _ => Ok(None),
        }
    }

    /// The views of many members, as far as they are kept; an error is left for whoever asks for that one.
    /// What is to be read to make the others is in the cache of the processor then.
    pub(crate) fn kept_of<'a>(&'a self, keys: &[Key<'_, 'py>], kept: &mut Vec<Option<Kept<'a, 'py>>>) {
        let file = &self.handle.file;
        if self.cache && self.first.is_none() {
            let found = file.lookup().find_all(file.window(), keys.iter().map(text_of));
            let found = found.unwrap_or_else(|_| vec![None; keys.len()]);
            kept.extend(keys.iter().zip(found).map(|(key, found)| {
                let member = if let Key::Position(at) = *key { file.lookup().id(at) } else { found };
                self.handle.views.peek(self.py, member?).map(Kept::Shared)
            }));
            return;
        }
        kept.extend(keys.iter().map(|key| self.kept(*key).unwrap_or_default()));
        if file.lookup().uses_stored() && kept.iter().any(Option::is_none) {
            let missing = keys.iter().zip(&*kept).filter(|(_, view)| view.is_none());
            let _ = file.lookup().find_all(file.window(), missing.map(|(key, _)| text_of(key)));
        }
    }

    /// Whether a view cannot be made without a look at the member's headers.
    pub(crate) fn reads_headers(&self) -> bool {
        !self.handle.file.lookup().has_headers()
    }

    /// Where the headers of a member start, as far as that is known without a look at them.
    pub(crate) fn headers_at(&self, key: Key<'_, 'py>) -> Option<u64> {
        Some(self.member(key)?.extent().0)
    }

    /// A member and its name. None for what is no name of any.
    pub(crate) fn named(&self, key: Key<'_, 'py>) -> PyResult<Option<(Member, Bound<'py, PyString>)>> {
        Ok(match key {
            Key::Name(name) => {
                let text = name.cast::<PyString>().ok();
                let Some(text) = text.as_ref().and_then(|text| text.to_str().ok()) else { return Ok(None) };
                let found = self.handle.file.find(self.py, text, true)?;
                found.map(|(member, name)| (member, PyString::new(self.py, name)))
            }
            Key::Position(position) => {
                let (member, name) = self.handle.file.at(self.py, position)?;
                Some((member, PyString::new(self.py, &name)))
            }
        })
    }

    /// A compressed member and its name. None for any other.
    pub(crate) fn compressed(&self, key: Key<'_, 'py>) -> PyResult<Option<(Member, Bound<'py, PyString>)>> {
        Ok(self.named(key)?.filter(|(member, _)| member.is_compressed()))
    }

    /// The place of all bytes of a member, from its local header on, if it is compressed.
    pub(crate) fn compressed_at(&self, key: Key<'_, 'py>) -> PyResult<Option<Place>> {
        let Some((member, _)) = self.compressed(key)? else { return Ok(None) };
        let (at, size) = member.extent();
        let Some(Place { offset, bytes }) = self.map().headers_at(at) else { return Ok(None) };
        let left = self.map().len() - offset;
        let bytes = usize::try_from(size).unwrap_or(left).saturating_add(bytes).min(left);
        Ok(Some(Place { offset, bytes }))
    }

    /// A member, as far as it is known without a look at its headers.
    fn member(&self, key: Key<'_, 'py>) -> Option<Member> {
        let file = &self.handle.file;
        match key {
            Key::Name(name) => {
                let name = name.cast::<PyString>().ok()?;
                file.snapshot.seen(name.to_str().ok()?)
            }
            Key::Position(position) => Some(file.lookup().at(file.window(), position).ok()?.0),
        }
    }

    /// A new view of a member or, with `keep`, the one that is kept from now on.
    #[cold]
    pub(crate) fn access(&self, key: Key<'_, 'py>, keep: bool) -> PyResult<Bound<'py, PyAny>> {
        match key {
            Key::Name(name) => self.handle.first_access(&name, keep),
            Key::Position(position) => self.handle.first_access_at(self.py, position, keep),
        }
    }
}

/// The name that a member is asked for by.
fn text_of<'a>(key: &'a Key<'_, '_>) -> Option<&'a str> {
    let Key::Name(name) = key else { return None };
    // Not by a reference of its own, which would go before the text does.
    let name: &Bound<'_, PyAny> = name;
    name.cast::<PyString>().ok()?.to_str().ok()
}
