//! States that a kill or a power failure leaves seldom, made byte by byte. The random histories found them.

use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::additions::mark::MemberState::Finished;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::name::StoredName;

use crate::histories::{foreign, foreign_with, read};
use crate::support::{GO_ON, archive, write, write_described, writer};
use mmnpz_file::simulated_disk::{Event, SimulatedDisk};

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
            let mut bytes = disk.bytes();
            assert_eq!(bytes.len(), before.len());
            let end_record = bytes.len() - END_RECORD;
            bytes[end_record..].copy_from_slice(&before[end_record..]);
            let found = names(&bytes);
            assert!(names(&before).iter().all(|name| found.contains(name)), "{is_described} {found:?}");
        }
        open.close(GO_ON).unwrap();
    }
}
