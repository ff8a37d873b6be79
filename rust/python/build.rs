//! Tells the code whether it is compiled for a Python without a global interpreter lock.

fn main() {
    // Sets `cfg(Py_GIL_DISABLED)` there.
    pyo3_build_config::use_pyo3_cfgs();
}
