//! A place for each member of an archive, which keeps what was put there first, without a lock.
//!
//! Nothing that a thread does here makes another one wait, and a process that is forked in the middle of it
//! leaves no place in a state that its child would have to repair. The places hold bare pointers and own
//! nothing: what they point to is the caller's business.

use std::ptr::{self, NonNull};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};

use crate::index::MemberId;

/// Pointers by member, each set at most once.
#[derive(Debug)]
pub struct Slots<T> {
    places: Box<[AtomicPtr<T>]>,
    /// Whether somebody keeps a list of all that is put here.
    listed: AtomicBool,
}

impl<T> Slots<T> {
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

    /// What was put in a member's place.
    #[inline]
    pub fn get(&self, member: MemberId) -> Option<NonNull<T>> {
        let place = self.places.get(member.0 as usize)?;
        // Acquire: what the pointer leads to was written before it was put here.
        NonNull::new(place.load(Ordering::Acquire))
    }

    /// Puts a pointer in a member's place if nothing is there yet.
    ///
    /// # Errors
    /// What is there already.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn put(&self, member: MemberId, pointer: NonNull<T>) -> Result<(), NonNull<T>> {
        let place = &self.places[member.0 as usize];
        let found =
            place.compare_exchange(ptr::null_mut(), pointer.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
        match found.map_err(NonNull::new) {
            Err(Some(first)) => Err(first),
            _ => Ok(()),
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

    /// All that was put here so far, in the order of the members.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, NonNull<T>)> + '_ {
        // Members are counted by u32.
        (0..self.places.len() as u32).map(MemberId).filter_map(|member| Some((member, self.get(member)?)))
    }
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
        assert_eq!(slots.get(MemberId(1)), Some(one));
        assert_eq!(slots.get(MemberId(0)), None);
        assert_eq!(slots.get(MemberId(3)), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(MemberId(1), one), (MemberId(2), two)]);
        assert!(!slots.is_listed());
        slots.begin_list();
        assert!(slots.is_listed());
    }
}

/// All interleavings, and all that weak memory allows: `RUSTFLAGS="--cfg loom" cargo test --release slots`.
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
        loom::model(|| {
            let slots = Arc::new(Slots::new(1));
            let offer = |number| {
                let slots = Arc::clone(&slots);
                move || {
                    let mine = leaked(number);
                    let counts = slots.put(MEMBER, mine).err().unwrap_or(mine);
                    assert_eq!(slots.get(MEMBER), Some(counts));
                    counts.as_ptr() as usize
                }
            };
            let others = [thread::spawn(offer(1)), thread::spawn(offer(2))];
            let mine = offer(3)();
            for other in others {
                assert_eq!(other.join().unwrap(), mine);
            }
        });
    }

    /// What is behind a pointer was written before the pointer can be seen.
    #[test]
    fn what_it_leads_to_is_there() {
        loom::model(|| {
            let slots = Arc::new(Slots::new(1));
            let cell = Arc::new(loom::cell::UnsafeCell::new(0));
            let writer = {
                let (slots, cell) = (Arc::clone(&slots), Arc::clone(&cell));
                thread::spawn(move || {
                    cell.with_mut(|_| ());
                    slots.put(MEMBER, leaked(0)).unwrap();
                })
            };
            if slots.get(MEMBER).is_some() {
                // The model fails here if this access races with the one of the writer.
                cell.with(|_| ());
            }
            writer.join().unwrap();
        });
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
}
