//! Which members an index lists, under which names, and where their bytes are.

use crate::archives::{
    Archive, Built, End, Member, SATURATED, UTF8, Zip64, Zip64End, contents, extra, names, open, range, two,
    zip64_extra,
};
use mmnpz_format::ErrorKind;
use mmnpz_format::Window;
use mmnpz_format::zip::central::Walk;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::records::Extent;

/// Checks that the index lists exactly these names, each with the bytes of the member of this number.
fn assert_shows(built: &Built, expected: &[(&str, usize)]) {
    let index = open(&built.bytes).unwrap();
    let expected: Vec<_> =
        expected.iter().map(|&(name, at)| (name.to_owned(), built.data[at].clone())).collect();
    assert_eq!(contents(&index, &built.bytes), expected);
    assert_eq!((index.len(), index.is_empty()), (expected.len(), expected.is_empty()));
}

#[test]
fn an_archive_without_members_is_empty() {
    let built = Archive::default().build();
    assert_eq!(built.bytes.len(), 22);
    assert_shows(&built, &[]);
}

#[test]
fn members_keep_the_order_of_the_directory() {
    // Neither the order of the names, nor that of a hash table.
    let order = ["m", "z", "a", "q", "b", "y", "c", "0", "", "folder/x"];
    let built = Archive::of(order.map(|name| Member::stored(format!("{name}.npy"), name.as_bytes()))).build();
    let expected: Vec<_> = order.iter().enumerate().map(|(at, &name)| (name, at)).collect();
    assert_shows(&built, &expected);
}

#[test]
fn the_directory_need_not_have_the_order_of_the_file() {
    let mut built = two().build();
    // Both records have the same length.
    let (first, second) = (built.records[0] as usize, built.records[1] as usize);
    let (head, tail) = built.bytes.split_at_mut(second);
    head[first..].swap_with_slice(&mut tail[..second - first]);
    assert_shows(&built, &[("b", 1), ("a", 0)]);
}

#[test]
fn only_arrays_are_listed() {
    let other = ["text.txt", "folder/", "x.npy.txt", "npy", ".NPY", "x.npy/", "xnpy", ""];
    let members = other.iter().map(|name| Member::stored(name, b"?"));
    let built = Archive::of(members.chain([Member::stored("a.npy", b"!")])).build();
    assert_shows(&built, &[("a", other.len())]);
    let index = open(&built.bytes).unwrap();
    for name in other {
        assert!(!index.contains(Window::from(&built.bytes), name).unwrap(), "{name}");
        assert_eq!(index.find(Window::from(&built.bytes), name).unwrap(), None, "{name}");
    }
}

#[test]
fn names_are_found_whole_and_without_their_extension_only() {
    let built = two().build();
    let index = open(&built.bytes).unwrap();
    for name in ["a.npy", "A", "", "aa", "a\0", "c", " a"] {
        assert_eq!(index.find(Window::from(&built.bytes), name).unwrap(), None, "{name:?}");
        assert!(!index.contains(Window::from(&built.bytes), name).unwrap(), "{name:?}");
    }
}

#[test]
fn the_last_of_several_members_with_one_name_wins() {
    // S is a stored, C a compressed member "a"; "b" stands between the first two.
    for kinds in ["S", "C", "SS", "CS", "SC", "CC", "SSS", "SSC", "CSC", "CCS"] {
        let last = if kinds.len() > 1 { kinds.len() } else { 0 };
        let expected = [("a", last), ("b", 1)];
        let member = |(at, kind)| {
            let data = format!("{at}");
            match kind {
                'S' => Member::stored("a.npy", data.as_bytes()),
                _ => Member::deflated("a.npy", data.as_bytes()),
            }
        };
        let mut members: Vec<_> = kinds.chars().enumerate().map(member).collect();
        members.insert(1, Member::stored("b.npy", b"b"));
        let built = Archive::of(members).build();
        assert_shows(&built, &expected);
        let index = open(&built.bytes).unwrap();
        assert!(index.contains(Window::from(&built.bytes), "a").unwrap(), "{kinds}");
        let found = index.find(Window::from(&built.bytes), "a").unwrap().unwrap();
        assert_eq!(index.get(found).unwrap().is_compressed(), kinds.ends_with('C'), "{kinds}");
    }
}

#[test]
fn a_name_comes_back_after_its_compressed_member() {
    // The last member must not get the entry that the compressed member removes.
    let kinds = [Member::stored, Member::deflated, Member::stored];
    let members = kinds.map(|member| member("a.npy", b"x"));
    assert_shows(&Archive::of(members).build(), &[("a", 2)]);
}

#[test]
fn names_of_later_members_do_not_shift_the_others() {
    let names: Vec<String> = (0..100).map(|number| format!("{number}")).collect();
    let stored = names.iter().map(|name| Member::stored(format!("{name}.npy"), name.as_bytes()));
    let later = (0..100).step_by(3).map(|at| Member::deflated(format!("{}.npy", names[at]), b"later"));
    let built = Archive::of(stored.chain(later)).build();
    let place = |at: usize| if at.is_multiple_of(3) { 100 + at / 3 } else { at };
    let expected: Vec<_> = names.iter().enumerate().map(|(at, name)| (&**name, place(at))).collect();
    assert_shows(&built, &expected);
}

#[test]
fn names_are_the_same_whatever_their_encoding() {
    // "ü" in code page 437 and in UTF-8: one name, so the last member counts.
    let cp437 = Member::stored(b"\x81.npy", b"cp437");
    let utf8 = Member::stored("ü.npy", b"utf-8").both(|header| header.flags = UTF8);
    assert_shows(&Archive::of([cp437.clone(), utf8.clone()]).build(), &[("ü", 1)]);
    assert_shows(&Archive::of([utf8, cp437]).build(), &[("ü", 1)]);
}

#[test]
fn names_without_the_flag_are_code_page_437_even_if_they_are_utf_8() {
    assert_shows(&Archive::of([Member::stored("ü.npy", b"x")]).build(), &[("├╝", 0)]);
}

#[test]
fn names_end_at_a_nul() {
    let built = Archive::of([
        Member::stored(b"a.npy\0.txt", b"1"),
        Member::stored(b"b.npy\0", b"2"),
        Member::stored(b"c.txt\0.npy", b"3"),
        Member::stored(b"\0.npy", b"4"),
        Member::stored(b"\x81.npy\0x", b"5"),
    ])
    .build();
    assert_shows(&built, &[("a", 0), ("b", 1), ("ü", 4)]);
}

#[test]
fn each_header_says_how_its_own_name_is_encoded() {
    // As `ZipFile.open` compares them: decoded, each by its own flag.
    let mixed = |central: (u16, &[u8]), local: (u16, &[u8])| {
        Archive::of([Member::stored("", b"x").with(|member| {
            (member.central.flags, member.central.name) = (central.0, central.1.to_vec());
            (member.local.flags, member.local.name) = (local.0, local.1.to_vec());
        })])
    };
    let (cp437, utf8) = ((0, &b"\x81.npy"[..]), (UTF8, "ü.npy".as_bytes()));
    assert_shows(&mixed(cp437, utf8).build(), &[("ü", 0)]);
    assert_shows(&mixed(utf8, cp437).build(), &[("ü", 0)]);
    // The same bytes with other flags are another name.
    for (central, local, name) in [(utf8, (0, utf8.1), "ü"), ((0, utf8.1), utf8, "├╝")] {
        let bytes = mixed(central, local).build().bytes;
        let index = open(&bytes).unwrap();
        let id = index.find(Window::from(&bytes), name).unwrap().unwrap();
        assert_eq!(range(&index, &bytes, id, name).unwrap_err().kind, ErrorKind::NamesDiffer, "{name}");
    }
}

#[test]
fn each_number_may_be_in_the_zip64_field() {
    for bits in 1..8 {
        let zip64 = Zip64 { uncompressed: bits & 1 > 0, compressed: bits & 2 > 0, offset: bits & 4 > 0 };
        for other in [vec![], extra(0xcafe, b"other field")] {
            let second = Member::stored("b.npy", b"second").with(|member| {
                member.zip64 = zip64;
                member.central.extra.clone_from(&other);
                member.local.extra = zip64_extra(&[6, 6]);
                (member.local.compressed, member.local.uncompressed) = (SATURATED, SATURATED);
            });
            let built = Archive::of([Member::stored("a.npy", b"first"), second]).build();
            assert_shows(&built, &[("a", 0), ("b", 1)]);
        }
    }
}

#[test]
fn zip64_numbers_stand_in_the_order_of_the_standard() {
    // The zip64 field does not have the order of the header, which has the compressed size first.
    let second = Member::stored("b.npy", b"").with(|member| {
        (member.central.uncompressed, member.central.compressed) = (50, 30);
        member.zip64 = Zip64 { uncompressed: true, compressed: true, offset: true };
    });
    let built = Archive::of([Member::stored("a.npy", b"first"), second]).build();
    let records = &built.bytes[built.directory.start as usize..built.directory.end as usize];
    let record = Walk::new(records).last().unwrap();
    let expected = Extent { uncompressed: 50, compressed: 30, local_offset: built.locals[1] };
    assert_eq!(Extent::read(record.header, record.extra), Ok(expected));
}

#[test]
fn no_size_makes_a_member_vanish() {
    // The largest number must not be taken for a mark, also where other members are removed.
    let largest = Member::stored("a.npy", b"x").with(|member| {
        (member.central.uncompressed, member.central.compressed) = (SATURATED, SATURATED);
        member.central.extra = zip64_extra(&[u64::MAX, u64::MAX]);
    });
    let removed = [Member::stored("b.npy", b"x"), Member::deflated("b.npy", b"x")];
    let bytes = Archive::of([largest].into_iter().chain(removed)).build().bytes;
    assert_eq!(names(&open(&bytes).unwrap(), &bytes), ["a", "b"]);
}

#[test]
fn a_zip64_field_nobody_asked_for_is_ignored() {
    let member = Member::stored("a.npy", b"x").with(|member| member.central.extra = zip64_extra(&[9, 9, 9]));
    assert_shows(&Archive::of([member]).build(), &[("a", 0)]);
}

#[test]
fn a_saturated_number_without_a_zip64_field_stands_for_itself() {
    let member = Member::stored("a.npy", b"12345").both(|header| header.uncompressed = SATURATED);
    assert_shows(&Archive::of([member]).build(), &[("a", 0)]);
}

#[test]
fn no_more_is_read_than_the_smaller_of_both_sizes() {
    for (compressed, uncompressed) in [(3, 5), (5, 3)] {
        let member = Member::stored("a.npy", b"12345").both(|header| {
            (header.compressed, header.uncompressed) = (compressed, uncompressed);
        });
        let built = Archive::of([member]).build();
        let index = open(&built.bytes).unwrap();
        let start = built.data[0].start;
        assert_eq!(contents(&index, &built.bytes), [("a".to_owned(), start..start + 3)]);
    }
}

#[test]
fn the_zip64_end_record_counts_where_there_is_one() {
    let saturated = End { zip64: Some(Zip64End::default()), ..End::default() };
    let wrong = End { size: Some(1), offset: Some(7), entries: Some(0), ..saturated.clone() };
    for end in [saturated, wrong] {
        for junk in [&b""[..], b"junk in front"] {
            let archive = two().with(|archive| (archive.end, archive.junk) = (end.clone(), junk.to_vec()));
            assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
        }
    }
}

#[test]
fn the_zip64_end_record_may_hold_further_data() {
    let zip64 = Zip64End { extensible: b"twenty-three more bytes".to_vec(), ..Zip64End::default() };
    let archive = two().with(|archive| archive.end.zip64 = Some(zip64));
    assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
}

#[test]
fn a_zip64_locator_that_leads_nowhere_is_passed_over() {
    // As for `zipfile`: the numbers of the end record itself then count.
    let mut built = two().with(|archive| archive.end.zip64 = Some(Zip64End::default())).build();
    let end = built.end as usize;
    let record = end - 20 - 56;
    built.bytes[record..record + 4].fill(0);
    // The directory now ends where the end record starts, so its size covers all bytes between.
    let size = (built.end - built.directory.start) as u32;
    built.bytes[end + 12..end + 16].copy_from_slice(&size.to_le_bytes());
    // The walk arrives at the spoilt record, which shows that it was taken for a part of the directory.
    let error = open(&built.bytes).unwrap_err();
    assert_eq!(error.offset, Some(built.directory.end));
}

#[test]
fn more_members_than_16_bits_count() {
    let count = 70_000;
    let members: Vec<_> = (0..count).map(|number| Member::stored(format!("{number}.npy"), b"")).collect();
    for zip64 in [None, Some(Zip64End::default())] {
        let built =
            Archive::of(members.iter().cloned()).with(|archive| archive.end.zip64 = zip64.clone()).build();
        let index = open(&built.bytes).unwrap();
        assert_eq!(index.len(), count);
        for number in [0, 65_534, 65_535, 65_536, count - 1] {
            let id = index.find(Window::from(&built.bytes), &number.to_string()).unwrap().unwrap();
            assert_eq!(id.0 as usize, number);
            assert_eq!(range(&index, &built.bytes, id, &number.to_string()).unwrap(), built.data[number]);
        }
        assert_eq!(index.find(Window::from(&built.bytes), &count.to_string()).unwrap(), None);
    }
}

#[test]
fn the_count_in_the_end_record_does_not_matter() {
    for entries in [0, 1, 3, u16::MAX] {
        let archive = two().with(|archive| archive.end.entries = Some(entries));
        assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
    }
    for entries in [0, u64::MAX] {
        let zip64 = Zip64End { entries: Some(entries), ..Zip64End::default() };
        let archive = two().with(|archive| archive.end.zip64 = Some(zip64));
        assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
    }
}

#[test]
fn a_comment_of_any_length_may_follow() {
    for length in [1, 21, 22, 65_535] {
        let archive = two().with(|archive| archive.comment = vec![b'c'; length]);
        let built = archive.build();
        assert_shows(&built, &[("a", 0), ("b", 1)]);
        let directory = DirectoryLocation::locate(Window::from(&built.bytes)).unwrap();
        assert_eq!(directory.comment, built.end + 22..built.bytes.len() as u64);
    }
}

#[test]
fn an_end_record_that_is_none_may_stand_in_the_comment() {
    let cut_short = b"see PK\x05\x06".to_vec();
    let outside = [b"PK\x05\x06", &[0xff; 18][..]].concat();
    let no_record = [b"PK\x05\x06", &[1; 18][..]].concat();
    for comment in [cut_short, outside.clone(), no_record, [outside.clone(), outside].concat()] {
        let archive = two().with(|archive| archive.comment = comment);
        assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
    }
}

#[test]
fn an_archive_in_the_comment_counts_as_in_zipfile() {
    let inner = Archive::of([Member::stored("inner.npy", b"x")]).build();
    let outer = two().with(|archive| archive.comment.clone_from(&inner.bytes)).build();
    let index = open(&outer.bytes).unwrap();
    assert_eq!(names(&index, &outer.bytes), ["inner"]);
}

#[test]
fn bytes_behind_the_archive_are_ignored() {
    let archive = two().with(|archive| archive.after = b"trailing bytes".to_vec());
    assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
}

#[test]
fn a_comment_said_to_be_longer_than_the_file_ends_with_it() {
    let built = two().with(|archive| archive.end.comment_len = Some(500)).build();
    assert_shows(&built, &[("a", 0), ("b", 1)]);
    let directory = DirectoryLocation::locate(Window::from(&built.bytes)).unwrap();
    assert_eq!(directory.comment.end, built.bytes.len() as u64);
}

#[test]
fn bytes_in_front_of_the_archive_shift_all_offsets() {
    for junk in [&b"#!/bin/sh\n"[..], b"PK\x03\x04 no header", &[0; 5000]] {
        let archive = two().with(|archive| archive.junk = junk.to_vec());
        let built = archive.build();
        assert_shows(&built, &[("a", 0), ("b", 1)]);
        let directory = DirectoryLocation::locate(Window::from(&built.bytes)).unwrap();
        assert_eq!(directory.prefix_len, junk.len() as i64);
        assert_eq!(directory.range, built.directory);
    }
}

#[test]
fn members_survive_the_loss_of_bytes_in_front() {
    // Then the offsets are too large, and the shift is negative.
    let gap = Member::stored("a.npy", b"first").with(|member| member.gap = vec![0; 100]);
    let built = Archive::of([gap, Member::stored("b.npy", b"second")]).build();
    let bytes = &built.bytes[60..];
    let index = open(bytes).unwrap();
    let moved = |at: usize| built.data[at].start - 60..built.data[at].end - 60;
    assert_eq!(contents(&index, bytes), [("a".to_owned(), moved(0)), ("b".to_owned(), moved(1))]);
}

#[test]
fn gaps_between_members_are_skipped() {
    let archive = two().with(|archive| {
        archive.members[0].gap = vec![0; 77];
        archive.members[1].gap = b"PK\x03\x04 not a member".to_vec();
        archive.members[1].after = b"and a gap in front of the directory".to_vec();
    });
    assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
}

#[test]
fn sizes_may_follow_the_data() {
    let members = [("a.npy", b"first"), ("b.npy", b"other")]
        .map(|(name, data)| Member::stored(name, data).with_descriptor());
    assert_shows(&Archive::of(members).build(), &[("a", 0), ("b", 1)]);
}

#[test]
fn extra_fields_and_comments_are_skipped() {
    let archive = two().with(|archive| {
        for member in &mut archive.members {
            member.local.extra = extra(0xa11e, &[0; 60]);
            member.central.extra = [extra(0x5455, b"\x03times"), extra(0xcafe, b"")].concat();
            member.comment = b"a comment with PK\x01\x02 inside".to_vec();
            (member.made_by, member.internal, member.external) = (u16::MAX, 1, 0o100_644 << 16);
        }
    });
    assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
}

#[test]
fn an_extra_field_cut_short_does_no_harm() {
    for bytes in [&b"\x01"[..], b"\xfe\xca\x40\x00rest", b"\x01\x00\x40\x00rest"] {
        let archive = two().with(|archive| archive.members[0].central.extra = bytes.to_vec());
        assert_shows(&archive.build(), &[("a", 0), ("b", 1)]);
    }
}

#[test]
fn two_members_may_share_their_bytes() {
    // No sensible archive, but each member lies inside the file and has its own header.
    let archive = two().with(|archive| {
        archive.members[1].central.name = b"a.npy".to_vec();
        archive.members[1].offset = Some(0);
        (archive.members[1].central.compressed, archive.members[1].central.uncompressed) = (5, 5);
    });
    assert_shows(&archive.build(), &[("a", 0)]);
}

#[test]
fn an_index_takes_no_more_memory_than_the_directory() {
    for (count, name) in [(1, "a"), (1000, "a"), (1000, "0123456789")] {
        let members = (0..count).map(|number| Member::stored(format!("{name}{number}.npy"), b""));
        let built = Archive::of(members).build();
        let directory = (built.directory.end - built.directory.start) as usize;
        let memory = open(&built.bytes).unwrap().memory();
        assert!((count * 24..=directory + 64).contains(&memory), "{memory} for {directory}");
    }
    // What tells how to decompress a member takes as much again.
    let members = (0..1000).map(|number| Member::deflated(format!("{number}.npy"), b""));
    let others = (0..1000).map(|number| Member::stored(format!("{number}.txt"), b""));
    let built = Archive::of(members.chain(others)).build();
    assert!((72_000..120_000).contains(&open(&built.bytes).unwrap().memory()));
}
