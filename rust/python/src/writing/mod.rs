//! The class of writers, and `repair`.

pub(crate) mod repair;
pub(crate) mod writer;
