//! Any bytes as an archive in memory, for reading and as a copy that can be written to, and as a file that is
//! not mapped: all find the same members, and nothing is found outside of the bytes.
#![no_main]

use std::io::Write;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

use mmnpz_file::mapping::Mode;
use mmnpz_file::snapshot::{Snapshot, Source};
use mmnpz_file::{Failure, KeepGoing};
use mmnpz_format::npy::header::MAX_HEADER_SIZE;

/// Never asks to stop.
const GO_ON: KeepGoing<'static> = &|| true;

/// The name of each member, and where its array is, or what is wrong with it.
type Members = Vec<(String, Result<(u64, u64), String>)>;

fn members(data: &[u8], mode: Mode) -> Result<Members, String> {
    let source = if mode == Mode::Unmapped {
        let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a file");
        file.write_all(data).expect("room");
        Source::Open(file, None)
    } else {
        Source::Lent(Box::new(Box::<[u8]>::from(data)))
    };
    let snapshot = Snapshot::open(source, mode, PathBuf::from("memory"), None, GO_ON);
    let snapshot = snapshot.map_err(|failure| failure.to_string())?;
    assert_eq!(snapshot.map().is_writable(), mode == Mode::Copy);
    assert_eq!(snapshot.bytes(), if mode == Mode::Unmapped { &[] } else { data });
    let verify = || snapshot.verify(GO_ON);
    let all = snapshot
        .verified(&verify, |lookup, window| Ok(lookup.members(window)?.collect::<Result<Vec<_>, _>>()?));
    let all = all.map_err(|failure| failure.to_string())?;
    let place = |member, name: &str| -> Result<(u64, u64), Failure> {
        if snapshot.lookup().compressed(member).is_some() {
            let mut packed = snapshot.packed(member, name, &verify)?;
            let (_, data) = packed.header(MAX_HEADER_SIZE, GO_ON)?;
            return Ok((data as u64, packed.size()));
        }
        let located = snapshot.locate(member, name, MAX_HEADER_SIZE, &verify)?;
        assert!(located.offset + located.stored <= data.len() as u64);
        Ok((located.offset, located.stored))
    };
    Ok(all
        .iter()
        .map(|(member, name)| (name.clone(), place(member, name).map_err(|failure| failure.to_string())))
        .collect())
}

fuzz_target!(|data: &[u8]| {
    let found = members(data, Mode::Read);
    assert_eq!(found, members(data, Mode::Copy));
    assert_eq!(found, members(data, Mode::Unmapped));
});
