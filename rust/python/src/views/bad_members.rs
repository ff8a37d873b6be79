//! Leaving out members from which no array can be read.

use pyo3::prelude::*;

use mmnpz_file::Failure;
use mmnpz_format::read::walked_index::{Member, MemberId};

use crate::detach::detached;
use crate::error::{in_member, is_bad_member, keep_going, shown};
use crate::numpy::array::{self, Described};
use crate::views::open_file::{OpenFile, SHOWN, SOME, warn};
use crate::views::value::value;

impl OpenFile {
    /// Leaves out the members that are no arrays, before anybody has seen the file. With `must_warn`, a
    /// warning names them.
    pub(crate) fn leave_out_bad(&mut self, py: Python<'_>, must_warn: bool) -> PyResult<()> {
        let mmap = array::whole_map(self.mapping.bind(py), self.types.map.bind(py))?;
        let bad = loop {
            let bad = self.bad_members(&mmap)?;
            if bad.is_empty() {
                return Ok(());
            }
            let ids: Vec<_> = bad.iter().map(|(id, _)| *id).collect();
            let snapshot = &mut self.snapshot;
            match detached(py, || snapshot.leave_out(&ids, &keep_going)) {
                Ok(()) => break bad,
                // A writer has overwritten the directory meanwhile, and members may have other numbers.
                Err(Failure::Format(_)) if !self.snapshot.is_verified() => {}
                Err(failure) => return Err(self.err(py, failure)),
            }
        };
        if must_warn {
            let (count, s) = (bad.len(), if bad.len() == 1 { "" } else { "s" });
            let more = if count > SHOWN { ", …" } else { "" };
            let names: Vec<_> = bad.into_iter().map(|(_, name)| name).take(SHOWN).collect();
            let names = names.join(", ");
            let message =
                format!("left out {count} member{s} from which no array can be read: {names}{more}");
            warn(py, &self.snapshot, &message)?;
        }
        Ok(())
    }

    /// Looks whether an array can be made of a member. One that is to be read is not read for that.
    fn first_look(&self, mmap: &Bound<'_, PyAny>, member: &Member, name: &str) -> PyResult<()> {
        if member.is_compressed() || !self.snapshot.reads_arrays() {
            return value(self, mmap, member, name).map(drop);
        }
        let py = mmap.py();
        let described = Described::new(py, &self.locate(py, member, name)?);
        described.map(drop).map_err(|error| in_member(py, self.snapshot.shown(), name, error))
    }

    /// The members that are no arrays, with their names for a message.
    fn bad_members(&self, mmap: &Bound<'_, PyAny>) -> PyResult<Vec<(MemberId, String)>> {
        let py = mmap.py();
        let mut bad = Vec::new();
        self.for_each(py, |number, member, name| {
            if number == 0 {
                bad.clear();
            }
            if number % SOME == 0 {
                let next = (number..number + SOME).map_while(|at| self.lookup().known(at));
                self.fetch_headers(py, next)?;
            }
            let name = name.to_str()?;
            match self.first_look(mmap, member, name) {
                Ok(()) => Ok(()),
                Err(error) if is_bad_member(py, &error) => {
                    bad.push((member.id, shown(name)));
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })?;
        Ok(bad)
    }
}
