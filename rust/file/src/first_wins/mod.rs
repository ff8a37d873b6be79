//! A map from members to values that keeps the first value that was published for each: the store of the
//! views.

mod front;
mod map;

pub use map::{FirstWins, Listed, NoMemory, Owner, Published};
