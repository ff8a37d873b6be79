//! A file on a disk in memory, which remembers every write: for tests, with the feature `simulation`.
//!
//! What a kill can leave is a prefix of the writes, the last of them torn at a page. What a power failure can
//! leave is, of each block that was written since the last sync, the bytes of any moment since.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{Contents, Storage};

/// The sector of a disk: a power failure leaves all of it as it was at one moment.
pub const SECTOR: u64 = 512;

/// A page of the page cache: a kill leaves all that one write puts into it, or nothing.
pub const PAGE: u64 = 4096;

/// What was done to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written at a place.
    Write(u64, Vec<u8>),
    /// All before it is on the disk.
    Sync,
}

/// A file on a disk in memory.
#[derive(Debug, Default)]
pub struct SimulatedDisk {
    before: Vec<u8>,
    /// No power failure has come since the file was written to.
    is_trusted: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// How many bytes can still be written before a write fails, if one is to fail.
    left: Option<u64>,
}

impl SimulatedDisk {
    /// A file with these bytes, all of them on the disk.
    pub fn new(bytes: Vec<u8>) -> Self {
        let state = State { bytes: bytes.clone(), ..State::default() };
        SimulatedDisk { before: bytes, is_trusted: false, state: Mutex::new(state) }
    }

    /// A file with these bytes that was written to since the system was started: no power failure has come.
    pub fn trusted(bytes: Vec<u8>) -> Self {
        SimulatedDisk { is_trusted: true, ..Self::new(bytes) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// How many events there were.
    pub fn now(&self) -> usize {
        self.state().events.len()
    }

    /// How many of them were writes.
    pub fn writes(&self) -> usize {
        self.state().events.iter().filter(|event| matches!(event, Event::Write(..))).count()
    }

    /// Lets writes fail once this many more bytes were written; none fails if there is no number.
    pub fn fail_after(&self, left: Option<u64>) {
        self.state().left = left;
    }

    /// All that was done to the file, to try what a kill or a power failure would have left.
    pub fn history(&self) -> History {
        History { before: self.before.clone(), events: self.state().events.clone() }
    }
}

impl Storage for &SimulatedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state();
        let written = &bytes[..bytes.len().min(state.left.map_or(usize::MAX, |left| left as usize))];
        state.left = state.left.map(|left| left - written.len() as u64);
        put(&mut state.bytes, written, at);
        state.events.push(Event::Write(at, written.to_vec()));
        if written.len() == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.state().events.push(Event::Sync);
        Ok(())
    }

    fn may_be_torn(&self) -> io::Result<bool> {
        Ok(!self.is_trusted)
    }

    fn contents(&self) -> io::Result<Contents> {
        Ok(Contents { bytes: Arc::new(self.bytes()), holes: Vec::new() })
    }
}

fn put(file: &mut Vec<u8>, bytes: &[u8], at: u64) {
    if bytes.is_empty() {
        return;
    }
    let range = at as usize..at as usize + bytes.len();
    file.resize(file.len().max(range.end), 0);
    file[range].copy_from_slice(bytes);
}

/// All that was done to a file.
#[derive(Debug)]
pub struct History {
    before: Vec<u8>,
    events: Vec<Event>,
}

impl History {
    /// All of it, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Calls `each` with what a kill can leave: after a number of events, which it is told of, and inside of
    /// a write, at its boundaries of pages of `page` bytes, up to `most` of them.
    pub fn kills(&self, page: u64, most: usize, mut each: impl FnMut(usize, &[u8])) {
        let mut bytes = self.before.clone();
        each(0, &bytes);
        for (number, event) in self.events.iter().enumerate() {
            let Event::Write(at, new) = event else { continue };
            let tears = boundaries(*at, new.len(), page);
            // The first ones, the last ones, and some between them.
            let step = tears.len().div_ceil(most.max(1)).max(1);
            for torn in tears.into_iter().step_by(step) {
                put(&mut bytes, &new[..torn], *at);
                each(number, &bytes);
            }
            put(&mut bytes, new, *at);
            each(number + 1, &bytes);
        }
    }

    /// What a power failure can leave after this many events. `choose` is asked for a number less than the
    /// one that it is given, for each sector or page of `block` bytes that was written since the last sync: 0
    /// is what was there then.
    pub fn power_failure(
        &self,
        events: usize,
        block: u64,
        mut choose: impl FnMut(usize) -> usize,
    ) -> Vec<u8> {
        let happened = &self.events[..events];
        let synced = self.synced(events);
        let mut bytes = self.before.clone();
        for event in &happened[..synced] {
            if let Event::Write(at, new) = event {
                put(&mut bytes, new, *at);
            }
        }
        let writes: Vec<_> = happened[synced..]
            .iter()
            .filter_map(|event| match event {
                Event::Write(at, new) if !new.is_empty() => Some((*at, new)),
                _ => None,
            })
            .collect();
        // The file can have got its new length without the bytes.
        let length = writes.iter().map(|(at, new)| *at as usize + new.len()).max().unwrap_or(0);
        bytes.resize(bytes.len().max(length), 0);
        let blocks = |at: u64, new: &[u8]| at / block..(at + new.len() as u64).div_ceil(block);
        let mut touched: Vec<u64> = writes.iter().flat_map(|(at, new)| blocks(*at, new)).collect();
        touched.sort_unstable();
        touched.dedup();
        for number in touched {
            let range = number * block..(number + 1) * block;
            let mine: Vec<_> = writes.iter().filter(|(at, new)| blocks(*at, new).contains(&number)).collect();
            for (at, new) in &mine[..choose(mine.len() + 1)] {
                let start = range.start.max(*at);
                let end = range.end.min(at + new.len() as u64);
                put(&mut bytes, &new[(start - at) as usize..(end - at) as usize], start);
            }
        }
        bytes
    }

    /// How many of the first `events` are on the disk, whatever happens.
    pub fn synced(&self, events: usize) -> usize {
        let last = self.events[..events].iter().rposition(|event| *event == Event::Sync);
        last.map_or(0, |last| last + 1)
    }
}

/// Where a write of this many bytes can be torn: how many bytes of it are there.
fn boundaries(at: u64, len: usize, page: u64) -> Vec<usize> {
    let pages = at / page + 1..(at + len as u64).div_ceil(page);
    pages.map(|number| (number * page - at) as usize).collect()
}
