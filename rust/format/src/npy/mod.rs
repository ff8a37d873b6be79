//! The [`header`] of an `.npy` file, and the Python [literals](literal) in it.

pub mod axes;
pub mod header;
pub mod literal;
