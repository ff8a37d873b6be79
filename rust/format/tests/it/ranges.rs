//! A file whose ranges have to be fetched: all that reads an archive asks for a range before it looks at it.
//!
//! [`Source`] starts with nothing, hands out only what was asked for, in memory of its own, and so proves by
//! the same answers as over a map that nothing was taken for zeros, or for the end of the file.

use std::cell::RefCell;
use std::ops::Range;

use mmnpz_format::error::{Error, ErrorKind, Missing, Result};
use mmnpz_format::npy::header::MAX_HEADER_SIZE;
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::recover::recovery_scan::{Effort, closed_room};
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::window::{Fetched, Part};
use mmnpz_format::write::appender::{Appender, Reserved};
use mmnpz_format::write::directory_plan::Publish;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;
use mmnpz_format::{Window, additions::mark::MemberState};

/// Where the bytes of a file come from.
trait Source {
    /// What `read` says, once it has all that it asks for.
    fn ask<T>(&self, read: impl Fn(Window<'_>) -> Result<T>) -> Result<T>;
}

/// All bytes.
impl Source for &[u8] {
    fn ask<T>(&self, read: impl Fn(Window<'_>) -> Result<T>) -> Result<T> {
        read(Window::from(*self))
    }
}

/// A file that is far away.
struct Remote<'a> {
    file: &'a [u8],
    /// A request is made larger so that it begins and ends at a multiple of this.
    block: u64,
    /// Nothing is left of what another question made it fetch.
    forgets: bool,
    /// What was fetched, in ascending order and apart from one another.
    fetched: RefCell<Vec<(u64, Vec<u8>)>>,
    requests: RefCell<Vec<Range<u64>>>,
}

impl<'a> Remote<'a> {
    fn new(file: &'a [u8], block: u64) -> Self {
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
                let parts: Vec<_> = fetched.iter().map(|(at, bytes)| Part { at: *at, bytes }).collect();
                let fetched = Fetched { parts: &parts, len: self.file.len() as u64 };
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
const NOWHERE: &str = "no such name";

/// All that can be told of a file, as text.
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
    // What it is made of is made anew each time: its hashes are random.
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

/// What an error says of the file is a part of the answer; that something is missing is not.
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

/// Whether a file that has to be fetched gives the same answers as one that is there.
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

/// An archive of mmnpz with this many members, without their arrays: zeros.
fn archive(members: usize) -> Vec<u8> {
    let mut appender = Appender::new(Alignment::new(64).unwrap());
    let mut bytes = Vec::new();
    let data = [7; 512];
    let crc = crc32fast::hash(&data);
    for number in 0..members {
        let name = StoredName::new(&format!("n{number}")).unwrap();
        let Reserved::Place(place) = appender.reserve(&name, 0, data.len() as u64).unwrap() else { panic!() };
        bytes.resize(place.header as usize, 0);
        bytes.extend(place.local_header(&name, MemberState::Finished, crc));
        bytes.extend(data);
        appender.finish(&place, &name, crc, None);
    }
    let mut new = appender.publish(Publish::Close, bytes.len() as u64).unwrap();
    let names = new.take_names();
    let head = new.head(names);
    for (part, at) in new.first_writes().chain(new.last_writes(&head)) {
        bytes.resize(bytes.len().max(at as usize + part.len()), 0);
        bytes[at as usize..at as usize + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn a_file_of_ours_is_opened_by_its_tail_and_a_name_found_by_two_more_ranges() {
    let file = archive(20_000);
    let remote = Remote::new(&file, 1 << 16);
    let count = || remote.requests.borrow().len();
    let survey = remote.ask(|window| Survey::new(window, Effort::Read, || true)).unwrap();
    let lookup = remote.ask(|window| Lookup::new(window, &survey, || true)).unwrap();
    // The end record, the start of the directory, and the seal in front of it.
    assert!(lookup.uses_stored() && count() <= 3, "{:?}", remote.requests);
    for name in ["n7", "n19999", "n10000"] {
        let before = count();
        let Found::Member(member) = remote.ask(|window| Ok(lookup.find(window, name)?)).unwrap() else {
            panic!()
        };
        assert_eq!(member.extent().1, 512);
        // A slot of the index, and a record of the directory.
        assert!(count() - before <= 2, "{:?}", remote.requests);
    }
    // None of what the members hold.
    let tail = remote.requests.borrow().iter().map(|range| range.start).min().unwrap();
    assert!(tail > 20_000 * 512);
    // That a name is not there is known once the directory was compared with its checksum.
    assert!(matches!(remote.ask(|window| Ok(lookup.find(window, NOWHERE)?)).unwrap(), Found::Unsure));
    remote.ask(|window| lookup.verify(window, None, true, || true)).unwrap();
    assert!(matches!(remote.ask(|window| Ok(lookup.find(window, NOWHERE)?)).unwrap(), Found::Nothing));
    let size: u64 = remote.requests.borrow().iter().map(|range| range.end - range.start).sum();
    assert!(size < 2 * (file.len() as u64 - tail), "{size}");
}

#[test]
fn files_of_all_sizes_give_the_same() {
    for members in [0, 1, 5, 40] {
        let file = archive(members);
        assert_same(&file);
        for cut in [1, 22, 23, 60, 200] {
            assert_same(&file[..file.len().saturating_sub(cut)]);
        }
    }
}

#[test]
fn an_edit_of_a_directory_is_seen() {
    // One that is not checked when the file is opened.
    let mut file = archive(2000);
    let directory = DirectoryLocation::locate((&file).into()).unwrap();
    let at = directory.range.start as usize + 46;
    assert_eq!(&file[at..at + 2], b"n0");
    file[at..at + 2].copy_from_slice(b"m0");
    assert_same(&file);
}

#[test]
fn a_range_that_is_missing_is_not_an_error_of_the_file() {
    let file = archive(3);
    let fetched = Fetched { parts: &[], len: file.len() as u64 };
    let window = Window::of_fetched(&fetched);
    let error = Survey::new(window, Effort::Full, || true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Missing(_)) && !error.is_about_file());
    assert_eq!(window.get(0..10), Err(Missing(0..10)));
    assert!(error.to_string().contains("were not read"), "{error}");
}
