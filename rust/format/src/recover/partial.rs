//! Streams that were not finished: how many whole rows there are, and how they become a member.

use crate::additions::checkpoint::{Checkpoint, Found, Grown};
use crate::error::{Missing, Result};
use crate::npy::header;
use crate::window::Window;
use crate::zip::name::{EXTENSION, StoredName};
use crate::zip::records::{LocalHeader, Record};

/// The header of an `.npy` file is at most this long here.
const MAX_HEADER: usize = 1 << 20;

/// A stream that was not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Where its local header is.
    pub header: u64,
    /// Where its `.npy` file starts.
    pub file: u64,
    /// Where its rows start.
    pub data: u64,
    /// Its name.
    pub name: StoredName,
    /// How many bytes a row has.
    pub row: u64,
    /// What was in the file, the most first.
    pub checkpoints: Vec<Checkpoint>,
    /// Its `.npy` header for no rows.
    npy: Vec<u8>,
}

impl Partial {
    /// The stream whose local header is at `at`, if there is one.
    ///
    /// # Errors
    /// If the bytes of its headers were not fetched.
    pub fn read(window: Window<'_>, at: u64) -> Result<Option<Self>, Missing> {
        let here = window.until_hole(at);
        let Some(found) = LocalHeader::find(here, at)? else { return Ok(None) };
        let name_start = at + LocalHeader::SIZE as u64;
        let name_end = name_start + u64::from(found.name_len.get());
        let file = name_end + u64::from(found.extra_len.get());
        let (Some(raw), Some(extra)) = (here.get(name_start..name_end)?, here.get(name_end..file)?) else {
            return Ok(None);
        };
        let name = raw.strip_suffix(EXTENSION.as_bytes()).and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) = name.and_then(|name| StoredName::new(name).ok()) else { return Ok(None) };
        let Some(found) = Found::at_end_of(extra) else { return Ok(None) };
        let npy = if found.npy.is_empty() {
            // It may have been about to be finished.
            header::bytes_at(here, file, MAX_HEADER)?.and_then(|npy| header::with_rows(npy, 0))
        } else {
            Some(found.npy.to_vec())
        };
        let Some(npy) = npy else { return Ok(None) };
        let (row, data) = (found.row, file + npy.len() as u64);
        let member = Grown { header: at, name: raw, row, npy: crc32fast::hash(&npy) };
        let checkpoints = found.checkpoints(member);
        Ok((row > 0 && !checkpoints.is_empty()).then_some(Partial {
            header: at,
            file,
            data,
            name,
            row,
            checkpoints,
            npy,
        }))
    }

    /// The `.npy` header for this many rows, of the length that it has.
    pub fn npy_header(&self, rows: u64) -> Option<Vec<u8>> {
        header::with_rows(&self.npy, rows)
    }
}
