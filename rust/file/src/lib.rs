//! The file engine of mmnpz: what reads, writes and recovers archives in files, without Python.
//!
//! [`mmnpz_format`] says which bytes go where. This crate opens, maps and locks files, writes to them with
//! several threads, copies out of maps, and brings back what a killed writer left. Whatever can take long
//! takes a [`KeepGoing`] and asks it from time to time: that is how Ctrl-C gets through. Each line may use
//! those above it:
//!
//! - [`failure`]: what can go wrong. [`fork`]: whether this process is a fork. `boot`: what is older than
//!   the system.
//! - `map_limit`, [`mapping`], [`paging`]: maps of files, and what the system is told of them.
//! - [`storage`]: what an archive is written to. `lock`, `writable_file`: a file that one process alone
//!   writes to. `replace`: mode "w".
//! - [`items`]: the bytes of an array in memory. `recovery`: from a file to a writer that goes on behind
//!   it. [`writer`]: an archive that is open for writing. [`repair`]: the directory of one that nobody
//!   closed.
//! - [`fetch`]: having the system read what is needed of a map. [`excerpts`]: where a batch lies in a map.
//! - [`snapshot`]: one state of a file, and the protocol by which it is read.
//! - [`first_wins`]: a map from members to what was made of them, the first of which stays.
//! - `copy_pool`, [`copy`]: threads that copy excerpts of a map. [`checksums`]: what they check instead.

mod boot;
pub mod checksums;
pub mod copy;
mod copy_pool;
pub mod excerpts;
pub mod failure;
pub mod fetch;
pub mod first_wins;
pub mod fork;
pub mod items;
mod lock;
mod map_limit;
pub mod mapping;
pub mod paging;
mod recovery;
pub mod repair;
mod replace;
#[cfg(feature = "simulation")]
pub mod simulated_disk;
pub mod snapshot;
pub mod storage;
mod writable_file;
pub mod writer;

pub use failure::{Failure, KeepGoing};
pub use writable_file::WritableFile;

/// Has forked children forget what is not theirs: locks, and threads that copy. Call it once, before there
/// are threads that could fork.
pub fn init() {
    fork::install(&[lock::give_up, copy_pool::give_up]);
}
