//! What a literal is in Rust, and what can be wrong with one.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize, de, ser};

pub use crate::error::LiteralError as Error;

/// The name of a newtype struct whose sequence is a Python tuple.
pub const TUPLE: &str = "$tuple";

/// A literal of a kind not known beforehand: what a dtype's `descr` is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Literal<'a> {
    /// A string.
    #[serde(borrow)]
    Str(Cow<'a, str>),
    /// An integer.
    Int(i64),
    /// A tuple.
    #[serde(borrow)]
    Tuple(Vec<Literal<'a>>),
    /// A list.
    #[serde(borrow)]
    List(Vec<Literal<'a>>),
}

impl Literal<'_> {
    /// The same literal, owning its strings.
    pub fn into_owned(self) -> Literal<'static> {
        let all = |items: Vec<Literal<'_>>| items.into_iter().map(Literal::into_owned).collect();
        match self {
            Literal::Str(text) => Literal::Str(Cow::Owned(text.into_owned())),
            Literal::Int(number) => Literal::Int(number),
            Literal::Tuple(items) => Literal::Tuple(all(items)),
            Literal::List(items) => Literal::List(all(items)),
        }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::Type(message.to_string())
    }
}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::Type(message.to_string())
    }
}
