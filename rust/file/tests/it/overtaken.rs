//! Members that are finished in another order than that of their places, as threads do it.

use crate::histories::{Step, try_out};
use crate::support::archive;
use mmnpz_file::simulated_disk::SimulatedDisk;

#[test]
fn members_behind_the_end_record_of_an_empty_archive_are_found() {
    use Step::{Overtaken, Small};
    // The place of the first member is that of the end record.
    let steps = [Overtaken(0, vec![Small(0)], true), Small(1)];
    try_out(|| SimulatedDisk::trusted(archive(std::iter::empty())), (1, false), &steps, 0..1);
}

#[test]
fn of_two_directories_the_one_behind_is_newer() {
    use Step::{Flush, Overtaken, Small};
    // The first directory is published when a place is reserved that is never written. So the members in
    // front of the second one end earlier: it lists more, or the same. Where that is killed, too, the first
    // one lies in a gap, and is read before the gap is filled.
    let killed = |size: usize, beside: Vec<Step>| Overtaken(size, beside, true);
    for between in [vec![], vec![Small(0)], vec![Small(300), Flush, Small(0)]] {
        for size in [0, 100_000] {
            for beside in [vec![Flush], vec![Small(0), Small(0)]] {
                let first = killed(size, vec![Flush]);
                let last = [killed(250_000, beside), Small(0)];
                let steps = [&[Small(0), first][..], &between, &last].concat();
                try_out(|| SimulatedDisk::trusted(Vec::new()), (64, false), &steps, 0..1);
            }
        }
    }
}

#[test]
fn members_that_overtook_the_first_one_are_found_in_the_place_of_a_filler() {
    use Step::{Flush, Overtaken, Small};
    // The second directory is published when there is no member: behind a filler, into which members go.
    let steps = [Overtaken(0, vec![Flush], true), Overtaken(131_027, vec![Small(0)], false)];
    try_out(|| SimulatedDisk::trusted(Vec::new()), (1, false), &steps, 0..1);
}

#[test]
fn a_directory_that_is_half_sorted_is_not_believed() {
    use Step::{Flush, FlushSync, Overtaken, Session, Small};
    // The last directory has the order of the members, and the one before, in its place, that in which they
    // were finished. Between them is a boundary of sectors.
    let steps = [Overtaken(0, vec![Small(293), Flush, Small(0)], false), Small(0), FlushSync, Session];
    let seeds = [14_473_100_530_246_511_962, 1, 2, 3];
    try_out(|| SimulatedDisk::new(Vec::new()), (512, false), &steps, seeds);
}

#[test]
fn half_an_end_record_moves_no_empty_archive() {
    use Step::{Flush, Overtaken, Small};
    // The end record of the first directory, which lists nothing, lies across a boundary of sectors: in its
    // place of the directory.
    let steps = [Overtaken(270, vec![Flush, Small(0), Small(0)], false), Small(0)];
    try_out(|| SimulatedDisk::new(Vec::new()), (512, false), &steps, [3_876_225_383_967_538_344, 1, 2, 3]);
}
