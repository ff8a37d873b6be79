//! Work on a large member, block by block, with several threads: writing it, and taking its checksum.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crc32fast::Hasher;

use crate::copy_pool;
use crate::failure::{Failure, Progress};
use crate::fork;
use crate::items::Items;
use crate::pread;
use crate::storage::Storage;

/// Large members are copied, checksummed and written in blocks of this size, which stay in a core's cache.
/// With blocks of 512 KiB the two threads wait more for each other.
const BLOCK: u64 = 1 << 20;

/// The caller is told of progress every time it has done this many blocks.
const POLL_BLOCKS: usize = 16;

/// More threads than these read no faster.
const MOST_THREADS: usize = 8;

/// Writes an `.npy` file of this header and these items, which starts at byte `file`; returns its checksum.
///
/// A second thread takes every other block: while one copies and checksums, the other is in the system call,
/// so that the bytes which are stored are those that were checksummed, whatever happens to the array, and
/// writing still goes at the pace of the system call alone. If there is no free core, nothing is lost.
pub(crate) fn write(
    storage: &impl Storage,
    file: u64,
    header: &[u8],
    items: &Items<'_>,
    progress: Progress<'_>,
) -> Result<u32, Failure> {
    let header_len = header.len() as u64;
    let worker = || {
        let mut items = items.clone();
        let mut block = Vec::with_capacity(BLOCK as usize);
        move |part: Range<u64>, crc: &mut Hasher| {
            block.clear();
            let mut left = (part.end - part.start) as usize;
            let of_header = header.get(part.start as usize..).unwrap_or_default();
            block.extend_from_slice(&of_header[..of_header.len().min(left)]);
            left -= block.len();
            if left > 0 {
                items.seek(part.start + block.len() as u64 - header_len);
                items.read(left, &mut block);
            }
            crc.update(&block);
            Ok(storage.write_at(&block, file + part.start)?)
        }
    };
    Ok(in_blocks(header_len + items.len(), 2, worker, progress)?.finalize())
}

/// Writes these bytes of items at byte `at`, as [`write`] does; returns the state of their checksum.
pub(crate) fn write_part(
    storage: &impl Storage,
    at: u64,
    items: &Items<'_>,
    range: Range<u64>,
    progress: Progress<'_>,
) -> Result<Hasher, Failure> {
    let worker = || {
        let mut items = items.clone();
        let mut block = Vec::with_capacity(BLOCK as usize);
        move |part: Range<u64>, crc: &mut Hasher| {
            block.clear();
            items.seek(range.start + part.start);
            items.read((part.end - part.start) as usize, &mut block);
            crc.update(&block);
            Ok(storage.write_at(&block, at + part.start)?)
        }
    };
    in_blocks(range.end - range.start, 2, worker, progress)
}

/// The checksum of a range of a file, which is read with all processors.
pub(crate) fn checksum(file: &File, range: Range<u64>, progress: Progress<'_>) -> Result<u32, Failure> {
    let size = range.end - range.start;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let worker = || {
        let mut block = vec![0; BLOCK.min(size) as usize];
        move |part: Range<u64>, crc: &mut Hasher| {
            let block = &mut block[..(part.end - part.start) as usize];
            pread::read_exact_at(file, block, range.start + part.start)?;
            crc.update(block);
            Ok(())
        }
    };
    Ok(in_blocks(size, threads, worker, progress)?.finalize())
}

/// Has threads, this one among them, work on the blocks of `size` bytes, and returns the checksum of all.
/// Each thread makes a worker, which gets the range of each block that the thread takes, and puts the bytes
/// into the checksum of that block.
fn in_blocks<W>(
    size: u64,
    threads: usize,
    worker: impl Fn() -> W + Sync,
    progress: Progress<'_>,
) -> Result<Hasher, Failure>
where
    W: FnMut(Range<u64>, &mut Hasher) -> Result<(), Failure>,
{
    if !progress(0) {
        return Err(Failure::Interrupted);
    }
    let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let job = Job { size, next, done, stop };
    let forks = fork::generation();
    let others = Mutex::new(Vec::new());
    let help = |_| {
        let blocks = job.work(worker(), None);
        others.lock().unwrap_or_else(PoisonError::into_inner).push(blocks);
    };
    let helpers = usize::try_from(size.div_ceil(BLOCK)).unwrap_or(usize::MAX).min(threads).saturating_sub(1);
    let mine = copy_pool::together(helpers, &help, || job.work(worker(), Some(progress)));
    if forks != fork::generation() {
        // A child that a signal handler has forked off has no helpers, and what they did is not there.
        return Err(Failure::Forked);
    }
    let mut blocks = mine?;
    for other in others.into_inner().unwrap_or_else(PoisonError::into_inner) {
        blocks.extend(other?);
    }
    blocks.sort_unstable_by_key(|(number, _)| *number);
    let mut crc = Hasher::new();
    for (_, block) in &blocks {
        crc.combine(block);
    }
    Ok(crc)
}

/// Blocks on which several threads work.
struct Job {
    size: u64,
    /// The next block that nobody took.
    next: AtomicU64,
    /// How many bytes are done.
    done: AtomicU64,
    /// Some thread failed: the others need not go on.
    stop: AtomicBool,
}

impl Job {
    /// Takes blocks until none is left; gives back their checksums.
    fn work(
        &self,
        worker: impl FnMut(Range<u64>, &mut Hasher) -> Result<(), Failure>,
        progress: Option<Progress<'_>>,
    ) -> Result<Vec<(u64, Hasher)>, Failure> {
        let result = self.try_work(worker, progress);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn try_work(
        &self,
        mut worker: impl FnMut(Range<u64>, &mut Hasher) -> Result<(), Failure>,
        progress: Option<Progress<'_>>,
    ) -> Result<Vec<(u64, Hasher)>, Failure> {
        let mut finished = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let start = number.saturating_mul(BLOCK);
            if start >= self.size {
                break;
            }
            let end = self.size.min(start + BLOCK);
            let mut crc = Hasher::new();
            worker(start..end, &mut crc)?;
            finished.push((number, crc));
            let done = self.done.fetch_add(end - start, Ordering::Relaxed) + end - start;
            if finished.len() % POLL_BLOCKS == 0
                && let Some(progress) = progress
                && !progress(done)
            {
                return Err(Failure::Interrupted);
            }
        }
        Ok(finished)
    }
}
