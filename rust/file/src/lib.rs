//! The file engine of mmnpz: reads, writes and recovers archives in files, without Python.
//!
//! [`mmnpz_format`] says which bytes go where. This crate opens, maps and locks files, writes to them with
//! several threads, copies out of maps, and recovers what a killed writer left. A function that can take long
//! takes a [`KeepGoing`] and asks it from time to time, so that Ctrl-C gets through. Each line may use those
//! above it:
//!
//! - [`failure`]: what can go wrong. [`fork`]: whether this process is a fork. `boot`: whether a file is
//!   older than the running system.
//! - `lock`: one writer for each file. `map_limit`, [`mapping`], [`paging`]: maps of files, and advice to the
//!   system about their use.
//! - [`storage`]: the trait of files to which archives are written. `writable_file`: a file to which one
//!   process alone writes. [`replace`]: a new file in place of an old one.
//! - `pread`, `parts`: reading a file that is not mapped. `copy_pool`, `share`: threads that share work.
//! - [`items`]: the bytes of an array in memory. `blocks`: writing them, and checksums, with several
//!   threads. `shared_map`: a map through which programs write to a part of a file.
//! - `recovery`: from a file to a writer that appends to it. [`batch`]: small members that are written
//!   together. [`stream`]: an array that grows; `partial`: what a killed writer left of one. [`writer`]: an
//!   archive that is open for writing. [`repair`]: the directory of an archive that no writer closed.
//! - [`fetch`]: having the system read many places of a map at once. [`excerpts`]: where a batch lies in a
//!   map.
//! - [`copy`]: copying excerpts of a map.
//! - [`decompress`]: from the bytes of compressed members to those of `.npy` files.
//! - `opening`, [`snapshot`]: one state of a file, and the protocol by which it is read.
//! - [`columns`]: what is known of all members, as lists of numbers.
//! - [`nearest`]: the names that are most like one that is not there.
//! - [`first_wins`]: a hash map in which the first value of a key stays: the views of members.
//! - [`checksums`]: comparing the bytes of members with their checksums.

pub mod batch;
mod blocks;
mod boot;
pub mod checksums;
pub mod columns;
pub mod copy;
mod copy_pool;
pub mod decompress;
pub mod excerpts;
pub mod failure;
pub mod fetch;
pub mod first_wins;
pub mod fork;
pub mod items;
mod lock;
mod map_limit;
pub mod mapping;
pub mod nearest;
mod opening;
pub mod paging;
mod partial;
mod parts;
mod pread;
mod recovery;
pub mod repair;
pub mod replace;
mod share;
mod shared_map;
#[cfg(feature = "simulation")]
pub mod simulated_disk;
pub mod snapshot;
pub mod storage;
pub mod stream;
mod writable_file;
pub mod writer;

pub use failure::{Failure, KeepGoing};
pub use writable_file::WritableFile;

/// Has forked children give up the locks and the copying threads of their parent. Call it once, before any
/// thread can fork.
pub fn init() {
    fork::install(&[lock::give_up, copy_pool::give_up]);
}
