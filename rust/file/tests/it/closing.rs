//! Threads that close one writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mmnpz_file::items::Items;
use mmnpz_file::simulated_disk::SimulatedDisk;
use mmnpz_file::writer::{Answer, NewMember};
use mmnpz_format::zip::name::StoredName;

use crate::support::writer;

fn member<'a>(name: &str, data: &'a [u8]) -> NewMember<'a> {
    NewMember {
        name: StoredName::new(name).unwrap(),
        header: &[],
        array_field: None,
        items: Items::from(data),
    }
}

#[test]
fn a_thread_that_is_interrupted_while_it_closes_does_not_open_the_writer_for_others() {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 1, false).unwrap();
    let mut first = member("first", &[1; 200]);
    let Answer::Place(place) = open.reserve(&first, false).unwrap() else { panic!("no place") };
    let other_waits = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            open.close(&|| {
                other_waits.store(true, Ordering::Relaxed);
                true
            })
        });
        // Both wait for the member that was begun.
        open.close(&|| !other_waits.load(Ordering::Relaxed)).unwrap_err();
        let mut second = member("second", &[2; 200]);
        let answer = open.reserve(&second, false).unwrap();
        if let Answer::Place(place) = &answer {
            open.write(place, &mut second, &|_| true).unwrap();
        }
        open.write(&place, &mut first, &|_| true).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!(answer, Answer::Closed);
    });
    assert_eq!(open.reserve(&member("third", &[3; 200]), false).unwrap(), Answer::Closed);
}
