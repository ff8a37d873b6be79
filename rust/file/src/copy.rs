//! Copies many excerpts of a map, one behind the other, with any number of threads.
//!
//! Excerpts that are in memory are copied at the speed of memory. An excerpt that is not would be read page
//! fault by page fault; each fault waits for the disk, and reads far more than the excerpt. So the system is
//! told of all excerpts beforehand, and reads them at once. To tell it costs a system call for each excerpt:
//! a sixth of the time to copy one of 32 kB. So the system is first asked whether a few excerpts are in
//! memory. If it does not tell, the time that copying takes does.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Failure, KeepGoing, check};
use crate::fetch::{LOOKS, POLL, Place, STEP, is_cold, merged};
use crate::mapping::Map;
use crate::paging::Advice;
use crate::pread::read_exact_to;
use crate::{copy_pool, fork};

/// The size of a unit: a thread copies up to this many bytes at a time, in whole excerpts.
const UNIT: usize = 1 << 17;

/// The system is told of this many bytes ahead of those that are copied.
const AHEAD: usize = 1 << 26;

/// For every this many bytes of a batch, one excerpt is looked at, up to [`LOOKS`].
const LOOK_EVERY: usize = 1 << 18;

/// Copying a unit from memory takes no longer than this. A disk needs 80 µs for one page.
const SLOW: Duration = Duration::from_micros(200);

/// After this many slow units, the excerpts count as cold, even if the system says otherwise.
const SUSPECT: usize = 3;

/// A batch of excerpts that is being copied.
pub struct Copying<'a> {
    map: &'a Map,
    places: &'a [Place],
    /// Bytes that each excerpt has in the batch.
    room: usize,
    /// The bytes that are repeated behind an excerpt that is shorter than `room`.
    pad: &'a [u8],
    out: Out,
    /// How many bytes of the batch a thread takes at once.
    unit: usize,
    /// For each part of the batch, the first byte that no thread has taken. Each thread begins with its own
    /// part, the same one for each batch: the memory that it wrote last time is then in its cache.
    parts: Vec<AtomicUsize>,
    /// Whether excerpts have to be read from the disk.
    cold: AtomicBool,
    /// How many units were slow.
    slow: AtomicUsize,
    /// Up to which byte of the batch the system was told of the excerpts.
    told: AtomicUsize,
    stop: AtomicBool,
    /// The number of an excerpt that the system could not read, and why, if the file is not mapped.
    failed: OnceLock<(usize, io::Error)>,
}

/// The first byte of the batch.
struct Out(*mut u8);

// SAFETY: by the contract of `Copying::new`, any thread may write to the memory while the batch is copied. No
// two threads write to the same bytes: no two take the same unit.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

impl<'a> Copying<'a> {
    /// Prepares to copy the excerpts at `places` to `out`.
    ///
    /// # Safety
    /// - All `places` lie in the file, and none has more than `room` bytes.
    /// - If one has less, `pad` is not empty, and its length divides the number of bytes that it fills.
    /// - `out` has `room` bytes for each place, which no other code reads or writes as long as the value
    ///   lives, and which do not lie in the map.
    pub unsafe fn new(map: &'a Map, places: &'a [Place], room: usize, pad: &'a [u8], out: *mut u8) -> Self {
        // A read of an excerpt takes as long as to copy much more: each is a unit for some thread.
        let most = if map.file().is_some() { room.min(UNIT) } else { UNIT };
        Copying {
            map,
            places,
            room,
            pad,
            out: Out(out),
            unit: if room == 0 || room > UNIT { UNIT } else { most / room * room },
            parts: Vec::new(),
            cold: AtomicBool::new(false),
            slow: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failed: OnceLock::new(),
        }
    }

    fn total(&self) -> usize {
        // No overflow: the product is the size of an array in memory.
        self.room * self.places.len()
    }

    /// Copies all excerpts, with up to `threads` threads, the calling one included.
    ///
    /// # Errors
    /// [`Failure::Interrupted`]. If the file is not mapped, those of the system, with the number of the
    /// excerpt.
    pub fn run(mut self, threads: usize, keep_going: KeepGoing<'_>) -> Result<(), (Option<usize>, Failure)> {
        self.copy_all(threads, keep_going).map_err(|failure| (None, failure))?;
        self.failed.into_inner().map_or(Ok(()), |(number, error)| Err((Some(number), error.into())))
    }

    fn copy_all(&mut self, threads: usize, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let looks = (self.total() / LOOK_EVERY).clamp(1, LOOKS);
        if is_cold(self.map, self.places, looks) {
            self.cold.store(true, Ordering::Relaxed);
            // Before other threads start to copy, which would not wait for this.
            self.tell(AHEAD);
        }
        let threads = threads.min(self.total().div_ceil(self.unit)).max(1);
        self.parts = (0..threads).map(|part| self.part(part, threads).start.into()).collect();
        if threads == 1 {
            return self.work(0, Some(keep_going));
        }
        let forks = fork::generation();
        // The helpers stop when the calling thread sets `stop`.
        copy_pool::together(threads - 1, &|number| drop(self.work(number, None)), || {
            self.work(0, Some(keep_going))
        })?;
        if forks != fork::generation() {
            // A signal handler has forked, and this is the child, which has no helpers. It copies all parts
            // again.
            for number in 0..threads {
                self.parts[number].store(self.part(number, threads).start, Ordering::Relaxed);
            }
            self.work(0, Some(keep_going))?;
        }
        Ok(())
    }

    /// The bytes of one of `parts` parts of the batch. A part consists of whole units.
    fn part(&self, number: usize, parts: usize) -> Range<usize> {
        let units = self.total().div_ceil(self.unit);
        let at = |number: usize| (units * number / parts * self.unit).min(self.total());
        at(number)..at(number + 1)
    }

    /// Copies units until there are no more. Only the calling thread, number 0, asks whether to go on.
    fn work(&self, thread: usize, keep_going: Option<KeepGoing<'_>>) -> Result<(), Failure> {
        let mut clock = Instant::now();
        let mut polled = clock;
        let parts = self.parts.len();
        for number in (thread..parts).chain(0..thread.min(parts)) {
            let (part, next) = (self.part(number, parts), &self.parts[number]);
            while !self.stop.load(Ordering::Relaxed) {
                let start = next.fetch_add(self.unit, Ordering::Relaxed);
                if start >= part.end {
                    break;
                }
                let unit = start..(start + self.unit).min(part.end);
                let cold = self.cold.load(Ordering::Relaxed);
                if cold {
                    self.tell(unit.end + AHEAD);
                }
                self.copy(&unit);
                let now = Instant::now();
                if !cold && now - clock > SLOW {
                    self.suspect(unit.end);
                }
                clock = now;
                if let Some(keep_going) = keep_going
                    && now - polled > POLL
                {
                    if let Err(failure) = check(keep_going) {
                        self.stop.store(true, Ordering::Relaxed);
                        return Err(failure);
                    }
                    clock = Instant::now();
                    polled = clock;
                }
            }
        }
        Ok(())
    }

    /// Decides whether the disk made a unit slow. Most often another process had the processor.
    #[cold]
    fn suspect(&self, at: usize) {
        let later = self.places.get(at / self.room..).unwrap_or_default();
        let times = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
        if times == SUSPECT || is_cold(self.map, later, LOOKS) {
            self.cold.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the system of the excerpts that are copied next, up to byte `end` of the batch.
    fn tell(&self, end: usize) {
        let end = end.min(self.total());
        loop {
            let from = self.told.load(Ordering::Relaxed);
            let to = from.saturating_add(STEP).min(end);
            if from >= end || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.told.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let mut pieces = Vec::new();
                self.for_each_piece(&(from..to), |_, place, _| pieces.push(place));
                pieces.retain(|piece| piece.bytes > 0);
                for place in merged(pieces) {
                    self.map.advise(Advice::WillNeed, place.offset, place.bytes);
                }
            }
        }
    }

    /// Calls `each` for the pieces of a range of the batch: where the piece is in the batch, its place in the
    /// map, and how many bytes of padding follow.
    fn for_each_piece(&self, range: &Range<usize>, mut each: impl FnMut(usize, Place, usize)) {
        let mut at = range.start;
        while at < range.end {
            let (number, skip) = (at / self.room, at % self.room);
            let place = self.places[number];
            let length = (self.room - skip).min(range.end - at);
            let bytes = place.bytes.saturating_sub(skip).min(length);
            each(at, Place { offset: place.offset + skip.min(place.bytes), bytes }, length - bytes);
            at += length;
        }
    }

    fn copy(&self, unit: &Range<usize>) {
        if let Some(file) = self.map.file() {
            return self.read(file, unit);
        }
        let map = self.map.start();
        self.for_each_piece(unit, |at, place, padding| {
            // While this excerpt is copied, the processor fetches the start of the next one.
            if let Some(next) = self.places.get(at / self.room + 1) {
                soon(map.wrapping_add(next.offset), next.bytes);
            }
            // SAFETY: by the contract of `new`, the piece lies in the map, and the batch has as many bytes,
            // and those of the padding, from `at` on: see `for_each_piece`. The two do not overlap.
            unsafe {
                let to = self.out.0.add(at);
                map.add(place.offset).copy_to_nonoverlapping(to, place.bytes);
                if padding > 0 {
                    self.fill(to.add(place.bytes), padding, at + place.bytes);
                }
            }
        });
    }

    /// As [`Copying::copy`], where the file is not mapped.
    #[cold]
    fn read(&self, file: &File, unit: &Range<usize>) {
        self.for_each_piece(unit, |at, place, padding| {
            // SAFETY: by the contract of `new`, the batch has as many bytes, and those of the padding, from
            // `at` on, and this thread alone has taken the unit: nobody else has the slice. Its items need
            // not be initialized.
            let read = unsafe {
                let to = self.out.0.add(at);
                let out = std::slice::from_raw_parts_mut(to.cast(), place.bytes);
                let read = read_exact_to(file, out, place.offset as u64);
                if padding > 0 {
                    self.fill(to.add(place.bytes), padding, at + place.bytes);
                }
                read
            };
            if let Err(error) = read {
                // Of several errors, the first one counts.
                let _ = self.failed.set((at / self.room, error));
                self.stop.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Fills `length` bytes with padding, from byte `at` of the batch on.
    ///
    /// # Safety
    /// `to` points to `length` bytes of the batch, which this thread has taken.
    unsafe fn fill(&self, to: *mut u8, length: usize, at: usize) {
        // Each excerpt has whole rows of room, and a unit may end inside a row.
        let mut skip = at % self.room % self.pad.len();
        let mut done = 0;
        while done < length {
            let bytes = (self.pad.len() - skip).min(length - done);
            // SAFETY: by contract; `skip` is less than the length of the padding.
            unsafe { to.add(done).copy_from_nonoverlapping(self.pad.as_ptr().add(skip), bytes) };
            done += bytes;
            skip = 0;
        }
    }
}

/// How many bytes of the next excerpt are fetched ahead. The processor fetches the rest by itself.
const HEAD: usize = 1024;

/// Has the processor fetch the first bytes from an address on. To wait for the first bytes of an excerpt
/// takes a fifth of the time to copy one of 3 kB.
#[cfg(target_arch = "x86_64")]
pub fn soon(start: *const u8, length: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in (0..length.min(HEAD)).step_by(64) {
        // SAFETY: a hint, which has no effect at an address that cannot be read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn soon(_start: *const u8, _length: usize) {}
