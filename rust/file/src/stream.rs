//! An array that grows: its rows on their way to the file, and whose turn it is to add some.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crc32fast::Hasher;
use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::additions::checkpoint::Checkpoint;
use mmnpz_format::npy::header;
use mmnpz_format::write::placement::Placement;
use mmnpz_format::zip::name::StoredName;

use crate::failure::{Failure, KeepGoing, check};
use crate::items::Items;

/// Rows are collected, and written in blocks of an eighth of what the array has, within these bounds: many
/// short arrays take little memory, and a long one few system calls. A block stays in a core's cache, where a
/// copy of it and its checksum take a tenth of the time of the system call: to have another thread do that
/// call took longer.
const SMALLEST: u64 = 1 << 16;
const LARGEST: u64 = 1 << 18;

/// A thread that waits for its turn asks its caller whether to go on each time it has waited this long.
const PATIENCE: Duration = Duration::from_millis(50);

/// What an array that grows is.
#[derive(Debug)]
pub struct Rows {
    /// Its name.
    pub name: StoredName,
    /// Its dtype, as Python source.
    pub descr: String,
    /// The shape of a row.
    pub shape: Vec<u64>,
    /// How many bytes a row has.
    pub size: u64,
}

impl Rows {
    /// The shape of this many rows.
    fn shape_of(&self, rows: u64) -> Vec<u64> {
        std::iter::once(rows).chain(self.shape.iter().copied()).collect()
    }

    /// The `.npy` header of this many rows: of the same length for any number.
    pub(crate) fn header(&self, rows: u64) -> Result<Vec<u8>, Failure> {
        Ok(header::encode(&self.descr, false, &self.shape_of(rows), true)?)
    }

    /// What the directory says of this many rows, whose `.npy` header has this length.
    pub(crate) fn array_field(&self, rows: u64, header: usize) -> Option<ArrayField> {
        let shape = &self.shape_of(rows);
        ArrayField::new(&Described { descr: &self.descr, fortran_order: false, shape, header })
    }
}

/// An array that grows. Threads take turns.
#[derive(Debug)]
pub struct Stream {
    /// What it is.
    pub rows: Rows,
    /// The length of its `.npy` header, and its checksum for no rows.
    pub(crate) header_len: u64,
    pub(crate) npy: u32,
    count: AtomicU64,
    turn: Mutex<Turn>,
    freed: Condvar,
}

#[derive(Debug)]
struct Turn {
    /// None while a thread has it, and once the stream is closed.
    growth: Option<Box<Growth>>,
    /// The thread that has it.
    thread: Option<ThreadId>,
}

/// The rows that wait, and what is known of those in the file.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    pub(crate) place: Option<Placement>,
    /// The bytes that wait to be written.
    pub(crate) buffer: Vec<u8>,
    /// How many bytes are in the file, in front of those.
    pub(crate) start: u64,
    /// The checksum of all bytes, those that wait included.
    pub(crate) crc: Hasher,
    /// The checksum of the bytes in the file.
    pub(crate) written_crc: u32,
    /// What the last checkpoint says.
    pub(crate) noted: u64,
    /// While rows are added: how many bytes there were before, and their checksum. No checkpoint says more,
    /// as the others may be taken back.
    pub(crate) sure: Option<(u64, u32)>,
    /// How many checkpoints were written while it grew, and when it was flushed to the disk.
    pub(crate) checkpoints: u64,
    pub(crate) flushes: u64,
}

/// A moment to which an array that grows can go back.
pub(crate) struct Moment {
    bytes: u64,
    crc: Hasher,
}

impl Growth {
    /// How many bytes there are, those that wait included.
    pub(crate) fn total(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// How many bytes a block has now.
    pub(crate) fn block(&self) -> usize {
        (self.start / 8).clamp(SMALLEST, LARGEST) as usize
    }

    /// How many bytes can be added before a block is full.
    pub(crate) fn room(&self) -> usize {
        self.block().saturating_sub(self.buffer.len())
    }

    /// Adds the next bytes of an array to those that wait.
    pub(crate) fn collect(&mut self, items: &mut Items<'_>, count: usize) {
        if count == 0 {
            return;
        }
        let from = self.buffer.len();
        if self.buffer.capacity() < from + count {
            self.buffer.reserve_exact(count.max(self.room()));
        }
        items.read(count, &mut self.buffer);
        self.crc.update(&self.buffer[from..]);
    }

    /// Begins to add rows, all or none.
    pub(crate) fn begin(&mut self) -> Moment {
        let now = Moment { bytes: self.total(), crc: self.crc.clone() };
        self.sure = Some((now.bytes, now.crc.clone().finalize()));
        now
    }

    /// Forgets all bytes that were added since a moment. What of them is in the file is overwritten later.
    pub(crate) fn go_back_to(&mut self, moment: Moment) {
        self.crc = moment.crc;
        self.buffer.truncate(moment.bytes.saturating_sub(self.start) as usize);
        if self.start > moment.bytes {
            self.start = moment.bytes;
            self.written_crc = self.crc.clone().finalize();
        }
    }

    /// All that waits is in the file now.
    pub(crate) fn is_written(&mut self) {
        self.start = self.total();
        self.written_crc = self.crc.clone().finalize();
        self.buffer.clear();
    }

    /// More bytes with this checksum are in the file, while nothing waits.
    pub(crate) fn has_written(&mut self, bytes: u64, crc: &Hasher) {
        self.start += bytes;
        self.crc.combine(crc);
        self.written_crc = self.crc.clone().finalize();
    }

    /// What is in the file, and stays.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        match self.sure {
            Some((bytes, crc)) if self.start > bytes => Checkpoint { bytes, crc },
            _ => Checkpoint { bytes: self.start, crc: self.written_crc },
        }
    }
}

impl Stream {
    /// One without rows.
    ///
    /// # Errors
    /// If its `.npy` header would be too long.
    pub fn new(rows: Rows) -> Result<Self, Failure> {
        let header = rows.header(0)?;
        let (header_len, npy) = (header.len() as u64, crc32fast::hash(&header));
        let growth = Growth::default();
        let turn = Turn { growth: Some(Box::new(growth)), thread: None };
        Ok(Stream {
            rows,
            header_len,
            npy,
            count: AtomicU64::new(0),
            turn: Mutex::new(turn),
            freed: Condvar::new(),
        })
    }

    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether it is finished or given up.
    ///
    /// # Errors
    /// [`Failure::Poisoned`].
    pub fn is_over(&self) -> Result<bool, Failure> {
        let turn = self.lock()?;
        Ok(turn.growth.is_none() && turn.thread.is_none())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Turn>, Failure> {
        self.turn.lock().map_err(|_| Failure::Poisoned)
    }

    /// Takes the turn, for which this waits.
    ///
    /// # Errors
    /// [`Failure::Ended`] if the stream is closed, [`Failure::InUse`] in the middle of a turn of this thread,
    /// and [`Failure::Interrupted`].
    pub(crate) fn take(&self, keep_going: KeepGoing<'_>) -> Result<Box<Growth>, Failure> {
        let mut turn = self.lock()?;
        let this = thread::current().id();
        loop {
            if let Some(growth) = turn.growth.take() {
                turn.thread = Some(this);
                return Ok(growth);
            }
            match turn.thread {
                None => return Err(Failure::Ended),
                Some(thread) if thread == this => return Err(Failure::InUse),
                Some(_) => {}
            }
            turn = self.freed.wait_timeout(turn, PATIENCE).map_err(|_| Failure::Poisoned)?.0;
            if turn.growth.is_none() {
                drop(turn);
                check(keep_going)?;
                turn = self.lock()?;
            }
        }
    }

    /// Takes the turn if that can be at once.
    pub(crate) fn try_take(&self) -> Option<Box<Growth>> {
        let mut turn = self.turn.try_lock().ok()?;
        let growth = turn.growth.take()?;
        turn.thread = Some(thread::current().id());
        Some(growth)
    }

    /// Gives the turn back; None once the stream is over.
    pub(crate) fn give_back(&self, growth: Option<Box<Growth>>) -> Result<(), Failure> {
        let mut turn = self.lock()?;
        turn.growth = growth;
        turn.thread = None;
        drop(turn);
        self.freed.notify_all();
        Ok(())
    }

    /// Counts rows that were added, in a turn.
    pub(crate) fn add(&self, rows: u64) {
        self.count.fetch_add(rows, Ordering::Relaxed);
    }
}
