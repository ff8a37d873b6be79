//! A place for each member of an archive, which keeps what was put there first, without a lock.
//!
//! Nothing that a thread does here makes another one wait, and a process that is forked in the middle of it
//! leaves no place in a state that its child would have to repair. The places hold bare pointers and own
//! nothing: what they point to is the caller's business.
//!
//! What was put in a place can be found there once it is settled. Between the two, whoever put it there finds
//! out whether somebody keeps a list of all of it, and adds it: nobody shall find it here and miss it on the
//! list.

use std::ptr::{self, NonNull};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

use crate::read::walked_index::MemberId;

/// The bit of a pointer that tells that it is not settled yet. Pointers to what is aligned have it free.
const UNSETTLED: usize = 1;

/// How many places are allocated together. An archive can claim four billion members, whose places would take
/// 32 GB. A chunk takes half a megabyte of addresses: the allocator takes that much from the system, which
/// fills a page of it when it is first used. The model checker and Miri have few places, and most of them in
/// other chunks than the first.
const CHUNK: usize = if cfg!(loom) {
    1
} else if cfg!(miri) {
    4
} else {
    1 << 16
};

/// Pointers by member, each set at most once.
#[derive(Debug)]
pub struct Slots<T> {
    /// How many members there are.
    count: usize,
    /// The places of the first members: of all, in most archives.
    first: Box<[AtomicPtr<T>]>,
    /// Those of the others, in chunks that are allocated when the first of their places is used.
    others: Box<[Chunk<T>]>,
    /// Whether somebody keeps a list of all that is put here.
    listed: AtomicBool,
}

/// The memory for places cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

/// Why a pointer was not put in a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// This one was put there before.
    Taken(NonNull<T>),
    /// There is no memory for the place.
    NoMemory,
}

impl<T> Slots<T> {
    const ALIGNED: () = assert!(align_of::<T>() > UNSETTLED);

    /// Room for `count` members. Takes memory as places are used, and 8 bytes for each 65,536 members.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(count: usize) -> Result<Self, NoMemory> {
        let mut others = Vec::new();
        let chunks = count.saturating_sub(CHUNK).div_ceil(CHUNK);
        others.try_reserve_exact(chunks).map_err(|_| NoMemory)?;
        others.resize_with(chunks, Chunk::new);
        let first = zeroed(count.min(CHUNK))?;
        Ok(Slots { count, first, others: others.into(), listed: AtomicBool::new(false) })
    }

    /// The place of a member, unless it was never used.
    #[inline]
    fn used(&self, member: MemberId) -> Option<&AtomicPtr<T>> {
        let at = member.0 as usize;
        self.first.get(at).or_else(|| self.others.get((at / CHUNK).checked_sub(1)?)?.get()?.get(at % CHUNK))
    }

    /// The place of a member.
    fn place(&self, member: MemberId) -> Result<&AtomicPtr<T>, NoMemory> {
        let at = member.0 as usize;
        assert!(at < self.count, "there is no such member");
        match self.first.get(at) {
            Some(place) => Ok(place),
            None => Ok(&self.others[at / CHUNK - 1].get_or_make()?[at % CHUNK]),
        }
    }

    /// What was put in a member's place and is settled.
    #[inline]
    pub fn get(&self, member: MemberId) -> Option<NonNull<T>> {
        let place = self.used(member)?;
        // Acquire: what the pointer leads to was written before it was put here, and it was put on the list.
        let pointer = NonNull::new(place.load(Ordering::Acquire))?;
        (pointer.addr().get() & UNSETTLED == 0).then_some(pointer)
    }

    /// Puts a pointer in a member's place if nothing is there yet. Whoever calls this goes on to ask
    /// [`Slots::is_listed`], adds what counts to the list if there is one, and calls [`Slots::settle`]; also
    /// who was not the first, since the first may be slow, or be a thread that a forked process has not.
    ///
    /// # Errors
    /// What is there already, or that there is no memory for the place.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn put(&self, member: MemberId, pointer: NonNull<T>) -> Result<(), Refused<T>> {
        let () = Self::ALIGNED;
        let place = self.place(member).map_err(|NoMemory| Refused::NoMemory)?;
        let unsettled = pointer.as_ptr().map_addr(|address| address | UNSETTLED);
        let found = place.compare_exchange(ptr::null_mut(), unsettled, Ordering::AcqRel, Ordering::Acquire);
        match found.map_err(settled) {
            Err(Some(first)) => Err(Refused::Taken(first)),
            _ => Ok(()),
        }
    }

    /// Lets what is in a member's place be found. Any number of threads may say so.
    pub fn settle(&self, member: MemberId) {
        let Some(place) = self.used(member) else { return };
        // Only this bit still changes, and only one way. Release: see `get`.
        if let Some(pointer) = settled(place.load(Ordering::Relaxed)) {
            place.store(pointer.as_ptr(), Ordering::Release);
        }
    }

    /// Says that a list of all that is put here begins: who calls this then lists what [`Slots::iter`] gives.
    pub fn begin_list(&self) {
        self.listed.store(true, Ordering::Relaxed);
        // With the fence in `is_listed`: either who puts something here sees the list, or who begins the list
        // sees what was put, and the chunk that it was put in.
        fence(Ordering::SeqCst);
    }

    /// Whether a list was begun: who asks, after having put something here, must add it to the list.
    pub fn is_listed(&self) -> bool {
        fence(Ordering::SeqCst);
        self.listed.load(Ordering::Relaxed)
    }

    /// All that was put here so far, settled or not, in the order of the members.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, NonNull<T>)> + '_ {
        let others = self.others.iter().map(|chunk| chunk.get().map_or(&[][..], |places| &places[..]));
        let chunks = (0_usize..).step_by(CHUNK).zip([&self.first[..]].into_iter().chain(others));
        chunks.flat_map(|(from, places)| {
            (from..).zip(places).filter_map(|(at, place)| {
                // Acquire: as in `get`. Members are counted by u32, and only their places are used.
                Some((MemberId(at as u32), settled(place.load(Ordering::Acquire))?))
            })
        })
    }
}

/// Places that nothing was put in. The system zeroes a page when it is first used, so that they take memory
/// only then.
#[cfg(not(loom))]
fn zeroed<T>(count: usize) -> Result<Box<[AtomicPtr<T>]>, NoMemory> {
    use zerocopy::FromZeros;
    <[AtomicPtr<T>]>::new_box_zeroed_with_elems(count).map_err(|_| NoMemory)
}

/// The same for the model checker, whose atomics are no plain memory.
#[cfg(loom)]
fn zeroed<T>(count: usize) -> Result<Box<[AtomicPtr<T>]>, NoMemory> {
    Ok((0..count).map(|_| AtomicPtr::new(ptr::null_mut())).collect())
}

/// Places that are allocated when they are first needed, without a lock: of threads that need them at once
/// each allocates some, and those of the first one stay.
#[cfg(not(loom))]
#[derive(Debug)]
struct Chunk<T>(once_cell::race::OnceBox<[AtomicPtr<T>; CHUNK]>);

#[cfg(not(loom))]
impl<T> Chunk<T> {
    fn new() -> Self {
        Chunk(once_cell::race::OnceBox::new())
    }

    #[inline]
    fn get(&self) -> Option<&[AtomicPtr<T>; CHUNK]> {
        self.0.get()
    }

    #[cold]
    fn get_or_make(&self) -> Result<&[AtomicPtr<T>; CHUNK], NoMemory> {
        use zerocopy::FromZeros;
        self.0.get_or_try_init(|| <[AtomicPtr<T>; CHUNK]>::new_box_zeroed().map_err(|_| NoMemory))
    }
}

/// The same for the model checker, which does not see into `OnceBox`: the places are there from the
/// beginning, and a flag with the orderings of the pointer in a `OnceBox` tells whether they can be seen.
#[cfg(loom)]
#[derive(Debug)]
struct Chunk<T> {
    is_made: AtomicBool,
    places: [AtomicPtr<T>; CHUNK],
}

#[cfg(loom)]
impl<T> Chunk<T> {
    fn new() -> Self {
        let places = std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        Chunk { is_made: AtomicBool::new(false), places }
    }

    fn get(&self) -> Option<&[AtomicPtr<T>; CHUNK]> {
        self.is_made.load(Ordering::Acquire).then_some(&self.places)
    }

    fn get_or_make(&self) -> Result<&[AtomicPtr<T>; CHUNK], NoMemory> {
        if self.get().is_none() {
            // Both results mean that it is made.
            let _ = self.is_made.compare_exchange(false, true, Ordering::Release, Ordering::Acquire);
        }
        Ok(&self.places)
    }
}

/// The pointer without the mark, if there is one.
fn settled<T>(pointer: *mut T) -> Option<NonNull<T>> {
    NonNull::new(pointer.map_addr(|address| address & !UNSETTLED))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_stays() {
        let (mut one, mut two) = (1, 2);
        let (one, two) = (NonNull::from(&mut one), NonNull::from(&mut two));
        let slots = Slots::new(3).unwrap();
        assert_eq!(slots.get(MemberId(1)), None);
        assert_eq!(slots.put(MemberId(1), one), Ok(()));
        assert_eq!(slots.put(MemberId(1), two), Err(Refused::Taken(one)));
        assert_eq!(slots.put(MemberId(2), two), Ok(()));
        assert_eq!(slots.get(MemberId(1)), None);
        slots.settle(MemberId(1));
        slots.settle(MemberId(1));
        slots.settle(MemberId(0));
        assert_eq!(slots.get(MemberId(1)), Some(one));
        assert_eq!(slots.put(MemberId(1), two), Err(Refused::Taken(one)));
        assert_eq!(slots.get(MemberId(2)), None);
        assert_eq!(slots.get(MemberId(0)), None);
        assert_eq!(slots.get(MemberId(3)), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(MemberId(1), one), (MemberId(2), two)]);
        assert!(!slots.is_listed());
        slots.begin_list();
        assert!(slots.is_listed());
    }

    #[test]
    fn members_behind_the_first_chunk_have_places_as_they_are_used() {
        let mut number = 1;
        let pointer = NonNull::from(&mut number);
        let chunk = CHUNK as u32;
        let slots = Slots::new(3 * CHUNK + 2).unwrap();
        let used = [0, chunk - 1, chunk, 3 * chunk - 1, 3 * chunk + 1].map(MemberId);
        for member in used {
            assert_eq!(slots.get(member), None);
            slots.settle(member);
            assert_eq!(slots.put(member, pointer), Ok(()));
            assert_eq!(slots.get(member), None);
            slots.settle(member);
            assert_eq!(slots.get(member), Some(pointer));
        }
        for unused in [1, chunk + 1, 2 * chunk, 3 * chunk, 3 * chunk + 2, 4 * chunk, u32::MAX] {
            assert_eq!(slots.get(MemberId(unused)), None);
        }
        assert_eq!(slots.iter().map(|(member, _)| member).collect::<Vec<_>>(), used);
    }

    /// As many as an archive can claim: 32 GB, if each had its place from the beginning.
    #[test]
    #[cfg(target_pointer_width = "64")]
    #[cfg_attr(miri, ignore = "its chunks are too small for that")]
    fn places_of_four_billion_members_take_the_memory_of_those_in_use() {
        let mut number = 1;
        let pointer = NonNull::from(&mut number);
        let slots = Slots::new(2 * ((1 << 31) - 2)).unwrap();
        let last = MemberId(u32::MAX - 4);
        assert_eq!(slots.put(last, pointer), Ok(()));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(last, pointer)]);
        assert_eq!(slots.get(MemberId(u32::MAX)), None);
        assert_eq!(slots.others.iter().filter(|chunk| chunk.get().is_some()).count(), 1);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn more_than_there_is_memory_for_is_an_error() {
        assert_eq!(Slots::<u64>::new(usize::MAX).err(), Some(NoMemory));
    }
}

/// All interleavings, and all that weak memory allows: `make model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// One whose place is there from the beginning, and one whose place is made when it is needed.
    const MEMBERS: [MemberId; 2] = [MemberId(0), MemberId(1)];

    /// Each case with each of them.
    fn both<T: Copy, const N: usize>(cases: [T; N]) -> impl Iterator<Item = (MemberId, T)> {
        MEMBERS.into_iter().flat_map(move |member| cases.map(|case| (member, case)))
    }

    /// With room for members up to this one.
    fn slots(member: MemberId) -> Arc<Slots<u64>> {
        Arc::new(Slots::new(member.0 as usize + 1).unwrap())
    }

    /// What counts after a pointer was put in a place.
    fn counts(result: Result<(), Refused<u64>>, mine: NonNull<u64>) -> NonNull<u64> {
        match result {
            Ok(()) => mine,
            Err(Refused::Taken(first)) => first,
            Err(Refused::NoMemory) => unreachable!(),
        }
    }

    /// A pointer to a number that nobody frees while the model runs.
    fn leaked(number: u64) -> NonNull<u64> {
        NonNull::from(Box::leak(Box::new(number)))
    }

    /// Every thread sees the same pointer, whoever was first.
    #[test]
    fn one_pointer_for_all() {
        // With three threads that also settle and look up, the model takes hours, and minutes if they make
        // the place.
        let [there, made] = MEMBERS;
        for (member, threads, settle) in [(there, 3, false), (there, 2, true), (made, 2, true)] {
            loom::model(move || {
                let slots = slots(member);
                let offer = |number| {
                    let slots = Arc::clone(&slots);
                    move || {
                        let mine = leaked(number);
                        let counts = counts(slots.put(member, mine), mine);
                        if settle {
                            slots.settle(member);
                            assert_eq!(slots.get(member), Some(counts));
                        }
                        assert_eq!(slots.iter().next(), Some((member, counts)));
                        counts.as_ptr() as usize
                    }
                };
                let others: Vec<_> = (1..threads).map(|number| thread::spawn(offer(number))).collect();
                let mine = offer(0)();
                for other in others {
                    assert_eq!(other.join().unwrap(), mine);
                }
            });
        }
    }

    /// What is behind a pointer was written before the pointer can be seen: by who looks it up, by who makes
    /// a list, by who comes too late with another, and by who looks up what a third one settled.
    #[test]
    fn what_it_leads_to_is_there() {
        type Look = fn(&Slots<u64>, MemberId) -> bool;
        let looks: [Look; 3] = [
            |slots, member| slots.get(member).is_some(),
            |slots, _| slots.iter().next().is_some(),
            |slots, member| slots.put(member, leaked(1)).is_err(),
        ];
        for (member, look) in both(looks) {
            for settled_by_another in [false, true] {
                loom::model(move || {
                    let slots = slots(member);
                    let cell = Arc::new(loom::cell::UnsafeCell::new(0));
                    let writer = {
                        let (slots, cell) = (Arc::clone(&slots), Arc::clone(&cell));
                        thread::spawn(move || {
                            cell.with_mut(|_| ());
                            let first = slots.put(member, leaked(0)).is_ok();
                            if !settled_by_another {
                                slots.settle(member);
                            }
                            first
                        })
                    };
                    let other = settled_by_another.then(|| {
                        let slots = Arc::clone(&slots);
                        thread::spawn(move || {
                            if slots.iter().next().is_some() {
                                slots.settle(member);
                            }
                        })
                    });
                    if look(&slots, member) {
                        // The model fails here if this access races with the one of the writer.
                        cell.with(|_| ());
                    }
                    writer.join().unwrap();
                    other.map(|other| other.join().unwrap());
                });
            }
        }
    }

    /// A pointer that is put in while a list begins gets on the list: by who put it, or by who began.
    #[test]
    fn nothing_is_left_off_a_list() {
        for (member, ()) in both([()]) {
            loom::model(move || {
                let slots = slots(member);
                let writer = {
                    let slots = Arc::clone(&slots);
                    thread::spawn(move || {
                        slots.put(member, leaked(0)).unwrap();
                        slots.is_listed()
                    })
                };
                slots.begin_list();
                let found = slots.iter().count() == 1;
                let told = writer.join().unwrap();
                assert!(found || told);
            });
        }
    }

    /// Who can look a pointer up finds it on the list, whoever began the list, and whoever is to add it.
    #[test]
    fn what_is_found_is_on_the_list() {
        for (member, ()) in both([()]) {
            loom::model(move || {
                let slots = slots(member);
                let list = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
                let [writer, lister] = [true, false].map(|writes| {
                    let (slots, list) = (Arc::clone(&slots), Arc::clone(&list));
                    thread::spawn(move || {
                        let [on_it, complete] = &*list;
                        if writes {
                            slots.put(member, leaked(0)).unwrap();
                            if slots.is_listed() {
                                on_it.store(true, Ordering::Relaxed);
                            }
                            slots.settle(member);
                        } else {
                            slots.begin_list();
                            if slots.iter().next().is_some() {
                                on_it.store(true, Ordering::Relaxed);
                            }
                            complete.store(true, Ordering::Release);
                        }
                    })
                });
                let [on_it, complete] = &*list;
                // A list that is not complete is completed by who asks for it.
                if slots.get(member).is_some() && complete.load(Ordering::Acquire) {
                    assert!(on_it.load(Ordering::Relaxed));
                }
                writer.join().unwrap();
                lister.join().unwrap();
            });
        }
    }
}
