//! What mmnpz adds to an archive, as `docs/format.md` describes it.
//!
//! A directory is derived from the members in front of it. A process that is killed may leave none. So mmnpz
//! adds what lets a reader find the members without a directory: in an extra field of each local header, and
//! behind the last member. The [checksum] of each addition covers its own place in the file, so that neither
//! chance nor an archive inside of an array passes for one:
//!
//! - a [`mark`] in the local header of a member says whether it is begun or finished, and below which byte
//!   all members were finished when it was begun;
//! - a [`base`] behind the directory of another program says that this directory was whole when mmnpz began
//!   to append;
//! - a [`seal`] in front of a directory says that mmnpz wrote it, and what it lists;
//! - a [`stored_index`] in front of the seal leads from a name to its entry in the directory;
//! - an [`array_field`] in an entry of the directory repeats the `.npy` header of the member;
//! - a [`filler`] stands where a member could not be written, and a [`fence`] where the last member ends:
//!   they lead readers without a directory across.

pub mod array_field;
pub mod base;
pub(crate) mod certificate;
pub mod checkpoint;
mod checksum;
pub mod fence;
pub mod filler;
mod index_shape;
pub mod local_member;
pub mod mark;
pub mod seal;
pub mod stored_index;
