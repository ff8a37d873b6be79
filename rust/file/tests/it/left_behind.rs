//! States that a kill or a power failure leaves seldom, made byte by byte. The random histories found them.

use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::additions::mark::MemberState::Finished;
use mmnpz_format::error::ErrorKind;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;
use mmnpz_format::zip::records::{CentralHeader, LocalHeader};

use crate::histories::{Step, foreign, foreign_with, read, try_out};
use crate::support::{GO_ON, archive, write, write_described, writer};
use mmnpz_file::repair::repair_storage;
use mmnpz_file::simulated_disk::{Event, SECTOR, SimulatedDisk};

const END_RECORD: usize = 22;

/// The local header of a finished member at a place, of which no other byte need be there.
fn header(at: usize, name: &str, size: usize) -> Vec<u8> {
    let name = StoredName::new(name).unwrap();
    let place = Placement::new(at as u64, &name, 0, size as u64, Alignment::new(1).unwrap(), 0).unwrap();
    place.local_header(&name, Finished, 12345)
}

/// What a writer leaves that is killed when it has written these members, after a flush if `is_flushed`.
fn killed(members: &[(&str, usize)], is_flushed: bool) -> Vec<u8> {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 1, false).unwrap();
    for &(name, size) in members {
        write(&open, name, &vec![7; size], || {}).unwrap();
    }
    if is_flushed {
        open.flush(false).unwrap();
    }
    disk.bytes()
}

/// The end record is found only by going through the file: its seal leads to it.
fn out_of_reach(bytes: Vec<u8>) -> Vec<u8> {
    [bytes, vec![1; 70_000]].concat()
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn names(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap().into_keys().collect()
}

#[test]
fn an_end_record_with_other_numbers_of_disks_behind_a_tear() {
    let mut bytes = archive([("a".to_owned(), &[1; 200][..])].into_iter());
    let end_record = bytes.len() - END_RECORD;
    // The signature, and three bytes of what comes behind it.
    bytes[end_record + 7] = 0x21;
    assert_eq!(names(&bytes), ["a"]);
}

#[test]
fn an_end_record_whose_last_bytes_are_old() {
    let mut bytes = killed(&[("a", 100), ("b", 70_000)], true);
    let end_record = bytes.len() - END_RECORD;
    let offset = end_record + 16..end_record + 20;
    assert!(bytes[offset.end - 2] > 0, "the upper half is not zero anyway");
    bytes[offset.end - 2..offset.end].fill(0);
    assert_eq!(names(&bytes), ["a", "b"]);
}

#[test]
fn a_header_at_the_end_of_the_file_that_reaches_over_what_is_written_there() {
    // So large that its header alone tells that it is finished.
    let size = 2 << 20;
    let mut bytes = foreign();
    bytes.extend(header(bytes.len(), "torn", size));
    let disk = SimulatedDisk::new(bytes);
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "later", &[9; 200], || {}).unwrap();
    // The file is long enough for what the header claims, as when a directory is begun.
    let bytes = [disk.bytes(), vec![0; size]].concat();
    assert_eq!(names(&bytes), ["later", "nested", "old", "streamed"]);
}

#[test]
fn an_old_header_in_front_of_newer_members() {
    let mut bytes = killed(&[("first", 200), ("later", 200)], false);
    // It ends among the bytes of the second member.
    let old = header(0, "other", 300);
    bytes[..old.len()].copy_from_slice(&old);
    assert_eq!(names(&bytes), ["later"]);
}

#[test]
fn an_old_header_that_a_low_water_mark_does_not_vouch_for() {
    let mut bytes = killed(&[("first", 400), ("later", 200)], false);
    // It ends in front of the second member, whose mark says that all in front of it was finished.
    let old = header(0, "other", 300);
    bytes[..old.len()].copy_from_slice(&old);
    assert_eq!(names(&bytes), ["later"]);
}

#[test]
fn an_old_header_whose_range_reaches_over_what_a_seal_lists() {
    let flushed = killed(&[("first", 300), ("second", 300)], true);
    let disk = SimulatedDisk::new(flushed);
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "later", &[9; 200], || {}).unwrap();
    let mut bytes = out_of_reach(disk.bytes());
    assert_eq!(names(&bytes), ["first", "later", "second"]);
    let second = header(0, "first", 300).len() + 300;
    let old = header(second, "other", 400);
    bytes[second..second + old.len()].copy_from_slice(&old);
    assert!(names(&bytes).contains(&"later".to_owned()));
}

#[test]
fn a_directory_that_is_left_over_behind_newer_members() {
    let mut bytes = out_of_reach(killed(&[("first", 500)], true));
    assert_eq!(names(&bytes), ["first"]);
    let later = killed(&[("later", 200)], false);
    bytes[..later.len()].copy_from_slice(&later);
    assert_eq!(names(&bytes), ["later"]);
}

#[test]
fn a_directory_is_found_until_the_next_one_may_be_written_over_it() {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "first", &[1; 200], || {}).unwrap();
    open.flush(false).unwrap();
    // It writes nothing, and what it has synced may not be lost from now on.
    open.flush(true).unwrap();
    write(&open, "second", &[2; 200], || {}).unwrap();
    let begun = disk.now();
    open.flush(false).unwrap();
    let history = disk.history();
    let blank = |event: &Event| matches!(event, Event::Write(_, bytes) if bytes[..] == [0; 4]);
    let at = begun + history.events()[begun..].iter().position(blank).unwrap();
    assert_eq!(history.events()[at + 1], Event::Sync);
    open.close(GO_ON).unwrap();
}

#[test]
fn an_end_record_of_the_directory_that_was_there_before() {
    let array = Described { descr: "'|u1'", fortran_order: false, shape: &[200], header: 0 };
    // The entry of a new member is as long as that of the first one, or of the first two: without that, the
    // rest of the new directory can be read just so.
    let long = "a name of 26 bytes, 00.npy";
    let as_long = [&long.replace("00", "01"), &long.replace("00", "02"), long];
    let beginnings = [(Vec::new(), true), (Vec::new(), false), (foreign_with(as_long), true)];
    let short = (foreign_with(["o1.npy", "o2.npy", "o3.npy"]), false);
    for (beginning, is_described) in beginnings.into_iter().chain([short]) {
        let disk = SimulatedDisk::trusted(beginning);
        let open = writer(&disk, 1, false).unwrap();
        let write = |name: &str| {
            let field = is_described.then(|| ArrayField::new(&array).unwrap());
            write_described(&open, name, &[7; 200], field.as_ref(), || {}).unwrap();
        };
        ["m1", "m2"].into_iter().for_each(write);
        open.flush(false).unwrap();
        let before = disk.bytes();
        for more in [&["m3"][..], &["m4", "m5"]] {
            more.iter().copied().for_each(write);
            open.flush(false).unwrap();
            let after = disk.bytes();
            assert_eq!(after.len(), before.len());
            // With the last bytes of what was there before: an entry can be made of two.
            let kept = names(&before);
            for torn in (0..after.len() - END_RECORD).filter(|&at| after[at] != before[at]) {
                let bytes = [&after[..=torn], &before[torn + 1..]].concat();
                let found = names(&bytes);
                assert!(kept.iter().all(|name| found.contains(name)), "{is_described} {torn} {found:?}");
            }
        }
        open.close(GO_ON).unwrap();
    }
}

#[test]
fn a_directory_that_was_to_grow_and_is_torn_is_not_believed() {
    let disk = SimulatedDisk::new(foreign());
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "m1", &[1; 200], || {}).unwrap();
    open.flush(false).unwrap();
    write(&open, "m2", &vec![2; 180_000], || {}).unwrap();
    open.close(GO_ON).unwrap();
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "m3", &[3; 200], || {}).unwrap();
    // Without an end record, its seal alone leads to it.
    let mut grown = disk.bytes();
    let end_record = grown.len() - END_RECORD;
    grown[end_record..].fill(0);
    let all = ["m1", "m2", "m3", "nested", "old", "streamed"];
    assert_eq!(names(&grown), all);
    let name = grown.windows(7).rposition(|window| window == b"old.npy").unwrap();
    let entry = name - CentralHeader::SIZE;
    // The checksum, the place of the local header, and the name.
    for torn in (16..20).chain(42..49) {
        let mut bytes = grown.clone();
        bytes[entry + torn] ^= 1;
        assert_eq!(names(&bytes), all, "{torn}");
    }
    // Another program has changed the name, here and in the local header.
    for name in [name, LocalHeader::SIZE] {
        grown[name..name + 3].copy_from_slice(b"new");
    }
    assert_eq!(names(&grown), ["m1", "m2", "m3", "nested", "new", "streamed"]);
}

/// What a power failure can leave of an archive of another program with one more member, and of an array that
/// is an archive itself: the end record of the first directory, which has no seal any more, and no member.
fn with_an_old_end_record(size: usize) -> Vec<u8> {
    let disk = SimulatedDisk::new(foreign());
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "m1", &[7; 200], || {}).unwrap();
    open.flush(false).unwrap();
    let mut bytes = disk.bytes();
    let header = position(&bytes, b"m1.npy").unwrap() - LocalHeader::SIZE;
    let directory = DirectoryLocation::locate((&bytes).into()).unwrap().range.start as usize;
    bytes[header..directory].fill(0);
    bytes.extend(archive([("inner".to_owned(), &vec![1; size][..])].into_iter()));
    bytes
}

#[test]
fn an_old_end_record_behind_newer_members_leads_nobody_astray() {
    for size in (0..1000).step_by(10) {
        let old = with_an_old_end_record(size);
        assert_eq!(names(&old), ["nested", "old", "streamed"]);
        let disk = SimulatedDisk::new(old);
        let open = writer(&disk, 1, false).unwrap();
        write(&open, "later", &[9; 200], || {}).unwrap();
        let done = disk.now();
        open.close(GO_ON).unwrap();
        disk.history().kills(4096, 1, |at, bytes| {
            let found = names(bytes);
            assert!(found.contains(&"nested".to_owned()), "{at} {found:?}");
            assert!(at < done || found.contains(&"later".to_owned()), "{at} {found:?}");
        });
    }
}

#[test]
fn an_old_end_record_in_the_room_is_erased_by_whoever_writes_next() {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 1, false).unwrap();
    write(&open, "a", &[1; 200], || {}).unwrap();
    open.flush(false).unwrap();
    // So that there is something to repair.
    write(&open, "b", &[2; 200], || {}).unwrap();
    let mut bytes = disk.bytes();
    let seal = Survey::new(&bytes, Effort::Read, || true).unwrap().seal().unwrap();
    let at = seal.start() as usize - 1000;
    assert!(seal.members_end() < at as u64);
    bytes[at..at + 4].copy_from_slice(b"PK\x05\x06");
    let appended = SimulatedDisk::new(bytes.clone());
    let open = writer(&appended, 1, false).unwrap();
    write(&open, "c", &[], || {}).unwrap();
    assert_eq!(appended.bytes()[at..at + 4], [0; 4]);
    let repaired = SimulatedDisk::new(bytes);
    repair_storage(&repaired, "disk".into(), false, &|_, _| true, GO_ON).unwrap();
    assert_eq!(repaired.bytes()[at..at + 4], [0; 4]);
}

#[test]
fn a_header_of_which_only_a_part_is_there_is_in_the_way() {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 64, false).unwrap();
    for name in ["m1", "m2"] {
        write(&open, name, &[7; 138], || {}).unwrap();
    }
    let built = disk.bytes();
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
fn a_survey_can_be_interrupted() {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 1, false).unwrap();
    for number in 0..5000 {
        write(&open, &format!("m{number}"), &[7; 128], || {}).unwrap();
    }
    let bytes = disk.bytes();
    assert_eq!(Survey::new(&bytes, Effort::Read, || true).unwrap().found.len(), 5000);
    assert_eq!(Survey::new(&bytes, Effort::Read, || false).unwrap_err().kind, ErrorKind::Interrupted);
}

#[test]
fn a_seal_is_torn_only_where_nobody_needs_it() {
    // The next writer finds a member in the room of a directory that was to grow.
    try_out(
        || SimulatedDisk::trusted(Vec::new()),
        (64, false),
        &[Step::Small(209), Step::Flush, Step::Small(0), Step::Session, Step::Small(0)],
        0..1,
    );
}

#[test]
fn a_directory_that_is_kept_is_vouched_for_when_it_is_whole() {
    // Wherever it lies in its sectors.
    for prefix in (0..SECTOR as usize).step_by(3) {
        let beginning = [vec![1; prefix], foreign()].concat();
        try_out(|| SimulatedDisk::new(beginning.clone()), (1, false), &[Step::Small(0)], 0..4);
    }
}
