//! Archives read by two oracles: the `rawzip` crate, and a lookup so simple that it can only be right.

use std::ops::Range;

use proptest::prelude::*;
use rawzip::{CompressionMethod, ZipArchive};

use crate::archives::{
    Archive, Built, Member, UTF8, Zip64, Zip64End, contents, extra, names, open, range, two, zip64_extra,
};
use crate::ranges;
use mmnpz_format::Window;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::write::directory_writer::{DirectoryWriter, OldDirectory};
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

/// What a reader sees: the members in the order of the directory.
type Seen = Vec<(Vec<u8>, CompressionMethod, Range<u64>)>;

/// The archive as `rawzip` reads it.
fn by_rawzip(bytes: &[u8]) -> Result<Seen, rawzip::Error> {
    let archive = ZipArchive::from_slice(bytes)?;
    let mut seen = Vec::new();
    for entry in archive.entries() {
        let entry = entry?;
        let (start, end) = archive.get_entry(entry.wayfinder())?.compressed_data_range();
        seen.push((entry.file_path().as_bytes().to_vec(), entry.compression_method(), start..end));
    }
    Ok(seen)
}

/// The rules of the index in the fewest words: each member in turn replaces an earlier one of its name.
fn listed(seen: &Seen) -> Vec<(String, Range<u64>)> {
    let mut listed: Vec<(String, Range<u64>)> = Vec::new();
    for (raw, _, data) in seen {
        let Some(name) = std::str::from_utf8(raw).unwrap().strip_suffix(".npy") else { continue };
        match listed.iter_mut().find(|(other, _)| other == name) {
            Some((_, place)) => *place = data.clone(),
            None => listed.push((name.to_owned(), data.clone())),
        }
    }
    // A member of just this name counts more than an array that is listed by it.
    for (raw, _, data) in seen {
        let name = std::str::from_utf8(raw).unwrap();
        if name.strip_suffix(".npy").is_none()
            && let Some((_, place)) = listed.iter_mut().find(|(other, _)| other == name)
        {
            *place = data.clone();
        }
    }
    listed
}

/// Names from few letters, so that some come twice.
fn arbitrary_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abé]{0,2}\\.npy", 1 => "[ab]/\\PC{0,6}\\.npy", 1 => "[ab]{0,2}(\\.txt|/|\\.npy\\.gz|[ab])"]
        .prop_filter("names end at a NUL", |name| !name.contains('\0'))
}

fn arbitrary_member() -> impl Strategy<Value = Member> {
    let zip64 = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(uncompressed, compressed, offset)| Zip64 { uncompressed, compressed, offset });
    let extras = prop::collection::vec((2..u16::MAX, prop::collection::vec(any::<u8>(), 0..8)), 0..3);
    let parts = (
        arbitrary_name(),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        zip64,
        (extras.clone(), extras),
        (0..20usize, 0..20usize),
    );
    parts.prop_map(|(name, data, deflated, descriptor, zip64, (local, central), (gap, comment))| {
        let fields = |fields: &[(u16, Vec<u8>)]| {
            let fields: Vec<_> = fields.iter().map(|(id, value)| extra(*id, value)).collect();
            fields.concat()
        };
        let member = if deflated { Member::deflated(&name, &data) } else { Member::stored(&name, &data) };
        let member = if descriptor { member.with_descriptor() } else { member };
        let member = member.both(|header| header.flags |= if name.is_ascii() { 0 } else { UTF8 });
        member.with(|member| {
            member.gap = vec![0; gap];
            member.zip64 = zip64;
            member.local.extra = fields(&local);
            member.central.extra = fields(&central);
            member.comment = vec![b'c'; comment];
        })
    })
}

fn arbitrary_archive() -> impl Strategy<Value = Archive> {
    let members = prop::collection::vec(arbitrary_member(), 0..12);
    (members, any::<bool>(), "[a-z]{0,30}").prop_map(|(members, zip64, comment)| {
        Archive::of(members).with(|archive| {
            archive.comment = comment.into_bytes();
            // rawzip 0.5.2 does not see zip64 records at byte 0, where an archive without members has them.
            let zip64 = zip64 && !archive.members.is_empty();
            archive.end.zip64 = zip64.then(Zip64End::default);
        })
    })
}

/// What the builder put into the archive.
fn by_builder(archive: &Archive, built: &Built) -> Seen {
    let member = |(member, data): (&Member, &Range<u64>)| {
        let method =
            if member.central.method == 0 { CompressionMethod::STORE } else { CompressionMethod::DEFLATE };
        (member.central.name.clone(), method, data.clone())
    };
    archive.members.iter().zip(&built.data).map(member).collect()
}

/// A member to write: its name, the length of its data, and the power of its alignment.
fn arbitrary_request() -> impl Strategy<Value = (String, usize, u32)> {
    ("[abé]{0,3}|\\PC{0,9}", 0..300usize, 0..8u32)
        .prop_filter("names with a NUL are refused", |(name, ..)| !name.contains('\0'))
}

/// Appends these members, as the writer does, and then the directory.
fn append(
    mut bytes: Vec<u8>,
    writer: &mut DirectoryWriter,
    requests: &[(String, usize, u32)],
) -> (Vec<u8>, Seen) {
    let mut seen = Vec::new();
    for (name, length, power) in requests {
        let stored = StoredName::new(name).unwrap();
        let alignment = Alignment::new(1 << power).unwrap();
        let at = bytes.len() as u64;
        let place = Placement::new(at, &stored, 0, *length as u64, alignment, at).unwrap();
        let data = vec![b'd'; *length];
        bytes.extend(place.local_header(&stored, MemberState::Finished, crc32fast::hash(&data)));
        assert_eq!(bytes.len() as u64, place.file);
        bytes.extend(&data);
        writer.push(&place, &stored, crc32fast::hash(&data), None);
        seen.push((format!("{name}.npy").into_bytes(), CompressionMethod::STORE, place.file..place.end));
    }
    let at = bytes.len() as u64;
    bytes.extend(&writer.records()[..]);
    bytes.extend(writer.end_records(at));
    (bytes, seen)
}

proptest! {
    #[test]
    fn what_we_write_others_read(requests in prop::collection::vec(arbitrary_request(), 0..10)) {
        let (bytes, written) = append(Vec::new(), &mut DirectoryWriter::default(), &requests);
        prop_assert_eq!(&by_rawzip(&bytes).unwrap(), &written);
        let archive = ZipArchive::from_slice(&bytes).unwrap();
        for entry in archive.entries() {
            // The verifying reader compares size and CRC.
            let entry = archive.get_entry(entry.unwrap().wayfinder()).unwrap();
            let mut reader = entry.verifying_reader(entry.data());
            // The padding is one field that reaches to the last byte.
            let mut fields = entry.local_header().extra_fields();
            prop_assert!(fields.by_ref().count() <= 1);
            prop_assert_eq!(fields.remaining_bytes(), b"");
            prop_assert!(std::io::copy(&mut reader, &mut std::io::sink()).is_ok());
        }
        let index = open(&bytes).unwrap();
        prop_assert_eq!(contents(&index, &bytes), listed(&written));
    }

    #[test]
    fn archives_of_others_are_read_as_others_read_them(archive in arbitrary_archive()) {
        let built = archive.build();
        let truth = by_builder(&archive, &built);
        prop_assert_eq!(&by_rawzip(&built.bytes).unwrap(), &truth, "the builder is right");
        let index = open(&built.bytes).unwrap();
        prop_assert_eq!(contents(&index, &built.bytes), listed(&truth));
    }

    #[test]
    fn lookups_find_what_a_scan_finds(archive in arbitrary_archive(), asked in "[abé]{0,2}|[ab]/.{0,2}") {
        let built = archive.build();
        let listed = listed(&by_builder(&archive, &built));
        let index = open(&built.bytes).unwrap();
        let expected = listed.iter().find(|(name, _)| *name == asked).map(|(_, data)| data.clone());
        let found = index.find(Window::from(&built.bytes), &asked).unwrap();
        prop_assert_eq!(index.contains(Window::from(&built.bytes), &asked).unwrap(), expected.is_some());
        prop_assert_eq!(found.map(|id| range(&index, &built.bytes, id, &asked).unwrap()), expected);
    }

    #[test]
    fn archives_of_others_are_appended_to(
        archive in arbitrary_archive(),
        junk in prop_oneof![Just(0), 1..100usize],
        requests in prop::collection::vec(arbitrary_request(), 0..5),
    ) {
        let archive = archive.with(|archive| archive.junk = vec![b'j'; junk]);
        let built = archive.build();
        let directory = DirectoryLocation::locate(Window::from(&built.bytes)).unwrap();
        let cut = |range: &Range<u64>| built.bytes[range.start as usize..range.end as usize].to_vec();
        let comment = cut(&directory.comment);
        let old = OldDirectory {
            records: &cut(&directory.range),
            comment: &comment,
            prefix_len: directory.prefix_len,
            sound: None,
            index: None,
            has_none: false,
        };
        let mut writer = DirectoryWriter::resume(&old, &[]).unwrap();
        let mut seen = by_builder(&archive, &built);
        for (name, ..) in &requests {
            let file = format!("{name}.npy").into_bytes();
            let known = seen.iter().any(|(other, ..)| *other == file);
            prop_assert_eq!(writer.contains(&StoredName::new(name).unwrap()), known, "{}", name);
        }
        let old = built.bytes[..directory.range.start as usize].to_vec();
        let (bytes, added) = append(old, &mut writer, &requests);
        seen.extend(added);
        prop_assert_eq!(writer.count(), seen.len() as u64);
        let index = open(&bytes).unwrap();
        prop_assert_eq!(contents(&index, &bytes), listed(&seen));
        let directory = DirectoryLocation::locate(Window::from(&bytes)).unwrap();
        prop_assert_eq!(&bytes[directory.comment.start as usize..], &comment);
        prop_assert_eq!(directory.prefix_len, junk as i64);
        if junk == 0 {
            prop_assert_eq!(by_rawzip(&bytes).unwrap(), seen);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        check_bounds(&bytes)?;
        check_bounds(&[&bytes[..], b"PK\x05\x06", &bytes].concat())?;
    }

    #[test]
    fn spoilt_archives_are_read_or_refused(
        archive in arbitrary_archive(),
        spots in prop::collection::vec((any::<prop::sample::Index>(), any_byte()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = archive.build().bytes;
        for (at, byte) in spots {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check_bounds(&bytes)?;
    }

    #[test]
    fn hostile_numbers_are_read_or_refused(
        numbers in prop::collection::vec(any_number(), 3),
        end in (any_number(), any_number(), any_number()),
        name_len in any::<u16>(),
    ) {
        let mut built = two().with(|archive| {
            let member = &mut archive.members[1];
            (member.central.uncompressed, member.central.compressed) = (u32::MAX, u32::MAX);
            member.offset = Some(u32::MAX);
            member.central.extra = zip64_extra(&numbers);
        }).build();
        let at = built.locals[0] as usize + 26;
        built.bytes[at..at + 2].copy_from_slice(&name_len.to_le_bytes());
        check_bounds(&built.bytes)?;
        let zip64 = Zip64End { size: Some(end.0), offset: Some(end.1), end_offset: Some(end.2), ..Zip64End::default() };
        check_bounds(&two().with(|archive| archive.end.zip64 = Some(zip64)).build().bytes)?;
    }
}

/// Bytes that occur in archives more often than others.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(&b"\x00\x01\x05\x06\x07\xff\xfePK"[..])]
}

/// Numbers close to where sums overflow.
fn any_number() -> impl Strategy<Value = u64> {
    let edges = [0, 1 << 16, 1 << 32, 1 << 40, (1 << 48) - 1, 1 << 48, 1 << 63, u64::MAX];
    (prop::sample::select(edges.to_vec()), -100..200i64)
        .prop_map(|(edge, by): (u64, i64)| edge.wrapping_add_signed(by))
}

/// Checks what must hold for any bytes: an error, or members inside the file and memory in proportion to it.
fn check_bounds(bytes: &[u8]) -> Result<(), TestCaseError> {
    ranges::assert_same(bytes);
    let Ok(index) = open(bytes) else { return Ok(()) };
    prop_assert!(index.memory() <= bytes.len() + 64, "{} for {} bytes", index.memory(), bytes.len());
    prop_assert!(index.len() <= bytes.len() / 46);
    for (id, name) in index.ids().zip(names(&index, bytes)) {
        prop_assert_eq!(
            index.find(Window::from(bytes), &name).unwrap(),
            Some(id),
            "each name is that of one member"
        );
        prop_assert!(index.contains(Window::from(bytes), &name).unwrap());
        if let Ok(data) = range(&index, bytes, id, &name) {
            prop_assert!(data.start <= data.end && data.end <= bytes.len() as u64);
            // The local header ends with the name and the extra field, and the data starts there.
            let has_header = bytes[..data.start as usize].windows(4).any(|window| window == b"PK\x03\x04");
            prop_assert!(has_header && data.start >= 30);
        }
    }
    Ok(())
}
