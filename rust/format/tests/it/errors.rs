//! Every kind of error, from the smallest input that has it.
//!
//! [`ErrorKind::TooManyMembers`] is missing: it takes a directory of 2**32 records, or 200 GB.

use crate::archives::{
    Archive, Member, SATURATED, UTF8, Zip64End, extra, first_range, open, two, zip64_extra,
};
use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind, Part};
use mmnpz_format::npy::header::{self, Header, MAX_HEADER_SIZE};
use mmnpz_format::read::walked_index::WalkedIndex;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::name::StoredName;

/// Checks an error's data, and that its text has all of it and these words.
#[track_caller]
fn assert_error(error: &Error, expected: &Error, part: Part, words: &[&str]) {
    assert_eq!(error, expected);
    assert_eq!(error.kind.part(), part);
    let text = error.to_string();
    let place = error.offset.map(|offset| format!("byte {offset} of the archive"));
    let member = error.member.as_deref().map(|member| format!("member {member:?}"));
    for word in words.iter().copied().chain(place.as_deref()).chain(member.as_deref()) {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!(!text.contains('\n'), "one line: {text:?}");
}

/// The 22 bytes of an end record with this size and offset of the directory.
fn end_record(size: u32, offset: u32) -> Vec<u8> {
    let mut end = b"PK\x05\x06".to_vec();
    end.extend([0; 8]);
    end.extend(size.to_le_bytes());
    end.extend(offset.to_le_bytes());
    end.extend([0; 2]);
    end
}

fn archive_error(bytes: &[u8]) -> Error {
    open(bytes).unwrap_err()
}

/// The error on reading the only member of an archive.
fn member_error(archive: &Archive) -> Error {
    let bytes = archive.build().bytes;
    let index = open(&bytes).unwrap();
    assert_eq!(index.len(), 1);
    first_range(&index, &bytes).unwrap_err()
}

fn header_error(bytes: &[u8]) -> Error {
    Header::parse(bytes, MAX_HEADER_SIZE).unwrap_err()
}

#[test]
fn no_end_record() {
    for (bytes, offset) in [
        (vec![], None),
        (vec![0; 100], None),
        (b"PK\x05\x06".to_vec(), Some(0)),
        (end_record(0, 0)[..21].to_vec(), Some(0)),
        ([end_record(0, 0), vec![0; 65_600]].concat(), None),
    ] {
        let expected = Error { kind: ErrorKind::NoEndRecord, member: None, offset };
        assert_error(&archive_error(&bytes), &expected, Part::Archive, &["not a zip archive"]);
    }
}

#[test]
fn single_npy() {
    assert_error(
        &archive_error(&header::MAGIC),
        &ErrorKind::SingleNpy.into(),
        Part::Archive,
        &["single .npy file", "not a zip archive"],
    );
    // Not if the file is an archive: any bytes may stand in front of one.
    assert!(open(&[&header::MAGIC[..], &end_record(0, 0)].concat()).is_ok());
}

#[test]
fn multi_disk() {
    for (disk, disks) in [(1, 1), (0, 2)] {
        let zip64 = Zip64End { locator_disk: disk, disks: Some(disks), ..Zip64End::default() };
        let bytes = Archive::default().with(|archive| archive.end.zip64 = Some(zip64)).build().bytes;
        // The locator and the end record alone are enough.
        let bytes = &bytes[bytes.len() - 42..];
        let expected = Error::at(ErrorKind::MultiDisk, 0);
        assert_error(&archive_error(bytes), &expected, Part::Archive, &["several disks"]);
    }
}

#[test]
fn directory_outside() {
    let expected = Error::at(ErrorKind::DirectoryOutside { size: 1, end: 0 }, 0);
    let words = ["central directory", "1 bytes", "record at byte 0"];
    assert_error(&archive_error(&end_record(1, 0)), &expected, Part::Archive, &words);
    // With zip64 records, the directory has to end in front of the zip64 end record.
    let zip64 = Zip64End { size: Some(1), ..Zip64End::default() };
    let bytes = Archive::default().with(|archive| archive.end.zip64 = Some(zip64)).build().bytes;
    let expected = Error::at(ErrorKind::DirectoryOutside { size: 1, end: 0 }, 76);
    assert_error(&archive_error(&bytes), &expected, Part::Archive, &words);
    // An offset that no signed prefix length can correct.
    let zip64 = Zip64End { offset: Some(u64::MAX), ..Zip64End::default() };
    let bytes = Archive::default().with(|archive| archive.end.zip64 = Some(zip64)).build().bytes;
    assert!(matches!(archive_error(&bytes).kind, ErrorKind::DirectoryOutside { .. }));
}

#[test]
fn directory_truncated() {
    let words = ["central directory", "cut short"];
    let bytes = [&[0][..], &end_record(1, 0)].concat();
    let expected = Error::at(ErrorKind::DirectoryTruncated, 0);
    assert_error(&archive_error(&bytes), &expected, Part::Archive, &words);
    // Each variable part of the last record may run past the end by a byte.
    let built = two().build();
    for field in [28, 30, 32] {
        let mut bytes = built.bytes.clone();
        bytes[built.records[1] as usize + field] += 1;
        let expected = Error::at(ErrorKind::DirectoryTruncated, built.records[1]);
        assert_error(&archive_error(&bytes), &expected, Part::Archive, &words);
    }
    // A directory that ends inside a record's fixed part.
    let mut bytes = built.bytes.clone();
    bytes.drain(built.records[1] as usize + 45..built.directory.end as usize);
    let end = bytes.len() - 22;
    let size = (built.records[1] + 45 - built.records[0]) as u8;
    bytes[end + 12] = size;
    let expected = Error::at(ErrorKind::DirectoryTruncated, built.records[1]);
    assert_error(&archive_error(&bytes), &expected, Part::Archive, &words);
}

#[test]
fn directory_changed_under_the_reader() {
    // The file was cut between the two steps.
    let built = two().build();
    let directory = DirectoryLocation::locate(Window::from(&built.bytes)).unwrap();
    let short = &built.bytes[..built.directory.end as usize - 1];
    let error = WalkedIndex::build(Window::from(short), directory, || true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::DirectoryTruncated);
}

#[test]
fn signature() {
    let built = two().build();
    for at in &built.records {
        let mut bytes = built.bytes.clone();
        bytes[*at as usize + 3] = 9;
        let found = [b'P', b'K', 1, 9];
        let expected = Error::at(ErrorKind::Signature { record: "central directory header", found }, *at);
        let words = ["central directory header", "[50, 4b, 01, 09]"];
        assert_error(&archive_error(&bytes), &expected, Part::Archive, &words);
    }
    let archive = Archive::of([Member::stored("a.npy", b"x")]);
    let mut bytes = archive.build().bytes;
    bytes[0] = b'Q';
    let index = open(&bytes).unwrap();
    let error = first_range(&index, &bytes).unwrap_err();
    let found = [b'Q', b'K', 3, 4];
    let expected = Error { member: error.member.clone(), ..Error::at(signature_of_local(found), 0) };
    assert_error(&error, &expected, Part::Archive, &["local file header", "[51, 4b, 03, 04]"]);
}

fn signature_of_local(found: [u8; 4]) -> ErrorKind {
    ErrorKind::Signature { record: "local file header", found }
}

#[test]
fn zip64_missing() {
    type Change = fn(&mut Member);
    let member = Member::stored("a.npy", b"x");
    let changes: [(&str, Change); 3] = [
        ("uncompressed size", |member| member.central.uncompressed = SATURATED),
        ("compressed size", |member| member.central.compressed = SATURATED),
        ("local header offset", |member| member.offset = Some(SATURATED)),
    ];
    for (field, change) in changes {
        let spoilt = member.clone().with(change).with(|member| {
            // A field with seven of the eight bytes.
            member.central.extra = extra(1, &[0; 7]);
        });
        let built = Archive::of([spoilt]).build();
        let kind = ErrorKind::Zip64Missing { field };
        // Without the extension, as `Error::member` promises.
        let expected = Error::at(kind, built.records[0]).in_member("a");
        assert_error(&archive_error(&built.bytes), &expected, Part::Archive, &["zip64 extra field", field]);
    }
}

#[test]
fn zip64_missing_behind_others() {
    // Three numbers asked for, two there: the third is missing.
    let member = Member::stored("a.npy", b"x").with(|member| {
        (member.central.uncompressed, member.central.compressed) = (SATURATED, SATURATED);
        member.offset = Some(SATURATED);
        member.central.extra = zip64_extra(&[1, 1]);
    });
    let error = archive_error(&Archive::of([member]).build().bytes);
    assert_eq!(error.kind, ErrorKind::Zip64Missing { field: "local header offset" });
}

#[test]
fn name_encoding() {
    let built = Archive::of([Member::stored(b"\xff.npy", b"x").both(|header| header.flags = UTF8)]).build();
    let error = archive_error(&built.bytes);
    let expected = Error::at(ErrorKind::NameEncoding, built.records[0]).in_member("\u{fffd}");
    assert_error(&error, &expected, Part::Archive, &["name", "UTF-8"]);
}

#[test]
fn local_outside() {
    let words = ["local header", "outside the file"];
    // The offset is past the end, then just so far in front of it that the header does not fit.
    let member = Member::stored("a.npy", b"x");
    let length = Archive::of([member.clone()]).build().bytes.len() as u64;
    for (offset, seen_at) in
        [(SATURATED - 1, None), (length as u32, None), (length as u32 - 29, Some(length - 29))]
    {
        let spoilt = member.clone().with(|member| member.offset = Some(offset));
        let error = member_error(&Archive::of([spoilt]));
        let expected = Error { kind: ErrorKind::LocalOutside, member: error.member.clone(), offset: seen_at };
        assert_error(&error, &expected, Part::Archive, &words);
    }
}

#[test]
fn local_in_front_of_the_file() {
    // The archive lost its first bytes, and so its first member.
    let bytes = Archive::of([Member::stored("a.npy", b"x")]).build().bytes.split_off(1);
    let index = open(&bytes).unwrap();
    let error = first_range(&index, &bytes).unwrap_err();
    assert_eq!(error.kind, ErrorKind::LocalOutside);
}

#[test]
fn local_beyond_what_an_offset_can_be() {
    // The index keeps 48 bits. A larger offset must not become a place inside the file.
    for offset in [1 << 48, (1 << 48) - 1, 1 << 63, u64::MAX, u64::MAX - 5] {
        let member = Member::stored("a.npy", b"x").with(|member| {
            member.offset = Some(SATURATED);
            member.central.extra = zip64_extra(&[offset]);
        });
        assert_eq!(member_error(&Archive::of([member])).kind, ErrorKind::LocalOutside, "{offset:x}");
    }
}

#[test]
fn names_differ() {
    for local in [&b"b.npy"[..], b"a.np", b"a.npy2", b"A.npy", b"", b"a.txt"] {
        let member = Member::stored("a.npy", b"x").with(|member| member.local.name = local.to_vec());
        let archive = Archive::of([member]).with(|archive| archive.junk = vec![0; 7]);
        let error = member_error(&archive);
        let expected = Error { member: error.member.clone(), ..Error::at(ErrorKind::NamesDiffer, 7) };
        assert_error(&error, &expected, Part::Archive, &["names", "central directory", "local header"]);
    }
}

#[test]
fn data_outside() {
    let member = Member::stored("a.npy", b"x");
    let archive = Archive::of([member.clone()]);
    let built = archive.build();
    // A member may reach to the end of the file, and not a byte further.
    let room = built.bytes.len() as u64 - built.data[0].start;
    for (size, fits) in [(room, true), (room + 1, false)] {
        let sized = member.clone().both(|header| {
            (header.compressed, header.uncompressed) = (size as u32, size as u32);
        });
        let archive = Archive::of([sized]);
        if fits {
            let bytes = archive.build().bytes;
            let index = open(&bytes).unwrap();
            let data = first_range(&index, &bytes).unwrap();
            assert_eq!(data, built.data[0].start..bytes.len() as u64);
        } else {
            let error = member_error(&archive);
            let expected = Error::at(ErrorKind::DataOutside { size }, built.data[0].start);
            let expected = Error { member: error.member.clone(), ..expected };
            let words = [&*format!("{size} bytes"), "past the end of the file"];
            assert_error(&error, &expected, Part::Archive, &words);
        }
    }
}

#[test]
fn data_outside_by_sizes_that_overflow() {
    for size in [u64::MAX, u64::MAX - 1, 1 << 63, u64::MAX - 35] {
        let member = Member::stored("a.npy", b"x").with(|member| {
            (member.central.uncompressed, member.central.compressed) = (SATURATED, SATURATED);
            member.central.extra = zip64_extra(&[size, size]);
        });
        let kind = member_error(&Archive::of([member])).kind;
        assert!(matches!(kind, ErrorKind::DataOutside { size: found } if found >= u64::MAX >> 2), "{kind}");
    }
}

#[test]
fn data_outside_by_the_length_of_the_local_header() {
    for spoil in [26, 28] {
        let mut built = Archive::of([Member::stored("a.npy", b"")]).build();
        let cut = built.locals[0] as usize + spoil;
        built.bytes[cut..cut + 2].fill(0xff);
        let index = open(&built.bytes).unwrap();
        let error = first_range(&index, &built.bytes).unwrap_err();
        assert_eq!(error.kind.part(), Part::Archive);
    }
}

#[test]
fn patched() {
    let error =
        member_error(&Archive::of([Member::stored("a.npy", b"x").both(|header| header.flags = 1 << 5)]));
    let expected = Error { kind: ErrorKind::Patched, ..error.clone() };
    assert_error(&error, &expected, Part::Archive, &["patched data", "bit 5"]);
}

#[test]
fn encrypted() {
    for bit in [0, 6] {
        let member = Member::stored("a.npy", b"x").both(|header| header.flags = 1 << bit);
        let error = member_error(&Archive::of([member]));
        let expected = Error { kind: ErrorKind::Encrypted, ..error.clone() };
        assert_error(&error, &expected, Part::Member, &["encrypted"]);
    }
    // No other flag makes a member unreadable.
    let member = Member::stored("a.npy", b"x").both(|header| header.flags = !(1 | 1 << 5 | 1 << 6));
    let bytes = Archive::of([member]).build().bytes;
    let index = open(&bytes).unwrap();
    assert!(first_range(&index, &bytes).is_ok());
}

#[test]
fn npy_truncated() {
    let expected = ErrorKind::NpyTruncated { needed: 8, found: 0 };
    let words = [".npy header", "8 bytes needed", "0 there"];
    assert_error(&header_error(b""), &expected.into(), Part::Member, &words);
    // A length that does not fit 32 bits must not wrap.
    let error = header_error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff");
    assert_eq!(error.kind, ErrorKind::NpyTruncated { needed: 12 + u64::from(u32::MAX), found: 12 });
}

#[test]
fn npy_magic() {
    let expected = ErrorKind::NpyMagic { found: *b"\x94NUMPY" };
    let words = ["not an .npy file", "[94, 4e, 55, 4d, 50, 59]"];
    assert_error(&header_error(b"\x94NUMPY\x01\x00"), &expected.into(), Part::Member, &words);
}

#[test]
fn npy_version() {
    for (major, minor) in [(0, 0), (4, 0), (1, 1), (255, 255)] {
        let error = header_error(&[&header::MAGIC[..], &[major, minor]].concat());
        let words = [&*format!("version {major}.{minor}"), "1.0, 2.0 and 3.0"];
        assert_error(&error, &ErrorKind::NpyVersion(major, minor).into(), Part::Member, &words);
    }
}

#[test]
fn npy_header_too_long() {
    let error = Header::parse(b"\x93NUMPY\x01\x00\x01\x00{", 0).unwrap_err();
    let expected = ErrorKind::NpyHeaderTooLong { length: 1, limit: 0 };
    let words = ["1 characters", "max_header_size=0"];
    assert_error(&error, &expected.into(), Part::Member, &words);
}

#[test]
fn npy_encoding() {
    let error = header_error(b"\x93NUMPY\x03\x00\x01\x00\x00\x00\xff");
    assert_error(&error, &ErrorKind::NpyEncoding.into(), Part::Member, &["header", "UTF-8"]);
}

#[test]
fn npy_header() {
    let error = header_error(b"\x93NUMPY\x01\x00\x01\x00[");
    assert!(matches!(error.kind, ErrorKind::NpyHeader(_)), "{error}");
    assert_error(
        &error,
        &error.clone(),
        Part::Member,
        &["bad .npy header", "expected a dict at character 0"],
    );
}

#[test]
fn shape_mismatch() {
    let file = header::encode("'<f4'", false, &[1], true).unwrap();
    let (header, _) = Header::parse(&file, MAX_HEADER_SIZE).unwrap();
    let error = header.data_len(4, 3).unwrap_err();
    let expected = ErrorKind::ShapeMismatch { shape: "(1,)".to_owned(), itemsize: 4, stored: 3 };
    let words = ["shape (1,)", "items of 4 bytes", "3 bytes that are stored"];
    assert_error(&error, &expected.into(), Part::Member, &words);
}

#[test]
fn name_too_long() {
    let error = StoredName::new(&"é".repeat(32_766)).unwrap_err();
    let expected = ErrorKind::NameTooLong { length: 65_536 };
    assert_error(&error, &expected.into(), Part::Request, &["65535 bytes", "has 65536"]);
}

#[test]
fn name_with_nul() {
    let error = StoredName::new("\0").unwrap_err();
    assert_error(&error, &ErrorKind::NameWithNul.into(), Part::Request, &["NUL"]);
}

#[test]
fn alignment() {
    let error = Alignment::new(0).unwrap_err();
    let words = ["power of two", "1 to 32768", "got 0"];
    assert_error(&error, &ErrorKind::Alignment(0).into(), Part::Request, &words);
}

#[test]
fn too_large() {
    let (name, align) = (StoredName::new("a").unwrap(), Alignment::new(1).unwrap());
    // Local header and name take 35 bytes, from 4 GiB on the zip64 field takes 20, and the mark takes 8.
    let largest = i64::MAX as u64 - 55 - 8;
    assert_eq!(Placement::new(0, &name, 128, largest, align, 0).unwrap().end, i64::MAX as u64);
    let error = Placement::new(0, &name, 128, largest + 1, align, 0).unwrap_err();
    assert_error(&error, &ErrorKind::TooLarge.into(), Part::Request, &["larger than 2**63 bytes"]);
}

#[test]
fn interrupted() {
    let members = |count: usize| (0..count).map(|number| Member::stored(format!("{number}.npy"), b""));
    let bytes = Archive::of(members(1 << 16)).build().bytes;
    let directory = DirectoryLocation::locate(Window::from(&bytes)).unwrap();
    // Asked for the first time behind the last member, so that this one tells both.
    let error = WalkedIndex::build(Window::from(&bytes), directory, || false).unwrap_err();
    assert_error(&error, &ErrorKind::Interrupted.into(), Part::Interrupted, &["interrupted"]);
    // Later answers count, too.
    let bytes = Archive::of(members(2 << 16)).build().bytes;
    let directory = DirectoryLocation::locate(Window::from(&bytes)).unwrap();
    let mut asked = 0;
    let keep_going = || {
        asked += 1;
        asked < 2
    };
    let error = WalkedIndex::build(Window::from(&bytes), directory, keep_going).unwrap_err();
    assert_eq!((error.kind, asked), (ErrorKind::Interrupted, 2));
    let bytes = Archive::of(members(1000)).build().bytes;
    let directory = DirectoryLocation::locate(Window::from(&bytes)).unwrap();
    assert!(
        WalkedIndex::build(Window::from(&bytes), directory, || false).is_ok(),
        "few members are read without asking"
    );
}
