//! All that uses the NumPy C API: arrays, views, and the type of views.

pub(crate) mod array;
pub(crate) mod array_wrap;
pub(crate) mod memmap;
pub(crate) mod npy_header;
pub(crate) mod slot_type;
