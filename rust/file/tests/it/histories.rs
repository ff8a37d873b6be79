//! Whatever a writer was doing when it was stopped, every member that it had written is found again.
//!
//! The writer that ships goes through a random history on a simulated disk. Then every prefix of what it
//! wrote, torn at pages (of 64 bytes here, so that there are many), and what a power failure can leave, is a
//! state in which the promise is checked: by a reader; by a program that knows only the end record, where a
//! directory was published; and by a writer that goes on, whose own history is tried in the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;

use proptest::prelude::*;

use crate::ranges;
use crate::support::{GO_ON, new_member, reserve, write, write_batch, write_described, writer};
use mmnpz_file::items::Items;
use mmnpz_file::repair::repair_storage;
use mmnpz_file::simulated_disk::{History, PAGE, SECTOR, SimulatedDisk};
use mmnpz_file::writer::ArchiveWriter;
use mmnpz_format::Window;
use mmnpz_format::additions::local_member::LocalMember;
use mmnpz_format::error::Result;
use mmnpz_format::read::lookup::Lookup;
use mmnpz_format::read::walked_index::{Member, WalkedIndex};
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

/// Writes are torn at multiples of this, so that there are many states.
const TEAR: u64 = 64;

/// The member of a history that is large, see `mmnpz_format::additions::mark::LARGE`.
const LARGE: usize = 1 << 20;

/// What is done to an archive.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A member.
    Small(usize),
    /// A large member; meanwhile another thread writes a small one, and flushes.
    Large(usize, Option<usize>),
    /// Members that are written together, which fails after a number of bytes if one is given; then, one
    /// behind them.
    Batch(Vec<usize>, Option<usize>),
    /// A member whose write fails after a number of bytes, and one behind it.
    Failed(usize, usize),
    /// A member that others overtake: its place is reserved, other threads do these steps, and it is written
    /// then; or the process is killed before anything of it is.
    Overtaken(usize, Vec<Step>, bool),
    Flush,
    /// Flushes, and waits for the disk.
    FlushSync,
    /// Closes the archive and opens it again.
    Session,
    /// Stops without closing, and opens it again.
    Killed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let beside = prop_oneof![
        6 => (0..400usize).prop_map(Step::Small),
        1 => (60_000..200_000usize).prop_map(Step::Small),
        1 => (0..500usize, 0..600usize).prop_map(|(size, part)| Step::Failed(size, part)),
        2 => Just(Step::Flush),
        1 => Just(Step::FlushSync),
    ];
    let size = prop_oneof![3 => 0..400usize, 1 => 60_000..300_000usize];
    let batch = (proptest::collection::vec(0..400usize, 1..9), proptest::option::weighted(0.3, 0..3000usize));
    let overtaken = (size, proptest::collection::vec(beside, 1..4), any::<bool>());
    let step = prop_oneof![
        12 => (0..400usize).prop_map(Step::Small),
        4 => batch.prop_map(|(sizes, part)| Step::Batch(sizes, part)),
        1 => (0..700usize, proptest::option::of(0..200usize)).prop_map(|(size, other)| Step::Large(size, other)),
        3 => (0..500usize, 0..600usize).prop_map(|(size, part)| Step::Failed(size, part)),
        2 => (60_000..200_000usize).prop_map(Step::Small),
        4 => overtaken.prop_map(|(size, beside, is_killed)| Step::Overtaken(size, beside, is_killed)),
        6 => Just(Step::Flush),
        3 => Just(Step::FlushSync),
        3 => Just(Step::Session),
        3 => Just(Step::Killed),
    ];
    proptest::collection::vec(step, 1..8)
}

/// Which events of the disk a promise is about.
#[derive(Debug, Clone)]
struct Promise {
    data: Vec<u8>,
    /// It was not there before.
    begun: usize,
    /// `write` had returned, unless it failed.
    done: Option<usize>,
    /// All of it was on the disk: a power failure from then on may not lose it.
    synced: Option<usize>,
}

/// A directory that every zip reader finds, with these names, as long as nothing is done that puts another in
/// its place.
#[derive(Debug)]
struct Published {
    events: std::ops::Range<usize>,
    names: Vec<String>,
}

/// What was promised of a file.
#[derive(Debug, Default)]
struct Promises {
    members: BTreeMap<String, Promise>,
    published: Vec<Published>,
    /// What stands in front of the archive.
    prefix_len: i64,
    had_power_failure: bool,
    /// Nothing was there but a part of the first array, which can be an archive itself.
    is_anybodys: bool,
}

impl Promises {
    /// The members of an archive that was there before.
    fn of(bytes: &[u8]) -> Self {
        let mut promises = Promises::default();
        if bytes.is_empty() {
            return promises;
        }
        promises.prefix_len = DirectoryLocation::locate(bytes.into()).unwrap().prefix_len;
        for (name, data) in read(bytes).unwrap() {
            promises.members.insert(name, Promise { data, begun: 0, done: Some(0), synced: Some(0) });
        }
        promises
    }

    /// Checks that a file has the members of these promises that `is_kept` wants, and no other than those
    /// that were begun.
    fn check(&self, bytes: &[u8], at: usize, is_kept: impl Fn(&Promise) -> bool) {
        let kept = || self.members.iter().filter(|(_, promise)| is_kept(promise));
        match read(bytes) {
            Err(error) => {
                let lost: Vec<_> = kept().map(|(name, _)| name).collect();
                assert!(lost.is_empty(), "{lost:?} are lost after {at} events: {error}");
            }
            Ok(found) => {
                for (name, promise) in kept() {
                    assert!(found.get(name) == Some(&promise.data), "{name:?} is lost after {at} events");
                }
                // What was not synced can be on the disk without its bytes: opening does not check these.
                let is_all_ours = kept().next().is_some() && !self.had_power_failure && !self.is_anybodys;
                for (name, data) in found.iter().filter(|_| is_all_ours) {
                    let known = self.members.get(name).filter(|promise| promise.begun <= at);
                    assert!(known.is_some_and(|known| known.data == *data), "{name:?} was never written");
                }
            }
        }
    }

    /// Checks that a program that knows only the end record finds what was published, or, while another
    /// directory is put in its place, that or no archive.
    fn check_published(&self, bytes: &[u8], at: usize) {
        let Some(last) = self.published.iter().rfind(|published| published.events.start <= at) else {
            return;
        };
        let is_stable = at < last.events.end;
        let directory = match DirectoryLocation::locate(bytes.into()) {
            // An archive inside of an array, which is found where the end record of this one is torn.
            Ok(directory) if directory.prefix_len != self.prefix_len && !is_stable => return,
            Err(_) if !is_stable => return,
            directory => directory.unwrap(),
        };
        let listed = listed(bytes, &directory);
        match listed {
            Err(_) if !is_stable => {}
            listed => {
                let listed = listed.unwrap();
                assert!(
                    last.names.iter().all(|name| listed.contains(name)),
                    "{last:?}: {listed:?} after {at}"
                );
            }
        }
    }
}

/// What the directory lists, as other programs read it.
fn listed(bytes: &[u8], directory: &DirectoryLocation) -> Result<Vec<String>> {
    let index = WalkedIndex::build(bytes.into(), directory.clone(), || true)?;
    Ok(index.ids().filter_map(|id| index.name(bytes.into(), id).ok()).collect())
}

/// All members of a file with their bytes, as a reader finds them.
pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let window = Window::from(bytes);
    let survey = Survey::new(window, Effort::Read, || true)?;
    let lookup = match Lookup::new(window, &survey, || true) {
        Ok(lookup) => lookup,
        Err(error) => {
            let survey = Survey::without_directory(window, error, Effort::Read, || true)?;
            Lookup::new(window, &survey, || true)?
        }
    };
    lookup.verify(window, None, true, || true)?;
    // What a power failure has kept from the disk cannot be read, and is not here.
    let read = |member: Result<_>| {
        let (member, name): (Member, String) = member.ok()?;
        let range = member.file(window, &name).ok()?;
        Some((name, bytes[range.start as usize..range.end as usize].to_vec()))
    };
    Ok(lookup.members(window)?.filter_map(read).collect())
}

/// A file to which a history is written.
struct Sim<'a> {
    disk: &'a SimulatedDisk,
    writer: ArchiveWriter<&'a SimulatedDisk>,
    align: u64,
    sync: bool,
    promises: Promises,
    number: usize,
}

impl<'a> Sim<'a> {
    fn new(disk: &'a SimulatedDisk, align: u64, sync: bool) -> Self {
        let promises = Promises::of(&disk.bytes());
        Sim { disk, writer: writer(disk, align, sync).unwrap(), align, sync, promises, number: 0 }
    }

    /// A new member: its name, and what is in it.
    fn member(&mut self, size: usize) -> (String, Vec<u8>) {
        self.number += 1;
        let name = format!("m{}", self.number);
        // What another archive has inside may look like anything of this one. No .npy file is smaller.
        let mut data = inner();
        data.resize(size + 128, self.number as u8);
        let promise = Promise { data: data.clone(), begun: self.disk.now(), done: None, synced: None };
        self.promises.members.insert(name.clone(), promise);
        (name, data)
    }

    /// `write` has returned, after this many events.
    fn done(&mut self, name: &str, at: usize) {
        let synced = self.sync.then_some(at);
        let promise = self.promises.members.get_mut(name).unwrap();
        (promise.done, promise.synced) = (Some(at), synced);
    }

    /// From now on, another directory may take the place of the one that was published last.
    fn unpublished(&mut self) {
        self.unpublished_at(self.disk.now());
    }

    fn unpublished_at(&mut self, at: usize) {
        if let Some(last) = self.promises.published.last_mut() {
            last.events.end = last.events.end.min(at);
        }
    }

    fn published(&mut self) {
        let done = self.promises.members.iter().filter(|(_, promise)| promise.done.is_some());
        let names: Vec<_> = done.map(|(name, _)| name.clone()).collect();
        // Of an empty file nothing is published before it is closed.
        if !names.is_empty() {
            self.promises.published.push(Published { events: self.disk.now()..usize::MAX, names });
        }
    }

    /// Writes a member; says whether that was done.
    fn write(&mut self, name: &str, data: &[u8]) -> bool {
        let mut moved = None;
        let before = || moved = moved.or(Some(self.disk.now()));
        let written = match self.number % 4 {
            3 => write_described(&self.writer, name, data, None, before),
            _ => write(&self.writer, name, data, before),
        };
        if let Some(at) = moved {
            self.unpublished_at(at);
        }
        if written.is_ok() {
            self.done(name, self.disk.now());
        }
        written.is_ok()
    }

    fn small(&mut self, size: usize) {
        let (name, data) = self.member(size);
        assert!(self.write(&name, &data));
    }

    fn large(&mut self, size: usize, other: Option<usize>) {
        let (name, data) = self.member(LARGE + size);
        let Some((other, other_data)) = other.map(|size| self.member(size)) else {
            assert!(self.write(&name, &data));
            return;
        };
        self.unpublished();
        let (writer, disk) = (&self.writer, self.disk);
        let done = thread::scope(|scope| {
            let large = scope.spawn(|| write(writer, &name, &data, || {}).unwrap());
            write(writer, &other, &other_data, || {}).unwrap();
            let done = disk.now();
            writer.flush(false).unwrap();
            large.join().unwrap();
            done
        });
        self.done(&other, done);
        self.done(&name, self.disk.now());
    }

    fn failed(&mut self, size: usize, part: usize) {
        let (name, data) = self.member(size);
        self.disk.fail_after(Some(part as u64));
        self.write(&name, &data);
        self.disk.fail_after(None);
        // As another thread would, behind it.
        self.small(20);
    }

    fn batch(&mut self, sizes: &[usize], part: Option<usize>) {
        let members: Vec<_> = sizes.iter().map(|&size| self.member(size)).collect();
        let mut batch = self.writer.new_batch().unwrap();
        self.disk.fail_after(part.map(|part| part as u64));
        let mut moved = None;
        let mut before = || moved = moved.or(Some(self.disk.now()));
        let mut written = Ok(());
        for members in members.chunks(4) {
            for (name, data) in members {
                assert!(!batch.has(&StoredName::new(name).unwrap()));
                batch.push(StoredName::new(name).unwrap(), &[], None, Items::from(&data[..]));
            }
            written = written.and_then(|()| write_batch(&self.writer, &mut batch, &mut before));
            if written.is_ok() && !self.sync {
                let now = self.disk.now();
                for (name, _) in members {
                    self.promises.members.get_mut(name).unwrap().done = Some(now);
                }
            }
        }
        let synced = self.writer.sync_batch(&mut batch);
        let written = written.and(synced);
        self.disk.fail_after(None);
        if let Some(at) = moved {
            self.unpublished_at(at);
        }
        if written.is_ok() {
            let now = self.disk.now();
            if self.sync {
                for (name, _) in &members {
                    self.done(name, now);
                }
            }
        } else {
            self.small(20);
        }
    }

    fn overtaken(&mut self, size: usize, beside: &[Step], is_killed: bool) {
        let (name, data) = self.member(size);
        self.unpublished();
        let mut member = new_member(&name, &data, None).unwrap();
        let place = reserve(&self.writer, &member, || {}).unwrap();
        for step in beside {
            self.run(step);
        }
        if is_killed {
            self.run(&Step::Killed);
        } else {
            self.writer.write(&place, &mut member, &|_| true).unwrap();
            self.done(&name, self.disk.now());
        }
    }

    fn flush(&mut self, sync: bool) {
        self.unpublished();
        let before = self.disk.writes();
        self.writer.flush(sync).unwrap();
        // Where nothing is new, nothing is published: the next member may overwrite what there was.
        if self.disk.writes() > before {
            self.published();
        }
        if sync {
            let now = self.disk.now();
            for promise in self.promises.members.values_mut().filter(|promise| promise.done.is_some()) {
                promise.synced.get_or_insert(now);
            }
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Small(size) => self.small(size),
            Step::Large(size, other) => self.large(size, other),
            Step::Failed(size, part) => self.failed(size, part),
            Step::Batch(ref sizes, part) => self.batch(sizes, part),
            Step::Overtaken(size, ref beside, is_killed) => self.overtaken(size, beside, is_killed),
            Step::Flush => self.flush(false),
            Step::FlushSync => self.flush(true),
            Step::Session => {
                self.unpublished();
                self.writer.close(GO_ON).unwrap();
                self.published();
                self.unpublished();
                self.writer = writer(self.disk, self.align, self.sync).unwrap();
            }
            Step::Killed => {
                self.unpublished();
                self.writer = writer(self.disk, self.align, self.sync).unwrap();
            }
        }
    }
}

/// An archive with one member.
fn inner() -> Vec<u8> {
    crate::support::archive([("inner".to_owned(), &b"inner"[..])].into_iter())
}

/// Goes on behind what a kill or a power failure has left, with a writer or by a repair: then every program
/// finds every member that is kept.
fn check_going_on(
    bytes: &[u8],
    promises: &Promises,
    at: usize,
    is_kept: &dyn Fn(&Promise) -> bool,
    nested: bool,
) {
    let disk = if promises.had_power_failure {
        SimulatedDisk::new(bytes.to_vec())
    } else {
        SimulatedDisk::trusted(bytes.to_vec())
    };
    let (prefix_len, had_power_failure) = (promises.prefix_len, promises.had_power_failure);
    let is_anybodys = !promises.members.values().any(is_kept);
    let mut all = Promises { prefix_len, had_power_failure, is_anybodys, ..Promises::default() };
    let mut keep = promises.members.clone();
    for promise in keep.values_mut() {
        promise.done = Some(0).filter(|_| is_kept(promise));
        promise.begun = if promise.begun <= at { 0 } else { usize::MAX };
    }
    all.members = keep;
    let data = vec![9; 200];
    let begun = Promise { data: data.clone(), begun: 0, done: None, synced: None };
    if nested {
        let is_lost = all.members.values().all(|promise| promise.done.is_none());
        all.members.insert("later".into(), begun);
        let open = match writer(&disk, 64, false) {
            Ok(open) => open,
            // A new file of which a power failure has left nothing that tells whose it is.
            Err(_) if is_lost => return,
            Err(failure) => panic!("{failure:?}"),
        };
        write(&open, "later", &data, || {}).unwrap();
        let done = disk.now();
        all.members.get_mut("later").unwrap().done = Some(done);
        open.close(GO_ON).unwrap();
    } else if repair_storage(&disk, PathBuf::from("disk"), false, &|_, _| true, GO_ON).is_err() {
        assert!(all.members.values().all(|promise| promise.done.is_none()), "not repaired");
        return;
    }
    let after = disk.bytes();
    assert!(after.len() >= bytes.len(), "the file got shorter");
    all.check(&after, usize::MAX - 1, |promise| promise.done.is_some());
    let directory = DirectoryLocation::locate((&after).into()).unwrap();
    let names = listed(&after, &directory).unwrap();
    for (name, _) in all.members.iter().filter(|(_, promise)| promise.done.is_some()) {
        assert!(names.contains(name), "{name:?} is not in {names:?}");
    }
    // Whoever repairs can be killed, too.
    disk.history().kills(PAGE, 1, |at, bytes| {
        all.check(bytes, at, |promise| promise.done.is_some_and(|done| done <= at));
    });
}

/// Tries what kills and power failures leave of a history.
fn check(history: &History, mut promises: Promises, seed: u64) {
    let mut state = seed;
    let mut random = move |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most.max(1)
    };
    let mut number = 0;
    history.kills(TEAR, 12, |at, bytes| {
        let is_kept = |promise: &Promise| promise.done.is_some_and(|done| done <= at);
        promises.check(bytes, at, is_kept);
        promises.check_published(bytes, at);
        number += 1;
        let is_small = bytes.len() < 1 << 14;
        if number % 7 == 0 && (is_small || number % 49 == 0) {
            check_going_on(bytes, &promises, at, &is_kept, number % 2 == 0);
        }
        if number % 16 == 0 && is_small {
            ranges::assert_same(bytes);
        }
    });
    promises.had_power_failure = true;
    for at in 0..=history.len() {
        let synced = history.synced(at);
        let is_kept = |promise: &Promise| promise.synced.is_some_and(|then| then <= synced);
        for block in [SECTOR, PAGE] {
            let bytes = history.power_failure(at, block, &mut random);
            promises.check(&bytes, at, is_kept);
            if random(8) == 0 {
                let nested = random(2) == 0;
                check_going_on(&bytes, &promises, at, &is_kept, nested);
            }
        }
    }
}

/// Archives to begin with.
fn beginnings() -> Vec<Vec<u8>> {
    let whole = inner();
    // The entries are as long as those of the members that follow.
    let name = |number: usize| format!("a name of 26 bytes, {number:02}.npy");
    let foreign = foreign_with([&name(1), &name(2), "o3.npy"]);
    let behind = crate::support::archive([("behind".to_owned(), &b"behind"[..])].into_iter());
    vec![
        Vec::new(),
        whole.clone(),
        foreign.clone(),
        [b"junk".repeat(20), foreign].concat(),
        // Of this, zip readers read the second.
        [whole, behind].concat(),
        crate::support::archive(std::iter::empty()),
    ]
}

/// An archive that another program wrote: no marks, one member behind whose data its sizes come.
pub(crate) fn foreign() -> Vec<u8> {
    foreign_with(["old.npy", "streamed.npy", "nested.npy"])
}

/// Such an archive, with these names.
pub(crate) fn foreign_with([old, streamed, nested]: [&str; 3]) -> Vec<u8> {
    let data: [(&str, &[u8], bool); 3] =
        [(old, b"old data", false), (streamed, b"streamed data", true), (nested, &inner(), false)];
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data, is_streamed) in data {
        let (at, crc, size) = (bytes.len() as u32, crc32fast::hash(data), data.len() as u32);
        let flags: u16 = if is_streamed { 1 << 3 } else { 0 };
        let numbers = [crc, size, size].map(u32::to_le_bytes).concat();
        let lengths = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
        let common = |numbers: &[u8]| {
            [&20_u16.to_le_bytes()[..], &flags.to_le_bytes(), &[0; 6], numbers, &lengths].concat()
        };
        let local = if is_streamed { [0; 12].to_vec() } else { numbers.clone() };
        bytes.extend([&b"PK\x03\x04"[..], &common(&local), name.as_bytes(), data].concat());
        if is_streamed {
            bytes.extend([&b"PK\x07\x08"[..], &numbers].concat());
        }
        directory.extend(
            [&b"PK\x01\x02\x14\0"[..], &common(&numbers), &[0; 10], &at.to_le_bytes(), name.as_bytes()]
                .concat(),
        );
    }
    let at = (bytes.len() as u32).to_le_bytes();
    let size = (directory.len() as u32).to_le_bytes();
    bytes.extend(directory);
    bytes.extend([&b"PK\x05\x06"[..], &[0; 4], &[3, 0, 3, 0], &size, &at, &[0; 2]].concat());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_was_written_is_lost(
        beginning in 0..6usize,
        steps in steps(),
        align in prop_oneof![Just(1u64), Just(64), Just(512)],
        sync in proptest::bool::weighted(0.3),
        is_trusted in proptest::bool::weighted(0.7),
        seed in any::<u64>(),
    ) {
        let disk = if is_trusted { SimulatedDisk::trusted } else { SimulatedDisk::new }(beginnings()[beginning].clone());
        let mut sim = Sim::new(&disk, align, sync);
        for step in &steps {
            sim.run(step);
        }
        check(&disk.history(), sim.promises, seed);
    }
}

/// Goes through a history, and tries what kills and power failures leave of it: of the latter, others for
/// each seed.
pub(crate) fn try_out(
    disk: impl Fn() -> SimulatedDisk,
    (align, sync): (u64, bool),
    steps: &[Step],
    seeds: impl IntoIterator<Item = u64>,
) {
    for seed in seeds {
        let disk = disk();
        let mut sim = Sim::new(&disk, align, sync);
        for step in steps {
            sim.run(step);
        }
        check(&disk.history(), sim.promises, seed);
    }
}

#[test]
fn an_end_record_may_be_half_old_and_half_new() {
    use Step::{Failed, Flush, FlushSync, Small};
    // Both end in the same place, on both sides of a boundary of sectors.
    for size in 200..264 {
        let steps = [Small(size), FlushSync, Failed(78, 161), Flush, Small(0), Flush];
        try_out(|| SimulatedDisk::trusted(Vec::new()), (1, false), &steps, 0..2);
    }
}

#[test]
fn an_array_that_is_an_archive_hides_none_that_ends_where_it_begins() {
    use Step::{Session, Small};
    // The bytes of the second array begin where the file ended, in a sector, or with one. What is behind them
    // passes for a part of their end record, or follows it.
    let whole = inner().len() - 128;
    let first = |size: usize| crate::support::archive([("first".to_owned(), &vec![1; size][..])].into_iter());
    let in_sector = [whole - 2, whole, whole + 1, whole + 40].map(|size| (first(5), size));
    let with_sector = [whole - 2, whole + 40].map(|size| (first(108), size));
    assert_eq!(first(108).len() as u64, SECTOR);
    for (beginning, size) in in_sector.into_iter().chain(with_sector) {
        let steps = [Small(124), Small(size), Session];
        try_out(|| SimulatedDisk::new(beginning.clone()), (1, false), &steps, 0..40);
    }
}

#[test]
fn an_entry_that_is_made_of_two_is_not_believed() {
    use Step::{Failed, FlushSync, Session, Small};
    // The directory grows where it is. Those of before and after have boundaries of entries in the same
    // places, and boundaries of sectors in between: wherever, with one of these sizes.
    let sizes = (179_000..179_000 + SECTOR as usize).step_by(16).chain([179_541]);
    for size in sizes {
        let steps = [Small(10), FlushSync, Small(size), Session, Small(0), Failed(0, 0), Failed(0, 0)];
        let disk = || SimulatedDisk::new(beginnings()[2].clone());
        try_out(disk, (512, false), &steps, [34_079_973_071_960_730, 1, 2, 3]);
    }
}

/// The bytes of a file with another text of the same length.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut replaced = bytes.to_vec();
    for at in 0..=bytes.len() - old.len() {
        if bytes[at..].starts_with(old) {
            replaced[at..at + old.len()].copy_from_slice(new);
        }
    }
    replaced
}

#[test]
fn a_member_that_was_renamed_in_place_survives_two_kills() {
    // An archive with room, as a writer that flushed leaves it.
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 64, false).unwrap();
    for name in ["old", "other"] {
        write(&open, name, &[3; 200], || {}).unwrap();
    }
    open.flush(false).unwrap();
    open.close(GO_ON).unwrap();
    let renamed = replaced(&disk.bytes(), b"old.npy", b"new.npy");
    let later = |bytes: Vec<u8>, name: &str, flush: bool| {
        let disk = SimulatedDisk::trusted(bytes);
        let open = writer(&disk, 64, false).unwrap();
        write(&open, name, &[9; 3000], || {}).unwrap();
        let done = disk.now();
        if flush {
            open.flush(false).unwrap();
            write(&open, &format!("{name} too"), &[8; 20], || {}).unwrap();
        }
        open.close(GO_ON).unwrap();
        (disk, done)
    };
    let has = |bytes: &[u8], name: &str| read(bytes).unwrap().contains_key(name);
    for flush in [true, false] {
        // Two sessions, as the second one moves a directory that is not what its seal says.
        let (first, _) = later(renamed.clone(), "first", flush);
        let is_marked = |bytes: &[u8]| LocalMember::marked(bytes.into(), 0).unwrap().is_some();
        assert!(!is_marked(&renamed));
        // That of a directory that was flushed passes for one of mmnpz; one that was closed does not.
        assert_eq!(is_marked(&first.bytes()), flush);
        let (second, _) = later(first.bytes(), "second", flush);
        for history in [first.history(), second.history()] {
            history.kills(PAGE, 1, |_, killed| {
                assert!(has(killed, "new") && has(killed, "other"));
                let (third, done) = later(killed.to_vec(), "third", true);
                third.history().kills(PAGE, 1, |at, bytes| {
                    assert!(has(bytes, "new") && has(bytes, "other"), "{at}");
                    assert!(at < done || has(bytes, "third"), "{at}");
                });
            });
        }
    }
}
