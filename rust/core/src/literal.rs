//! A serde format for the Python literals that an `.npy` header may hold, and for writing the same.
//!
//! NumPy reads a header with `ast.literal_eval`; what it can hold is a dict of strings, booleans, integers,
//! tuples and lists. This module reads exactly those into any type that derives [`serde::Deserialize`],
//! with the lexical freedom that Python allows: both quotes, string prefixes and escapes, implicit
//! concatenation, underscores and bases in integers, comments, trailing commas, and the `L` behind an integer
//! that Python 2 wrote.
//!
//! serde knows no difference between a tuple and a list, and Python does. Two conventions bridge that: a
//! newtype struct named [`TUPLE`] holds a sequence that is written with parentheses, and [`Literal`] is an
//! enum whose variant follows from the first character.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use serde::{Deserialize, Serialize, ser};

/// The name of a newtype struct whose sequence is a Python tuple.
pub const TUPLE: &str = "$tuple";

/// How deep brackets may nest: more than any dtype needs, less than any stack holds.
const MAX_DEPTH: usize = 100;

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

/// Why a text is not the literal that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something else stands there.
    #[error("expected {expected} at character {at}")]
    Expected {
        /// What was expected.
        expected: &'static str,
        /// The byte of the text.
        at: usize,
    },
    /// Brackets nested deeper than any dtype.
    #[error("nested more than 100 levels deep")]
    Depth,
    /// An integer that no dimension can have.
    #[error("the integer at character {at} is out of range")]
    Range {
        /// The byte of the text.
        at: usize,
    },
    /// The text is a literal, but not of the right type: a key is missing, unknown or doubled.
    #[error("{0}")]
    Type(String),
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

/// Reads a literal; `python2` allows an `L` behind integers.
///
/// # Errors
/// Whatever makes the text another literal than `T`, or none.
pub fn from_str<'de, T: Deserialize<'de>>(text: &'de str, python2: bool) -> Result<T, Error> {
    let mut parser = Parser { text, at: 0, depth: 0, python2 };
    let value = T::deserialize(&mut parser)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.expected("the end of the header")),
    }
}

/// Writes a literal as Python's `repr` would, with a comma behind every item of a dict as NumPy has it.
///
/// # Errors
/// If the value has parts for which this format has no literal, such as floats.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    let mut writer = Writer { out: String::with_capacity(80), tuple: false };
    value.serialize(&mut writer)?;
    Ok(writer.out)
}

struct Parser<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
    python2: bool,
}

impl<'de> Parser<'de> {
    fn expected(&self, expected: &'static str) -> Error {
        Error::Expected { expected, at: self.at }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next character that is neither white space nor in a comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => self.at += 1,
                b'#' => {
                    while !matches!(self.byte(), None | Some(b'\n' | b'\r')) {
                        self.at += 1;
                    }
                }
                byte => return Some(byte),
            }
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn require(&mut self, byte: u8, name: &'static str) -> Result<(), Error> {
        if self.accept(byte) { Ok(()) } else { Err(self.expected(name)) }
    }

    /// The word of letters, digits and underscores that starts here, unread.
    fn word(&mut self) -> &'de str {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_'));
        &rest[..end.unwrap_or(rest.len())]
    }

    fn boolean(&mut self) -> Result<bool, Error> {
        let value = match self.word() {
            "True" => true,
            "False" => false,
            _ => return Err(self.expected("True or False")),
        };
        self.at += if value { 4 } else { 5 };
        Ok(value)
    }

    fn integer(&mut self) -> Result<i64, Error> {
        let negative = self.accept(b'-');
        if !negative {
            self.accept(b'+');
        }
        let word = self.word();
        let start = self.at;
        let magnitude = match digits(word, self.python2) {
            Digits::None => return Err(self.expected("an integer")),
            Digits::TooMany => return Err(Error::Range { at: start }),
            Digits::Value(value) => value,
        };
        self.at += word.len();
        if self.python2 && self.word() == "L" {
            self.at += 1;
        }
        let number = i64::try_from(magnitude).map_err(|_| Error::Range { at: start })?;
        Ok(if negative { -number } else { number })
    }

    /// One or more strings side by side, as Python joins them.
    fn string(&mut self) -> Result<Cow<'de, str>, Error> {
        let mut whole = self.string_part()?;
        while self.at_string() {
            whole.to_mut().push_str(&self.string_part()?);
        }
        Ok(whole)
    }

    fn at_string(&mut self) -> bool {
        match self.peek() {
            Some(b'\'' | b'"') => true,
            Some(b'u' | b'U' | b'r' | b'R') => {
                matches!(self.text.as_bytes().get(self.at + 1), Some(b'\'' | b'"'))
            }
            _ => false,
        }
    }

    fn string_part(&mut self) -> Result<Cow<'de, str>, Error> {
        if !self.at_string() {
            return Err(self.expected("a string"));
        }
        let raw = matches!(self.byte(), Some(b'r' | b'R'));
        if matches!(self.byte(), Some(byte) if byte.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let quote = self.byte();
        self.at += 1;
        let start = self.at;
        loop {
            match self.byte() {
                None | Some(b'\n' | b'\r' | 0) => return Err(self.expected("the end of a string")),
                Some(b'\\') if raw => self.at += 2,
                Some(b'\\') => return self.escaped_string(start, quote).map(Cow::Owned),
                byte if byte == quote => break,
                Some(_) => self.at += 1,
            }
        }
        let text = self.text.get(start..self.at).ok_or_else(|| self.expected("the end of a string"))?;
        self.at += 1;
        Ok(Cow::Borrowed(text))
    }

    /// The rest of a string whose first backslash is here.
    fn escaped_string(&mut self, start: usize, quote: Option<u8>) -> Result<String, Error> {
        let mut out = self.text[start..self.at].to_owned();
        let unfinished = Error::Expected { expected: "the end of a string", at: self.at };
        loop {
            let Some(next) = self.text.get(self.at..).and_then(|rest| rest.chars().next()) else {
                return Err(unfinished);
            };
            self.at += next.len_utf8();
            match next {
                '\n' | '\r' | '\0' => return Err(unfinished),
                '\\' => self.escape(&mut out)?,
                _ if u8::try_from(next).ok() == quote => return Ok(out),
                _ => out.push(next),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Error> {
        let Some(code) = self.byte() else {
            return Err(self.expected("the end of a string"));
        };
        let length = match code {
            b'x' => 2,
            b'u' => 4,
            b'U' => 8,
            b'N' => return Err(self.expected("an escape other than \\N")),
            b'0'..=b'7' => {
                let rest = &self.text.as_bytes()[self.at..];
                let length = rest.iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                return self.code_point(length, 8, out);
            }
            _ => {
                match code {
                    b'\n' => {}
                    b'\\' | b'\'' | b'"' => out.push(char::from(code)),
                    b'a' => out.push('\x07'),
                    b'b' => out.push('\x08'),
                    b'f' => out.push('\x0c'),
                    b'n' => out.push('\n'),
                    b'r' => out.push('\r'),
                    b't' => out.push('\t'),
                    b'v' => out.push('\x0b'),
                    _ => {
                        // Python keeps an unknown escape as it stands; the character follows in the main loop.
                        out.push('\\');
                        return Ok(());
                    }
                }
                self.at += 1;
                return Ok(());
            }
        };
        self.at += 1;
        self.code_point(length, 16, out)
    }

    fn code_point(&mut self, length: usize, radix: u32, out: &mut String) -> Result<(), Error> {
        let character = self
            .text
            .get(self.at..self.at + length)
            .filter(|text| text.bytes().all(|b| char::from(b).is_digit(radix)))
            .and_then(|text| u32::from_str_radix(text, radix).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| self.expected("a character escape"))?;
        out.push(character);
        self.at += length;
        Ok(())
    }
}

/// What the digits of an integer stand for.
enum Digits {
    /// They are no integer.
    None,
    /// More than 64 bits.
    TooMany,
    /// A value.
    Value(u64),
}

/// The value of a Python integer without its sign.
fn digits(word: &str, python2: bool) -> Digits {
    let bytes = word.as_bytes();
    let (radix, body) = match bytes {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', b'o' | b'O', rest @ ..] => (8, rest),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest),
        [rest @ .., b'L'] if python2 => (10, rest),
        rest => (10, rest),
    };
    let mut value = Some(0u64);
    let mut digit_before = radix != 10;
    for &byte in body {
        if byte == b'_' {
            if !digit_before {
                return Digits::None;
            }
            digit_before = false;
        } else {
            let Some(digit) = char::from(byte).to_digit(radix) else {
                return Digits::None;
            };
            value = value.and_then(|v| v.checked_mul(radix.into())?.checked_add(digit.into()));
            digit_before = true;
        }
    }
    // Python refuses 007, but takes 000.
    let leading_zero = radix == 10 && body.len() > 1 && body[0] == b'0' && value != Some(0);
    if !digit_before || body.is_empty() || leading_zero {
        return Digits::None;
    }
    value.map_or(Digits::TooMany, Digits::Value)
}

impl<'de> de::Deserializer<'de> for &mut Parser<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek() {
            Some(b'(' | b'[') => self.deserialize_seq(visitor),
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'0'..=b'9' | b'+' | b'-') => self.deserialize_i64(visitor),
            Some(b'T' | b'F') => self.deserialize_bool(visitor),
            _ => self.deserialize_str(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.peek();
        let at = self.at;
        let number = u64::try_from(self.integer()?).map_err(|_| Error::Range { at })?;
        visitor.visit_u64(number)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.string()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == TUPLE && self.peek() != Some(b'(') {
            return Err(self.expected("a tuple"));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let close = match self.peek() {
            Some(b'(') => b')',
            Some(b'[') => b']',
            _ => return Err(self.expected("a tuple or list")),
        };
        self.nested(|parser| {
            let mut items = Items { parser, close, count: 0, comma: true };
            let value = visitor.visit_seq(&mut items)?;
            items.finish()?;
            Ok(value)
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.peek() != Some(b'{') {
            return Err(self.expected("a dict"));
        }
        self.nested(|parser| {
            let mut items = Items { parser, close: b'}', count: 0, comma: true };
            let value = visitor.visit_map(&mut items)?;
            items.finish()?;
            Ok(value)
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char string bytes byte_buf option unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

impl Parser<'_> {
    /// Steps over an opening bracket and counts the level.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::Depth);
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }
}

impl<'de> de::EnumAccess<'de> for &mut Parser<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant: u32 = match self.peek() {
            Some(b'0'..=b'9' | b'+' | b'-') => 1,
            Some(b'(') => 2,
            Some(b'[') => 3,
            _ if self.at_string() => 0,
            _ => return Err(self.expected("a string, an integer, a tuple or a list")),
        };
        let value = seed.deserialize(IntoDeserializer::<Error>::into_deserializer(variant))?;
        Ok((value, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Parser<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(self.expected("a value"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_seq(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_map(self, visitor)
    }
}

/// The items of a tuple, list or dict.
struct Items<'p, 'de> {
    parser: &'p mut Parser<'de>,
    close: u8,
    count: usize,
    /// A comma (or the opening bracket) stands before the next item.
    comma: bool,
}

impl Items<'_, '_> {
    fn more(&mut self) -> Result<bool, Error> {
        if self.parser.peek() == Some(self.close) {
            return Ok(false);
        }
        if !self.comma {
            return Err(self.parser.expected("a comma or the closing bracket"));
        }
        Ok(true)
    }

    fn read(&mut self) {
        self.count += 1;
        self.comma = self.parser.accept(b',');
    }

    fn finish(&mut self) -> Result<(), Error> {
        if self.close == b')' && self.count == 1 && !self.comma {
            // (3) is an integer in brackets, (3,) is a tuple.
            return Err(self.parser.expected("the comma of a tuple"));
        }
        self.parser.require(self.close, "the closing bracket")
    }
}

impl<'de> de::SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if !self.more()? {
            return Ok(None);
        }
        let value = seed.deserialize(&mut *self.parser)?;
        self.read();
        Ok(Some(value))
    }
}

impl<'de> de::MapAccess<'de> for &mut Items<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if !self.more()? {
            return Ok(None);
        }
        if !self.parser.at_string() {
            return Err(self.parser.expected("a key"));
        }
        let key = seed.deserialize(&mut *self.parser)?;
        self.parser.require(b':', "a colon")?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = seed.deserialize(&mut *self.parser)?;
        self.read();
        Ok(value)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Literal<'_>, Error> {
        from_str(text, false)
    }

    #[test]
    fn reads_what_python_reads() {
        let str = |text: &'static str| Literal::Str(text.into());
        for (text, value) in [
            ("'a'", str("a")),
            (" \"a'\" # comment", str("a'")),
            ("u'a' \t'b'\n", str("ab")),
            (r"r'\n'", str("\\n")),
            (r"'\x41\102\u00e9\U0001f600\\\'\n\q'", str("AB\u{e9}\u{1f600}\\'\n\\q")),
            ("'\\\n'", str("")),
            ("0x1F", Literal::Int(31)),
            ("1_000", Literal::Int(1000)),
            ("000", Literal::Int(0)),
            ("- 3", Literal::Int(-3)),
            ("(1,)", Literal::Tuple(vec![Literal::Int(1)])),
            ("()", Literal::Tuple(vec![])),
            ("[1, (2, 3), ]", {
                let pair = Literal::Tuple(vec![Literal::Int(2), Literal::Int(3)]);
                Literal::List(vec![Literal::Int(1), pair])
            }),
        ] {
            assert_eq!(read(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            "'",
            "'a",
            "'a\n'",
            "'a' b",
            "b'a'",
            "f'a'",
            "'\\x4'",
            "'\\ud800'",
            "'\\N{DASH}'",
            "(1)",
            "(1",
            "(,)",
            "[1,,2]",
            "[1 2]",
            "1 2",
            "007",
            "1__0",
            "1_",
            "_1",
            "0x",
            "1.5",
            "1e3",
            "1L",
            "True",
            "None",
            "{}",
            "{1}",
            "--",
            "+",
            "x",
            "[1)",
            "'a\0'",
            "\0",
            "(1,)(2,)",
            "r'\\",
        ] {
            assert!(read(text).is_err(), "{text:?}: {:?}", read(text));
        }
    }

    #[test]
    fn python_2_integers_only_where_allowed() {
        assert_eq!(
            from_str("(10L, 0L,2 L)", true),
            Ok(Literal::Tuple([10, 0, 2].map(Literal::Int).to_vec()))
        );
        assert!(from_str::<Literal<'_>>("10L", false).is_err());
        assert!(from_str::<Literal<'_>>("10LL", true).is_err());
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let text = "[".repeat(100_000);
        assert_eq!(read(&text), Err(Error::Depth));
        let text = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&text).is_ok());
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        assert_eq!(read("9223372036854775807"), Ok(Literal::Int(i64::MAX)));
        for text in ["9223372036854775808", "-9223372036854775808", "99999999999999999999999"] {
            assert!(matches!(read(text), Err(Error::Range { .. })), "{text}");
        }
    }

    fn literals() -> impl Strategy<Value = Literal<'static>> {
        let leaf = prop_oneof![
            any::<String>().prop_filter("NUL", |s| !s.contains('\0')).prop_map(|s| Literal::Str(s.into())),
            (-i64::MAX..).prop_map(Literal::Int),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let items = prop::collection::vec(inner, 0..4);
            prop_oneof![items.clone().prop_map(Literal::Tuple), items.prop_map(Literal::List)]
        })
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(literal in literals()) {
            let text = to_string(&literal).unwrap();
            prop_assert_eq!(read(&text), Ok(literal));
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = read(&text);
        }
    }
}
