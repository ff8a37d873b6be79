//! The binding of `mmnpz-core` to Python and NumPy.
#![deny(missing_docs)]
// PyO3 hands arguments over by value and wants getters as methods; docstrings have Python's brackets and quotes.
#![allow(clippy::needless_pass_by_value, clippy::trivially_copy_pass_by_ref, clippy::doc_link_with_quotes)]

use pyo3::pymodule;

mod advice;
mod archive;
mod array;
mod array_wrap;
mod boot;
mod copying;
mod detach;
mod error;
mod file;
mod fork;
mod gather;
mod helpers;
mod lock;
mod mapping;
mod maps;
mod memmap;
mod reader;
mod repair;
mod replace;
mod shared;
mod source;
mod subclass;
mod subscript;
mod views;
mod walk;
mod writer;

/// The compiled half of mmnpz; use the names that the package exports.
#[pymodule(gil_used = false)]
mod _mmnpz {
    use pyo3::prelude::*;

    use super::{array, fork, memmap, source, subscript};

    #[pymodule_export]
    use super::mapping::Mapping;
    #[pymodule_export]
    use super::reader::Reader;
    #[pymodule_export]
    use super::repair::repair;
    #[pymodule_export]
    use super::writer::Writer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Registers its handler, before there is a thread that could fork in the middle of it.
        fork::count();
        array::look_up(module.py())?;
        source::look_up(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DirectReader", subscript::make_type(module.py())?)?;
        module.add("memmap", memmap::make_type(module.py())?)
    }
}
