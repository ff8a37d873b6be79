//! The records of the ZIP standard (APPNOTE 6.3.10): [read](records), [found](end), [walked](central),
//! [written](encode).

pub mod central;
pub mod encode;
pub mod end;
pub mod name;
pub mod records;
