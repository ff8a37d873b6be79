//! Which rows a batch has, and where they lie.

use mmnpz_file::excerpts::{Array, Excerpts, Misfit, Numbers, Rows, show};
use mmnpz_file::fetch::Place;
use mmnpz_file::items::Extent;
use proptest::prelude::*;

fn rows(start: i64, stop: Option<i64>, length: Option<usize>) -> Rows {
    Rows { starts: Some(Numbers::Same(start)), stops: stop.map(Numbers::Same), length }
}

#[test]
fn rows_are_those_of_a_slice() {
    let of = |rows: Rows, clip| rows.of(0, 6, clip).map_err(|misfit| misfit.to_string());
    assert_eq!(of(Rows::default(), false), Ok(0..6));
    assert_eq!(of(rows(2, None, None), false), Ok(2..6));
    assert_eq!(of(rows(2, Some(4), None), false), Ok(2..4));
    assert_eq!(of(rows(2, None, Some(3)), false), Ok(2..5));
    // A stop says where the excerpt ends, whatever the length of excerpts in the batch is.
    assert_eq!(of(rows(2, Some(3), Some(4)), false), Ok(2..3));
    assert_eq!(of(rows(6, Some(6), None), false), Ok(6..6));
    assert_eq!(of(rows(4, Some(9), None), true), Ok(4..6));
    assert_eq!(of(rows(7, None, None), true), Ok(6..6));
    assert_eq!(of(rows(1, None, Some(usize::MAX)), true), Ok(1..6));
    let missing = "rows 4:9 requested, but the array has 6 rows; pass pad= to fill the missing ones";
    assert_eq!(of(rows(4, Some(9), None), false), Err(missing.to_owned()));
    for clip in [false, true] {
        assert_eq!(of(rows(4, Some(3), None), clip), Err("rows 4:3 end before they start".to_owned()));
        assert_eq!(of(rows(-1, None, None), clip), Err("rows must not be negative, got -1:6".to_owned()));
    }
    let each = Rows { starts: Some(Numbers::Each(vec![1, 2])), ..Rows::default() };
    assert_eq!((each.of(0, 6, false), each.of(1, 6, false)), (Ok(1..6), Ok(2..6)));
}

#[test]
fn an_excerpt_that_is_not_in_order_lies_all_over_its_array() {
    let array = Array { shape: &[6, 5], itemsize: 2, offset: 100 };
    let place = |rows: Rows, in_order| rows.place(0, &array, in_order);
    assert_eq!(place(Rows::default(), true), Ok(Place { offset: 100, bytes: 60 }));
    assert_eq!(place(rows(2, Some(4), None), true), Ok(Place { offset: 120, bytes: 20 }));
    assert_eq!(place(rows(2, Some(4), None), false), Ok(Place { offset: 100, bytes: 60 }));
    assert_eq!(place(rows(2, Some(9), None), true), Ok(Place { offset: 120, bytes: 40 }));
    assert_eq!(place(rows(9, None, None), false), Ok(Place { offset: 160, bytes: 0 }));
    assert!(place(rows(-1, None, None), true).is_err());
    let scalar = Array { shape: &[], itemsize: 8, offset: 100 };
    assert_eq!(Rows::default().place(0, &scalar, true), Ok(Place { offset: 100, bytes: 8 }));
}

/// Adds an array of this shape, of items of two bytes, that starts at byte 100.
fn add(batch: &mut Excerpts, shape: &[isize]) -> Result<Place, Misfit> {
    let rows = batch.next_rows(shape)?;
    let row_shape = batch.row_shape(shape);
    if batch.places().is_empty() {
        batch.begin(&rows, row_shape, 2);
    }
    assert!(batch.fits(row_shape));
    batch.add(rows, 100)
}

#[test]
fn excerpts_have_as_many_rows_as_the_first_one() {
    let mut batch = Excerpts::new(rows(1, None, None), false, 2);
    assert_eq!(add(&mut batch, &[4, 5]), Ok(Place { offset: 110, bytes: 30 }));
    assert_eq!(add(&mut batch, &[4, 5]), Ok(Place { offset: 110, bytes: 30 }));
    assert_eq!(add(&mut batch, &[6, 5]), Err(Misfit::Length { rows: 1..6, length: 3 }));
    assert_eq!(add(&mut batch, &[]), Err(Misfit::NoRows));
    assert_eq!((batch.shape(), batch.length(), batch.row_bytes()), (vec![2, 3, 5], 3, 10));
    assert!(batch.can_be(&[2, 3, 5]) && !batch.can_be(&[2, 5, 3]) && !batch.can_be(&[6, 5]));
    assert!(!batch.fits(&[4]) && batch.first_row_shape() == [5]);
}

#[test]
fn padded_excerpts_have_as_many_rows_as_the_longest_one() {
    let mut batch = Excerpts::new(Rows::default(), true, 2);
    for count in [2, 5, 0] {
        assert!(add(&mut batch, &[count]).is_ok());
    }
    assert_eq!((batch.shape(), batch.ranges()), (vec![3, 5], &[0..2, 0..5, 0..0][..]));
    // A length that is given is the most that an excerpt can have.
    let mut batch = Excerpts::new(Rows { length: Some(3), ..rows(0, Some(9), None) }, true, 2);
    assert_eq!(add(&mut batch, &[2]), Ok(Place { offset: 100, bytes: 4 }));
    assert_eq!(add(&mut batch, &[5]), Err(Misfit::Length { rows: 0..5, length: 3 }));
}

#[test]
fn whole_arrays_have_no_axis_of_rows() {
    let mut batch = Excerpts::new(Rows::default(), false, 2);
    assert!(batch.are_whole());
    assert_eq!(add(&mut batch, &[]), Ok(Place { offset: 100, bytes: 2 }));
    assert_eq!(batch.shape(), [1]);
    assert!(!batch.fits(&[1]));
}

#[test]
fn a_batch_of_nothing_says_no_more_than_its_length() {
    let batch = Excerpts::new(Rows::default(), false, 0);
    assert!(batch.can_be(&[0]) && batch.can_be(&[0, 7, 2]) && !batch.can_be(&[]) && !batch.can_be(&[1]));
    let batch = Excerpts::new(rows(0, None, Some(3)), false, 0);
    assert!(batch.can_be(&[0, 3, 9]) && !batch.can_be(&[0]) && !batch.can_be(&[0, 4]));
}

#[test]
fn shapes_are_shown_as_tuples() {
    assert_eq!(
        (show::<usize>(&[]), show(&[3]), show(&[3, 0])),
        ("()".into(), "(3,)".into(), "(3, 0)".into())
    );
}

proptest! {
    #[test]
    fn an_extent_covers_all_items_and_no_more(
        axes in prop::collection::vec((0_usize..4, -20_isize..20), 0..4),
        itemsize in 1_usize..5,
    ) {
        let (shape, strides): (Vec<_>, Vec<_>) = axes.iter().copied().unzip();
        let mut items = vec![1000_isize];
        for (count, stride) in axes {
            items = items.iter().flat_map(|at| (0..count as isize).map(move |n| at + n * stride)).collect();
        }
        let extent = Extent::new(1000, itemsize, &shape, &strides);
        let first = items.iter().min().map(|&at| at.unsigned_abs());
        let last = items.iter().max().map(|&at| at.unsigned_abs());
        prop_assert_eq!(extent.as_ref().map(|extent| extent.addresses.start), first);
        prop_assert_eq!(extent.as_ref().map(|extent| extent.addresses.end), last.map(|at| at + itemsize));
        prop_assert_eq!(extent.map_or(0, |extent| extent.bytes), items.len() * itemsize);
    }
}
