//! A file of ours in which anything behind its members was changed: a name gives what was written, or what
//! the directory says now, or an error; and that a name is not there is only said if the directory does not
//! have it.
#![no_main]

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

use mmnpz_format::Window;
use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::npy::header::{MAX_HEADER_SIZE, encode};
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::write::appender::{Appender, Reserved};
use mmnpz_format::write::directory_plan::Publish;
use mmnpz_format::write::grow_in_place::SharedBytes;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

#[derive(Debug, Arbitrary)]
struct Plan {
    /// Short names, so that some are near each other.
    names: Vec<[u8; 2]>,
    /// A member whose name makes the directory so large that it is not checked when the file is opened.
    large: bool,
    /// Places behind the members, counted from the end, and what is there afterwards.
    changes: Vec<(u16, u8)>,
    /// So much is cut off.
    cut: u8,
    /// Bytes that are overwritten from where the members end, as an append does.
    overwritten: Vec<u8>,
}

/// The archive, where its members end, and each with the place of its first item.
fn archive(plan: &Plan) -> Option<(Vec<u8>, usize, Vec<(String, u64)>)> {
    let mut names: Vec<_> =
        plan.names.iter().take(200).map(|name| format!("{}{}", name[0] % 8, name[1] % 4)).collect();
    names.extend(plan.large.then(|| "x".repeat(65_000)));
    let (mut bytes, mut items) = (Vec::new(), Vec::new());
    let mut appender = Appender::new(Alignment::new(64).ok()?);
    for name in names {
        let stored = StoredName::new(&name).ok()?;
        if appender.is_likely(&stored).unwrap() {
            continue;
        }
        let number = items.len() as u64;
        let shape = [number];
        let mut file = encode("'|u1'", false, &shape, true).ok()?;
        let header = file.len();
        file.resize(header + number as usize, number as u8);
        let Ok(Reserved::Place(place)) = appender.reserve(&stored, header as u64, file.len() as u64) else {
            return None;
        };
        let crc = crc32fast::hash(&file);
        bytes.extend(place.local_header(&stored, MemberState::Finished, crc));
        items.push((name, bytes.len() as u64 + header as u64));
        bytes.extend(file);
        let array = Described { descr: "'|u1'", fortran_order: false, shape: &shape, header };
        appender.finish(&place, &stored, crc, ArrayField::new(&array).as_ref());
    }
    let end = bytes.len();
    publish(&mut appender, &mut bytes)?;
    Some((bytes, end, items))
}

fn put(bytes: &mut Vec<u8>, part: &[u8], at: u64) {
    bytes.resize(bytes.len().max(at as usize + part.len()), 0);
    bytes[at as usize..at as usize + part.len()].copy_from_slice(part);
}

fn publish(appender: &mut Appender, bytes: &mut Vec<u8>) -> Option<()> {
    let mut new = appender.publish(Publish::Close, bytes.len() as u64).ok()?;
    let names = new.take_names();
    let head = new.head(names);
    for (part, at) in new.first_writes().chain(new.changes()).chain(new.last_writes(&head)) {
        put(bytes, part, at);
    }
    Some(())
}

/// The same after somebody added a member.
fn appended(bytes: &[u8]) -> Option<Vec<u8>> {
    let survey = Survey::new(bytes, Effort::Append, || true).ok()?;
    let held: SharedBytes = Arc::new(bytes.to_vec());
    let mut appender = Appender::resume(&held, &survey, Alignment::new(64).ok()?).ok()?;
    let stored = StoredName::new("added").ok()?;
    let mut bytes = bytes.to_vec();
    let place = loop {
        let prologue = appender.prologue();
        for (at, part) in &prologue {
            put(&mut bytes, part, *at);
        }
        if !prologue.is_empty() {
            appender.prologue_is_written();
        }
        match appender.reserve(&stored, 0, 64).ok()? {
            Reserved::Place(place) => break place,
            Reserved::NoRoom(_) if appender.make_way().ok()? => {}
            Reserved::NoRoom(_) => return None,
        }
    };
    let crc = crc32fast::hash(&[7; 64]);
    let member = [&place.local_header(&stored, MemberState::Finished, crc)[..], &[7; 64]].concat();
    put(&mut bytes, &member, place.header);
    appender.finish(&place, &stored, crc, None);
    publish(&mut appender, &mut bytes)?;
    assert!(bytes.len() >= held.as_ref().as_ref().len(), "the file got shorter");
    Some(bytes)
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
        // Not what a walk finds if the file was opened before it was changed: then what was there counts.
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
            // A reader that has had a file of ours open keeps all of it.
            _ if opened_before && number < items.len() => panic!("{name:?} was lost"),
            Some(Found::Nothing) => assert_eq!(listed, None, "{name:?} is there"),
            Some(Found::Renamed(_)) => panic!("nobody renamed {name:?}"),
            Some(Found::Unsure) | None => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(data)) else { return };
    let Some((before, end, items)) = archive(&plan) else { return };
    let mut bytes = before.clone();
    for &(from_end, value) in &plan.changes {
        let at = bytes.len().saturating_sub(1 + usize::from(from_end));
        if at >= end {
            bytes[at] = value;
        }
    }
    bytes.truncate(bytes.len().saturating_sub(usize::from(plan.cut)).max(end));
    check(&bytes, &before, &items, false);
    if let Some(bytes) = appended(&bytes) {
        check(&bytes, &before, &items, false);
    }
    // A writer takes the end record away before it overwrites anything.
    let mut appended = before.clone();
    if !plan.overwritten.is_empty() && appended.len() >= 22 && !items.is_empty() {
        let end_record = appended.len() - 22;
        appended[end_record..end_record + 4].fill(0);
        let length = plan.overwritten.len().min(appended.len() - end);
        appended[end..end + length].copy_from_slice(&plan.overwritten[..length]);
        check(&appended, &before, &items, true);
    }
});
