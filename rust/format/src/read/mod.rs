//! From a name or a number to a member: by the [stored index](lookup), or by [one that a walk
//! makes](walked_index). Where a writer has overwritten the directory, a search makes that.

pub mod entry;
pub mod facts;
pub mod lookup;
mod searched_index;
pub mod walked_index;
