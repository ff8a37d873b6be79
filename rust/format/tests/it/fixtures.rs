//! The archives in `tests/data`, as Python's `zipfile` and `numpy` read them (`tests/data/README.md`).

use std::path::PathBuf;

use serde_json::Value;

use crate::archives::{names, open, range};
use crate::ranges;
use mmnpz_format::Window;
use mmnpz_format::error::Part;
use mmnpz_format::npy::header::{Header, MAX_HEADER_SIZE, Shape};
use mmnpz_format::npy::literal;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(folder().join(file)).unwrap()
}

/// What mmnpz must do: where it departs from `zipfile` on purpose, the entry says so, and why.
fn ours<'a>(entry: &'a Value, key: &str) -> &'a Value {
    entry["mmnpz"].get(key).unwrap_or(&entry[key])
}

#[test]
fn every_archive_has_an_expectation() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file.rsplit('.').next() == Some("npz"))
        .collect();
    files.sort();
    assert_eq!(files, expected().keys().cloned().collect::<Vec<_>>());
    assert!(files.len() > 30);
}

#[test]
fn archives_show_the_names_that_zipfile_shows() {
    for (file, entry) in expected() {
        let bytes = read(&file);
        match (open(&bytes), ours(&entry, "error").as_str()) {
            (Ok(index), None) => {
                let expected: Vec<&str> = ours(&entry, "names")
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|name| name.as_str().unwrap())
                    .collect();
                assert_eq!(names(&index, &bytes), expected, "{file}");
            }
            (Err(error), Some("BadZipFile")) => {
                assert_eq!(error.kind.part(), Part::Archive, "{file}: {error}");
            }
            (found, expected) => panic!("{file}: expected {expected:?}, found {found:?}"),
        }
    }
}

#[test]
fn archives_are_the_same_if_their_ranges_have_to_be_fetched() {
    for file in expected().keys() {
        ranges::assert_same(&read(file));
    }
}

#[test]
fn arrays_have_the_bytes_and_headers_that_numpy_reads() {
    for (file, entry) in expected() {
        let bytes = read(&file);
        let Some(arrays) = ours(&entry, "arrays").as_object() else { continue };
        let index = open(&bytes).unwrap();
        for (name, array) in arrays {
            let context = format!("{name:?} in {file}");
            if array["compressed"] == true {
                // This crate decompresses nothing.
                continue;
            }
            let id =
                index.find(Window::from(&bytes), name).unwrap().unwrap_or_else(|| panic!("no {context}"));
            let found = range(&index, &bytes, id, name);
            let refused_at = array["refused"].as_str();
            if refused_at == Some("zip") {
                assert!(found.is_err(), "{context}: {found:?}");
                continue;
            }
            let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
            let member = &bytes[found.start as usize..found.end as usize];
            assert_eq!(u64::from(crc32fast::hash(member)), array["crc"].as_u64().unwrap(), "{context}");
            let header = Header::parse(member, MAX_HEADER_SIZE);
            if refused_at == Some("header") {
                assert!(header.is_err(), "{context}: {header:?}");
                continue;
            }
            let (header, start) = header.unwrap_or_else(|error| panic!("{context}: {error}"));
            let shape: Vec<u64> =
                array["shape"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
            assert_eq!(header.shape, Shape(shape), "{context}");
            assert_eq!(header.fortran_order, array["fortran_order"].as_bool().unwrap(), "{context}");
            assert_eq!(
                literal::to_string(&header.descr).unwrap(),
                array["descr"].as_str().unwrap(),
                "{context}"
            );
            let stored = (member.len() - start) as u64;
            let fits = header.data_len(array["itemsize"].as_u64().unwrap(), stored).is_ok();
            assert_eq!(fits, refused_at != Some("array"), "{context}");
        }
    }
}
