//! A reader whose directory a writer of mmnpz overwrites: the reader may look at it at any moment.

use crate::{ranges, support};
use mmnpz_format::Window;
use mmnpz_format::error::ErrorKind;
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;

const MEMBERS: usize = 20;

fn name(number: usize) -> String {
    // One name is so long that opening the file does not check the directory.
    if number == 0 { "x".repeat(65_000) } else { format!("n{number}") }
}

/// An archive of mmnpz, and the end of its members.
fn archive() -> (Vec<u8>, usize) {
    let data: Vec<_> = (0..MEMBERS).map(|number| [number as u8; 80]).collect();
    let bytes = support::archive(data.iter().enumerate().map(|(number, data)| (name(number), &data[..])));
    let survey = Survey::new(&bytes, Effort::Read, || true).unwrap();
    let end = survey.seal().unwrap().members_end() as usize;
    (bytes, end)
}

fn lookup(bytes: &[u8]) -> Lookup {
    let survey = Survey::new(bytes, Effort::Read, || true).unwrap();
    let lookup = Lookup::new(bytes, &survey, || true).unwrap();
    assert!(!lookup.is_verified(Window::from(bytes)).unwrap());
    lookup
}

fn found(lookup: &Lookup, bytes: &[u8], number: usize) -> Option<u32> {
    match lookup.find(Window::from(bytes), &name(number)).unwrap() {
        Found::Member(member) => Some(member.id.0),
        Found::Nothing => None,
        other => panic!("{other:?}"),
    }
}

/// The archive after the first writes of a writer that appends.
fn overwritten(bytes: &[u8], end: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end_record = bytes.len() - 22;
    bytes[end_record..end_record + 4].fill(0);
    bytes[end..end_record].fill(0x55);
    bytes
}

#[test]
fn members_are_found_by_their_marks() {
    let (bytes, end) = archive();
    let lookup = lookup(&bytes);
    let bytes = overwritten(&bytes, end);
    lookup.verify(&bytes, None, false, || true).unwrap();
    for number in 0..MEMBERS {
        assert_eq!(found(&lookup, &bytes, number), Some(number as u32));
    }
}

#[test]
fn while_a_writer_is_at_work_some_are_not_taken_for_all() {
    let (bytes, end) = archive();
    let lookup = lookup(&bytes);
    let mut bytes = overwritten(&bytes, end);
    ranges::assert_same(&bytes);
    // The mark of the last one.
    bytes[end - 1] ^= 1;
    let kind = lookup.verify(&bytes, None, false, || true).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::DirectoryTruncated);
    assert!(!lookup.is_verified(Window::from(&bytes)).unwrap());
    lookup.verify(&bytes, None, true, || true).unwrap();
    for number in 0..MEMBERS - 1 {
        // With new numbers, as the stored index has used the old ones.
        assert_eq!(found(&lookup, &bytes, number), Some((MEMBERS + number) as u32));
    }
    assert_eq!(found(&lookup, &bytes, MEMBERS - 1), None);
}

#[test]
fn a_directory_of_others_is_not_taken_for_the_one_that_there_was() {
    let (bytes, end) = archive();
    let lookup = lookup(&bytes);
    // As if another session had made the second member anew: the same size, another checksum.
    let mut other = bytes.clone();
    let record = end + other[end..].windows(6).position(|part| part == b"n2.npy").unwrap() - 46;
    other[record + 16] ^= 1;
    let bytes = overwritten(&bytes, end);
    lookup.verify(&bytes, Some(Window::from(&other)), false, || true).unwrap();
    for number in 0..MEMBERS {
        assert_eq!(found(&lookup, &bytes, number), Some(number as u32));
    }
}

#[test]
fn members_are_given_from_any_position_on() {
    let (bytes, end) = archive();
    let names = |lookup: &Lookup, bytes: &[u8], from| {
        let members = lookup.members_from(bytes.into(), from).unwrap().map(Result::unwrap);
        members.map(|(member, name)| (member.id.0, name)).collect::<Vec<_>>()
    };
    let check = |lookup: &Lookup, bytes: &[u8]| {
        for from in 0..MEMBERS {
            let expected = (from..MEMBERS).map(|number| (number as u32, name(number))).collect::<Vec<_>>();
            assert_eq!(names(lookup, bytes, from), expected);
        }
        for from in [MEMBERS, MEMBERS + 1, 1 << 20, usize::MAX] {
            assert_eq!(names(lookup, bytes, from), []);
        }
    };
    let stored = lookup(&bytes);
    check(&stored, &bytes);
    assert!(stored.known(0).is_none(), "only a look at the directory tells");
    // The index that takes the place of the stored one gives the same.
    let changed = overwritten(&bytes, end);
    stored.verify(&changed, None, false, || true).unwrap();
    check(&stored, &changed);
    for number in 0..MEMBERS {
        assert_eq!(stored.known(number).map(|member| member.id.0), Some(number as u32));
    }
    assert!(stored.known(MEMBERS).is_none());
}

#[test]
fn many_names_are_found_as_one_is() {
    let (bytes, end) = archive();
    let names: Vec<_> = (0..2 * MEMBERS).map(name).collect();
    let asked = || names.iter().map(|name| Some(&**name)).chain([None, Some(""), Some("n1.npy"), Some("n3")]);
    let check = |lookup: &Lookup, bytes: &[u8]| {
        let found = lookup.find_all(bytes.into(), asked()).unwrap();
        let expected =
            asked().map(|name| Some(lookup.find_again(Window::from(bytes), name?).unwrap().member()?.id.0));
        assert_eq!(
            found.iter().map(|id| id.map(|id| id.0)).collect::<Vec<_>>(),
            expected.collect::<Vec<_>>()
        );
        assert_eq!(found.iter().flatten().count(), MEMBERS + 1);
        assert!(lookup.find_all(bytes.into(), std::iter::empty()).unwrap().is_empty());
    };
    let stored = lookup(&bytes);
    check(&stored, &bytes);
    let changed = overwritten(&bytes, end);
    stored.verify(&changed, None, false, || true).unwrap();
    check(&stored, &changed);
}
