//! The class of writers, `create`, `update`, `repair`, and what `savez` needs.

pub(crate) mod create;
pub(crate) mod repair;
pub(crate) mod replacement;
pub(crate) mod update;
pub(crate) mod writer;
