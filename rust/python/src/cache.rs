//! The views that were handed out: exactly one for each member, whoever asks first.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::FixedState;
use mmnpz_core::index::MemberId;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

/// The default is 4 × cores, 128 bytes each for every open archive.
const SHARDS: usize = 4;

/// Views by member.
///
/// Nothing but counting a reference up happens while a guard of the map is held: no Python code runs, nothing
/// is dropped, nothing waits for the interpreter. Views are never removed; they go when the cache is dropped.
pub(crate) struct ViewCache(DashMap<MemberId, Py<PyAny>, FixedState>);

impl ViewCache {
    pub(crate) fn new() -> Self {
        ViewCache(DashMap::with_capacity_and_hasher_and_shard_amount(0, FixedState::default(), SHARDS))
    }

    /// Shows the views to the garbage collector. It runs when no thread is in the middle of another call.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.iter().try_for_each(|view| visit.call(view.value()))
    }

    /// The view that was published for a member.
    pub(crate) fn get<'py>(&self, py: Python<'py>, member: MemberId) -> Option<Bound<'py, PyAny>> {
        self.0.get(&member).map(|view| view.bind(py).clone())
    }

    /// Offers a view for a member and gives back the one that counts: the first that was offered.
    pub(crate) fn publish<'py>(&self, member: MemberId, view: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        let py = view.py();
        let first = match self.0.entry(member) {
            Entry::Occupied(slot) => slot.get().bind(py).clone(),
            Entry::Vacant(slot) => slot.insert(view.clone().unbind()).bind(py).clone(),
        };
        // A view that came too late is dropped here, after the guard.
        drop(view);
        first
    }
}
