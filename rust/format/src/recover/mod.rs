//! What is in a file: by its directory, and by a [scan](recovery_scan) of the local headers where none lists
//! them.

pub(crate) mod listed;
mod member_scan;
pub mod partial;
mod provenance;
pub mod recovery_scan;
mod stale_index;
pub mod survey;
