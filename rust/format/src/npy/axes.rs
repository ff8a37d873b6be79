//! Axes: what is needed of a shape to sort arrays by it, without a list of its dimensions.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// The number of axes, the first of them, and the number of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axes {
    /// How many there are.
    pub count: usize,
    /// The length of the first one.
    pub first: Option<u64>,
    /// The product of their lengths but zero, at most 2**64 - 1.
    pub product: u64,
    /// Whether one has the length 0.
    pub is_empty: bool,
}

impl Axes {
    /// Those of an array without axes.
    pub const NONE: Axes = Axes { count: 0, first: None, product: 1, is_empty: false };

    fn and(self, length: u64) -> Self {
        Axes {
            count: self.count + 1,
            first: self.first.or(Some(length)),
            product: self.product.saturating_mul(length.max(1)),
            is_empty: self.is_empty || length == 0,
        }
    }

    /// Those of a shape.
    pub fn of(shape: &[u64]) -> Self {
        shape.iter().fold(Axes::NONE, |axes, &length| axes.and(length))
    }
}

/// From the sequence of the dimensions.
impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lengths: A) -> Result<Axes, A::Error> {
                let mut axes = Axes::NONE;
                while let Some(length) = lengths.next_element()? {
                    axes = axes.and(length);
                }
                Ok(axes)
            }
        }

        deserializer.deserialize_seq(Each)
    }
}
