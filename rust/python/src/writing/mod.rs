//! The class of writers, `repair`, and what `savez` needs.

pub(crate) mod repair;
pub(crate) mod replacement;
pub(crate) mod writer;
