//! Whatever a writer was doing when it was stopped, every member that it had written is found again.
//!
//! A simulated file takes the writes of a random history, torn at every boundary of a page (of 64 bytes here,
//! so that there are many), and after each piece the promise is checked: by a survey, by going on to write,
//! and, where a directory was published, by what a program finds that only knows the end record.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::archives::{Archive, Member, contents};
use crate::ranges;
use mmnpz_format::Window;
use mmnpz_format::additions::mark::MemberState::{Begun, Finished};
use mmnpz_format::error::ErrorKind;
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Origin, Survey};
use mmnpz_format::write::appender::{Appender, Reserved};
use mmnpz_format::write::directory_plan::Publish;
use mmnpz_format::write::grow_in_place::SharedBytes;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

const PAGE: u64 = 64;

/// What is done to an archive.
#[derive(Debug, Clone)]
enum Step {
    /// A member in one write.
    Small(usize),
    /// A member whose header comes first, then its data in pieces, then its header once more;
    /// meanwhile a small one of another thread is written behind it.
    Large(usize, Option<usize>),
    /// A member that fails half way, and whether another thread has written one behind it.
    Failed(usize, bool),
    Flush,
    /// Closes the archive and opens it again.
    Session,
    /// Stops without closing, and opens it again.
    Killed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..400usize).prop_map(Step::Small),
        2 => (0..700usize, proptest::option::of(0..200usize)).prop_map(|(size, other)| Step::Large(size, other)),
        1 => (0..500usize, any::<bool>()).prop_map(|(size, behind)| Step::Failed(size, behind)),
        1 => (60_000..200_000usize).prop_map(Step::Small),
        3 => Just(Step::Flush),
        1 => Just(Step::Session),
        1 => Just(Step::Killed),
    ];
    proptest::collection::vec(step, 1..8)
}

/// The members of an archive, with their data.
fn data_of(index: &WalkedIndex, bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let data = |range: std::ops::Range<u64>| bytes[range.start as usize..range.end as usize].to_vec();
    contents(index, bytes).into_iter().map(|(name, range)| (name, data(range))).collect()
}

/// A file, and what must be in it.
struct Sim {
    bytes: Vec<u8>,
    appender: Appender,
    alignment: Alignment,
    /// Members that were written, with their data; and those that are being written, which may be there or
    /// not.
    written: BTreeMap<String, Vec<u8>>,
    begun: BTreeMap<String, Vec<u8>>,
    /// What a program must find that only knows the end record, as long as nothing else is published.
    flushed: Option<Vec<String>>,
    /// What stands in front of the archive.
    prefix_len: i64,
    number: usize,
}

impl Sim {
    fn new(bytes: Vec<u8>, align: u64) -> Self {
        let alignment = Alignment::new(align).unwrap();
        let mut sim = Sim {
            bytes,
            appender: Appender::new(alignment),
            alignment,
            written: BTreeMap::new(),
            begun: BTreeMap::new(),
            flushed: None,
            prefix_len: 0,
            number: 0,
        };
        if !sim.bytes.is_empty() {
            let directory = DirectoryLocation::locate(Window::from(&sim.bytes)).unwrap();
            sim.prefix_len = directory.prefix_len;
            let index = WalkedIndex::build(Window::from(&sim.bytes), directory, || true).unwrap();
            sim.written = data_of(&index, &sim.bytes);
            sim.appender = sim.resumed();
        }
        sim
    }

    /// The state of a writer that opens the file as it is.
    fn resumed(&self) -> Appender {
        match Survey::new(&self.bytes, Effort::Append, || true) {
            Ok(mut survey) => {
                let file = Window::from(&self.bytes);
                survey.found.retain(|member| member.is_sound(file).unwrap());
                let held: SharedBytes = Arc::new(self.bytes.clone());
                Appender::resume(&held, &survey, self.alignment).unwrap()
            }
            Err(error) => {
                assert!(self.written.is_empty(), "{error}");
                Appender::new(self.alignment)
            }
        }
    }

    /// One write, page by page; `each` is called after each of them.
    fn pieces(&mut self, bytes: &[u8], at: u64, mut each: impl FnMut(&mut Self)) {
        // What fills the room in front of a directory is not torn everywhere.
        let page = PAGE.max(bytes.len() as u64 / 16);
        let mut done = 0;
        while done < bytes.len() {
            let from = at + done as u64;
            let part = (page - from % page).min((bytes.len() - done) as u64) as usize;
            let (from, to) = (from as usize, from as usize + part);
            if self.bytes.len() < to {
                self.bytes.resize(to, 0);
            }
            self.bytes[from..to].copy_from_slice(&bytes[done..done + part]);
            done += part;
            each(self);
        }
    }

    fn put(&mut self, bytes: &[u8], at: u64) {
        self.pieces(bytes, at, |sim| sim.check());
    }

    /// The promise.
    fn check(&self) {
        // By what the file holds: some states of each history.
        if self.bytes.len() < 1 << 14 && crc32fast::hash(&self.bytes).is_multiple_of(32) {
            ranges::assert_same(&self.bytes);
        }
        match Survey::new(&self.bytes, Effort::Read, || true) {
            Err(error) => assert!(self.written.is_empty(), "{:?} lost: {error}", self.written.keys()),
            Ok(survey) => {
                let index = WalkedIndex::of_survey((&self.bytes).into(), &survey, || true).unwrap();
                let found = data_of(&index, &self.bytes);
                for (name, data) in &self.written {
                    assert!(found.get(name) == Some(data), "{name:?} is lost: {survey:?}");
                }
                for (name, data) in &found {
                    let known = self.written.get(name).or_else(|| self.begun.get(name));
                    assert!(known == Some(data), "{name:?} was never written: {survey:?}");
                }
            }
        }
        if let Some(flushed) = &self.flushed {
            let directory = DirectoryLocation::locate(Window::from(&self.bytes)).unwrap();
            let index = WalkedIndex::build(Window::from(&self.bytes), directory, || true).unwrap();
            let names: Vec<_> = contents(&index, &self.bytes).into_iter().map(|(name, _)| name).collect();
            assert!(flushed.iter().all(|name| names.contains(name)), "{flushed:?} is not in {names:?}");
        }
    }

    /// Another writer opens the file as it is, and closes it: then every program finds everything.
    fn check_going_on(&self) {
        let mut other = Sim {
            bytes: self.bytes.clone(),
            appender: self.resumed(),
            alignment: self.alignment,
            written: self.written.clone(),
            begun: self.begun.clone(),
            flushed: None,
            prefix_len: self.prefix_len,
            number: 1000,
        };
        other.small(50);
        other.publish(Publish::Close);
        assert!(other.bytes.len() >= self.bytes.len(), "the file got shorter");
        let survey = Survey::new(&other.bytes, Effort::Full, || true).unwrap();
        assert!(survey.is_whole());
        let directory = DirectoryLocation::locate(Window::from(&other.bytes)).unwrap();
        let index = WalkedIndex::build(Window::from(&other.bytes), directory, || true).unwrap();
        let found = data_of(&index, &other.bytes);
        for (name, data) in &other.written {
            assert!(found.get(name) == Some(data), "{name:?} is lost");
        }
    }

    fn reserve(&mut self, name: &StoredName, size: usize) -> Placement {
        loop {
            let prologue = self.appender.prologue();
            for (at, bytes) in &prologue {
                self.put(bytes, *at);
            }
            if !prologue.is_empty() {
                self.appender.prologue_is_written();
            }
            match self.appender.reserve(name, 0, size as u64).unwrap() {
                Reserved::Place(place) => return place,
                Reserved::NoRoom(room) => {
                    if !self.appender.make_way().unwrap() {
                        self.publish(Publish::Flush(room));
                    }
                }
            }
        }
    }

    /// A new member: its name, and what is in it.
    fn member(&mut self, size: usize) -> (StoredName, String, Vec<u8>) {
        self.number += 1;
        let name = format!("m{}", self.number);
        // No .npy file is smaller.
        let size = size + 128;
        // What another archive has inside may look like anything of this one.
        let mut data = Archive::of(vec![Member::stored("inner.npy", b"inner")]).build().bytes;
        data.resize(size, self.number as u8);
        self.begun.insert(name.clone(), data.clone());
        (StoredName::new(&name).unwrap(), name, data)
    }

    fn finish(&mut self, place: &Placement, stored: &StoredName, name: &str) {
        let data = self.begun.remove(name).unwrap();
        self.appender.finish(place, stored, crc32fast::hash(&data), None);
        self.written.insert(name.to_owned(), data);
    }

    fn small(&mut self, size: usize) {
        let (stored, name, data) = self.member(size);
        let place = self.reserve(&stored, data.len());
        let crc = crc32fast::hash(&data);
        let head = place.local_header(&stored, Finished, crc);
        if place.header == 0 {
            let begun = place.local_header(&stored, Begun, 0);
            self.put(&begun, 0);
            self.put(&data, place.file);
            self.put(&head, 0);
        } else {
            self.put(&[&head[..], &data].concat(), place.header);
        }
        self.finish(&place, &stored, &name);
    }

    fn large(&mut self, size: usize, other: Option<usize>) {
        let (stored, name, data) = self.member(size);
        let place = self.reserve(&stored, data.len());
        let crc = crc32fast::hash(&data);
        let head = place.local_header(&stored, Begun, 0);
        self.put(&head, place.header);
        let (first, second) = data.split_at(data.len() / 2);
        // The blocks come in any order.
        self.put(second, place.file + first.len() as u64);
        if let Some(size) = other {
            self.small(size);
            self.publish(Publish::Flush(0));
        }
        self.put(first, place.file);
        let head = place.local_header(&stored, Finished, crc);
        self.put(&head, place.header);
        self.finish(&place, &stored, &name);
    }

    fn failed(&mut self, size: usize, behind: bool) {
        let (stored, name, data) = self.member(size);
        let place = self.reserve(&stored, data.len());
        let head = place.local_header(&stored, Begun, 0);
        self.put(&head, place.header);
        self.put(&data[..data.len() / 2], place.file);
        let other = behind.then(|| {
            self.small(20);
        });
        let end = place.end.min(self.bytes.len() as u64);
        self.bytes[place.header as usize..end as usize].fill(0);
        let filler = self.appender.abandon(&place);
        assert_eq!(filler.is_some(), other.is_some());
        if let Some(filler) = filler {
            self.put(&filler.head(), filler.range.start);
        }
        self.begun.remove(&name);
        self.check();
    }

    fn publish(&mut self, publish: Publish) {
        if !self.appender.needs(publish) {
            return;
        }
        let prologue = self.appender.prologue();
        for (at, bytes) in &prologue {
            self.put(bytes, *at);
        }
        if !prologue.is_empty() {
            self.appender.prologue_is_written();
        }
        let length = self.bytes.len() as u64;
        let mut new = self.appender.publish(publish, length).unwrap();
        let listed: Vec<_> = self.written.keys().cloned().collect();
        let flushed = self.flushed.take();
        let names = new.take_names();
        let head = new.head(names);
        for (bytes, at) in new.first_writes().chain(new.changes()).chain(new.last_writes(&head)) {
            self.pieces(bytes, at, |sim| {
                sim.check();
                sim.check_directory(flushed.as_ref().unwrap_or(&Vec::new()));
            });
        }
        self.appender.is_published(&new);
        assert_eq!(self.bytes.len() as u64, new.end().max(length));
        self.flushed = Some(listed);
        self.check();
    }

    /// While a directory is being written, what only knows the end record finds one that has all that was
    /// flushed before, or none.
    fn check_directory(&self, flushed: &[String]) {
        let Ok(directory) = DirectoryLocation::locate(Window::from(&self.bytes)) else { return };
        if directory.prefix_len != self.prefix_len {
            // An archive inside of an array, which is found where the end record of this one is torn. Other
            // programs take the last end record or none.
            return;
        }
        let Ok(index) = WalkedIndex::build(Window::from(&self.bytes), directory, || true) else { return };
        let names: Vec<_> =
            index.ids().filter_map(|id| index.name(Window::from(&self.bytes), id).ok()).collect();
        assert!(flushed.iter().all(|name| names.contains(&name.as_str().into())), "{flushed:?}: {names:?}");
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Small(size) => self.small(size),
            Step::Large(size, other) => self.large(size, other),
            Step::Failed(size, behind) => self.failed(size, behind),
            Step::Flush => self.publish(Publish::Flush(0)),
            Step::Session => {
                self.publish(Publish::Close);
                self.flushed = None;
                self.appender = self.resumed();
            }
            Step::Killed => {
                self.flushed = None;
                self.appender = self.resumed();
            }
        }
        self.check_going_on();
    }
}

/// Archives to begin with.
fn beginnings() -> Vec<Vec<u8>> {
    let members = || {
        vec![
            Member::stored("old.npy", b"old data"),
            Member::stored("streamed.npy", b"streamed data").with_descriptor(),
            Member::stored("nested.npy", &Archive::of(vec![Member::stored("x.npy", b"x")]).build().bytes),
        ]
    };
    let whole = Archive::of(members()).build().bytes;
    vec![Vec::new(), whole.clone(), Archive::of(vec![]).build().bytes, [b"junk".repeat(20), whole].concat()]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_was_written_is_lost(
        beginning in 0..4usize,
        steps in steps(),
        align in prop_oneof![Just(1u64), Just(64), Just(512)],
    ) {
        let mut sim = Sim::new(beginnings()[beginning].clone(), align);
        for step in &steps {
            sim.run(step);
        }
    }
}

#[test]
fn of_a_file_that_is_not_ours_nothing_is_believed() {
    let kind = |bytes: &[u8]| Survey::new(bytes, Effort::Read, || true).unwrap_err().kind;
    assert_eq!(kind(&[7; 1000]), ErrorKind::NoEndRecord);
    // Local headers without end marks and without a directory: another program's, which was killed.
    let built = Archive::of(vec![Member::stored("a.npy", b"data"), Member::stored("b.npy", b"more")]).build();
    let cut = &built.bytes[..built.directory.start as usize];
    assert_eq!(kind(cut), ErrorKind::NoEndRecord);
    // Only who asks for it gets them, and only what has the right checksum.
    let survey = Survey::new(cut, Effort::Full, || true).unwrap();
    assert_eq!(survey.origin, Origin::Members);
    assert_eq!(
        survey.found.iter().map(|member| member.name(cut.into()).unwrap()).collect::<Vec<_>>(),
        [b"a.npy", b"b.npy"]
    );
    let mut torn = cut.to_vec();
    *torn.last_mut().unwrap() ^= 1;
    let survey = Survey::new(&torn, Effort::Full, || true).unwrap();
    assert_eq!(survey.found.len(), 1);
    assert_eq!(survey.unfinished.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_header_of_which_only_a_part_is_there_is_in_the_way() {
    let mut sim = Sim::new(Vec::new(), 64);
    sim.small(10);
    sim.small(10);
    let built = sim.bytes.clone();
    let second = Survey::new(&built, Effort::Read, || true).unwrap().found[1].header as usize;
    for kept in 30..60 {
        let mut bytes = built.clone();
        bytes[second + kept..].fill(0);
        let survey = Survey::new(&bytes, Effort::Read, || true).unwrap();
        assert_eq!((survey.found.len(), survey.end), (1, second as u64), "{kept}");
        assert_eq!(survey.stale_headers().collect::<Vec<_>>(), [second as u64], "{kept}");
    }
}

#[test]
fn a_filler_of_which_only_a_part_is_there_is_a_gap() {
    let mut sim = Sim::new(Vec::new(), 64);
    sim.small(10);
    sim.failed(100, true);
    let survey = Survey::new(&sim.bytes, Effort::Read, || true).unwrap();
    assert_eq!((survey.found.len(), survey.gaps.len()), (2, 0));
    let filler = survey.found[0].end;
    for kept in 39..135 {
        let mut bytes = sim.bytes.clone();
        bytes[filler as usize + kept..filler as usize + 135].fill(0);
        let survey = Survey::new(&bytes, Effort::Read, || true).unwrap();
        assert_eq!(survey.gaps.len(), 1, "{kept}");
        assert_eq!(survey.gaps[0], filler..survey.found[1].header, "{kept}");
    }
}

#[test]
fn a_seal_is_torn_only_where_nobody_needs_it() {
    // The next writer finds a member in the room of a directory that was to grow.
    let mut sim = Sim::new(Vec::new(), 64);
    for step in [Step::Small(209), Step::Flush, Step::Small(0), Step::Session, Step::Small(0)] {
        sim.run(&step);
    }
}

#[test]
fn a_survey_can_be_interrupted() {
    let mut sim = Sim::new(Vec::new(), 1);
    for _ in 0..5000 {
        let (stored, name, data) = sim.member(0);
        let place = sim.reserve(&stored, data.len());
        let crc = crc32fast::hash(&data);
        let all = [&place.local_header(&stored, Finished, crc)[..], &data].concat();
        sim.bytes.resize(place.header as usize, 0);
        sim.bytes.extend(all);
        sim.finish(&place, &stored, &name);
    }
    assert_eq!(Survey::new(&sim.bytes, Effort::Read, || true).unwrap().found.len(), 5000);
    assert_eq!(Survey::new(&sim.bytes, Effort::Read, || false).unwrap_err().kind, ErrorKind::Interrupted);
}
