//! An append to any directory gives a directory that has the members of both.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use mmnpz_fuzz::{Plan, check, cut, listed};

use mmnpz_format::Window;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::write::directory_writer::{DirectoryWriter, OldDirectory};
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::central::Walk;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::{self, StoredName};

#[derive(Debug, Arbitrary)]
struct New {
    name: String,
    /// One of few names instead, so that the directory already has some of them.
    common: Option<bool>,
    data: u8,
    alignment: u8,
}

impl New {
    fn name(&self) -> &str {
        self.common.map_or(&self.name, |first| if first { "a" } else { "ü" })
    }
}

fn append(old: &[u8], directory: &DirectoryLocation, new: &[New]) {
    // A prefix length that takes offsets out of 63 bits does not occur in a file of a real size.
    if directory.prefix_len.unsigned_abs() > 1 << 62 {
        return;
    }
    let comment = cut(old, &directory.comment).to_vec();
    let records = cut(old, &directory.range).to_vec();
    let prefix_len = directory.prefix_len;
    let old_directory = OldDirectory {
        records: &records,
        comment: &comment,
        prefix_len,
        sound: None,
        index: None,
        has_none: false,
    };
    let resumed = DirectoryWriter::resume(&old_directory, &[]);
    // An append works on a directory that can be read, and on no other.
    let readable = WalkedIndex::build(Window::from(old), directory.clone(), || true).is_ok();
    assert_eq!(resumed.is_ok(), readable);
    let Ok(mut writer) = resumed else { return };
    let old_count = Walk::new(&records).count() as u64;
    assert_eq!(writer.count(), old_count);
    let mut bytes = old[..directory.range.start as usize].to_vec();
    let mut known: Vec<String> = Walk::new(&records)
        .filter_map(|record| name::decode(record.name, record.header.flags.get()).ok().map(String::from))
        .collect();
    let mut added = Vec::new();
    for new in new {
        let Ok(name) = StoredName::new(new.name()) else { continue };
        let file = format!("{}.npy", new.name());
        assert_eq!(writer.contains(&name), known.contains(&file), "{file:?}");
        let alignment = Alignment::new(1 << (new.alignment % 16)).unwrap();
        let at = bytes.len() as u64;
        let place = Placement::new(at, &name, 0, new.data.into(), alignment, at).unwrap();
        bytes.extend(place.local_header(&name, MemberState::Finished, 0));
        assert_eq!(bytes.len() as u64, place.file);
        bytes.resize(place.end as usize, b'd');
        writer.push(&place, &name, 0, None);
        added.push((new.name(), place.file..place.end));
        known.push(file);
    }
    let at = bytes.len() as u64;
    bytes.extend(&writer.records()[..]);
    bytes.extend(writer.end_records(at));
    assert_eq!(writer.count(), old_count + added.len() as u64);

    // A comment that holds an end record may be taken for one, before and after.
    if comment.windows(4).any(|window| window == b"PK\x05\x06") || added.is_empty() {
        return;
    }
    let found = DirectoryLocation::locate(Window::from(&bytes)).unwrap();
    assert_eq!(found.range, at..at + writer.records().len() as u64);
    assert_eq!(found.prefix_len, directory.prefix_len);
    assert_eq!(found.count, writer.count());
    assert_eq!(cut(&bytes, &found.comment), comment);
    let Some(before) = listed(&records, directory.prefix_len) else { return };
    let index = check(&bytes).expect("the old records were sound, and the new ones are ours");
    let old_names = before.iter().map(|member| &*member.name);
    for name in old_names.clone().chain(added.iter().map(|(name, _)| *name)) {
        assert!(index.contains(Window::from(&bytes), name).unwrap(), "{name:?} was lost");
    }
    let all: std::collections::BTreeSet<&str> =
        old_names.chain(added.iter().map(|(name, _)| *name)).collect();
    assert_eq!(index.len(), all.len(), "and there are no others");
    for (at, (name, data)) in added.iter().enumerate() {
        // A member of just this name counts more.
        let is_hidden = known.iter().any(|other| other == name && !other.ends_with(".npy"));
        if !is_hidden && added[at + 1..].iter().all(|(later, _)| later != name) {
            let id = index.find(Window::from(&bytes), name).unwrap().unwrap();
            assert_eq!(index.member(Window::from(&bytes), id, name).as_ref(), Ok(data), "{name:?}");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut source = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut source) else { return };
    let new: Vec<New> = (0..4).map_while(|_| New::arbitrary(&mut source).ok()).collect();
    for archive in [&plan.build(), data] {
        if let Ok(directory) = DirectoryLocation::locate(Window::from(archive)) {
            append(archive, &directory, &new);
        }
    }
    // The bytes themselves as a directory.
    let old = OldDirectory {
        records: data,
        comment: &[],
        prefix_len: 0,
        sound: None,
        index: None,
        has_none: false,
    };
    let _ = DirectoryWriter::resume(&old, &[])
        .map(|mut writer| StoredName::new("a").map(|name| writer.contains(&name)));
});
