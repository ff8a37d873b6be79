//! Open files, and the views that are handed out.

pub(crate) mod bad_members;
pub(crate) mod decompressed;
pub(crate) mod fresh;
pub(crate) mod handle;
pub(crate) mod map_again;
pub(crate) mod open_file;
pub(crate) mod unknown_name;
pub(crate) mod value;
pub(crate) mod view_cache;
