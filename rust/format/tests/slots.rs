//! Slots under real threads. The model in `slots.rs` tries all interleavings of a few calls; here are many
//! places and many threads, with the memory of the machine, and what is put in is freed in the end.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use mmnpz_format::read::walked_index::MemberId;
use mmnpz_format::slots::{Refused, Slots};

const THREADS: usize = 4;
const PLACES: u32 = if cfg!(miri) { 8 } else { 500 };
/// Places lie so far from each other that some are in the chunks that are allocated when they are used: of
/// 65,536 places, and of 4 under Miri.
const STRIDE: u32 = if cfg!(miri) { 2 } else { 1009 };
const ROUNDS: usize = if cfg!(miri) { 3 } else { 40 };

/// What is put in: its owner, its place, and bytes that were written right before.
#[derive(Debug)]
struct Item {
    owner: usize,
    member: u32,
    filling: Vec<u32>,
}

impl Item {
    fn leak(owner: usize, member: u32) -> NonNull<Item> {
        NonNull::from(Box::leak(Box::new(Item { owner, member, filling: vec![member; 5] })))
    }
}

/// Frees what was leaked.
fn free(item: NonNull<Item>) {
    // SAFETY: made by `leak`, and each pointer is freed by one caller: who offered it in vain, or who takes
    // the slots apart in the end.
    drop(unsafe { Box::from_raw(item.as_ptr()) });
}

fn look(item: NonNull<Item>, member: MemberId) -> usize {
    // SAFETY: what is in a slot is freed after all threads have ended.
    let item = unsafe { item.as_ref() };
    assert_eq!(item.member, member.0);
    assert_eq!(item.filling, [member.0; 5]);
    item.owner
}

/// What was put in first.
fn taken(refused: &Refused<Item>) -> NonNull<Item> {
    match refused {
        Refused::Taken(first) => *first,
        Refused::NoMemory => unreachable!(),
    }
}

fn free_all(slots: &Slots<Item>) {
    slots.iter().for_each(|(_, item)| free(item));
}

/// The order in which a thread goes through the places: two forwards, two backwards, so that they meet.
fn order(thread: usize) -> Vec<MemberId> {
    let mut members: Vec<_> = (0..PLACES).map(|place| MemberId(place * STRIDE)).collect();
    if thread % 2 == 1 {
        members.reverse();
    }
    members
}

#[test]
fn all_threads_get_what_the_first_put_in() {
    for _ in 0..ROUNDS {
        let slots = Slots::new((PLACES * STRIDE) as usize).unwrap();
        let barrier = Barrier::new(THREADS);
        let firsts = AtomicUsize::new(0);
        let seen: Vec<BTreeMap<u32, usize>> = thread::scope(|scope| {
            let run = |number: usize| {
                let (slots, barrier, firsts) = (&slots, &barrier, &firsts);
                move || {
                    barrier.wait();
                    order(number)
                        .into_iter()
                        .map(|member| {
                            let found = slots.get(member).unwrap_or_else(|| {
                                let mine = Item::leak(number, member.0);
                                let counts = slots.put(member, mine);
                                slots.settle(member);
                                match counts {
                                    Ok(()) => {
                                        firsts.fetch_add(1, Ordering::Relaxed);
                                        mine
                                    }
                                    Err(refused) => {
                                        free(mine);
                                        taken(&refused)
                                    }
                                }
                            });
                            assert_eq!(slots.get(member), Some(found));
                            (member.0, look(found, member))
                        })
                        .collect()
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(run(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(firsts.into_inner(), PLACES as usize);
        assert!(seen.iter().all(|owners| *owners == seen[0]));
        assert_eq!(slots.iter().count(), PLACES as usize);
        free_all(&slots);
    }
}

#[test]
fn what_is_found_is_on_a_list_that_is_begun_meanwhile() {
    for round in 0..ROUNDS {
        let slots = Slots::new((PLACES * STRIDE) as usize).unwrap();
        let list = Mutex::new(vec![false; PLACES as usize]);
        let complete = AtomicBool::new(false);
        let barrier = Barrier::new(THREADS);
        let add = |member: MemberId| list.lock().unwrap()[(member.0 / STRIDE) as usize] = true;
        let ask = || {
            if !complete.load(Ordering::Acquire) {
                slots.begin_list();
                slots.iter().for_each(|(member, _)| add(member));
                complete.store(true, Ordering::Release);
            }
        };
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (slots, list, barrier, add, ask) = (&slots, &list, &barrier, &add, &ask);
                scope.spawn(move || {
                    barrier.wait();
                    for (at, member) in order(number / 2).into_iter().enumerate() {
                        if slots.get(member).is_none() {
                            let mine = Item::leak(number, member.0);
                            if slots.put(member, mine).is_err() {
                                free(mine);
                            }
                            if slots.is_listed() {
                                add(member);
                            }
                            slots.settle(member);
                        }
                        // Nobody asks for the list at first, then all do.
                        if at >= round * PLACES as usize / (2 * ROUNDS) {
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
        free_all(&slots);
    }
}

#[test]
fn a_place_that_its_thread_left_unsettled_is_settled_by_the_next() {
    // As in a child that was forked in the middle.
    let member = MemberId(STRIDE * (PLACES - 1));
    let slots = Slots::new(member.0 as usize + 1).unwrap();
    let first = Item::leak(0, member.0);
    slots.put(member, first).unwrap();
    assert_eq!(slots.get(member), None);
    thread::scope(|scope| {
        for number in 1..=THREADS {
            let slots = &slots;
            scope.spawn(move || {
                let late = Item::leak(number, member.0);
                let kept = taken(&slots.put(member, late).unwrap_err());
                free(late);
                assert_eq!(look(kept, member), 0);
                slots.settle(member);
                assert_eq!(slots.get(member), Some(kept));
            });
        }
    });
    free_all(&slots);
}

#[test]
fn there_is_room_for_as_many_as_were_asked_for() {
    let slots = Slots::<u64>::new(3).unwrap();
    assert_eq!(slots.get(MemberId(3)), None);
    assert_eq!(Slots::<u64>::new(0).unwrap().iter().count(), 0);
    let mut number = 0;
    let pointer = NonNull::from(&mut number);
    assert!(
        std::panic::catch_unwind(|| Slots::<u64>::new(3).unwrap().put(MemberId(3), NonNull::dangling()))
            .is_err()
    );
    assert_eq!(slots.put(MemberId(2), pointer), Ok(()));
}
