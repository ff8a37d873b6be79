//! The binding of `mmnpz-file` to Python and NumPy: classes, exceptions, and views.
//!
//! This crate knows no zip, and opens no file. Each folder may use those above it in this list, and no other:
//!
//! - `error`, `detach`, `swap_cell`, `mapping`: exceptions; running without the interpreter; a value that
//!   threads read while one replaces it; the object that keeps a file mapped.
//! - `numpy`: all that uses the NumPy C API.
//! - `views`: open files, and the views into them that are kept.
//! - `batch`: many members at once.
//! - `reading`, `writing`: the classes.
#![deny(missing_docs)]
#![expect(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]
#![expect(
    clippy::doc_link_with_quotes,
    clippy::doc_lazy_continuation,
    reason = "docstrings are those of Python, with its brackets, quotes and sessions"
)]

use pyo3::pymodule;

/// The docstring that the stub `mmnpz/_mmnpz.pyi` has for a name, see `build.rs`.
macro_rules! docstring {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

mod batch;
mod detach;
mod error;
mod mapping;
mod numpy;
mod progress;
mod reading;
mod swap_cell;
mod views;
mod writing;

#[doc = docstring!("_module")]
#[pymodule(gil_used = false)]
mod _mmnpz {
    use pyo3::prelude::*;

    use super::numpy::{array, memmap, npy_header};
    use super::reading::getitem_slot;

    #[pymodule_export]
    use super::mapping::Mapping;
    #[pymodule_export]
    use super::reading::iterate::_walk;
    #[pymodule_export]
    use super::reading::layout::{_info, _layout};
    #[pymodule_export]
    use super::reading::reader::Reader;
    #[pymodule_export]
    use super::reading::samples::{_fetch, _fetch_headers, _is_mapped, _name_at, _position};
    #[pymodule_export]
    use super::reading::verify::_verify;
    #[pymodule_export]
    use super::views::map_again::_map_again;
    #[pymodule_export]
    use super::writing::create::{Created, create};
    #[pymodule_export]
    use super::writing::repair::repair;
    #[pymodule_export]
    use super::writing::replacement::Replacement;
    #[pymodule_export]
    use super::writing::stream::Stream;
    #[pymodule_export]
    use super::writing::update::update;
    #[pymodule_export]
    use super::writing::writer::Writer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        mmnpz_file::init();
        array::look_up(module.py())?;
        npy_header::look_up(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DirectReader", getitem_slot::make_type(module.py())?)?;
        module.add("memmap", memmap::make_type(module.py())?)
    }
}
