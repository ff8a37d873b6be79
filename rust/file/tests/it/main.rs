//! The writer that ships, on a simulated disk, and what readers find of it; and where batches lie in a map.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "offsets in archives of some megabytes at most"
)]

// `cfg(test)`, so that clippy lets the helpers unwrap: what goes wrong in one of them fails the test.
#[cfg(test)]
mod closing;
#[cfg(test)]
mod excerpts;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod left_behind;
#[cfg(test)]
mod lookup;
#[cfg(test)]
mod overtaken;
#[cfg(test)]
#[path = "../../../format/tests/it/ranges.rs"]
mod ranges;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
