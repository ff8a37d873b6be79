//! A batch: which rows of which arrays it has, where these rows lie in the map, and what all of them have in
//! common.

use std::fmt::Display;
use std::ops::Range;

use crate::fetch::Place;

/// A number for each array.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// The same number for all.
    Same(i64),
    /// One number for each.
    Each(Vec<i64>),
}

impl Numbers {
    #[inline]
    fn get(&self, number: usize) -> i64 {
        match self {
            Numbers::Same(same) => *same,
            Numbers::Each(each) => each[number],
        }
    }
}

/// Which rows of each array a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The first row of each excerpt. By default the first row of the array.
    pub starts: Option<Numbers>,
    /// The row behind the last one. By default `length` rows behind the first or, without that, the end of
    /// the array.
    pub stops: Option<Numbers>,
    /// How many rows each excerpt has in the batch.
    pub length: Option<usize>,
}

/// Why an excerpt cannot be part of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A number of a row is negative.
    #[error("rows must not be negative, got {0}:{1}")]
    Negative(i64, i64),
    /// The excerpt stops before it starts.
    #[error("rows {0}:{1} end before they start")]
    Backwards(usize, usize),
    /// The array has fewer rows.
    #[error("rows {}:{} requested, but the array has {count} rows; pass pad= to fill the missing ones", rows.start, rows.end)]
    Outside {
        /// The rows of the excerpt.
        rows: Range<usize>,
        /// How many rows the array has.
        count: usize,
    },
    /// The array has no rows that could be counted.
    #[error("an array of no dimensions has no rows")]
    NoRows,
    /// The excerpt is shorter or longer than all others.
    #[error("rows {}:{} are {}, but every excerpt must have {length}", rows.start, rows.end, rows.len())]
    Length {
        /// The rows of the excerpt.
        rows: Range<usize>,
        /// How many rows every excerpt must have.
        length: usize,
    },
}

impl Misfit {
    /// Whether the numbers that the caller gave are no rows of the array.
    pub fn is_out_of_range(&self) -> bool {
        matches!(self, Misfit::Negative(..) | Misfit::Backwards(..) | Misfit::Outside { .. })
    }
}

impl Rows {
    /// Whether the caller asks for whole arrays, by giving no numbers.
    pub fn are_all(&self) -> bool {
        self.starts.is_none() && self.stops.is_none() && self.length.is_none()
    }

    /// The rows of an excerpt, of an array that has `count` rows. With `clip`, the excerpt ends where the
    /// array does, as a slice in Python.
    ///
    /// # Errors
    /// If the numbers are no rows of the array.
    #[inline]
    pub fn of(&self, number: usize, count: usize, clip: bool) -> Result<Range<usize>, Misfit> {
        let start = self.starts.as_ref().map_or(0, |starts| starts.get(number));
        let behind = self.length.map(|length| start.saturating_add_unsigned(length as u64));
        let stop = self.stops.as_ref().map(|stops| stops.get(number)).or(behind);
        let stop = stop.unwrap_or_else(|| start.max(count as i64));
        match (usize::try_from(start), usize::try_from(stop)) {
            (Ok(start), Ok(stop)) if start <= stop && stop <= count => Ok(start..stop),
            (Ok(start), Ok(stop)) if start <= stop && clip => Ok(start.min(count)..stop.min(count)),
            (Ok(start), Ok(stop)) if start <= stop => Err(Misfit::Outside { rows: start..stop, count }),
            (Ok(start), Ok(stop)) => Err(Misfit::Backwards(start, stop)),
            _ => Err(Misfit::Negative(start, stop)),
        }
    }

    /// The place of an excerpt, as far as the array has its rows. If the rows are not `in_order`, that is the
    /// place of the whole array.
    ///
    /// # Errors
    /// As for [`Rows::of`].
    pub fn place(&self, number: usize, array: &Array<'_>, in_order: bool) -> Result<Place, Misfit> {
        let count = array.shape.first().map_or(1, |count| count.unsigned_abs());
        let all = 0..count;
        let rows = if self.are_all() { all.clone() } else { self.of(number, count, true)? };
        let rows = if in_order || rows.is_empty() { rows } else { all };
        let row_bytes = size_of_items(array.shape, array.itemsize) / count.max(1);
        Ok(place(array.offset, &rows, row_bytes))
    }
}

/// An array in the map.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    /// Its lengths, none of which is negative, in NumPy's own type.
    pub shape: &'a [isize],
    /// Bytes per item.
    pub itemsize: usize,
    /// Where its first item is in the map.
    pub offset: usize,
}

/// A shape as Python shows it: a tuple.
pub fn show<T: Display>(shape: &[T]) -> String {
    match shape {
        [only] => format!("({only},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn size_of_items(shape: &[isize], itemsize: usize) -> usize {
    shape.iter().map(|&length| length.unsigned_abs()).product::<usize>() * itemsize
}

#[inline]
fn place(offset: usize, rows: &Range<usize>, row_bytes: usize) -> Place {
    Place { offset: offset + rows.start * row_bytes, bytes: rows.len() * row_bytes }
}

/// The excerpts of a batch, added one by one.
#[derive(Debug)]
pub struct Excerpts {
    rows: Rows,
    /// Whether rows that an array does not have are filled.
    is_padded: bool,
    /// Whether each excerpt is a whole array, so that the batch has no axis of rows.
    is_whole: bool,
    common: Option<Common>,
    places: Vec<Place>,
    ranges: Vec<Range<usize>>,
}

/// What all excerpts have in common.
#[derive(Debug)]
struct Common {
    /// The shape of a row. Where the excerpts are whole arrays, each is a single row of any shape.
    shape: Vec<isize>,
    row_bytes: usize,
    /// How many rows an excerpt has in the batch.
    length: usize,
}

impl Excerpts {
    /// A batch that is going to have `count` excerpts.
    pub fn new(rows: Rows, is_padded: bool, count: usize) -> Self {
        let is_whole = rows.are_all() && !is_padded;
        let (places, ranges) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Excerpts { rows, is_padded, is_whole, common: None, places, ranges }
    }

    /// Whether each excerpt is a whole array, so that the batch has no axis of rows.
    pub fn are_whole(&self) -> bool {
        self.is_whole
    }

    /// The shape of a row of an array of this shape.
    pub fn row_shape<'a>(&self, shape: &'a [isize]) -> &'a [isize] {
        if self.is_whole { shape } else { shape.get(1..).unwrap_or_default() }
    }

    /// The rows of the next excerpt, of an array of this shape.
    ///
    /// # Errors
    /// If the array does not have them.
    #[inline]
    pub fn next_rows(&self, shape: &[isize]) -> Result<Range<usize>, Misfit> {
        if self.is_whole {
            return Ok(0..1);
        }
        let count = shape.first().ok_or(Misfit::NoRows)?;
        self.rows.of(self.ranges.len(), count.unsigned_abs(), self.is_padded)
    }

    /// Has all excerpts fit to the first one, which has these rows, of this shape.
    #[cold]
    pub fn begin(&mut self, rows: &Range<usize>, row_shape: &[isize], itemsize: usize) {
        let length = if self.is_whole { 1 } else { self.rows.length.unwrap_or(rows.len()) };
        let row_bytes = size_of_items(row_shape, itemsize);
        self.common = Some(Common { shape: row_shape.to_vec(), row_bytes, length });
    }

    /// Whether rows of this shape fit to those of the first excerpt.
    #[inline]
    pub fn fits(&self, row_shape: &[isize]) -> bool {
        self.common.as_ref().is_some_and(|common| common.shape == row_shape)
    }

    /// The shape of a row of the first excerpt.
    pub fn first_row_shape(&self) -> &[isize] {
        self.common.as_ref().map_or(&[], |common| &common.shape)
    }

    /// Adds an excerpt, whose array starts at this byte of the map.
    ///
    /// # Errors
    /// If it does not have as many rows as it must.
    #[inline]
    pub fn add(&mut self, rows: Range<usize>, offset: usize) -> Result<Place, Misfit> {
        let Some(common) = &mut self.common else { return Err(Misfit::NoRows) };
        if self.is_padded && self.rows.length.is_none() {
            common.length = common.length.max(rows.len());
        } else if rows.len() > common.length || (!self.is_padded && rows.len() != common.length) {
            return Err(Misfit::Length { length: common.length, rows });
        }
        let place = place(offset, &rows, common.row_bytes);
        self.places.push(place);
        self.ranges.push(rows);
        Ok(place)
    }

    /// The places of all excerpts.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The rows of all excerpts.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// How many rows an excerpt has in the batch.
    pub fn length(&self) -> usize {
        self.common.as_ref().map_or(0, |common| common.length)
    }

    /// How many bytes a row has.
    pub fn row_bytes(&self) -> usize {
        self.common.as_ref().map_or(0, |common| common.row_bytes)
    }

    /// The shape of the batch.
    pub fn shape(&self) -> Vec<usize> {
        let axis_of_rows = self.common.as_ref().filter(|_| !self.is_whole).map(|common| common.length);
        let row = self.first_row_shape().iter().map(|length| length.unsigned_abs());
        [self.places.len()].into_iter().chain(axis_of_rows).chain(row).collect()
    }

    /// Whether an array of this shape can hold the batch. One of no excerpts says nothing of the shape of
    /// rows.
    pub fn can_be(&self, shape: &[isize]) -> bool {
        match (&self.common, shape) {
            (Some(_), _) => shape.iter().map(|length| length.unsigned_abs()).eq(self.shape()),
            (None, [0]) => self.rows.length.is_none(),
            (None, [0, rows, ..]) => self.rows.length.is_none_or(|length| length == rows.unsigned_abs()),
            (None, _) => false,
        }
    }
}
