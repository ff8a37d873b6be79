//! Headers: any bytes are read or refused. A header that was read gives the same header when it is written
//! and read again.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

use mmnpz_format::ErrorKind;
use mmnpz_format::npy::header::{self, Header, MAX_HEADER_SIZE, Shape};
use mmnpz_format::npy::literal::{self, Literal};

/// The parser stops at 100 brackets, and the header's own dict is one.
const DEPTH: usize = 90;

fn arbitrary_literal(source: &mut Unstructured<'_>, depth: usize) -> arbitrary::Result<Literal<'static>> {
    let kinds = if depth < DEPTH { 3 } else { 1 };
    let items = |source: &mut Unstructured<'_>| -> arbitrary::Result<Vec<_>> {
        let count = source.int_in_range(0..=4)?;
        (0..count).map(|_| arbitrary_literal(source, depth + 1)).collect()
    };
    Ok(match source.int_in_range(0..=kinds)? {
        0 => Literal::Str(String::arbitrary(source)?.into()),
        // The least number cannot be read: its magnitude is out of range.
        1 => Literal::Int(i64::arbitrary(source)?.max(-i64::MAX)),
        2 => Literal::Tuple(items(source)?),
        _ => Literal::List(items(source)?),
    })
}

fn check_written(header: &Header<'_>, growth: bool) {
    let descr = literal::to_string(&header.descr).unwrap();
    assert_eq!(literal::from_str::<Literal<'_>>(&descr, false).as_ref(), Ok(&header.descr));
    let file = header::encode(&descr, header.fortran_order, &header.shape.0, growth).unwrap();
    assert_eq!(file.len() % 64, 0);
    assert_eq!(file.last(), Some(&b'\n'));
    let (again, end) = Header::parse(&file, usize::MAX).unwrap();
    assert_eq!((&again, end), (header, file.len()));
    let text = literal::to_string(header).unwrap();
    assert_eq!(literal::from_str::<Header<'_>>(&text, false).as_ref(), Ok(header));
}

fn check_file(file: &[u8]) {
    let Ok((header, end)) = Header::parse(file, MAX_HEADER_SIZE) else { return };
    assert!(end <= file.len());
    // The header is read from these bytes, from all of them, and from no others.
    assert_eq!(Header::parse(&file[..end], MAX_HEADER_SIZE).unwrap().0, header);
    let cut = Header::parse(&file[..end - 1], MAX_HEADER_SIZE).unwrap_err().kind;
    assert_eq!(cut, ErrorKind::NpyTruncated { needed: end as u64, found: end as u64 - 1 });
    let stored = (file.len() - end) as u64;
    for itemsize in [0, 1, 8, u64::MAX] {
        // NumPy refuses an array whose bytes a signed 64-bit number cannot count. It leaves out axes of
        // length 0, and counts elements if they have no bytes.
        let empty = header.shape.0.contains(&0);
        let each = if empty { itemsize } else { itemsize.max(1) };
        let nonzero = header.shape.0.iter().map(|&n| u128::from(n)).filter(|&n| n != 0);
        let product = nonzero.fold(u128::from(each), u128::saturating_mul);
        let countable = product <= i64::MAX as u128;
        let needed = countable.then_some(if itemsize == 0 || empty { 0 } else { product });
        let fits = needed.filter(|&needed| needed <= u128::from(stored));
        assert_eq!(header.data_len(itemsize, stored).ok().map(u128::from), fits);
    }
    check_written(&header, true);
    check_written(&header, false);
}

fn check_text(text: &str) {
    let Ok(literal) = literal::from_str::<Literal<'_>>(text, false) else { return };
    let written = literal::to_string(&literal).unwrap();
    assert_eq!(literal::from_str::<Literal<'_>>(&written, false).as_ref(), Ok(&literal));
    assert_eq!(literal::from_str::<Literal<'_>>(text, true).as_ref(), Ok(&literal), "Python 2 allows more");
    assert_eq!(literal.clone().into_owned(), literal);
}

fn check_structured(source: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let shape = Vec::<u64>::arbitrary(source)?.into_iter().map(|number| number >> 1).collect();
    let (fortran_order, growth, limit) =
        (bool::arbitrary(source)?, bool::arbitrary(source)?, u8::arbitrary(source)?);
    let header = Header { descr: arbitrary_literal(source, 0)?, fortran_order, shape: Shape(shape) };
    check_written(&header, growth);
    // The limit counts characters, whatever their encoding.
    let descr = literal::to_string(&header.descr).unwrap();
    let file = header::encode(&descr, header.fortran_order, &header.shape.0, growth).unwrap();
    let prefix = if file[6] == 1 { 10 } else { 12 };
    let body = &file[prefix..];
    let characters = if file[6] == 3 { str::from_utf8(body).unwrap().chars().count() } else { body.len() };
    for limit in [usize::from(limit), characters - 1, characters] {
        let read = Header::parse(&file, limit);
        assert_eq!(read.is_ok(), characters <= limit, "{characters} characters, {limit} allowed");
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    check_file(data);
    if let Some((&first, text)) = data.split_first() {
        let version = first % 4;
        let length = text.len() as u32;
        let width = if version == 1 { 2 } else { 4 };
        check_file(&[&header::MAGIC[..], &[version, 0], &length.to_le_bytes()[..width], text].concat());
    }
    if let Ok(text) = str::from_utf8(data) {
        check_text(text);
    }
    // Ends early if the input ends.
    let _ = check_structured(&mut Unstructured::new(data));
});
