//! The layout of an `.npz` archive: bytes in, ranges and bytes out.
//!
//! This crate knows ZIP records (APPNOTE 6.3.10), `.npy` headers (NEP 1, `numpy.lib.format`) and what mmnpz
//! adds to an archive (`docs/format.md`). It reads a file through a [`window::Window`] and gives back ranges
//! and numbers. It opens no file, maps nothing and knows no Python. Every number in an archive is a claim:
//! this crate checks it against the length of the file before it uses it, and allocates no more memory than
//! the file itself could fill.
//!
//! Each folder may use those above it in this list, and no other:
//!
//! - `bytes`, [`error`], [`window`]: ranges of bytes, what can be wrong with a file, the parts of a file
//!   that were read.
//! - [`zip`]: the records of the standard, read and written.
//! - [`npy`]: the `.npy` header, and the Python literals in it.
//! - [`additions`]: what mmnpz adds to an archive.
//! - [`recover`]: what is in a file, with or without a directory that lists it.
//! - [`read`]: from a name or a number to a member.
//! - [`mod@write`]: where the next member and the next directory go.
#![forbid(unsafe_code)]

pub mod additions;
mod bytes;
pub mod error;
pub mod npy;
pub mod read;
pub mod recover;
pub mod window;
pub mod write;
pub mod zip;

pub use error::{Error, ErrorKind, Missing};
pub use window::Window;
