//! Where the next member and the next directory go: the state of a [writer](appender), without a file.

pub mod appender;
pub mod directory_plan;
pub mod directory_writer;
pub mod grow_in_place;
mod kept_directory;
pub mod patch;
pub mod placement;
mod prologue;
mod remark;
mod resume;
mod tail;
