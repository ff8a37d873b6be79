//! Compressed members: from their bytes in the file to those of an `.npy` file.
//!
//! The sizes that an archive gives are not believed before the `.npy` header was seen, which is decompressed
//! first. libdeflate, which is a quarter faster than zlib-rs, has to have all input and room for all output
//! at once: it decompresses members up to some size. zlib-rs does the rest in pieces: headers, and members
//! that take so long that the caller must be asked whether to go on.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use flate2::{FlushDecompress, Status};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::npy::header::Header;
use mmnpz_format::read::entry::Compressed;
use mmnpz_format::window::{Fetched, Part};
use mmnpz_format::zip::records::{AES, DEFLATED, ZSTANDARD};

use crate::failure::{Failure, KeepGoing, check};
use crate::fetch::POLL;
use crate::share::{self, Share};

/// A member of up to this size is decompressed for its header, too: that takes some ten microseconds.
const SMALL: u64 = 1 << 14;

/// A member of up to this size is decompressed without a question whether to go on.
const AT_ONCE: usize = 1 << 26;

/// How many bytes are decompressed between two such questions.
const PIECE: usize = 1 << 22;

/// How many bytes are decompressed for the header, unless it says that it has more.
const HEADER: u64 = 1 << 10;

/// The most bytes that one byte of deflated data can become.
const MOST_DEFLATED: u64 = 1032;

/// The most bytes that one byte of a Zstandard frame can become: a block of four bytes stands for 128 KiB.
const MOST_ZSTANDARD: u64 = 1 << 15;

/// How many bytes are decompressed at a time for a checksum: they stay in the cache of the processor.
const SUMMED: usize = 1 << 17;

const ENDS_EARLY: &str = "its compressed bytes end early";
const IS_LONGER: &str = "it has more bytes than the archive says";
const IS_SHORTER: &str = "it has fewer bytes than the archive says";
const IS_WRONG: &str = "its compressed bytes are damaged";

/// A compressed member.
pub struct Packed<'a> {
    bytes: &'a [u8],
    compressed: Compressed,
    /// All bytes of a small member, once they were needed for its header.
    small: Option<Vec<u8>>,
}

impl<'a> Packed<'a> {
    /// The member that these bytes of the file are.
    ///
    /// # Errors
    /// If no such member can be decompressed.
    pub fn new(bytes: &'a [u8], compressed: Compressed) -> Result<Self, Error> {
        let most = match compressed.method {
            DEFLATED => MOST_DEFLATED,
            ZSTANDARD => MOST_ZSTANDARD,
            AES => return Err(ErrorKind::Encrypted.into()),
            method => return Err(ErrorKind::Method(method).into()),
        };
        let (size, stored) = (compressed.size, bytes.len() as u64);
        if size > stored.saturating_mul(most) {
            return Err(ErrorKind::CompressedTooSmall { size, stored }.into());
        }
        Ok(Packed { bytes, compressed, small: None })
    }

    /// Its bytes in the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many bytes the member has when it is decompressed, as the archive says.
    pub fn size(&self) -> u64 {
        self.compressed.size
    }

    /// The `.npy` header, and where the data starts behind it.
    ///
    /// # Errors
    /// If the bytes are damaged, and those of [`Header::parse`].
    pub fn header(&mut self, max_header_size: usize) -> Result<(Header<'static>, usize), Error> {
        let size = self.compressed.size;
        if size <= SMALL {
            let mut whole = vec![0; size as usize];
            self.at_once(&mut whole)?;
            let (header, data) = Header::parse(&whole, max_header_size)?;
            let found = (header.into_owned(), data);
            self.small = Some(whole);
            return Ok(found);
        }
        let mut pieces = Pieces::new(self.bytes, self.compressed.method)?;
        let mut start = Vec::new();
        let mut wanted = HEADER.min(size);
        loop {
            let there = start.len();
            start.resize(wanted as usize, 0);
            if pieces.fill(&mut start[there..])? < wanted as usize - there {
                return Err(ErrorKind::Compression(IS_SHORTER).into());
            }
            let parts = [Part { at: 0, bytes: &start }];
            let fetched = Fetched { parts: &parts, len: size };
            match Header::read(Window::of_fetched(&fetched), 0..size, max_header_size) {
                Err(Error { kind: ErrorKind::Missing(range), .. }) => wanted = range.end,
                read => return read.map(|(header, data)| (header.into_owned(), data)),
            }
        }
    }

    /// Whether the member starts with these bytes.
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub fn starts_with(&self, start: &[u8]) -> Result<bool, Error> {
        let mut found = vec![0; start.len()];
        let count = Pieces::new(self.bytes, self.compressed.method)?.fill(&mut found)?;
        Ok(found[..count] == *start)
    }

    /// Makes sure that the member has as many bytes as the archive says, before that takes memory.
    ///
    /// # Errors
    /// If it has not, and [`Failure::Interrupted`].
    pub fn check_size(&self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        if self.compressed.size <= AT_ONCE as u64 {
            return Ok(());
        }
        let mut sum = Summing::new(&self.compressed)?;
        let last = self.bytes.len().div_ceil(SUMMED).saturating_sub(1);
        for (number, piece) in self.bytes.chunks(SUMMED).enumerate() {
            check(keep_going)?;
            sum.add(piece, number == last)?;
        }
        Ok(self.compare(sum.end()?)?)
    }

    /// Decompresses all of the member, which has as many bytes as `out`, and compares the checksum.
    ///
    /// # Errors
    /// If the bytes are damaged, and [`Failure::Interrupted`].
    pub fn decompress(&self, out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        if let Some(small) = &self.small {
            out.copy_from_slice(small);
        } else if out.len() <= AT_ONCE {
            self.at_once(out)?;
        } else {
            let mut pieces = Pieces::new(self.bytes, self.compressed.method)?;
            let mut crc = crc32fast::Hasher::new();
            for piece in out.chunks_mut(PIECE) {
                check(keep_going)?;
                if pieces.fill(piece)? < piece.len() {
                    return Err(Error::from(ErrorKind::Compression(IS_SHORTER)).into());
                }
                crc.update(piece);
            }
            pieces.end()?;
            self.compare(crc.finalize())?;
        }
        Ok(())
    }

    fn at_once(&self, out: &mut [u8]) -> Result<(), Error> {
        let wrong = |why| Err(ErrorKind::Compression(why).into());
        let made = if self.compressed.method == DEFLATED {
            use libdeflater::{DecompressionError, Decompressor};
            match Decompressor::new().deflate_decompress(self.bytes, out) {
                Ok(made) => made,
                Err(DecompressionError::InsufficientSpace) => return wrong(IS_LONGER),
                Err(DecompressionError::BadData) => return wrong(IS_WRONG),
            }
        } else {
            match context()?.decompress(out, self.bytes) {
                Ok(made) => made,
                Err(_) => return self.zstandard_error(),
            }
        };
        if made < out.len() {
            return wrong(IS_SHORTER);
        }
        self.compare(crc32fast::hash(out))
    }

    /// What is wrong with a frame: the codes of Zstandard have no names here.
    #[cold]
    fn zstandard_error(&self) -> Result<(), Error> {
        let mut pieces = Pieces::new(self.bytes, ZSTANDARD)?;
        let mut some = vec![0; 1 << 16];
        let mut left = self.compressed.size;
        while left > 0 {
            let wanted = left.min(some.len() as u64) as usize;
            if pieces.fill(&mut some[..wanted])? < wanted {
                return Err(ErrorKind::Compression(IS_SHORTER).into());
            }
            left -= wanted as u64;
        }
        pieces.end()?;
        Err(ErrorKind::Compression(IS_WRONG).into())
    }

    fn compare(&self, found: u32) -> Result<(), Error> {
        let expected = self.compressed.crc;
        if found == expected { Ok(()) } else { Err(ErrorKind::Checksum { expected, found }.into()) }
    }
}

/// A member that is to be decompressed with others.
pub struct Unpacking<'a> {
    /// The member.
    pub packed: &'a Packed<'a>,
    /// As many bytes as it has.
    pub out: &'a mut [u8],
    /// What is wrong with it, once it was decompressed.
    pub failure: Option<Failure>,
}

impl Unpacking<'_> {
    fn run(&mut self, keep_going: KeepGoing<'_>) {
        self.failure = self.packed.decompress(self.out, keep_going).err();
    }
}

/// Decompresses members with up to `threads` threads, the calling one included, which alone asks whether to
/// go on.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn decompress_all(
    all: &mut [Unpacking<'_>],
    threads: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<(), Failure> {
    if threads > 1 && all.len() > 1 {
        let each: Vec<_> = all.iter_mut().map(Mutex::new).collect();
        match decompress_each(&each, threads, keep_going) {
            // A lock that another thread had is locked for ever.
            Err(Failure::Forked) => std::mem::forget(each),
            done => return done,
        }
    }
    for one in all {
        check(keep_going)?;
        one.run(keep_going);
    }
    Ok(())
}

fn decompress_each(
    each: &[Mutex<&mut Unpacking<'_>>],
    threads: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
) -> Result<(), Failure> {
    let stop = AtomicBool::new(false);
    let polled = Cell::new(Instant::now());
    let go_on = || {
        let is_time = polled.get().elapsed() > POLL;
        if is_time {
            polled.set(Instant::now());
        }
        !stop.load(Ordering::Relaxed) && (!is_time || keep_going())
    };
    let caller = thread::current().id();
    let work = |number: usize, is_caller: &mut bool| {
        let go_on = || {
            if *is_caller && !keep_going() {
                stop.store(true, Ordering::Relaxed);
            }
            !stop.load(Ordering::Relaxed)
        };
        each[number].lock().unwrap_or_else(PoisonError::into_inner).run(&go_on);
    };
    let share = Share { count: each.len(), taken: 1, threads, stop: &stop };
    share::share(&share, &go_on, &|| thread::current().id() == caller, &work)
}

fn context() -> Result<DCtx<'static>, Error> {
    DCtx::try_create().ok_or_else(|| ErrorKind::NoMemory { size: size_of::<DCtx<'_>>() }.into())
}

/// What decompresses in pieces.
pub(crate) enum Codec {
    Deflate(Box<flate2::Decompress>),
    Zstandard(DCtx<'static>),
}

/// What a step of a codec did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// How many bytes of the input were used.
    pub(crate) used: usize,
    /// How many bytes were made.
    pub(crate) made: usize,
    /// Whether these bytes may be the last ones: those of Zstandard can go on with another frame.
    pub(crate) has_ended: bool,
}

impl Codec {
    /// # Errors
    /// If there is no codec for this method.
    pub(crate) fn new(method: u16) -> Result<Self, Error> {
        match method {
            DEFLATED => Ok(Codec::Deflate(Box::new(flate2::Decompress::new(false)))),
            ZSTANDARD => Ok(Codec::Zstandard(context()?)),
            method => Err(ErrorKind::Method(method).into()),
        }
    }

    /// Goes on with this input, as far as `out` has room.
    pub(crate) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Error> {
        let wrong = || Error::from(ErrorKind::Compression(IS_WRONG));
        match self {
            Codec::Deflate(stream) => {
                let (before_in, before_out) = (stream.total_in(), stream.total_out());
                let status = stream.decompress(input, out, FlushDecompress::None).map_err(|_| wrong())?;
                // No more than the slices have.
                let used = (stream.total_in() - before_in) as usize;
                let made = (stream.total_out() - before_out) as usize;
                Ok(Step { used, made, has_ended: status == Status::StreamEnd })
            }
            Codec::Zstandard(context) => {
                let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(out));
                let hint = context.decompress_stream(&mut output, &mut input).map_err(|_| wrong())?;
                Ok(Step { used: input.pos, made: output.pos(), has_ended: hint == 0 })
            }
        }
    }

    /// Whether nothing can follow what has ended.
    pub(crate) fn is_last(&self, is_input_used: bool) -> bool {
        matches!(self, Codec::Deflate(_)) || is_input_used
    }
}

/// A member that is decompressed in pieces.
struct Pieces<'a> {
    codec: Codec,
    input: &'a [u8],
    has_ended: bool,
}

impl<'a> Pieces<'a> {
    fn new(input: &'a [u8], method: u16) -> Result<Self, Error> {
        Ok(Pieces { codec: Codec::new(method)?, input, has_ended: false })
    }

    /// Decompresses as many bytes as `out` has, fewer at the end of the member, and says how many.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < out.len() && !self.has_ended {
            let Step { used, made, has_ended } = self.codec.step(self.input, &mut out[done..])?;
            self.input = &self.input[used..];
            done += made;
            self.has_ended = has_ended && self.codec.is_last(self.input.is_empty());
            if used == 0 && made == 0 && !self.has_ended {
                return Err(ErrorKind::Compression(ENDS_EARLY).into());
            }
        }
        Ok(done)
    }

    /// Makes sure that there is no more.
    fn end(&mut self) -> Result<(), Error> {
        if self.fill(&mut [0])? > 0 { Err(ErrorKind::Compression(IS_LONGER).into()) } else { Ok(()) }
    }
}

/// The checksum of a member that is decompressed as its bytes come in.
pub(crate) struct Summing {
    codec: Codec,
    out: Vec<u8>,
    crc: crc32fast::Hasher,
    left: u64,
    has_ended: bool,
}

impl Summing {
    /// # Errors
    /// If the member cannot be decompressed.
    pub(crate) fn new(compressed: &Compressed) -> Result<Self, Error> {
        Ok(Summing {
            codec: Codec::new(compressed.method)?,
            out: vec![0; SUMMED],
            crc: crc32fast::Hasher::new(),
            left: compressed.size,
            has_ended: false,
        })
    }

    /// Goes on with the next bytes of the member, which are the last ones if `is_last`.
    ///
    /// # Errors
    /// If they are damaged.
    pub(crate) fn add(&mut self, mut input: &[u8], is_last: bool) -> Result<(), Error> {
        while !self.has_ended {
            let Step { used, made, has_ended } = self.codec.step(input, &mut self.out)?;
            input = &input[used..];
            self.crc.update(&self.out[..made]);
            let too_many = || ErrorKind::Compression(IS_LONGER);
            self.left = self.left.checked_sub(made as u64).ok_or_else(too_many)?;
            self.has_ended = has_ended && self.codec.is_last(is_last && input.is_empty());
            if used == 0 && made == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The checksum of all bytes.
    ///
    /// # Errors
    /// If there were too few.
    pub(crate) fn end(self) -> Result<u32, Error> {
        match (self.has_ended, self.left) {
            (true, 0) => Ok(self.crc.finalize()),
            (true, _) => Err(ErrorKind::Compression(IS_SHORTER).into()),
            (false, _) => Err(ErrorKind::Compression(ENDS_EARLY).into()),
        }
    }
}
