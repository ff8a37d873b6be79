//! The map under real threads, with the memory of the machine: `make model` runs these under Miri. The values
//! count how often each of them is dropped.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak};
use std::thread;

use mmnpz_file::first_wins::{FirstWins, NoMemory, Owner};
use mmnpz_format::read::walked_index::MemberId;

const THREADS: usize = 4;
const MEMBERS: u32 = if cfg!(miri) { 12 } else { 500 };
/// Members that are published lie this far from each other.
const STRIDE: u32 = 1009;
const ROUNDS: usize = if cfg!(miri) { 2 } else { 40 };

/// What a value owns: who made it, for which member, and bytes that were written right before.
#[derive(Debug)]
struct Item {
    owner: usize,
    member: u32,
    filling: Vec<u32>,
}

/// A value that shares in an item, as a reference to a Python object does, and counts itself. A `Box` would
/// claim its item for itself whenever it is moved.
struct Value<'a> {
    item: Arc<Item>,
    alive: &'a AtomicUsize,
}

impl<'a> Value<'a> {
    fn new(alive: &'a AtomicUsize, owner: usize, member: MemberId) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        let MemberId(member) = member;
        Value { item: Arc::new(Item { owner, member, filling: vec![member; 5] }), alive }
    }
}

impl Owner for Value<'_> {
    type Target = Item;

    fn pointer(&self) -> NonNull<Item> {
        NonNull::from(&*self.item)
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The owner of an item that was found for a member.
fn look(item: NonNull<Item>, member: MemberId) -> usize {
    // SAFETY: the map keeps its values until it is dropped, which is after all calls of this function.
    let item = unsafe { item.as_ref() };
    assert_eq!(item.member, member.0);
    assert_eq!(item.filling, [member.0; 5]);
    item.owner
}

/// The order in which a thread goes through the members: two forwards, two backwards, so that they meet.
fn order(thread: usize) -> Vec<MemberId> {
    let mut members: Vec<_> = (0..MEMBERS).map(|number| MemberId(number * STRIDE)).collect();
    if thread % 2 == 1 {
        members.reverse();
    }
    members
}

#[test]
fn all_threads_get_the_value_that_was_published_first() {
    for _ in 0..ROUNDS {
        let alive = AtomicUsize::new(0);
        let map = FirstWins::new(2, false);
        let barrier = Barrier::new(THREADS);
        let seen: Vec<BTreeMap<u32, usize>> = thread::scope(|scope| {
            let run = |number: usize| {
                let (map, barrier, alive) = (&map, &barrier, &alive);
                move || {
                    barrier.wait();
                    let publish = |member| {
                        let found = map.get(member).unwrap_or_else(|| {
                            let value = Value::new(alive, number, member);
                            let mine = value.pointer();
                            let published = map.publish(member, value).unwrap();
                            assert!(!published.is_hidden);
                            assert_eq!(published.pointer == mine, look(published.pointer, member) == number);
                            published.pointer
                        });
                        // From the map, then from its front.
                        for _ in 0..3 {
                            assert_eq!(map.get(member), Some(found));
                        }
                        (member.0, look(found, member))
                    };
                    order(number).into_iter().map(publish).collect()
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(run(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|owners| *owners == seen[0]));
        // Values that were not the first were dropped, and only these.
        assert_eq!(alive.load(Ordering::Relaxed), MEMBERS as usize);
        let listed: Vec<_> = map.list().unwrap().into_iter().map(|(member, _)| member).collect();
        assert_eq!(listed, order(0));
        drop(map);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn what_is_found_is_on_a_list_that_is_begun_meanwhile() {
    for round in 0..ROUNDS {
        let alive = AtomicUsize::new(0);
        let map = FirstWins::new(4, false);
        let list = Mutex::new(vec![false; MEMBERS as usize]);
        let is_complete = AtomicBool::new(false);
        let barrier = Barrier::new(THREADS);
        let add = |member: MemberId| list.lock().unwrap()[(member.0 / STRIDE) as usize] = true;
        let ask = || {
            if !is_complete.load(Ordering::Acquire) {
                map.list().unwrap().into_iter().for_each(|(member, _)| add(member));
                is_complete.store(true, Ordering::Release);
            }
        };
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (map, list, barrier, add, ask, alive) = (&map, &list, &barrier, &add, &ask, &alive);
                scope.spawn(move || {
                    barrier.wait();
                    for (at, member) in order(number / 2).into_iter().enumerate() {
                        if map.get(member).is_none() {
                            let published = map.publish(member, Value::new(alive, number, member)).unwrap();
                            if published.is_hidden {
                                add(member);
                                map.reveal(member);
                            }
                            assert!(map.get(member).is_some());
                        }
                        // Nobody asks for the list at first, then all do.
                        if at >= round * MEMBERS as usize / (2 * ROUNDS) {
                            ask();
                            assert!(
                                list.lock().unwrap()[(member.0 / STRIDE) as usize],
                                "round {round}: {member:?}"
                            );
                        }
                    }
                });
            }
        });
        assert!(list.into_inner().unwrap().into_iter().all(|listed| listed));
    }
}

#[test]
fn a_value_that_its_publisher_left_hidden_is_revealed_by_the_next() {
    // As in a child that was forked in the middle.
    let alive = AtomicUsize::new(0);
    let map = FirstWins::new(2, true);
    let member = MemberId(STRIDE);
    let first = map.publish(member, Value::new(&alive, 0, member)).unwrap();
    assert!(first.is_hidden);
    assert_eq!(map.get(member), None);
    assert_eq!(map.list().unwrap(), [(member, first.pointer)]);
    thread::scope(|scope| {
        for number in 1..=THREADS {
            let (map, alive) = (&map, &alive);
            scope.spawn(move || {
                let published = map.publish(member, Value::new(alive, number, member)).unwrap();
                assert_eq!(look(published.pointer, member), 0);
                map.reveal(member);
                assert_eq!(map.get(member), Some(published.pointer));
            });
        }
    });
    let late = map.publish(member, Value::new(&alive, 1, member)).unwrap();
    assert_eq!((late.pointer, late.is_hidden), (first.pointer, false));
    assert_eq!(alive.load(Ordering::Relaxed), 1);
}

#[test]
fn values_inserted_before_the_map_is_shared_are_found_at_once() {
    let alive = AtomicUsize::new(0);
    for is_listed in [false, true] {
        let mut map = FirstWins::new(2, is_listed);
        map.reserve(MEMBERS as usize);
        for member in order(0) {
            let first = map.insert(member, Value::new(&alive, 0, member)).unwrap();
            assert_eq!(map.get(member), Some(first));
            assert_eq!(look(first, member), 0);
        }
        let late = map.publish(MemberId(0), Value::new(&alive, 1, MemberId(0))).unwrap();
        assert_eq!((look(late.pointer, MemberId(0)), late.is_hidden), (0, false));
        assert_eq!(map.list().unwrap().len(), MEMBERS as usize);
        assert_eq!(alive.load(Ordering::Relaxed), MEMBERS as usize);
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

/// A value that uses the map while it is dropped, as the destructor of a Python object may.
struct Meddler(Arc<OnceLock<Weak<FirstWins<Meddler>>>>, Box<u8>);

impl Owner for Meddler {
    type Target = u8;

    fn pointer(&self) -> NonNull<u8> {
        NonNull::from(&*self.1)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        if let Some(map) = self.0.get().and_then(Weak::upgrade) {
            assert!(map.is_free(), "a value is dropped under a lock");
            assert!(map.get(MemberId(0)).is_some());
            map.reveal(MemberId(0));
        }
    }
}

#[test]
fn no_value_is_dropped_under_a_lock() {
    let weak = Arc::new(OnceLock::new());
    let map = Arc::new(FirstWins::new(2, true));
    weak.set(Arc::downgrade(&map)).unwrap();
    let publish = |member| map.publish(MemberId(member), Meddler(Arc::clone(&weak), Box::new(0)));
    publish(0).unwrap();
    map.reveal(MemberId(0));
    publish(0).unwrap();
    for member in 1..MEMBERS {
        publish(member).unwrap();
    }
    with_limit(0, || assert!((MEMBERS..u32::MAX).map(publish).any(|published| published.is_err())));
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let alive = AtomicUsize::new(0);
    let map = FirstWins::new(2, false);
    let mut failed = None;
    for member in (0..20_000).map(MemberId) {
        let value = Value::new(&alive, 0, member);
        let published = with_limit(10_000, || map.publish(member, value));
        if published.is_err() {
            failed = Some(member);
            break;
        }
        // The front takes memory, too, and does without it.
        with_limit(1_000, || assert_eq!(map.get(member), Some(published.unwrap().pointer)));
    }
    let failed = failed.unwrap();
    assert!(failed.0 > 100);
    assert_eq!(alive.load(Ordering::Relaxed), failed.0 as usize);
    assert_eq!(map.get(failed), None);
    with_limit(100, || assert_eq!(map.list(), Err(NoMemory)));
    assert_eq!(map.list().unwrap().len(), failed.0 as usize);
    for member in (0..2 * failed.0).map(MemberId) {
        let published = map.publish(member, Value::new(&alive, 1, member)).unwrap();
        // The list that was begun above is kept.
        assert_eq!(published.is_hidden, member >= failed);
        map.reveal(member);
        assert_eq!(look(map.get(member).unwrap(), member), usize::from(member >= failed));
    }
    let mut map = FirstWins::new(2, false);
    with_limit(1_000, || {
        map.reserve(1 << 40);
        let members = (0..1_000).map(MemberId);
        assert!(members.map(|member| map.insert(member, Number(Box::new(1)))).any(|done| done.is_err()));
    });
}

struct Number(Box<u8>);

impl Owner for Number {
    type Target = u8;

    fn pointer(&self) -> NonNull<u8> {
        NonNull::from(&*self.0)
    }
}

#[test]
#[should_panic(expected = "no member")]
fn there_is_no_last_member() {
    let _ = FirstWins::new(2, false).publish(MemberId(u32::MAX), Number(Box::new(1)));
}

thread_local! {
    /// Larger allocations fail in this thread.
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn with_limit<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    LIMIT.set(bytes.max(64));
    let result = work();
    LIMIT.set(usize::MAX);
    result
}

struct Limited;

// SAFETY: `System` does the work, and null tells that there is no memory.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the contract of the trait, which the caller upholds.
        if layout.size() > LIMIT.get() { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the contract of the trait, which the caller upholds.
        if layout.size() > LIMIT.get() { ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the contract of the trait, which the caller upholds.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;
