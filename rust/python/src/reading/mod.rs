//! The class of readers.

pub(crate) mod getitem_slot;
pub(crate) mod iterate;
pub(crate) mod layout;
pub(crate) mod reader;
pub(crate) mod samples;
pub(crate) mod verify;
