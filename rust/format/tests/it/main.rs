//! The public behaviour of `mmnpz-format`, on archives built byte by byte.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "offsets in archives of some hundred bytes"
)]

// `cfg(test)`, so that clippy lets the helpers unwrap: what goes wrong in one of them fails the test.
#[cfg(test)]
mod archives;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod index;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod overwritten;
#[cfg(test)]
mod ranges;
