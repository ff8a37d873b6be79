//! Copying many pieces of a map behind each other, without the interpreter.
//!
//! Whether the pieces are in memory decides how: what is there is copied, at the speed of memory. What is not
//! would be read page fault by page fault, each of which waits for the disk and reads far more than was asked
//! for. So the system is told of all pieces beforehand, and reads them at once. To say so costs a system call
//! for each piece, a sixth of the time of copying one of 32 kB; so it is asked first whether a few of them
//! are there. Where it does not tell, time does.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Failure, KeepGoing, check};
use crate::fetch::{LOOKS, POLL, Place, STEP, is_cold};
use crate::mapping::Map;
use crate::paging::Advice;
use crate::{copy_pool, fork};

/// A thread takes up to this many bytes at a time, in whole excerpts.
const UNIT: usize = 1 << 17;

/// The system is asked for this many bytes ahead of those that are copied.
const AHEAD: usize = 1 << 26;

/// One excerpt is looked at for this many bytes of a batch, up to [`LOOKS`].
const LOOK_EVERY: usize = 1 << 18;

/// Copying a unit does not take longer, unless it has to be read: a disk needs 80 µs for one page.
const SLOW: Duration = Duration::from_micros(200);

/// Once this many units were slow, they had to be read from the disk, even if the system says otherwise.
const SUSPECT: usize = 3;

/// A batch of excerpts that is being copied.
pub struct Copying<'a> {
    map: &'a Map,
    places: &'a [Place],
    /// Bytes that each excerpt has in the batch.
    room: usize,
    /// What is repeated behind an excerpt that does not need its room.
    pad: &'a [u8],
    out: Out,
    /// Bytes of the batch that are taken at once.
    unit: usize,
    /// For each part of the batch, from where on nobody has taken any. Each thread begins with a part of its
    /// own, the same one each time: what it has written to is in its cache then.
    parts: Vec<AtomicUsize>,
    /// Whether there are excerpts that have to be read from the disk.
    cold: AtomicBool,
    /// How many units were slow.
    slow: AtomicUsize,
    /// Up to where the system has been told what will be needed.
    told: AtomicUsize,
    stop: AtomicBool,
}

/// Where the batch begins.
struct Out(*mut u8);

// SAFETY: the memory may be written to from any thread while the batch is being copied, by the contract of
// `Copying::new`, and no two threads write to the same bytes of it: each takes units of its own.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

impl<'a> Copying<'a> {
    /// Excerpts that are to be copied to `out`.
    ///
    /// # Safety
    /// - All `places` lie in the map, and none has more than `room` bytes.
    /// - `pad` is not empty if one has less, and divides what it is to fill.
    /// - `out` has `room` bytes for each place, for as long as this lives, that nobody else needs.
    pub unsafe fn new(map: &'a Map, places: &'a [Place], room: usize, pad: &'a [u8], out: *mut u8) -> Self {
        Copying {
            map,
            places,
            room,
            pad,
            out: Out(out),
            unit: if room == 0 || room > UNIT { UNIT } else { UNIT / room * room },
            parts: Vec::new(),
            cold: AtomicBool::new(false),
            slow: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn total(&self) -> usize {
        // The size of an array that there is.
        self.room * self.places.len()
    }

    /// Copies all, with as many threads as `threads` says, this one included.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn run(mut self, threads: usize, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let looks = (self.total() / LOOK_EVERY).clamp(1, LOOKS);
        if is_cold(self.map, self.places, looks) {
            self.cold.store(true, Ordering::Relaxed);
            // Before there is another thread, which would not wait for this.
            self.tell(AHEAD);
        }
        let threads = threads.min(self.total().div_ceil(self.unit)).max(1);
        self.parts = (0..threads).map(|part| self.part(part, threads).start.into()).collect();
        if threads == 1 {
            return self.work(0, Some(keep_going));
        }
        let forks = fork::generation();
        // They stop when the thread that was called says so.
        copy_pool::together(threads - 1, &|number| drop(self.work(number, None)), || {
            self.work(0, Some(keep_going))
        })?;
        if forks != fork::generation() {
            // A signal handler has forked, and this is the child: what others had begun is not done here.
            for number in 0..threads {
                self.parts[number].store(self.part(number, threads).start, Ordering::Relaxed);
            }
            self.work(0, Some(keep_going))?;
        }
        Ok(())
    }

    /// One of `parts` parts of the batch, in whole units.
    fn part(&self, number: usize, parts: usize) -> Range<usize> {
        let units = self.total().div_ceil(self.unit);
        let at = |number: usize| (units * number / parts * self.unit).min(self.total());
        at(number)..at(number + 1)
    }

    /// Copies units until there are no more. Only the thread that was called, number 0, asks whether to go
    /// on.
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

    /// Finds out whether it was the disk that made a unit slow. Most often another process had the processor.
    #[cold]
    fn suspect(&self, at: usize) {
        let later = self.places.get(at / self.room..).unwrap_or_default();
        let times = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
        if times == SUSPECT || is_cold(self.map, later, LOOKS) {
            self.cold.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the system what is needed next, up to `end`.
    fn tell(&self, end: usize) {
        let end = end.min(self.total());
        loop {
            let from = self.told.load(Ordering::Relaxed);
            let to = from.saturating_add(STEP).min(end);
            if from >= end || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.told.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.for_each_piece(&(from..to), |_, place, _| {
                    self.map.advise(Advice::WillNeed, place.offset, place.bytes);
                });
            }
        }
    }

    /// Calls `each` for the pieces that a range of the batch consists of: where each is in the batch, what of
    /// the map it is, and how many bytes of padding follow.
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
        let map = self.map.start();
        self.for_each_piece(unit, |at, place, padding| {
            // While this one is copied, the processor fetches the start of the next.
            if let Some(next) = self.places.get(at / self.room + 1) {
                soon(map.wrapping_add(next.offset), next.bytes);
            }
            // SAFETY: the piece is one of the map, and so is `padding` of the batch, both behind `at`: see
            // `for_each_piece` and the contract of `new`. They do not overlap: nobody can write to a map.
            unsafe {
                let to = self.out.0.add(at);
                map.add(place.offset).copy_to_nonoverlapping(to, place.bytes);
                if padding > 0 {
                    self.fill(to.add(place.bytes), padding, at + place.bytes);
                }
            }
        });
    }

    /// Fills `length` bytes with what pads an excerpt, from byte `at` of the batch on.
    ///
    /// # Safety
    /// `to` has as many bytes, that belong to the batch and to this thread.
    unsafe fn fill(&self, to: *mut u8, length: usize, at: usize) {
        // The excerpt's room is a number of rows, and a unit may end inside a row.
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

/// Bytes of an excerpt that are fetched before it is its turn. The processor finds out the rest by itself.
const HEAD: usize = 1024;

/// Has the processor fetch the first bytes from an address on: each excerpt is somewhere else, and waiting
/// for its first bytes takes a fifth of the time of copying one of 3 kB.
#[cfg(target_arch = "x86_64")]
pub fn soon(start: *const u8, length: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in (0..length.min(HEAD)).step_by(64) {
        // SAFETY: a hint, without effect where nothing can be read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn soon(_start: *const u8, _length: usize) {}
