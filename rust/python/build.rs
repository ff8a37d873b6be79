//! Tells the code for which Python it is compiled, and gives it the docstrings of the stub.
//!
//! Editors show the stub, and `help` shows what the binary has: so both have one text.

use std::path::Path;
use std::{env, fs, io};

const STUB: &str = "../../mmnpz/_mmnpz.pyi";

fn main() -> io::Result<()> {
    // Sets `cfg(Py_GIL_DISABLED)` for a Python without a global interpreter lock.
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rerun-if-changed={STUB}");
    let folder = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    for (name, text) in docstrings(&fs::read_to_string(STUB)?) {
        fs::write(Path::new(&folder).join(name), text)?;
    }
    Ok(())
}

/// The docstrings of a stub, by what they document: `_module`, `Class`, `Class.method` or `function`.
fn docstrings(stub: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut class, mut name) = ("", String::from("_module"));
    let mut lines = stub.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if let Some(defined) = identifier(code, "class ") {
            (class, name) = (defined, defined.to_owned());
        } else if let Some(defined) = identifier(code, "def ") {
            name = if indent == 0 { defined.to_owned() } else { format!("{class}.{defined}") };
        } else if let Some(first) = code.strip_prefix("\"\"\"") {
            let text = first.strip_suffix("\"\"\"").map_or_else(
                || {
                    let rest = lines.by_ref().take_while(|line| line.trim() != "\"\"\"");
                    rest.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
                },
                str::to_owned,
            );
            found.push((name.clone(), text));
        }
    }
    found
}

/// What a line of Python defines, if it starts with this keyword.
fn identifier<'a>(code: &'a str, keyword: &str) -> Option<&'a str> {
    code.strip_prefix(keyword)?.split(['(', ':']).next()
}
