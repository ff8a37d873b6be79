//! A file whose ranges have to be fetched: all code that reads an archive asks for a range before it looks at
//! it.
//!
//! [`Remote`] starts with no bytes, and hands out only the ranges that were asked for, each in separate
//! memory. If the answers are the same as over a map, no missing byte was taken for a zero, or for the end of
//! the file.

use std::cell::RefCell;
use std::ops::Range;

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind, Result};
use mmnpz_format::npy::header::MAX_HEADER_SIZE;
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::recover::recovery_scan::{Effort, closed_room};
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::window::{Fetched, Part};

/// A source of the bytes of a file.
pub(crate) trait Source {
    /// The answer of `read`, once it has all ranges for which it asks.
    fn ask<T>(&self, read: impl Fn(Window<'_>) -> Result<T>) -> Result<T>;
}

/// A source that has all bytes.
impl Source for &[u8] {
    fn ask<T>(&self, read: impl Fn(Window<'_>) -> Result<T>) -> Result<T> {
        read(Window::from(*self))
    }
}

/// A file that is far away.
pub(crate) struct Remote<'a> {
    file: &'a [u8],
    /// A request is made larger so that it begins and ends at a multiple of this.
    block: u64,
    /// Whether each question starts with no bytes.
    forgets: bool,
    /// The parts that were fetched, in ascending order and without overlap.
    fetched: RefCell<Vec<(u64, Vec<u8>)>>,
    pub(crate) requests: RefCell<Vec<Range<u64>>>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(file: &'a [u8], block: u64) -> Self {
        Remote { file, block, forgets: false, fetched: RefCell::default(), requests: RefCell::default() }
    }

    fn fetch(&self, missing: &Range<u64>) {
        let length = self.file.len() as u64;
        assert!(missing.start < missing.end && missing.end <= length, "{missing:?} of {length} bytes");
        let start = missing.start / self.block * self.block;
        let end = missing.end.next_multiple_of(self.block).min(length);
        self.requests.borrow_mut().push(start..end);
        let mut fetched = self.fetched.borrow_mut();
        let touches = |(at, bytes): &(u64, Vec<u8>)| *at <= end && at + bytes.len() as u64 >= start;
        let (near, mut others): (Vec<_>, Vec<_>) = fetched.drain(..).partition(touches);
        let is_new =
            !near.iter().any(|(at, bytes)| *at <= missing.start && at + bytes.len() as u64 >= missing.end);
        assert!(is_new, "{missing:?} was fetched before");
        let start = near.iter().map(|(at, _)| *at).min().unwrap_or(start).min(start);
        let end = near.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(end).max(end);
        others.push((start, self.file[start as usize..end as usize].to_vec()));
        others.sort_unstable();
        *fetched = others;
    }
}

impl Source for Remote<'_> {
    fn ask<T>(&self, read: impl Fn(Window<'_>) -> Result<T>) -> Result<T> {
        if self.forgets {
            self.fetched.borrow_mut().clear();
        }
        loop {
            let answer = {
                let fetched = self.fetched.borrow();
                let parts: Vec<_> = fetched.iter().map(|(at, bytes)| Part::new(*at, bytes)).collect();
                let fetched = Fetched::new(&parts, self.file.len() as u64);
                read(Window::of_fetched(&fetched))
            };
            match answer {
                Err(Error { kind: ErrorKind::Missing(range), .. }) => self.fetch(&range),
                answer => return answer,
            }
        }
    }
}

/// A name that no archive of the tests has.
pub(crate) const NOWHERE: &str = "no such name";

/// All answers about a file, as text.
fn told(source: &impl Source) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |what: &str, answer: String| told.push(format!("{what}: {answer}"));
    tell("room", format!("{:?}", source.ask(|window| Ok(closed_room(window)?))));
    tell("blank", format!("{:?}", source.ask(|window| window.is_blank(|| true))));
    for effort in [Effort::Append, Effort::AppendChecked, Effort::Full] {
        let survey = source.ask(|window| Survey::new(window, effort, || true));
        tell("survey", format!("{effort:?} {survey:?}"));
        let Ok(survey) = survey else { continue };
        let records = source.ask(|window| survey.found_records(window));
        tell("records", format!("{records:?}"));
        let sound = source.ask(|window| {
            survey.found.iter().map(|member| Ok(member.is_sound(window)?)).collect::<Result<Vec<_>>>()
        });
        tell("sound", format!("{sound:?}"));
    }
    let survey = source.ask(|window| Survey::new(window, Effort::Read, || true));
    tell("survey", format!("{survey:?}"));
    let Ok(survey) = survey else { return told };
    // Each question makes a new index, as its hashes are random.
    let names = source.ask(|window| {
        let index = WalkedIndex::of_survey(window, &survey, || true)?;
        index.ids().map(|id| Ok((id.0, index.name(window, id).ok_or_missing()?))).collect::<Result<Vec<_>>>()
    });
    tell("walked", format!("{names:?}"));
    let lookup = source.ask(|window| Lookup::new(window, &survey, || true));
    tell("lookup", format!("{:?}", lookup.as_ref().map(|lookup| (lookup.len(), lookup.uses_stored()))));
    let Ok(lookup) = lookup else { return told };
    let verify = || source.ask(|window| lookup.verify(window, None, true, || true));
    let before =
        source.ask(|window| Ok((lookup.find(window, NOWHERE)?, lookup.find_again(window, NOWHERE)?)));
    tell("nowhere", format!("{before:?}"));
    tell("verified", format!("{:?}", verify()));
    let members = source.ask(|window| {
        lookup
            .members(window)?
            .map(|member| Ok(member.ok_or_missing()?.map(|(member, name)| (member.extent(), name))))
            .collect::<Result<Vec<_>>>()
    });
    tell("members", format!("{members:?}"));
    for position in 0..lookup.len() {
        let at = source.ask(|window| lookup.at(window, position));
        tell("at", format!("{:?}", at.as_ref().map(|(member, name)| (member.extent(), name))));
        let Ok((_, name)) = at else { continue };
        let found = source.ask(|window| Ok([lookup.find(window, &name)?, lookup.find_again(window, &name)?]));
        let ids = found.as_ref().map(|found| found.map(|found| found.member().map(|member| member.id)));
        tell("found", format!("{ids:?}"));
        let all = source
            .ask(|window| Ok(lookup.find_all(window, [Some(&*name), None, Some(NOWHERE)].into_iter())?));
        tell("all", format!("{all:?}"));
        let Ok([Found::Member(member), _]) = found else { continue };
        let located = source.ask(|window| {
            let located = lookup.locate(window, &member, &name, MAX_HEADER_SIZE)?;
            Ok((located.offset, located.stored, format!("{:?}", located.header)))
        });
        tell("located", format!("{located:?}"));
    }
    let nowhere = source.ask(|window| Ok(lookup.find(window, NOWHERE)?));
    tell("nowhere", format!("{nowhere:?}"));
    told
}

/// An error about the file is a part of the answer. A missing range is not.
trait OkOrMissing<T> {
    fn ok_or_missing(self) -> Result<std::result::Result<T, String>>;
}

impl<T> OkOrMissing<T> for Result<T> {
    fn ok_or_missing(self) -> Result<std::result::Result<T, String>> {
        match self {
            Err(error) if !error.is_about_file() => Err(error),
            answer => Ok(answer.map_err(|error| error.to_string())),
        }
    }
}

/// Checks that a remote file gives the same answers as a mapped one.
pub(crate) fn assert_same(file: &[u8]) {
    let expected = told(&file);
    for (block, forgets) in [(1, true), (1, false), (100, true), (1 << 16, false)] {
        let remote = told(&Remote { forgets, ..Remote::new(file, block) });
        for (remote, expected) in remote.iter().zip(&expected) {
            assert_eq!(remote, expected, "in blocks of {block}");
        }
        assert_eq!(remote.len(), expected.len());
    }
}
