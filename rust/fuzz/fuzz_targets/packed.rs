//! Compressed members: any bytes are decompressed or refused, and no more memory is taken than they justify.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

use mmnpz_file::decompress::Packed;
use mmnpz_format::npy::header::MAX_HEADER_SIZE;
use mmnpz_format::read::entry::Compressed;
use mmnpz_format::zip::records::{DEFLATED, ZSTANDARD};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    is_deflated: bool,
    size: u32,
    crc: u32,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let Input { is_deflated, size, crc, bytes } = input;
    let method = if is_deflated { DEFLATED } else { ZSTANDARD };
    let compressed = Compressed { method, size: size.into(), crc, stored: bytes.len() as u64 };
    let Ok(mut packed) = Packed::new(bytes, compressed) else { return };
    assert!(u64::from(size) <= bytes.len() as u64 * (1 << 15));
    let header = packed.header(MAX_HEADER_SIZE, &|| true);
    if let Ok((_, data)) = &header {
        assert!(*data as u64 <= u64::from(size));
    }
    // What is small is decompressed as a whole for its header.
    let size = size as usize % (1 << 20);
    let compressed = Compressed { size: size as u64, ..compressed };
    let Ok(packed) = Packed::new(bytes, compressed) else { return };
    let mut out = vec![0; size];
    if packed.decompress(&mut out, &|| true).is_ok() {
        assert_eq!(crc32fast::hash(&out), crc);
    }
});
