//! From a name or a number to a member: by the [stored index](lookup), or by [one that a walk
//! makes](walked_index).

pub mod lookup;
pub mod walked_index;
