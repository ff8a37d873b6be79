//! The layout of an `.npz` archive, over plain byte slices.
//!
//! This crate knows ZIP records (APPNOTE 6.3.10) and `.npy` headers (NEP 1, `numpy.lib.format`). It takes
//! `&[u8]` and gives back ranges and numbers; it opens no file, maps nothing and has never heard of Python.
//! Every number in an archive is a claim: it is checked against the slice before it is used, and nothing is
//! allocated that the slice itself could not fill.
//!
//! - [`zip`]: the records, as zero-copy structs.
//! - [`index`]: finds the end record, walks the central directory, looks names up.
//! - [`catalog`]: the members of an archive as a reader looks them up, by the stored index where there is a sound one.
//! - [`hint`]: the `.npy` headers in the directory.
//! - [`append`]: the state of an archive that is written to; [`grow`]: adding to a directory where it is.
//! - [`mark`]: what mmnpz adds to an archive; [`survey`]: what is in a file, with or without a directory.
//! - [`sparse`]: the bytes of a file that has holes.
//! - [`filler`]: what stands where a member could not be written; `kept_directory`: the directory of another program, in
//!   a filler; `stale_index`: what another program has left of ours.
//! - [`slots`]: a place for each member, for what was made of it.
//! - [`npy`]: the `.npy` header; [`literal`]: the Python literals it is made of.
//! - [`layout`]: where the next member goes, and the bytes of its headers; [`directory`]: the directory to write.
#![forbid(unsafe_code)]

pub mod append;
pub mod catalog;
pub mod directory;
pub mod error;
pub mod filler;
pub mod grow;
pub mod hint;
pub mod index;
mod kept_directory;
pub mod layout;
pub mod literal;
pub mod mark;
pub mod name;
pub mod npy;
pub mod slots;
pub mod sparse;
mod stale_index;
pub mod survey;
mod table;
pub mod zip;

pub use error::{Error, ErrorKind};
