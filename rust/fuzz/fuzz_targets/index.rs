//! Any bytes, and any archive with something wrong: the index must read it as the simple reader does, inside
//! the file, in bounded memory. Then the directory is overwritten under the index, which must not lead a
//! reader astray.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use mmnpz_fuzz::{Plan, check};

use mmnpz_format::Window;
use mmnpz_format::zip::end::DirectoryLocation;

fn check_overwritten(bytes: &[u8], noise: &[u8]) {
    let Some(index) = check(bytes) else { return };
    let Ok(directory) = DirectoryLocation::locate(Window::from(bytes)) else { return };
    let places: Vec<_> = index
        .ids()
        .map(|id| {
            let name = index.name(Window::from(bytes), id).unwrap();
            (id, index.member(Window::from(bytes), id, &name), name)
        })
        .collect();
    let mut changed = bytes.to_vec();
    let region = &mut changed[directory.range.start as usize..];
    if !noise.is_empty() {
        region.iter_mut().zip(noise.iter().cycle()).for_each(|(byte, new)| *byte = *new);
    }
    for (id, before, name) in places {
        // What lies in front of the directory has not changed; the rest may be anything, but nowhere else.
        let found = index.find(Window::from(&changed), &name).unwrap();
        assert!(found.is_none_or(|found| found == id), "{name:?} became another member");
        let after = index.member(Window::from(&changed), id, &name);
        match (before, after) {
            (Ok(before), after) if before.end <= directory.range.start => {
                assert_eq!(after, Ok(before), "{name:?} moved");
                assert_eq!(found, Some(id), "{name:?} was lost");
                assert!(index.contains(Window::from(&changed), &name).unwrap());
                assert_eq!(index.name(Window::from(&changed), id).unwrap(), name);
            }
            (_, Ok(after)) => assert!(after.start <= after.end && after.end <= changed.len() as u64),
            (_, Err(_)) => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut source = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut source) else { return };
    check_overwritten(&plan.build(), source.take_rest());
    check_overwritten(data, b"noise");
});
