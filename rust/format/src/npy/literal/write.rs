//! Writing a literal as Python's `repr` would.

use std::fmt::{self, Write as _};

use serde::{Serialize, ser};

use crate::npy::literal::value::{Error, TUPLE};

/// Writes a literal as Python's `repr` would, with a comma behind every item of a dict as NumPy has it.
///
/// # Errors
/// If the value has parts for which this format has no literal, such as floats.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    let mut writer = Writer { out: String::with_capacity(80), tuple: false };
    value.serialize(&mut writer)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    /// The next sequence is a tuple.
    tuple: bool,
}

impl Writer {
    /// A string as Python's `repr` writes it; characters beyond ASCII stay as they are.
    fn string(&mut self, text: &str) {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.out.push(quote);
        for character in text.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                _ if character == quote => self.out.extend(['\\', quote]),
                '\0'..='\x1f' | '\x7f' => self.formatted(format_args!("\\x{:02x}", u32::from(character))),
                _ => self.out.push(character),
            }
        }
        self.out.push(quote);
    }

    fn formatted(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(arguments);
    }
}

macro_rules! no_literal {
    ($($method:ident($($argument:ty),*) -> $out:ty;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$out, Error> {
            Err(ser::Error::custom(concat!(stringify!($method), ": no such literal in an .npy header")))
        })*
    };
}

macro_rules! integers {
    ($($method:ident($integer:ty);)*) => {
        $(fn $method(self, value: $integer) -> Result<(), Error> {
            self.formatted(format_args!("{value}"));
            Ok(())
        })*
    };
}

impl<'w> ser::Serializer for &'w mut Writer {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Sequence<'w>;
    type SerializeTuple = Sequence<'w>;
    type SerializeTupleStruct = Sequence<'w>;
    type SerializeTupleVariant = ser::Impossible<(), Error>;
    type SerializeMap = ser::Impossible<(), Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = ser::Impossible<(), Error>;

    integers! {
        serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
    }

    no_literal! {
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
        serialize_none() -> ();
        serialize_unit() -> ();
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.push_str(if value { "True" } else { "False" });
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.string(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.string(value);
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.tuple = name == TUPLE;
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.tuple = variant == "Tuple";
        value.serialize(self)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Sequence<'w>, Error> {
        let tuple = std::mem::take(&mut self.tuple);
        self.out.push(if tuple { '(' } else { '[' });
        Ok(Sequence { writer: self, tuple, count: 0 })
    }

    fn serialize_tuple(self, len: usize) -> Result<Sequence<'w>, Error> {
        self.tuple = true;
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Sequence<'w>, Error> {
        self.serialize_tuple(len)
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, Error> {
        self.out.push('{');
        Ok(self)
    }
}

struct Sequence<'w> {
    writer: &'w mut Writer,
    tuple: bool,
    count: usize,
}

impl ser::SerializeSeq for Sequence<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        if self.count > 0 {
            self.writer.out.push_str(", ");
        }
        self.count += 1;
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        if self.tuple && self.count == 1 {
            self.writer.out.push(',');
        }
        self.writer.out.push(if self.tuple { ')' } else { ']' });
        Ok(())
    }
}

impl ser::SerializeTuple for Sequence<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        ser::SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleStruct for Sequence<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        ser::SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeStruct for &mut Writer {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.string(key);
        self.out.push_str(": ");
        value.serialize(&mut **self)?;
        self.out.push_str(", ");
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.out.push('}');
        Ok(())
    }
}
