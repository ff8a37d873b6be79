//! A map from members to values that keeps the first value published for each member.
//!
//! A [`DashMap`] owns the values. The map takes memory for the members that were published, however many the
//! archive claims to have. No value leaves the map, or moves within it, before the map itself is dropped, so
//! the caller may keep the pointers that lookups return for as long as the map lives.
//!
//! A lookup asks the lock-free `front` first, and takes a shard's lock only for what the front does not have.
//!
//! **Locks.** This module takes the locks of the shards with `try_read` and `try_write` only, and spins until
//! it gets them. So no thread ever parks, and the locks never touch the process-wide table of parked threads,
//! whose own locks a `fork` could leave locked for ever. A lock is held for one probe or one insertion; no
//! guard leaves this module, and no value is dropped while one is held.
//!
//! **Lists.** Someone may keep a list of all values, and promise that whoever finds a value here finds it on
//! the list. [`FirstWins::list`] sets a flag first and then goes through all shards; [`FirstWins::publish`]
//! reads the flag under the lock of its shard. Either the publisher unlocks the shard before the lister locks
//! it, and the lister sees the value; or the publisher locks the shard after the lister unlocked it, and the
//! publisher sees the flag. Then the value is hidden from lookups until the publisher has added it to the
//! list and calls [`FirstWins::reveal`].

use std::hash::{BuildHasherDefault, Hasher};
use std::hint;
use std::iter;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dashmap::{DashMap, SharedValue};

use mmnpz_format::read::walked_index::MemberId;

use crate::first_wins::front::Front;

/// A value that the map owns and that lookups return a pointer to.
pub trait Owner {
    /// What the value owns, or shares in.
    type Target;

    /// The address of what the value owns: the same one for as long as the value lives, wherever the value is
    /// moved.
    fn pointer(&self) -> NonNull<Self::Target>;
}

/// The map cannot get memory for another entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

/// The value that counts for a member after a call of [`FirstWins::publish`].
#[derive(Debug)]
pub struct Published<T> {
    /// What the first value published for the member owns.
    pub pointer: NonNull<T>,
    /// Whether lookups do not find the value yet: the caller must add it to the list, and call
    /// [`FirstWins::reveal`].
    pub is_hidden: bool,
}

/// Members and what their values own.
pub type Listed<T> = Vec<(MemberId, NonNull<T>)>;

/// A map from members to values; the first value published for a member stays.
pub struct FirstWins<V: Owner> {
    map: DashMap<u32, Entry<V>, BuildHasherDefault<MemberHasher>>,
    /// The member that was inserted last into each shard, or [`NONE`]. A thread writes it under the shard's
    /// write lock.
    newest: Box<[AtomicU32]>,
    /// Whether someone keeps a list of all values.
    is_listed: AtomicBool,
    front: Front<V::Target>,
}

struct Entry<V> {
    value: V,
    /// The member that was inserted into the same shard before this one, or [`NONE`]: the entries of a shard
    /// form a chain from its newest member on, so that safe code can go through them under the shard's lock.
    older: u32,
    /// Whether lookups may return the value. It changes once, to true.
    is_revealed: AtomicBool,
}

/// No member has this number: an archive has fewer of them.
const NONE: u32 = u32::MAX;

/// Hashes the number of a member.
///
/// A table takes the low bits for the place, and the highest seven to tell neighbours apart. The map takes
/// the bits below those seven for the shard. Members that follow one another are often looked up one after
/// the other. So 64 of them lie next to each other in one table, where a processor fetches the next before
/// it is asked for.
fn hash_of(member: u32) -> u64 {
    const TOGETHER: u32 = 64;
    // An odd number near 2^64 divided by the golden ratio, which spreads numbers that lie at any regular
    // distance.
    let product = u64::from(member / TOGETHER).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let first = product ^ (product >> 32);
    first.wrapping_add(u64::from(member % TOGETHER)) ^ (u64::from(member) << 57)
}

/// [`hash_of`], for the type of the map.
#[derive(Default)]
struct MemberHasher(u64);

impl Hasher for MemberHasher {
    fn write_u32(&mut self, member: u32) {
        self.0 = hash_of(member);
    }

    fn write(&mut self, bytes: &[u8]) {
        // The keys are `u32`, which call the function above.
        for &byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Takes a lock by `try_lock` alone. See the module's documentation for the reason.
#[inline]
fn acquire<G>(try_lock: impl Fn() -> Option<G>) -> G {
    try_lock().unwrap_or_else(|| spin(try_lock))
}

#[cold]
fn spin<G>(try_lock: impl Fn() -> Option<G>) -> G {
    /// The holder is in the middle of some hundred instructions: it is done within so many rounds, unless the
    /// system has taken its core away.
    const SPINS: u32 = 6;
    /// After so many calls of `yield_now` the holder may be a thread that this one's priority keeps from
    /// running.
    const YIELDS: u32 = 100;
    let mut attempts = 0;
    loop {
        attempts += 1;
        if attempts <= SPINS {
            (0..1 << attempts).for_each(|_| hint::spin_loop());
        } else if attempts <= YIELDS {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(50));
        }
        if let Some(guard) = try_lock() {
            return guard;
        }
    }
}

/// Goes through a shard from its newest member on; `find` looks an entry of the shard up.
fn chain<'a, V: 'a>(
    newest: &AtomicU32,
    find: impl Fn(u32) -> Option<&'a SharedValue<Entry<V>>>,
) -> impl Iterator<Item = (MemberId, &'a Entry<V>)> {
    // Relaxed: the caller holds the lock of the shard.
    let mut next = newest.load(Ordering::Relaxed);
    iter::from_fn(move || {
        let member = next;
        let entry = (member != NONE).then(|| find(member)).flatten()?.get();
        next = entry.older;
        Some((MemberId(member), entry))
    })
}

impl<V: Owner> FirstWins<V> {
    /// An empty map with a power of two of shards, two at least. `is_listed` says that a list is kept from
    /// the start.
    ///
    /// # Panics
    /// If the number of shards is another one.
    pub fn new(shards: usize, is_listed: bool) -> Self {
        FirstWins {
            map: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::new(), shards),
            newest: (0..shards).map(|_| AtomicU32::new(NONE)).collect(),
            is_listed: AtomicBool::new(is_listed),
            front: Front::new(),
        }
    }

    /// Returns what a member's value owns, unless there is no value or it is hidden.
    #[inline]
    pub fn get(&self, member: MemberId) -> Option<NonNull<V::Target>> {
        self.front.get(member).or_else(|| self.get_from_map(member))
    }

    #[inline(never)]
    fn get_from_map(&self, member: MemberId) -> Option<NonNull<V::Target>> {
        let hash = hash_of(member.0);
        let shard = &self.map.shards()[self.map.determine_shard(hash as usize)];
        let guard = acquire(|| shard.try_read());
        let (_, entry) = guard.get(hash, |(key, _)| *key == member.0)?;
        let entry = entry.get();
        // Acquire: whoever revealed the value had added it to the list.
        if !entry.is_revealed.load(Ordering::Acquire) {
            return None;
        }
        let pointer = entry.value.pointer();
        let entries = guard.len() * self.newest.len();
        drop(guard);
        self.front.put(member, pointer, entries);
        Some(pointer)
    }

    /// Offers a value for a member, and returns the one that counts: the first that was offered. The map
    /// drops the value if it is not the first.
    ///
    /// # Errors
    /// If there is no memory for the entry.
    ///
    /// # Panics
    /// If the member is `u32::MAX`.
    pub fn publish(&self, member: MemberId, value: V) -> Result<Published<V::Target>, NoMemory> {
        assert_ne!(member.0, NONE, "no member has this number");
        let hash = hash_of(member.0);
        let at = self.map.determine_shard(hash as usize);
        let shard = &self.map.shards()[at];
        let mut guard = acquire(|| shard.try_write());
        if let Some((_, first)) = guard.get(hash, |(key, _)| *key == member.0) {
            let first = first.get();
            let is_hidden = !first.is_revealed.load(Ordering::Acquire);
            let published = Published { pointer: first.value.pointer(), is_hidden };
            // What dropping the value does is not known here: first the lock goes.
            drop(guard);
            drop(value);
            return Ok(published);
        }
        if guard.try_reserve(1, |(key, _)| hash_of(*key)).is_err() {
            drop(guard);
            drop(value);
            return Err(NoMemory);
        }
        let pointer = value.pointer();
        // Relaxed: the lock orders it. See the module's documentation.
        let is_hidden = self.is_listed.load(Ordering::Relaxed);
        let older = self.newest[at].load(Ordering::Relaxed);
        let entry = Entry { value, older, is_revealed: AtomicBool::new(!is_hidden) };
        guard.insert(hash, (member.0, SharedValue::new(entry)), |(key, _)| hash_of(*key));
        self.newest[at].store(member.0, Ordering::Relaxed);
        Ok(Published { pointer, is_hidden })
    }

    /// Lets lookups find the value of a member, which is on the list now. Any number of threads may call
    /// this.
    pub fn reveal(&self, member: MemberId) {
        let hash = hash_of(member.0);
        let shard = &self.map.shards()[self.map.determine_shard(hash as usize)];
        let guard = acquire(|| shard.try_read());
        if let Some((_, entry)) = guard.get(hash, |(key, _)| *key == member.0) {
            // Release: see `get_from_map`.
            entry.get().is_revealed.store(true, Ordering::Release);
        }
    }

    /// Reserves memory for `entries` entries, as far as there is some.
    pub fn reserve(&mut self, entries: usize) {
        let shards = self.newest.len();
        // The hash spreads members evenly, but not exactly.
        let each = entries / shards + entries / shards / 32 + 8;
        for shard in self.map.shards_mut() {
            // `publish` and `insert` ask again, and report it.
            let _ = shard.get_mut().try_reserve(each, |(key, _)| hash_of(*key));
        }
    }

    /// Inserts a value for a member that has none, before other threads can reach the map. Lookups find the
    /// value at once: the caller adds it to the list, if there is one, before it shares the map.
    ///
    /// # Errors
    /// If there is no memory for the entry.
    ///
    /// # Panics
    /// If the member is `u32::MAX`.
    pub fn insert(&mut self, member: MemberId, value: V) -> Result<NonNull<V::Target>, NoMemory> {
        assert_ne!(member.0, NONE, "no member has this number");
        let hash = hash_of(member.0);
        let at = self.map.determine_shard(hash as usize);
        let table = self.map.shards_mut()[at].get_mut();
        debug_assert!(table.get(hash, |(key, _)| *key == member.0).is_none(), "{member:?} has a value");
        table.try_reserve(1, |(key, _)| hash_of(*key)).map_err(|_| NoMemory)?;
        let pointer = value.pointer();
        let newest = self.newest[at].get_mut();
        let entry = Entry { value, older: *newest, is_revealed: AtomicBool::new(true) };
        table.insert(hash, (member.0, SharedValue::new(entry)), |(key, _)| hash_of(*key));
        *newest = member.0;
        Ok(pointer)
    }

    /// Begins a list: from now on, publishers add their values to it. Returns all values published so far,
    /// hidden or not, in the order of the members, for the caller to add.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn list(&self) -> Result<Listed<V::Target>, NoMemory> {
        // Relaxed: the locks of the shards order it. See the module's documentation.
        self.is_listed.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for (shard, newest) in self.map.shards().iter().zip(&self.newest) {
            let guard = acquire(|| shard.try_read());
            all.try_reserve(guard.len()).map_err(|_| NoMemory)?;
            let find = |member| Some(&guard.get(hash_of(member), |(key, _)| *key == member)?.1);
            all.extend(chain(newest, find).map(|(member, entry)| (member, entry.value.pointer())));
        }
        all.sort_unstable_by_key(|(member, _)| member.0);
        Ok(all)
    }

    /// Calls `visit` for all values, without waiting for a lock: it leaves shards out that are locked for
    /// writing. `visit` runs while a shard is locked.
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn try_for_each<E>(&self, mut visit: impl FnMut(&V) -> Result<(), E>) -> Result<(), E> {
        self.map.shards().iter().zip(&self.newest).try_for_each(|(shard, newest)| {
            let Some(guard) = shard.try_read() else { return Ok(()) };
            let find = |member| Some(&guard.get(hash_of(member), |(key, _)| *key == member)?.1);
            chain(newest, find).try_for_each(|(_, entry)| visit(&entry.value))
        })
    }

    /// Whether a forked child can go on with its copy of the map: no thread of the parent held a lock.
    ///
    /// Only threads that ask the same may use the map meanwhile. They can make the answer no where it should
    /// be yes, never the other way round.
    pub fn is_free(&self) -> bool {
        /// Another thread that asks holds a lock for two instructions.
        const ATTEMPTS: usize = 100;
        let is_free = |attempt| {
            if attempt > 0 {
                thread::yield_now();
            }
            // A reader that was lost is in the way of writers.
            self.map.shards().iter().all(|shard| shard.try_write().is_some())
        };
        (0..ATTEMPTS).any(is_free)
    }

    /// Copies the map without waiting for a lock. The copy lacks the values of shards that are locked for
    /// writing, whose tables may be half changed, and values for which there is no memory. `copy` runs while
    /// a shard is locked.
    #[must_use]
    pub fn copy(&self, copy: impl Fn(&V) -> V) -> Self {
        let mut copied = Self::new(self.newest.len(), self.is_listed.load(Ordering::Relaxed));
        let shards = copied.map.shards_mut().iter_mut().zip(&mut copied.newest);
        for ((to, last), (from, newest)) in shards.zip(self.map.shards().iter().zip(&self.newest)) {
            let (Some(guard), table) = (from.try_read(), to.get_mut()) else { continue };
            if table.try_reserve(guard.len(), |(key, _)| hash_of(*key)).is_err() {
                continue;
            }
            let find = |member| Some(&guard.get(hash_of(member), |(key, _)| *key == member)?.1);
            for (MemberId(member), entry) in chain(newest, find) {
                let is_revealed = AtomicBool::new(entry.is_revealed.load(Ordering::Acquire));
                let older = std::mem::replace(last.get_mut(), member);
                let entry = Entry { value: copy(&entry.value), older, is_revealed };
                let item = (member, SharedValue::new(entry));
                table.insert(hash_of(member), item, |(key, _)| hash_of(*key));
            }
        }
        copied
    }
}

/// What a fork can do to the locks of a map. The rest is in `tests/first_wins.rs`.
#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::mem;

    use super::*;

    #[derive(Clone)]
    struct Value(&'static u32);

    impl Owner for Value {
        type Target = u32;

        fn pointer(&self) -> NonNull<u32> {
            NonNull::from(self.0)
        }
    }

    static NUMBER: u32 = 7;
    const SHARDS: usize = 4;
    const COUNT: u32 = 100;

    fn filled(is_listed: bool) -> FirstWins<Value> {
        let map = FirstWins::new(SHARDS, is_listed);
        for member in (0..COUNT).map(MemberId) {
            map.publish(member, Value(&NUMBER)).unwrap();
        }
        map
    }

    /// The members of a map, and of its shards without the first one.
    fn members(map: &FirstWins<Value>) -> (Vec<u32>, Vec<u32>) {
        let all = (0..COUNT).filter(|&member| map.get(MemberId(member)).is_some()).collect::<Vec<_>>();
        let shard = |member: &u32| map.map.determine_shard(hash_of(*member) as usize);
        let others = all.iter().copied().filter(|member| shard(member) > 0).collect();
        (all, others)
    }

    fn count(map: &FirstWins<Value>) -> usize {
        let mut count = 0;
        let counted = map.try_for_each(|value| {
            assert_eq!(value.pointer(), NonNull::from(&NUMBER));
            count += 1;
            Ok::<_, ()>(())
        });
        counted.unwrap();
        count
    }

    #[test]
    fn a_map_whose_locks_are_free_is_copied_as_it_is() {
        let map = filled(false);
        assert!(map.is_free());
        let copy = map.copy(Value::clone);
        assert_eq!(copy.list().unwrap(), map.list().unwrap());
        assert_eq!(members(&copy).0, (0..COUNT).collect::<Vec<_>>());
        // The copy can grow, and goes on with the list.
        for member in (0..10 * COUNT).map(MemberId) {
            assert_eq!(copy.publish(member, Value(&NUMBER)).unwrap().is_hidden, member.0 >= COUNT);
        }
        assert_eq!(copy.list().unwrap().len(), 10 * COUNT as usize);
        assert!(map.copy(Value::clone).publish(MemberId(COUNT), Value(&NUMBER)).unwrap().is_hidden);
    }

    #[test]
    fn a_shard_that_a_lost_thread_was_changing_is_left_alone() {
        let map = filled(false);
        let (_, others) = members(&map);
        assert!(others.len() < COUNT as usize);
        mem::forget(map.map.shards()[0].write());
        assert!(!map.is_free());
        assert_eq!(count(&map), others.len());
        let copy = map.copy(Value::clone);
        assert!(copy.is_free());
        assert_eq!(members(&copy).0, others);
        for member in (0..COUNT).map(MemberId) {
            copy.publish(member, Value(&NUMBER)).unwrap();
        }
        assert_eq!(count(&copy), COUNT as usize);
        // Nobody may look into it again.
        mem::forget(map);
    }

    #[test]
    fn a_shard_that_a_lost_thread_was_reading_is_copied() {
        let map = filled(false);
        mem::forget(map.map.shards()[1].read());
        // Who publishes would wait for ever.
        assert!(!map.is_free());
        assert_eq!(count(&map), COUNT as usize);
        let copy = map.copy(Value::clone);
        assert!(copy.is_free());
        assert_eq!(members(&copy).0.len(), COUNT as usize);
    }

    #[test]
    fn a_copy_hides_what_is_hidden() {
        let map = filled(true);
        map.reveal(MemberId(3));
        let copy = map.copy(Value::clone);
        assert_eq!(members(&copy).0, [3]);
        assert_eq!(copy.list().unwrap().len(), COUNT as usize);
        assert!(copy.publish(MemberId(4), Value(&NUMBER)).unwrap().is_hidden);
        copy.reveal(MemberId(4));
        assert_eq!(members(&copy).0, [3, 4]);
        assert_eq!(members(&map).0, [3]);
    }

    #[test]
    fn a_visitor_can_end_the_visit() {
        let map = filled(false);
        let mut count = 0;
        let ended = map.try_for_each(|_| {
            count += 1;
            if count == 5 { Err("enough") } else { Ok(()) }
        });
        assert_eq!((ended, count), (Err("enough"), 5));
        assert!(map.is_free());
    }

    /// The shards must be about equally full, whatever distance members lie at.
    #[test]
    #[cfg_attr(miri, ignore = "looks at too many members")]
    fn members_spread_over_the_shards() {
        const COUNT: usize = 1 << 14;
        for distance in [1, 2, 8, 64, 100, 1 << 10, 1 << 16] {
            let mut shards = [0; 8];
            let map = FirstWins::<Value>::new(shards.len(), false);
            for number in 0..COUNT as u32 {
                shards[map.map.determine_shard(hash_of(number * distance) as usize)] += 1;
            }
            let even = COUNT / shards.len();
            let right = even * 3 / 4..=even * 5 / 4;
            assert!(shards.iter().all(|count| right.contains(count)), "{shards:?} at distance {distance}");
        }
    }

    /// Members must differ in the places where a table looks for them, or in the seven bits that it compares
    /// first.
    #[test]
    #[cfg_attr(miri, ignore = "looks at too many members")]
    fn members_spread_over_a_table() {
        const COUNT: u32 = 1 << 14;
        /// A table looks at so many places at once.
        const GROUP: u64 = 16;
        for distance in [1, 2, 8, 64, 100, 1 << 10, 1 << 16] {
            let mut counts = vec![0_usize; (u64::from(COUNT) / GROUP) as usize];
            for number in 0..COUNT {
                counts[(hash_of(number * distance) % u64::from(COUNT) / GROUP) as usize] += 1;
            }
            let crowded = counts.iter().map(|count| count.saturating_sub(2 * GROUP as usize)).sum::<usize>();
            assert!(crowded < COUNT as usize / 10, "{crowded} of {COUNT} at distance {distance}");
        }
        let tags = (0..64).map(|member| hash_of(member) >> 57).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(tags.len(), 64);
    }
}
