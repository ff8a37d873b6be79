//! Writing a large member, block by block, with two threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::failure::{Failure, KeepGoing, check};
use crate::items::Items;
use crate::storage::Storage;

/// Large members are copied, checksummed and written in blocks of this size, which stay in a core's cache.
/// With blocks of 512 KiB the two threads wait more for each other.
const BLOCK: u64 = 1 << 20;

/// The caller is asked whether to go on every time this many blocks were written.
const POLL_BLOCKS: usize = 16;

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
    keep_going: KeepGoing<'_>,
) -> Result<u32, Failure> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let job = Job { storage, file, header, items, next: &next, stop: &stop };
    let mut blocks = thread::scope(|scope| {
        // Without another thread (there can be a limit) one does it all.
        let other = thread::Builder::new().spawn_scoped(scope, || job.write_blocks(|| Ok(()))).ok();
        let mine = job.write_blocks(|| check(keep_going));
        let others = other.map_or(Ok(Ok(Vec::new())), thread::ScopedJoinHandle::join);
        let mut blocks = mine?;
        blocks.extend(others.map_err(|_| Failure::Poisoned)??);
        Ok::<_, Failure>(blocks)
    })?;
    blocks.sort_unstable_by_key(|(number, _)| *number);
    let mut crc = crc32fast::Hasher::new();
    for (_, block) in &blocks {
        crc.combine(block);
    }
    Ok(crc.finalize())
}

/// A large member whose blocks are written by several threads.
struct Job<'a, S> {
    storage: &'a S,
    /// Where the member's `.npy` file starts.
    file: u64,
    header: &'a [u8],
    items: &'a Items<'a>,
    /// The next block that nobody took.
    next: &'a AtomicU64,
    /// Some thread failed: the others need not go on.
    stop: &'a AtomicBool,
}

impl<S: Storage> Job<'_, S> {
    /// Takes blocks and writes them until none is left; gives back their checksums.
    fn write_blocks(
        &self,
        poll: impl Fn() -> Result<(), Failure>,
    ) -> Result<Vec<(u64, crc32fast::Hasher)>, Failure> {
        let result = self.try_write_blocks(poll);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn try_write_blocks(
        &self,
        poll: impl Fn() -> Result<(), Failure>,
    ) -> Result<Vec<(u64, crc32fast::Hasher)>, Failure> {
        let size = self.header.len() as u64 + self.items.len();
        let mut items = self.items.clone();
        let mut block = Vec::with_capacity(BLOCK as usize);
        let mut written = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let at = number.saturating_mul(BLOCK);
            if at >= size {
                break;
            }
            let mut left = BLOCK.min(size - at);
            block.clear();
            let header = self.header.get(at as usize..).unwrap_or_default();
            block.extend_from_slice(&header[..header.len().min(left as usize)]);
            left -= block.len() as u64;
            if left > 0 {
                items.seek(at + block.len() as u64 - self.header.len() as u64);
                items.read(left as usize, &mut block);
            }
            let mut crc = crc32fast::Hasher::new();
            crc.update(&block);
            written.push((number, crc));
            self.storage.write_at(&block, self.file + at)?;
            if written.len() % POLL_BLOCKS == 0 {
                poll()?;
            }
        }
        Ok(written)
    }
}
