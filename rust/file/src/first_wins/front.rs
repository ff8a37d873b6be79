//! A lock-free front of the map: pointers by member, found without a lock and without a write to shared
//! memory.
//!
//! The front holds nothing that the map does not, and may lack anything: lookups that miss ask the map, and
//! put what they find here. It is a table of small sets. A member belongs to one set, and may lie in any
//! place of it; a place is filled once. The table grows with the number of entries in the map: a larger one
//! takes its place, empty at first. Tables that were replaced stay until the front is dropped, since threads
//! may still read them; together they are smaller than the one in use.

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::ptr::NonNull;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use mmnpz_format::read::walked_index::MemberId;

/// How many places a set has: 64 bytes, of which most lookups read 16. If the table has twice as many places
/// as the map has entries, 4 % of these find their set full.
const WAYS: usize = if cfg!(loom) { 2 } else { 4 };

/// How many sets the smallest table has: half a kilobyte. The model checker has few.
const SMALLEST: usize = if cfg!(loom) { 1 } else { 8 };

/// Each table is twice as large as the one before; the last has 2^32 places.
const TABLES: usize = if cfg!(loom) { 2 } else { 28 };

/// The tag of a place that nothing was put in.
const EMPTY: u32 = 0;

/// The tag of a place whose pointer a thread is about to write. If a fork loses the thread, the place stays
/// so.
const CLAIMED: u32 = 1;

/// The tag of a place that holds a member's pointer. The last two numbers have none; no archive has so many
/// members.
#[inline]
fn tag_of(member: MemberId) -> Option<u32> {
    member.0.checked_add(CLAIMED + 1)
}

/// A place for a pointer.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct Place<T> {
    tag: AtomicU32,
    pointer: AtomicPtr<T>,
}

impl<T> Place<T> {
    /// Claims the place if it is empty; else gives back its tag.
    fn claim(&self) -> Result<u32, u32> {
        // A place that is in use is only read: to write would take it out of the caches of all who read it.
        // The model does without this, as loom tries other orders with the last access to a place only, which
        // would be this one.
        #[cfg(not(loom))]
        match self.tag.load(Ordering::Relaxed) {
            EMPTY => {}
            found => return Err(found),
        }
        // Relaxed: the claim orders nothing, it only keeps others from the place.
        self.tag.compare_exchange(EMPTY, CLAIMED, Ordering::Relaxed, Ordering::Relaxed)
    }
}

/// A member is put into the first place that is empty, from its likeliest on.
type Set<T> = [Place<T>; WAYS];

pub(crate) struct Front<T> {
    tables: [Table<T>; TABLES],
    /// The table in use.
    current: AtomicUsize,
}

/// The places where a member may lie in a table: those of its set, the likeliest first.
///
/// Members that follow one another are often looked up one after the other. So 64 of them share 32 sets that
/// follow one another, two to a set, and each of the two has another place that is its likeliest.
#[inline]
fn places_of<T>(table: &[Set<T>], member: MemberId) -> Option<impl Iterator<Item = &Place<T>>> {
    let MemberId(member) = member;
    // Fibonacci hashing: it spreads numbers that lie at any regular distance. The hash, taken as a fraction
    // of 2^32, times the number of sets is where the 64 begin.
    let hash = u64::from((member >> 6).wrapping_mul(0x9E37_79B9));
    let begin = ((hash * table.len() as u64) >> 32) as usize;
    // The number of sets is a power of two.
    let set = table.get((begin + (member as usize >> 1 & 31)) & table.len().wrapping_sub(1))?;
    let likeliest = (member as usize & 1) * (WAYS / 2);
    Some((0..WAYS).map(move |way| &set[(likeliest + way) % WAYS]))
}

/// The smallest table that has twice as many places as there are entries.
fn table_for(entries: usize) -> usize {
    let sets = entries.saturating_mul(2).div_ceil(WAYS).max(1);
    let doublings = sets.div_ceil(SMALLEST).checked_next_power_of_two().map_or(usize::BITS, usize::ilog2);
    (doublings as usize).min(TABLES - 1)
}

impl<T> Front<T> {
    pub(crate) fn new() -> Self {
        let tables = std::array::from_fn(|number| Table::new(SMALLEST << number));
        Front { tables, current: AtomicUsize::new(0) }
    }

    /// Returns the pointer of a member, if it is here.
    #[inline]
    pub(crate) fn get(&self, member: MemberId) -> Option<NonNull<T>> {
        // Relaxed: a table that this thread does not see yet is a miss.
        let table = self.tables.get(self.current.load(Ordering::Relaxed))?.get()?;
        let tag = tag_of(member)?;
        for place in places_of(table, member)? {
            // Acquire: who wrote the tag had written the pointer, and had seen what the pointer leads to.
            match place.tag.load(Ordering::Acquire) {
                found if found == tag => return NonNull::new(place.pointer.load(Ordering::Relaxed)),
                EMPTY => break,
                _ => {}
            }
        }
        None
    }

    /// Puts the pointer of a member here, if there is room; the map has about so many `entries`. All threads
    /// that put something for one member put the same pointer.
    pub(crate) fn put(&self, member: MemberId, pointer: NonNull<T>, entries: usize) {
        let (Some(tag), Some(table)) = (tag_of(member), self.table(table_for(entries))) else { return };
        for place in places_of(table, member).into_iter().flatten() {
            match place.claim() {
                Ok(_) => {
                    place.pointer.store(pointer.as_ptr(), Ordering::Relaxed);
                    // Release: see `get`.
                    place.tag.store(tag, Ordering::Release);
                    return;
                }
                Err(found) if found == tag => return,
                Err(_) => {}
            }
        }
    }

    /// The table in use, which is this one from now on if it is larger.
    fn table(&self, wanted: usize) -> Option<&[Set<T>]> {
        let current = self.current.load(Ordering::Relaxed);
        if current >= wanted
            && let Some(table) = self.tables[current].get()
        {
            return Some(table);
        }
        // Without memory for a larger table, the front stays as it is.
        let table = self.tables[wanted].get_or_make(SMALLEST << wanted)?;
        self.current.fetch_max(wanted, Ordering::Relaxed);
        Some(table)
    }
}

/// A table that is allocated when it is first needed, without a lock: if several threads allocate it at once,
/// the first one stays. The system zeroes a page when it is first used, so that a table takes memory as it is
/// filled.
#[cfg(not(loom))]
struct Table<T>(once_cell::race::OnceBox<Box<[Set<T>]>>);

#[cfg(not(loom))]
impl<T> Table<T> {
    fn new(_sets: usize) -> Self {
        Table(once_cell::race::OnceBox::new())
    }

    #[inline]
    fn get(&self) -> Option<&[Set<T>]> {
        self.0.get().map(|table| &**table)
    }

    #[cold]
    fn get_or_make(&self, sets: usize) -> Option<&[Set<T>]> {
        use zerocopy::FromZeros;
        let made = || <[Set<T>]>::new_box_zeroed_with_elems(sets).map(Box::new);
        self.0.get_or_try_init(made).ok().map(|table| &**table)
    }
}

/// The table for the model checker, which does not see into `OnceBox`: the table is there from the beginning,
/// and a flag with the orderings of the pointer in a `OnceBox` tells whether threads see it.
#[cfg(loom)]
struct Table<T> {
    is_made: loom::sync::atomic::AtomicBool,
    sets: Box<[Set<T>]>,
}

#[cfg(loom)]
impl<T> Table<T> {
    fn new(sets: usize) -> Self {
        let place = || Place { tag: AtomicU32::new(EMPTY), pointer: AtomicPtr::new(std::ptr::null_mut()) };
        let sets = (0..sets).map(|_| std::array::from_fn(|_| place())).collect();
        Table { is_made: loom::sync::atomic::AtomicBool::new(false), sets }
    }

    fn get(&self) -> Option<&[Set<T>]> {
        self.is_made.load(Ordering::Acquire).then_some(&self.sets)
    }

    fn get_or_make(&self, _sets: usize) -> Option<&[Set<T>]> {
        // Both results mean that it is made.
        let _ = self.is_made.compare_exchange(false, true, Ordering::Release, Ordering::Acquire);
        Some(&self.sets)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// How many places the table in use has.
    fn places<T>(front: &Front<T>) -> usize {
        front.tables[front.current.load(Ordering::Relaxed)].get().map_or(0, |table| table.len() * WAYS)
    }

    /// A pointer that is another one for each number.
    fn pointer(number: u32) -> NonNull<u64> {
        NonNull::without_provenance(std::num::NonZero::new(8 * (number as usize + 1)).unwrap())
    }

    #[test]
    fn a_member_is_found_after_it_was_put() {
        let front = Front::new();
        assert_eq!(front.get(MemberId(7)), None);
        assert_eq!(places(&front), 0);
        front.put(MemberId(7), pointer(7), 1);
        front.put(MemberId(7), pointer(7), 1);
        assert_eq!(front.get(MemberId(7)), Some(pointer(7)));
        for other in [0, 6, 8, 8 + 7, u32::MAX - 2, u32::MAX - 1, u32::MAX] {
            assert_eq!(front.get(MemberId(other)), None);
        }
        for last in [u32::MAX - 2, u32::MAX - 1, u32::MAX] {
            front.put(MemberId(last), pointer(0), 1);
            assert_eq!(front.get(MemberId(last)), (last == u32::MAX - 2).then(|| pointer(0)));
        }
    }

    #[test]
    fn the_table_has_room_for_twice_the_entries() {
        let front = Front::new();
        for (entries, expected) in
            [(1, 32), (16, 32), (17, 64), (1000, 2048), (1024, 2048), (1025, 4096), (5, 4096)]
        {
            front.put(MemberId(3), pointer(3), entries);
            assert_eq!(places(&front), expected, "{entries} entries");
            assert_eq!(front.get(MemberId(3)), Some(pointer(3)));
        }
        assert_eq!(table_for(usize::MAX), TABLES - 1);
        assert_eq!(table_for(0), 0);
    }

    /// Whatever distance members lie at, nearly all find a place, and none finds the pointer of another.
    #[test]
    #[cfg_attr(miri, ignore = "looks at too many members")]
    fn few_members_find_their_set_full() {
        const COUNT: u32 = 1 << 12;
        for distance in [1, 2, 3, 4, 100, 1 << 10, 1 << 16, 1 << 20, 999_999] {
            let front = Front::new();
            let members = || (0..COUNT).map(|number| number.wrapping_mul(distance));
            for member in members() {
                front.put(MemberId(member), pointer(member), COUNT as usize);
            }
            let found = members().filter(|&member| front.get(MemberId(member)).is_some()).count();
            for member in members() {
                assert!(front.get(MemberId(member)).is_none_or(|found| found == pointer(member)));
            }
            assert!(found >= COUNT as usize / 10 * 9, "distance {distance}: {found} of {COUNT}");
        }
    }
}

/// All interleavings, and all that weak memory allows: `make model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A number that a thread writes before it puts the pointer to it in the front, and never later.
    type Cell = loom::cell::UnsafeCell<u32>;

    struct Shared {
        front: Front<Cell>,
        cells: [Box<Cell>; 2],
    }

    impl Shared {
        fn new() -> Arc<Self> {
            let front = Front::new();
            // To see a table that another thread has made would be to see what that thread did before.
            assert!(front.table(0).is_some());
            Arc::new(Shared { front, cells: [0; 2].map(|number| Box::new(Cell::new(number))) })
        }

        fn pointer(&self, member: u32) -> NonNull<Cell> {
            NonNull::from(&*self.cells[member as usize])
        }

        /// The number of a member: even, so that all have the same likeliest place in the table of one set.
        fn id(member: u32) -> MemberId {
            MemberId(2 * member)
        }

        fn put(&self, member: u32, entries: usize) {
            self.front.put(Self::id(member), self.pointer(member), entries);
        }

        /// Whether a member is found. It must be this member, and what its pointer leads to must be written.
        fn finds(&self, member: u32) -> bool {
            let Some(found) = self.front.get(Self::id(member)) else { return false };
            assert_eq!(found, self.pointer(member));
            // The model fails here if this access races with the one of the writer.
            self.cells[member as usize].with(|_| ());
            true
        }
    }

    /// The places of the smallest table in the model.
    const PLACES: usize = WAYS * SMALLEST;

    #[test]
    fn what_a_pointer_leads_to_is_written() {
        loom::model(|| {
            let shared = Shared::new();
            let writer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.cells[0].with_mut(|_| ());
                    shared.put(0, 1);
                    assert!(shared.finds(0));
                })
            };
            shared.finds(0);
            writer.join().unwrap();
            assert!(shared.finds(0));
        });
    }

    #[test]
    fn two_members_of_one_set_are_told_apart() {
        loom::model(|| {
            let shared = Shared::new();
            let writers = [0, 1].map(|member| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.cells[member as usize].with_mut(|_| ());
                    shared.put(member, 1);
                })
            });
            shared.finds(0);
            shared.finds(1);
            for writer in writers {
                writer.join().unwrap();
            }
            assert!(shared.finds(0) && shared.finds(1));
        });
    }

    /// Several threads find the same member in the map, and put it here.
    #[test]
    fn two_threads_put_one_member() {
        loom::model(|| {
            let shared = Shared::new();
            shared.cells[0].with_mut(|_| ());
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.put(0, 1);
                    shared.finds(1);
                })
            };
            shared.put(0, 1);
            assert!(shared.finds(0));
            other.join().unwrap();
            assert!(shared.finds(0));
        });
    }

    /// A larger table takes the place of one that another thread reads and fills: a new one, or one that a
    /// third thread has made and is about to use.
    #[test]
    fn the_table_grows_under_its_readers() {
        for is_made in [false, true] {
            loom::model(move || {
                let shared = Shared::new();
                assert!(!is_made || shared.front.tables[1].get_or_make(2).is_some());
                shared.cells[0].with_mut(|_| ());
                shared.put(0, 1);
                let reader = {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        shared.finds(1);
                        shared.finds(0);
                        shared.put(0, 1);
                    })
                };
                shared.cells[1].with_mut(|_| ());
                shared.put(1, PLACES);
                assert!(shared.finds(1));
                reader.join().unwrap();
                assert!(shared.finds(1));
            });
        }
    }
}
