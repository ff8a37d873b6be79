//! The class of writers, `create`, `stream`, `update`, `repair`, and what `savez` needs.

pub(crate) mod create;
pub(crate) mod repair;
pub(crate) mod replacement;
pub(crate) mod stream;
pub(crate) mod update;
pub(crate) mod writer;
