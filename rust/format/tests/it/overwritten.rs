//! An index stays right when a zip tool overwrites the directory from which it was built: every tool does so
//! that appends to an archive while a reader has it mapped.

use std::ops::Range;

use proptest::prelude::*;

use crate::archives::{Archive, Built, Member, contents, open, range};
use mmnpz_format::Window;
use mmnpz_format::read::walked_index::WalkedIndex;

const NAMES: [&str; 4] = ["a", "b", "longer/name", "ü"];

fn members() -> Vec<Member> {
    let member = |name: &str| {
        let raw = if name == "ü" { b"\x81.npy".to_vec() } else { format!("{name}.npy").into_bytes() };
        Member::stored(raw, format!("data of {name}").as_bytes())
    };
    NAMES.map(member).to_vec()
}

fn archive() -> Built {
    Archive::of(members()).build()
}

/// Checks that all members are still found, and no others.
#[track_caller]
fn assert_same(index: &WalkedIndex, bytes: &[u8], built: &Built) {
    let expected: Vec<_> =
        NAMES.iter().map(|&name| name.to_owned()).zip(built.data.iter().cloned()).collect();
    assert_eq!(contents(index, bytes), expected);
    for name in ["c", "", "new", "a.npy"] {
        assert_eq!(index.find(Window::from(bytes), name).unwrap(), None, "{name:?}");
        assert!(!index.contains(Window::from(bytes), name).unwrap(), "{name:?}");
    }
}

#[test]
fn by_constant_bytes() {
    let built = archive();
    let index = open(&built.bytes).unwrap();
    for byte in [0, 0xff, b'P'] {
        let mut bytes = built.bytes.clone();
        bytes[built.directory.start as usize..].fill(byte);
        assert_same(&index, &bytes, &built);
    }
}

#[test]
fn by_other_names_before_members_are_left_out() {
    let built = archive();
    let mut index = open(&built.bytes).unwrap();
    let mut bytes = built.bytes.clone();
    // The records of the first two members have each other's names now; the local headers have their own.
    let directory = built.directory.start as usize;
    let [a, b] = [&b"a.npy"[..], b"b.npy"]
        .map(|name| directory + bytes[directory..].windows(name.len()).position(|at| at == name).unwrap());
    bytes.swap(a, b);
    let last = index.ids().last().unwrap();
    index.leave_out(Window::from(&bytes), &[last]).unwrap();
    for (number, name) in NAMES[..3].iter().enumerate() {
        let id = index.find(Window::from(&bytes), name).unwrap();
        assert_eq!(id.map(|id| id.0 as usize), Some(number), "{name:?}");
    }
    assert_eq!(index.find(Window::from(&bytes), NAMES[3]).unwrap(), None);
}

#[test]
fn by_appended_members() {
    // A new member of each length: each leaves another part of the old records.
    let built = archive();
    let index = open(&built.bytes).unwrap();
    for length in [0, 1, 20, 100, 1000] {
        let new = Member::stored("new.npy", &vec![b'n'; length]);
        let appended = Archive::of(members().into_iter().chain([new])).build().bytes;
        let start = built.directory.start as usize;
        assert_eq!(appended[..start], built.bytes[..start], "what is appended to stays");
        assert_same(&index, &appended, &built);
    }
}

#[test]
fn by_the_records_of_other_members() {
    // "a" and "b" have records of one length: swapped, each stands where the other was, with a right name and
    // all. The index must not mix the name of one with the bytes of the other.
    let built = archive();
    let index = open(&built.bytes).unwrap();
    let mut bytes = built.bytes.clone();
    let records: Vec<usize> = built.records[..3].iter().map(|&at| at as usize).collect();
    bytes.copy_within(records[1]..records[2], records[0]);
    bytes[records[1]..records[2]].copy_from_slice(&built.bytes[records[0]..records[1]]);
    assert_same(&index, &bytes, &built);
}

#[test]
fn by_one_record_all_over() {
    let built = archive();
    let index = open(&built.bytes).unwrap();
    let length = (built.records[1] - built.records[0]) as usize;
    let record = built.bytes[built.records[0] as usize..][..length].to_vec();
    let mut bytes = built.bytes.clone();
    for place in bytes[built.directory.start as usize..].chunks_exact_mut(length) {
        place.copy_from_slice(&record);
    }
    assert_same(&index, &bytes, &built);
}

#[test]
fn names_are_still_known_where_only_the_directory_has_them() {
    // The other way round: the local headers are gone, and the directory is whole. The index knows the names,
    // and can read no member.
    let built = archive();
    let index = open(&built.bytes).unwrap();
    let mut bytes = built.bytes.clone();
    bytes[..built.directory.start as usize].fill(0);
    for (id, name) in index.ids().zip(NAMES) {
        assert_eq!(index.name(Window::from(&bytes), id).unwrap(), name);
        assert_eq!(index.find(Window::from(&bytes), name).unwrap(), Some(id));
        assert!(index.contains(Window::from(&bytes), name).unwrap());
        assert!(range(&index, &bytes, id, name).is_err());
    }
}

#[test]
fn with_nothing_left_there_is_an_error_and_no_member() {
    let built = archive();
    let index = open(&built.bytes).unwrap();
    let bytes = vec![0; built.bytes.len()];
    for (id, name) in index.ids().zip(NAMES) {
        assert!(index.name(Window::from(&bytes), id).is_err());
        assert_eq!(index.find(Window::from(&bytes), name).unwrap(), None);
        assert!(!index.contains(Window::from(&bytes), name).unwrap());
        assert!(range(&index, &bytes, id, name).is_err());
    }
}

#[test]
fn a_file_cut_short_gives_errors_and_no_panic() {
    let built = archive();
    let index = open(&built.bytes).unwrap();
    for length in 0..built.bytes.len() {
        let bytes = &built.bytes[..length];
        for ((id, data), name) in index.ids().zip(&built.data).zip(NAMES) {
            let expected = (length as u64 >= data.end).then(|| data.clone());
            assert_eq!(range(&index, bytes, id, name).ok(), expected, "{length}");
            let _ = index.name(Window::from(bytes), id);
        }
    }
}

/// Where a name's bytes were when the index was built.
fn place(built: &Built, name: &str) -> Option<Range<u64>> {
    NAMES.iter().position(|&other| other == name).map(|at| built.data[at].clone())
}

proptest! {
    #[test]
    fn by_any_bytes(noise: Vec<u8>, at: prop::sample::Index, more: Vec<u8>) {
        let built = archive();
        let index = open(&built.bytes).unwrap();
        let mut bytes = built.bytes.clone();
        let start = built.directory.start as usize;
        let at = start + at.index(bytes.len() - start);
        let length = noise.len().min(bytes.len() - at);
        bytes[at..at + length].copy_from_slice(&noise[..length]);
        bytes.extend(more);
        assert_same(&index, &bytes, &built);
    }

    #[test]
    fn by_any_bytes_anywhere(
        spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let built = archive();
        let index = open(&built.bytes).unwrap();
        let mut bytes = built.bytes.clone();
        for (at, byte) in spots {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for name in NAMES {
            let Some(id) = index.find(Window::from(&bytes), name).unwrap() else { continue };
            let original = place(&built, name).unwrap();
            if let Ok(data) = range(&index, &bytes, id, name) {
                // A changed length of the extra field may move it, but it stays behind its own header and
                // keeps its size.
                prop_assert_eq!(data.end - data.start, original.end - original.start);
                prop_assert!(data.end <= bytes.len() as u64);
                let own = original.start - 30 - if name == "ü" { 5 } else { name.len() as u64 + 4 };
                prop_assert!(data.start >= own + 30);
            }
        }
    }
}
