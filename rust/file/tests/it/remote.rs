//! How few ranges of a remote file a lookup needs, and for which it asks if the file is torn.

use mmnpz_format::Window;
use mmnpz_format::error::{ErrorKind, Missing};
use mmnpz_format::read::lookup::{Found, Lookup};
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Survey;
use mmnpz_format::window::Fetched;
use mmnpz_format::zip::end::DirectoryLocation;

use crate::ranges::{self, NOWHERE, Remote, Source};
use crate::support;

/// An archive with this many members of 512 bytes.
fn archive(members: usize) -> Vec<u8> {
    support::archive((0..members).map(|number| (format!("n{number}"), &[7; 512][..])))
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
    // No bytes of members.
    let tail = remote.requests.borrow().iter().map(|range| range.start).min().unwrap();
    assert!(tail > 20_000 * 512);
    // Only the checksum of the whole directory tells that a name is not there.
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
        ranges::assert_same(&file);
        for cut in [1, 22, 23, 60, 200] {
            ranges::assert_same(&file[..file.len().saturating_sub(cut)]);
        }
    }
}

#[test]
fn an_edit_of_a_directory_is_seen() {
    // A directory that opening does not check.
    let mut file = archive(2000);
    let directory = DirectoryLocation::locate((&file).into()).unwrap();
    let at = directory.range.start as usize + 46;
    assert_eq!(&file[at..at + 2], b"n0");
    file[at..at + 2].copy_from_slice(b"m0");
    ranges::assert_same(&file);
}

#[test]
fn a_range_that_is_missing_is_not_an_error_of_the_file() {
    let file = archive(3);
    let fetched = Fetched::new(&[], file.len() as u64);
    let window = Window::of_fetched(&fetched);
    let error = Survey::new(window, Effort::Full, || true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Missing(_)) && !error.is_about_file());
    assert_eq!(window.get(0..10), Err(Missing(0..10)));
    assert!(error.to_string().contains("were not read"), "{error}");
}
