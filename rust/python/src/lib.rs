//! The binding of `mmnpz-file` to Python and NumPy.
#![deny(missing_docs)]
// PyO3 hands arguments over by value and wants getters as methods; docstrings have Python's brackets and quotes.
#![allow(clippy::needless_pass_by_value, clippy::trivially_copy_pass_by_ref, clippy::doc_link_with_quotes)]

use pyo3::pymodule;

mod array;
mod detach;
mod error;
mod gather;
mod mapping;
mod memmap;
mod reader;
mod repair;
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

    use super::{array, memmap, source, subscript};

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
        mmnpz_file::init();
        array::look_up(module.py())?;
        source::look_up(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DirectReader", subscript::make_type(module.py())?)?;
        module.add("memmap", memmap::make_type(module.py())?)
    }
}
