//! The class of writers, `update`, `repair`, and what `savez` needs.

pub(crate) mod repair;
pub(crate) mod replacement;
pub(crate) mod update;
pub(crate) mod writer;
