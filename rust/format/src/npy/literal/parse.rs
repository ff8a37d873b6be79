//! Reading a literal: a deserializer over its text.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use crate::npy::literal::value::{Error, TUPLE};

/// How deep brackets may nest: more than any dtype needs, less than any stack holds.
const MAX_DEPTH: usize = 100;

/// Reads a literal; `python2` allows an `L` behind integers.
///
/// # Errors
/// If the text is no literal, or no literal of the type `T`.
pub fn from_str<'de, T: Deserialize<'de>>(text: &'de str, python2: bool) -> Result<T, Error> {
    let mut parser = Parser { text, at: 0, depth: 0, python2 };
    let value = T::deserialize(&mut parser)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.expected("the end of the header")),
    }
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
                        // Python keeps an unknown escape as it stands; the character follows in the main
                        // loop.
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
    /// The word is no integer.
    None,
    /// The integer has more than 64 bits.
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
