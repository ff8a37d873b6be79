//! A file of mmnpz in which any bytes behind the members were changed: a lookup of a name gives the member
//! that was written, or what the directory says now, or an error. It says that there is no member only if the
//! directory does not have the name.
#![no_main]

use std::path::PathBuf;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

use mmnpz_file::simulated_disk::SimulatedDisk;
use mmnpz_file::writer::{Answer, ArchiveWriter, NewMember};
use mmnpz_file::{Failure, KeepGoing};
use mmnpz_format::Window;
use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::error::Error;
use mmnpz_format::npy::header::{MAX_HEADER_SIZE, encode};
use mmnpz_format::read::facts::ArrayFacts;
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

#[derive(Debug, Arbitrary)]
struct Plan {
    /// Short names, so that some are near each other.
    names: Vec<[u8; 2]>,
    /// Whether to write a member whose name makes the directory so large that opening does not check it.
    large: bool,
    /// Places behind the members, counted from the end, and the new byte at each.
    changes: Vec<(u16, u8)>,
    /// How many bytes are cut off.
    cut: u8,
    /// Bytes that overwrite the file from where the members end, as an append does.
    overwritten: Vec<u8>,
}

/// Never asks to stop.
const GO_ON: KeepGoing<'static> = &|| true;

fn writer(disk: &SimulatedDisk) -> Result<ArchiveWriter<&SimulatedDisk>, Failure> {
    ArchiveWriter::append_to(disk, PathBuf::from("disk"), Alignment::new(64)?, false, GO_ON)
}

/// Writes an array of bytes, as the binding does. Returns whether there was no array of this name.
fn write(writer: &ArchiveWriter<&SimulatedDisk>, name: &str, data: &[u8]) -> Result<bool, Failure> {
    let shape = [data.len() as u64];
    let header = encode("'|u1'", false, &shape, true)?;
    let array = Described { descr: "'|u1'", fortran_order: false, shape: &shape, header: header.len() };
    let array_field = ArrayField::new(&array);
    let mut member = NewMember {
        name: StoredName::new(name)?,
        header: &header,
        array_field: array_field.as_ref(),
        items: data.into(),
    };
    loop {
        match writer.reserve(&member, false)? {
            Answer::Place(place) => return writer.write(&place, &mut member, &|_| true).map(|()| true),
            Answer::NoRoom(size) => writer.make_room(size)?,
            Answer::Unprepared => writer.prepare()?,
            Answer::Duplicate => return Ok(false),
            Answer::Closed => panic!("the writer is open"),
        }
    }
}

/// The archive, the end of its members, and each member with the place of its first item.
fn archive(plan: &Plan) -> Result<(Vec<u8>, usize, Vec<(String, u64)>), Failure> {
    let mut names: Vec<_> =
        plan.names.iter().take(200).map(|name| format!("{}{}", name[0] % 8, name[1] % 4)).collect();
    names.extend(plan.large.then(|| "x".repeat(65_000)));
    let disk = SimulatedDisk::default();
    let open = writer(&disk)?;
    let mut items = Vec::new();
    for name in names {
        let number = items.len();
        if write(&open, &name, &vec![number as u8; number])? {
            items.push((name, (disk.bytes().len() - number) as u64));
        }
    }
    let end = disk.bytes().len();
    open.close(GO_ON)?;
    Ok((disk.bytes(), end, items))
}

/// The archive after a writer added a member.
fn appended(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let disk = SimulatedDisk::new(bytes.to_vec());
    let open = writer(&disk)?;
    write(&open, "added", &[7; 64])?;
    open.close(GO_ON)?;
    assert!(disk.bytes().len() >= bytes.len(), "the file got shorter");
    Ok(disk.bytes())
}

fn check(bytes: &[u8], before: &[u8], items: &[(String, u64)], opened_before: bool) {
    let opened = if opened_before { before } else { bytes };
    let Ok(survey) = Survey::new(opened, Effort::Read, || true) else { return };
    let Ok(lookup) = Lookup::new(opened, &survey, || true) else { return };
    let walked = DirectoryLocation::locate(Window::from(bytes))
        .and_then(|directory| WalkedIndex::build(Window::from(bytes), directory, || true));
    let absent = ["", "99", "00x"].map(|name| (name.to_owned(), u64::MAX));
    for (number, (name, offset)) in items.iter().chain(&absent).enumerate() {
        let found = loop {
            match lookup.find(bytes.into(), name).unwrap() {
                Found::Unsure if lookup.verify(bytes, None, true, || true).is_err() => break None,
                Found::Unsure => {}
                found => break Some(found),
            }
        };
        // If the file was opened before it was changed, the old members count, not what a walk finds now.
        let listed = walked.as_ref().ok().filter(|_| !opened_before).and_then(|index| {
            index
                .find(Window::from(bytes), name)
                .unwrap()
                .and_then(|id| index.member(Window::from(bytes), id, name).ok())
        });
        match found {
            Some(Found::Member(member)) => {
                let Ok(located) = lookup.locate(Window::from(bytes), &member, name, MAX_HEADER_SIZE) else {
                    continue;
                };
                assert!(located.offset + located.stored <= bytes.len() as u64);
                let is_own = located.offset == *offset && located.header.shape.0 == [number as u64];
                let is_listed = listed.is_some_and(|file| file.contains(&(located.offset.max(1) - 1)));
                assert!(is_own || is_listed, "{name:?} became another array");
            }
            // A reader that has a file of mmnpz open keeps all of its members.
            _ if opened_before && number < items.len() => panic!("{name:?} was lost"),
            Some(Found::Nothing) => assert_eq!(listed, None, "{name:?} is there"),
            Some(Found::Renamed(_)) => panic!("nobody renamed {name:?}"),
            Some(Found::Unsure) | None => {}
        }
    }
    if lookup.is_verified(bytes.into()).unwrap() {
        let mut count = 0;
        let of_headers = |read: &mut dyn FnMut(Window<'_>) -> Result<(), Error>| read(bytes.into());
        let done = lookup.facts(bytes.into(), MAX_HEADER_SIZE, of_headers, |facts| {
            count += 1;
            let (offset, stored) = match facts.array {
                ArrayFacts::Listed(array) => (array.offset, array.stored),
                ArrayFacts::Located(Ok(array)) => (array.offset, array.stored),
                ArrayFacts::Located(Err(_)) | ArrayFacts::Compressed(_) => return Ok::<_, Error>(()),
            };
            assert!(offset + stored <= bytes.len() as u64);
            Ok(())
        });
        if done.is_ok() {
            assert_eq!(count, lookup.len());
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(data)) else { return };
    let (before, end, items) = archive(&plan).expect("nothing fails on this disk");
    let mut bytes = before.clone();
    for &(from_end, value) in &plan.changes {
        let at = bytes.len().saturating_sub(1 + usize::from(from_end));
        if at >= end {
            bytes[at] = value;
        }
    }
    bytes.truncate(bytes.len().saturating_sub(usize::from(plan.cut)).max(end));
    check(&bytes, &before, &items, false);
    if let Ok(bytes) = appended(&bytes) {
        check(&bytes, &before, &items, false);
    }
    // A writer overwrites the end record before anything else.
    let mut appended = before.clone();
    if !plan.overwritten.is_empty() && appended.len() >= 22 && !items.is_empty() {
        let end_record = appended.len() - 22;
        appended[end_record..end_record + 4].fill(0);
        let length = plan.overwritten.len().min(appended.len() - end);
        appended[end..end + length].copy_from_slice(&plan.overwritten[..length]);
        check(&appended, &before, &items, true);
    }
});
