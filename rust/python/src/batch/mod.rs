//! Batches: `gather`, and `prefetch` for what a later one needs.

pub(crate) mod arguments;
pub(crate) mod gather;
pub(crate) mod lookup;
pub(crate) mod members;
pub(crate) mod prefetch;
