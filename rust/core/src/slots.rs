//! A place for each member of an archive, which keeps what was put there first, without a lock.
//!
//! Nothing that a thread does here makes another one wait, and a process that is forked in the middle of it
//! leaves no place in a state that its child would have to repair. The places hold bare pointers and own
//! nothing: what they point to is the caller's business.
//!
//! What was put in a place can be found there once it is settled. Between the two, whoever put it there finds out
//! whether somebody keeps a list of all of it, and adds it: nobody shall find it here and miss it on the list.

use std::ptr::{self, NonNull};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

use crate::index::MemberId;

/// The bit of a pointer that tells that it is not settled yet. Pointers to what is aligned have it free.
const UNSETTLED: usize = 1;

/// Pointers by member, each set at most once.
#[derive(Debug)]
pub struct Slots<T> {
    places: Box<[AtomicPtr<T>]>,
    /// Whether somebody keeps a list of all that is put here.
    listed: AtomicBool,
}

impl<T> Slots<T> {
    const ALIGNED: () = assert!(align_of::<T>() > UNSETTLED);

    /// Room for `count` members. The memory is zeroed, which the system does when a page of it is first used.
    #[cfg(not(loom))]
    pub fn new(count: usize) -> Self {
        use zerocopy::FromZeros;
        // It fails where no memory is left, which ends the process as any other allocation would.
        let places = <[AtomicPtr<T>]>::new_box_zeroed_with_elems(count)
            .unwrap_or_else(|_| (0..count).map(|_| AtomicPtr::default()).collect());
        Slots { places, listed: AtomicBool::new(false) }
    }

    /// The same for the model checker, whose atomics are no plain memory.
    #[cfg(loom)]
    pub fn new(count: usize) -> Self {
        let places = (0..count).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Slots { places, listed: AtomicBool::new(false) }
    }

    /// What was put in a member's place and is settled.
    #[inline]
    pub fn get(&self, member: MemberId) -> Option<NonNull<T>> {
        let place = self.places.get(member.0 as usize)?;
        // Acquire: what the pointer leads to was written before it was put here, and it was put on the list.
        let pointer = NonNull::new(place.load(Ordering::Acquire))?;
        (pointer.addr().get() & UNSETTLED == 0).then_some(pointer)
    }

    /// Puts a pointer in a member's place if nothing is there yet. Whoever calls this goes on to ask
    /// [`Slots::is_listed`], adds what counts to the list if there is one, and calls [`Slots::settle`]; also who
    /// was not the first, since the first may be slow, or be a thread that a forked process has not.
    ///
    /// # Errors
    /// What is there already.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn put(&self, member: MemberId, pointer: NonNull<T>) -> Result<(), NonNull<T>> {
        let () = Self::ALIGNED;
        let place = &self.places[member.0 as usize];
        let unsettled = pointer.as_ptr().map_addr(|address| address | UNSETTLED);
        let found = place.compare_exchange(ptr::null_mut(), unsettled, Ordering::AcqRel, Ordering::Acquire);
        match found.map_err(settled) {
            Err(Some(first)) => Err(first),
            _ => Ok(()),
        }
    }

    /// Lets what is in a member's place be found. Any number of threads may say so.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn settle(&self, member: MemberId) {
        let place = &self.places[member.0 as usize];
        // Only this bit still changes, and only one way. Release: see `get`.
        if let Some(pointer) = settled(place.load(Ordering::Relaxed)) {
            place.store(pointer.as_ptr(), Ordering::Release);
        }
    }

    /// Says that a list of all that is put here begins: who calls this then lists what [`Slots::iter`] gives.
    pub fn begin_list(&self) {
        self.listed.store(true, Ordering::Relaxed);
        // With the fence in `is_listed`: either who puts something here sees the list, or who begins the list
        // sees what was put.
        fence(Ordering::SeqCst);
    }

    /// Whether a list was begun: who asks, after having put something here, must add it to the list.
    pub fn is_listed(&self) -> bool {
        fence(Ordering::SeqCst);
        self.listed.load(Ordering::Relaxed)
    }

    /// All that was put here so far, settled or not, in the order of the members.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, NonNull<T>)> + '_ {
        // Members are counted by u32.
        (0..).map(MemberId).zip(&self.places).filter_map(|(member, place)| {
            // Acquire: as in `get`.
            Some((member, settled(place.load(Ordering::Acquire))?))
        })
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
        let slots = Slots::new(3);
        assert_eq!(slots.get(MemberId(1)), None);
        assert_eq!(slots.put(MemberId(1), one), Ok(()));
        assert_eq!(slots.put(MemberId(1), two), Err(one));
        assert_eq!(slots.put(MemberId(2), two), Ok(()));
        assert_eq!(slots.get(MemberId(1)), None);
        slots.settle(MemberId(1));
        slots.settle(MemberId(1));
        slots.settle(MemberId(0));
        assert_eq!(slots.get(MemberId(1)), Some(one));
        assert_eq!(slots.put(MemberId(1), two), Err(one));
        assert_eq!(slots.get(MemberId(2)), None);
        assert_eq!(slots.get(MemberId(0)), None);
        assert_eq!(slots.get(MemberId(3)), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(MemberId(1), one), (MemberId(2), two)]);
        assert!(!slots.is_listed());
        slots.begin_list();
        assert!(slots.is_listed());
    }
}

/// All interleavings, and all that weak memory allows: `make model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const MEMBER: MemberId = MemberId(0);

    /// A pointer to a number that nobody frees while the model runs.
    fn leaked(number: u64) -> NonNull<u64> {
        NonNull::from(Box::leak(Box::new(number)))
    }

    /// Every thread sees the same pointer, whoever was first.
    #[test]
    fn one_pointer_for_all() {
        // With three threads that also settle and look up, the model takes hours.
        for (threads, settle) in [(3, false), (2, true)] {
            loom::model(move || {
                let slots = Arc::new(Slots::new(1));
                let offer = |number| {
                    let slots = Arc::clone(&slots);
                    move || {
                        let mine = leaked(number);
                        let counts = slots.put(MEMBER, mine).err().unwrap_or(mine);
                        if settle {
                            slots.settle(MEMBER);
                            assert_eq!(slots.get(MEMBER), Some(counts));
                        }
                        assert_eq!(slots.iter().next(), Some((MEMBER, counts)));
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

    /// What is behind a pointer was written before the pointer can be seen: by who looks it up, by who makes a
    /// list, by who comes too late with another, and by who looks up what a third one settled.
    #[test]
    fn what_it_leads_to_is_there() {
        type Look = fn(&Slots<u64>) -> bool;
        let looks: [Look; 3] = [
            |slots| slots.get(MEMBER).is_some(),
            |slots| slots.iter().next().is_some(),
            |slots| slots.put(MEMBER, leaked(1)).is_err(),
        ];
        for look in looks {
            for settled_by_another in [false, true] {
                loom::model(move || {
                    let slots = Arc::new(Slots::new(1));
                    let cell = Arc::new(loom::cell::UnsafeCell::new(0));
                    let writer = {
                        let (slots, cell) = (Arc::clone(&slots), Arc::clone(&cell));
                        thread::spawn(move || {
                            cell.with_mut(|_| ());
                            let first = slots.put(MEMBER, leaked(0)).is_ok();
                            if !settled_by_another {
                                slots.settle(MEMBER);
                            }
                            first
                        })
                    };
                    let other = settled_by_another.then(|| {
                        let slots = Arc::clone(&slots);
                        thread::spawn(move || {
                            if slots.iter().next().is_some() {
                                slots.settle(MEMBER);
                            }
                        })
                    });
                    if look(&slots) {
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
        loom::model(|| {
            let slots = Arc::new(Slots::new(1));
            let writer = {
                let slots = Arc::clone(&slots);
                thread::spawn(move || {
                    slots.put(MEMBER, leaked(0)).unwrap();
                    slots.is_listed()
                })
            };
            slots.begin_list();
            let found = slots.iter().count() == 1;
            let told = writer.join().unwrap();
            assert!(found || told);
        });
    }

    /// Who can look a pointer up finds it on the list, whoever began the list, and whoever is to add it.
    #[test]
    fn what_is_found_is_on_the_list() {
        loom::model(|| {
            let slots = Arc::new(Slots::new(1));
            let list = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
            let [writer, lister] = [true, false].map(|writes| {
                let (slots, list) = (Arc::clone(&slots), Arc::clone(&list));
                thread::spawn(move || {
                    let [on_it, complete] = &*list;
                    if writes {
                        slots.put(MEMBER, leaked(0)).unwrap();
                        if slots.is_listed() {
                            on_it.store(true, Ordering::Relaxed);
                        }
                        slots.settle(MEMBER);
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
            if slots.get(MEMBER).is_some() && complete.load(Ordering::Acquire) {
                assert!(on_it.load(Ordering::Relaxed));
            }
            writer.join().unwrap();
            lister.join().unwrap();
        });
    }
}
