//! The entries of a central directory, one by one.

use std::borrow::Cow;

use zerocopy::FromBytes;

use crate::bytes::touch;
use crate::error::{Error, ErrorKind, Result};
use crate::zip::name;
use crate::zip::records::{CentralHeader, Extent, Record};

/// An entry of the central directory: a record with its variable parts.
#[derive(Debug, Clone, Copy)]
pub struct CentralRecord<'a> {
    /// The fixed part.
    pub header: &'a CentralHeader,
    /// The name, as stored.
    pub name: &'a [u8],
    /// The extra field.
    pub extra: &'a [u8],
    /// Where the record starts in the directory.
    pub at: usize,
}

impl<'a> CentralRecord<'a> {
    /// The record at this byte of the directory, if all of it is there, and the byte behind the record.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as for Walk::next")]
    pub(crate) fn read(directory: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let (header, rest) = CentralHeader::ref_from_prefix(directory.get(at..)?).ok()?;
        let (name, rest) = rest.split_at_checked(header.name_len.get().into())?;
        let (extra, rest) = rest.split_at_checked(header.extra_len.get().into())?;
        let rest = rest.get(usize::from(header.comment_len.get())..)?;
        let record = CentralRecord { header, name, extra, at };
        (header.signature.get() == CentralHeader::SIGNATURE).then_some((record, directory.len() - rest.len()))
    }

    /// How many bytes the record has.
    pub(crate) fn len(&self) -> usize {
        let comment = usize::from(self.header.comment_len.get());
        CentralHeader::SIZE + self.name.len() + self.extra.len() + comment
    }

    /// Checks what every reader of a record relies on: the name and, of an array, the numbers.
    pub(crate) fn check(&self) -> std::result::Result<(), ErrorKind> {
        if self.array_name().map_err(|_| ErrorKind::NameEncoding)?.is_some() {
            Extent::read(self.header, self.extra)?;
        }
        Ok(())
    }

    /// The name for messages: what is not UTF-8 in it is replaced.
    #[cold]
    pub(crate) fn shown_name(&self) -> String {
        let name = self.name.to_vec();
        let text = String::from_utf8_lossy(&name);
        text.strip_suffix(name::EXTENSION).unwrap_or(&text).to_owned()
    }

    /// The name of the array as text, if it is one.
    pub(crate) fn name_of_array(&self) -> Option<String> {
        // First copied, then looked at: others may write to a map.
        let name = self.array_name().ok()??.into_owned();
        Some(String::from_utf8_lossy(&name).into_owned())
    }

    #[inline]
    pub(crate) fn array_name(&self) -> std::result::Result<Option<Cow<'a, [u8]>>, name::NotUtf8> {
        name::array_name(self.name, self.header.flags.get())
    }
}

/// How many bytes of the directory are fetched ahead of the walk.
const FETCH: usize = 1 << 14;

/// The records of a central directory, in their order, up to the first bytes that are no record.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    directory: &'a [u8],
    at: usize,
    fetched: usize,
}

impl<'a> Walk<'a> {
    /// Starts at the first record.
    pub fn new(directory: &'a [u8]) -> Self {
        Self::from(directory, 0)
    }

    /// Starts at the record at this byte of the directory.
    pub(crate) fn from(directory: &'a [u8], at: usize) -> Self {
        Walk { directory, at, fetched: at }
    }

    /// Checks that the walk, which gives no more records, has seen all of the directory.
    ///
    /// # Errors
    /// What is wrong where the walk stopped.
    pub fn finish(&self) -> Result<()> {
        if self.at == self.directory.len() {
            return Ok(());
        }
        let at = self.at as u64;
        CentralHeader::read(self.directory.into(), at, ErrorKind::DirectoryTruncated)?;
        Err(Error::at(ErrorKind::DirectoryTruncated, at))
    }

    /// Reads ahead. The walk knows where a record starts only once it has read the record before, so on
    /// memory that is not in the cache it waits for one record after the other. Reading ahead lets the waits
    /// overlap.
    #[cold]
    fn fetch(&mut self) {
        let end = self.directory.len().min(self.at + FETCH);
        touch(self.directory[self.at..end].iter().step_by(64).copied());
        self.fetched = end;
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = CentralRecord<'a>;

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a call would pass the record through memory: 100 ns a member more"
    )]
    fn next(&mut self) -> Option<CentralRecord<'a>> {
        if self.at >= self.fetched && self.at < self.directory.len() {
            self.fetch();
        }
        let (record, end) = CentralRecord::read(self.directory, self.at)?;
        self.at = end;
        Some(record)
    }
}
