//! A file on a disk in memory, which remembers every write: for tests, with the feature `simulation`.
//!
//! A kill can leave a prefix of the writes, with the last write torn at a page. A power failure can leave, of
//! each block that was written since the last sync, the bytes of any moment since then.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::storage::{Contents, Storage};

/// The size of a sector of a disk: a power failure leaves all bytes of a sector as they were at one moment.
pub const SECTOR: u64 = 512;

/// The size of a page of the page cache: a kill leaves all bytes that one write puts into a page, or none.
pub const PAGE: u64 = 4096;

/// One operation on the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A write of bytes at a place.
    Write(u64, Vec<u8>),
    /// A sync: all writes before it are on the disk.
    Sync,
}

/// A file on a disk in memory.
#[derive(Debug, Default)]
pub struct SimulatedDisk {
    before: Vec<u8>,
    /// Whether there was no power failure since the file was last written.
    is_trusted: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// How many more bytes can be written before writes fail. None if they do not fail.
    left: Option<u64>,
}

impl SimulatedDisk {
    /// A file with these bytes, all of them on the disk.
    pub fn new(bytes: Vec<u8>) -> Self {
        let state = State { bytes: bytes.clone(), ..State::default() };
        SimulatedDisk { before: bytes, is_trusted: false, state: Arc::new(Mutex::new(state)) }
    }

    /// A file with these bytes, which was written since the system was started: there was no power failure
    /// since.
    pub fn trusted(bytes: Vec<u8>) -> Self {
        SimulatedDisk { is_trusted: true, ..Self::new(bytes) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// The number of events so far.
    pub fn now(&self) -> usize {
        self.state().events.len()
    }

    /// The number of writes so far.
    pub fn writes(&self) -> usize {
        self.state().events.iter().filter(|event| matches!(event, Event::Write(..))).count()
    }

    /// Has writes fail once `left` more bytes were written. With None, no write fails.
    pub fn fail_after(&self, left: Option<u64>) {
        self.state().left = left;
    }

    /// All events, to try what a kill or a power failure would have left.
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
        Ok(Contents { bytes: Arc::new(Live::of(&self.state)), holes: Vec::new() })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of the file, which show later writes as a map does, each time that they are asked for: each
/// answer stays here as it was.
struct Live {
    state: Arc<Mutex<State>>,
    /// How many events there were.
    events: usize,
    bytes: Vec<u8>,
    later: OnceLock<Box<Live>>,
}

impl Live {
    fn of(state: &Arc<Mutex<State>>) -> Self {
        let now = lock(state);
        let (events, bytes) = (now.events.len(), now.bytes.clone());
        Live { state: Arc::clone(state), events, bytes, later: OnceLock::new() }
    }
}

impl AsRef<[u8]> for Live {
    fn as_ref(&self) -> &[u8] {
        let mut last = self;
        while let Some(later) = last.later.get() {
            last = later;
        }
        if last.events < lock(&self.state).events.len() {
            last = last.later.get_or_init(|| Box::new(Live::of(&self.state)));
        }
        &last.bytes
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

/// All events of a file.
#[derive(Debug)]
pub struct History {
    before: Vec<u8>,
    events: Vec<Event>,
}

impl History {
    /// All events, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Calls `each` with the bytes that a kill can leave, and with the number of events before it. A kill
    /// comes between two events, or inside a write, at up to `most` boundaries of pages of `page` bytes.
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

    /// The bytes that a power failure can leave after this many events. For each block of `block` bytes that
    /// was written since the last sync, `choose` gets the number of its states, and returns the number of
    /// one: 0 is the state at the sync.
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
        // The file can have its new length without the new bytes.
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

    /// How many of the first `events` events a sync has put on the disk.
    pub fn synced(&self, events: usize) -> usize {
        let last = self.events[..events].iter().rposition(|event| *event == Event::Sync);
        last.map_or(0, |last| last + 1)
    }
}

/// Where a write of this many bytes can be torn: the numbers of bytes that can be there.
fn boundaries(at: u64, len: usize, page: u64) -> Vec<usize> {
    let pages = at / page + 1..(at + len as u64).div_ceil(page);
    pages.map(|number| (number * page - at) as usize).collect()
}
