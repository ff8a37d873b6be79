//! Compressed members: from their bytes in the file to those of an `.npy` file.
//!
//! The sizes that an archive gives are not believed before the `.npy` header was seen, which is decompressed
//! first. libdeflate, which is a quarter faster than zlib-rs, has to have all input and room for all output
//! at once: it decompresses members up to some size. zlib-rs does the rest in pieces: headers, and members
//! that take so long that the caller must be asked whether to go on.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use flate2::{FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use mmnpz_format::Window;
use mmnpz_format::error::{Error, ErrorKind};
use mmnpz_format::npy::header::Header;
use mmnpz_format::read::entry::Compressed;
use mmnpz_format::window::{Fetched, Part};
use mmnpz_format::zip::records::{AES, DEFLATED, ZSTANDARD};

use crate::failure::{Failure, KeepGoing, check};
use crate::fetch::{POLL, Place};
use crate::mapping::Map;
use crate::pread::read_all_at;
use crate::share::{self, Share};

/// A member of up to this size is decompressed for its header, too: that takes some ten microseconds.
const SMALL: u64 = 1 << 14;

/// A member of up to this size is decompressed without a question whether to go on.
const AT_ONCE: usize = 1 << 26;

/// How many bytes are decompressed between two such questions.
const PIECE: usize = 1 << 22;

/// How many bytes are decompressed for the header, unless it says that it has more.
const HEADER: u64 = 1 << 10;

/// How many bytes of a member are read for its header, unless that takes more.
const START: u64 = 1 << 16;

/// The most bytes that one byte of deflated data can become.
const MOST_DEFLATED: u64 = 1032;

/// The most bytes that one byte of a Zstandard frame can become: a block of four bytes stands for 128 KiB.
const MOST_ZSTANDARD: u64 = 1 << 15;

/// How many bytes are decompressed at a time for a checksum: they stay in the cache of the processor.
const SUMMED: usize = 1 << 17;

/// The largest window of a Zstandard frame, as a power of two: all that there are.
const WINDOW_LOG: u32 = if cfg!(target_pointer_width = "64") { 31 } else { 30 };

const NEEDS_DICTIONARY: &str = "its compressed bytes need a dictionary of Zstandard, which no archive has";
const ENDS_EARLY: &str = "its compressed bytes end early";
const IS_LONGER: &str = "it has more bytes than the archive says";
const IS_SHORTER: &str = "it has fewer bytes than the archive says";
const IS_WRONG: &str = "its compressed bytes are damaged";

/// Where the bytes of a compressed member are.
#[derive(Clone)]
enum Stored<'a> {
    Here(&'a [u8]),
    /// In a file that is not mapped.
    File(&'a File, Range<u64>),
}

/// A compressed member.
pub struct Packed<'a> {
    stored: Stored<'a>,
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
        Self::of(Stored::Here(bytes), compressed)
    }

    /// The member that has this range of a file that is not mapped, which is inside the file.
    ///
    /// # Errors
    /// As for [`Packed::new`].
    pub(crate) fn of_file(file: &'a File, range: Range<u64>, compressed: Compressed) -> Result<Self, Error> {
        Self::of(Stored::File(file, range), compressed)
    }

    fn of(stored: Stored<'a>, compressed: Compressed) -> Result<Self, Error> {
        let packed = Packed { stored, compressed, small: None };
        let most = match compressed.method {
            DEFLATED => MOST_DEFLATED,
            ZSTANDARD => MOST_ZSTANDARD,
            AES => return Err(ErrorKind::Encrypted.into()),
            method => return Err(ErrorKind::Method(method).into()),
        };
        let (size, stored) = (compressed.size, packed.stored_size());
        if size > stored.saturating_mul(most) {
            return Err(ErrorKind::CompressedTooSmall { size, stored }.into());
        }
        Ok(packed)
    }

    /// How many bytes it has in the file.
    pub fn stored_size(&self) -> u64 {
        match &self.stored {
            Stored::Here(bytes) => bytes.len() as u64,
            Stored::File(_, range) => range.end - range.start,
        }
    }

    /// The place of its bytes in the file, which `map` has.
    pub fn place(&self, map: &Map) -> Place {
        let offset = match &self.stored {
            Stored::Here(bytes) => map.offset_of(bytes.as_ptr()),
            Stored::File(_, range) => range.start as usize,
        };
        Place { offset, bytes: self.stored_size() as usize }
    }

    /// Its first bytes in the file, at most `count`: of a file that is not mapped, read anew each time.
    fn start(&self, count: u64, keep_going: KeepGoing<'_>) -> Result<Cow<'a, [u8]>, Failure> {
        let count = count.min(self.stored_size());
        match &self.stored {
            Stored::Here(bytes) => Ok(bytes[..count as usize].into()),
            Stored::File(file, range) => {
                let no_memory = |_| Error::from(ErrorKind::NoMemory { size: count as usize });
                let mut bytes = Vec::new();
                bytes
                    .try_reserve_exact(usize::try_from(count).map_err(|_| ErrorKind::TooLarge)?)
                    .map_err(no_memory)?;
                let room = &mut bytes.spare_capacity_mut()[..count as usize];
                read_all_at(file, room, range.start, keep_going)?;
                // SAFETY: there is room for them, and they were read.
                unsafe { bytes.set_len(count as usize) };
                Ok(bytes.into())
            }
        }
    }

    /// All its bytes in the file.
    fn all(&self, keep_going: KeepGoing<'_>) -> Result<Cow<'a, [u8]>, Failure> {
        self.start(u64::MAX, keep_going)
    }

    /// Does work with as many of its first bytes as are needed for it.
    fn with_start<T>(
        &self,
        keep_going: KeepGoing<'_>,
        work: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut count = match self.stored {
            Stored::Here(_) => u64::MAX,
            Stored::File(..) => START,
        };
        loop {
            match work(&self.start(count, keep_going)?) {
                Err(Failure::Format(error))
                    if count < self.stored_size()
                        && matches!(error.kind, ErrorKind::Compression(IS_SHORTER | ENDS_EARLY)) =>
                {
                    count = count.saturating_mul(4);
                }
                done => return done,
            }
        }
    }

    /// How many bytes the member has when it is decompressed, as the archive says.
    pub fn size(&self) -> u64 {
        self.compressed.size
    }

    /// The `.npy` header, and where the data starts behind it.
    ///
    /// # Errors
    /// If the bytes are damaged, and those of [`Header::parse`].
    pub fn header(
        &mut self,
        max_header_size: usize,
        keep_going: KeepGoing<'_>,
    ) -> Result<(Header<'static>, usize), Failure> {
        let size = self.compressed.size;
        if size <= SMALL && self.stored_size() <= AT_ONCE as u64 {
            let mut whole = vec![0; size as usize];
            self.at_once(&self.all(keep_going)?, &mut whole, keep_going)?;
            let (header, data) = Header::parse(&whole, max_header_size)?;
            let found = (header.into_owned(), data);
            self.small = Some(whole);
            return Ok(found);
        }
        self.with_start(keep_going, |bytes| self.header_in(bytes, max_header_size, keep_going))
    }

    /// The header that the first bytes of the member have.
    fn header_in(
        &self,
        bytes: &[u8],
        max_header_size: usize,
        keep_going: KeepGoing<'_>,
    ) -> Result<(Header<'static>, usize), Failure> {
        let size = self.compressed.size;
        let mut pieces = Pieces::new(bytes, self.compressed.method)?;
        let mut start = Vec::new();
        let mut wanted = HEADER.min(size);
        loop {
            let there = start.len();
            start.resize(wanted as usize, 0);
            if pieces.fill(&mut start[there..], keep_going)? < wanted as usize - there {
                return Err(ErrorKind::Compression(IS_SHORTER).into());
            }
            let parts = [Part::new(0, &start)];
            let fetched = Fetched::new(&parts, size);
            match Header::read(Window::of_fetched(&fetched), 0..size, max_header_size) {
                Err(Error { kind: ErrorKind::Missing(range), .. }) => wanted = range.end,
                read => return Ok(read.map(|(header, data)| (header.into_owned(), data))?),
            }
        }
    }

    /// Whether the member starts with these bytes.
    ///
    /// # Errors
    /// If the bytes are damaged.
    pub fn starts_with(&self, start: &[u8], keep_going: KeepGoing<'_>) -> Result<bool, Failure> {
        if self.compressed.size == 0 {
            return Ok(start.is_empty());
        }
        self.with_start(keep_going, |bytes| {
            let mut found = vec![0; start.len()];
            let count = Pieces::new(bytes, self.compressed.method)?.fill(&mut found, keep_going)?;
            Ok(found[..count] == *start)
        })
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
        let bytes = self.all(keep_going)?;
        let last = bytes.len().div_ceil(SUMMED).saturating_sub(1);
        for (number, piece) in bytes.chunks(SUMMED).enumerate() {
            check(keep_going)?;
            if !sum.add(piece, number == last, keep_going)? {
                return Err(Failure::Interrupted);
            }
        }
        Ok(self.compare(sum.end()?)?)
    }

    /// Decompresses the member to `out`, which may end before the member does, and compares the checksum of
    /// all of it.
    ///
    /// # Errors
    /// If the bytes are damaged, and [`Failure::Interrupted`].
    pub fn decompress(&self, out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let size = self.compressed.size;
        if let Some(small) = &self.small {
            out.copy_from_slice(&small[..out.len()]);
            return Ok(());
        }
        let bytes = self.all(keep_going)?;
        if size == 0 && bytes.is_empty() {
            // A folder that is marked as compressed.
            self.compare(0)?;
        } else if out.len() as u64 == size && out.len().max(bytes.len()) <= AT_ONCE {
            self.at_once(&bytes, out, keep_going)?;
        } else {
            let mut pieces = Pieces::new(&bytes, self.compressed.method)?;
            let mut crc = crc32fast::Hasher::new();
            let mut fill = |piece: &mut [u8]| {
                check(keep_going)?;
                if pieces.fill(piece, keep_going)? < piece.len() {
                    return Err(Failure::from(ErrorKind::Compression(IS_SHORTER)));
                }
                crc.update(piece);
                Ok(())
            };
            out.chunks_mut(PIECE).try_for_each(&mut fill)?;
            let mut left = size - out.len() as u64;
            let mut behind = vec![0; if left > 0 { SUMMED } else { 0 }];
            while left > 0 {
                let count = left.min(behind.len() as u64) as usize;
                fill(&mut behind[..count])?;
                left -= count as u64;
            }
            pieces.end(keep_going)?;
            self.compare(crc.finalize())?;
        }
        Ok(())
    }

    fn at_once(&self, bytes: &[u8], out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let wrong = |why| Err(ErrorKind::Compression(why).into());
        let made = if self.compressed.method == DEFLATED {
            match libdeflater::Decompressor::new().deflate_decompress(bytes, out) {
                Ok(made) => made,
                // Because it does not end, or for a reason that a second look tells.
                Err(_) => self.in_pieces(bytes, out, keep_going)?,
            }
        } else {
            match context()?.decompress(out, bytes) {
                Ok(made) => made,
                // Because of what follows the last frame, or for a reason that a second look tells.
                Err(_) => self.in_pieces(bytes, out, keep_going)?,
            }
        };
        if made < out.len() {
            return wrong(IS_SHORTER);
        }
        Ok(self.compare(crc32fast::hash(out))?)
    }

    /// Decompresses what cannot be decompressed at once, and says how many bytes there are.
    #[cold]
    fn in_pieces(&self, bytes: &[u8], out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<usize, Failure> {
        let mut pieces = Pieces::new(bytes, self.compressed.method)?;
        let made = pieces.fill(out, keep_going)?;
        pieces.end(keep_going)?;
        Ok(made)
    }

    fn compare(&self, found: u32) -> Result<(), Error> {
        let expected = self.compressed.crc;
        if found == expected { Ok(()) } else { Err(ErrorKind::Checksum { expected, found }.into()) }
    }
}

/// Does `work` for all of some members, with up to `threads` threads, the calling one included, which alone
/// asks whether to go on. If work is interrupted, it is not done for all.
///
/// # Errors
/// [`Failure::Interrupted`]. With several threads [`Failure::Forked`], in a child that a signal handler forks
/// off: what the others had begun may be half done, and must be neither used nor dropped.
pub fn for_all<T: Send>(
    all: &mut [T],
    threads: usize,
    keep_going: &(dyn Fn() -> bool + Sync),
    work: &(dyn Fn(&mut T, KeepGoing<'_>) + Sync),
) -> Result<(), Failure> {
    let count = all.len();
    let left = Mutex::new(all.iter_mut());
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
    let turn = |_, is_caller: &mut bool| {
        // Not locked any more when the work begins, in which signal handlers may run.
        let one = left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let go_on = || {
            if *is_caller && !keep_going() {
                stop.store(true, Ordering::Relaxed);
            }
            !stop.load(Ordering::Relaxed)
        };
        if let Some(one) = one {
            work(one, &go_on);
        }
    };
    let share = Share { count, taken: 1, threads, stop: &stop };
    share::share(&share, &go_on, &|| thread::current().id() == caller, &turn)
}

fn context() -> Result<DCtx<'static>, Error> {
    let no_memory = || Error::from(ErrorKind::NoMemory { size: size_of::<DCtx<'_>>() });
    let mut context = DCtx::try_create().ok_or_else(no_memory)?;
    // Any window: of its memory, only as much is touched as the member has bytes.
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|_| no_memory())?;
    Ok(context)
}

/// What is wrong, by the name that Zstandard has for it.
fn zstandard_error(name: &str) -> Error {
    if name.starts_with("Allocation error") {
        return ErrorKind::NoMemory { size: 1 << WINDOW_LOG }.into();
    }
    let why = if name.contains("ictionary") { NEEDS_DICTIONARY } else { IS_WRONG };
    ErrorKind::Compression(why).into()
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
            AES => Err(ErrorKind::Encrypted.into()),
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
                let hint = context.decompress_stream(&mut output, &mut input);
                let hint = hint.map_err(|code| zstandard_error(zstd_safe::get_error_name(code)))?;
                Ok(Step { used: input.pos, made: output.pos(), has_ended: hint == 0 })
            }
        }
    }

    /// Whether nothing can follow what has ended, or need not, as `is_all` says.
    pub(crate) fn is_last(&self, is_all: bool) -> bool {
        matches!(self, Codec::Deflate(_)) || is_all
    }
}

/// A member that is decompressed in pieces.
struct Pieces<'a> {
    codec: Codec,
    input: &'a [u8],
    /// Whether a stream or a frame has just ended.
    may_end: bool,
    has_ended: bool,
    /// How many bytes of the input were taken since the last question whether to go on.
    taken: usize,
}

impl<'a> Pieces<'a> {
    fn new(input: &'a [u8], method: u16) -> Result<Self, Error> {
        Ok(Pieces { codec: Codec::new(method)?, input, may_end: false, has_ended: false, taken: 0 })
    }

    /// Decompresses as many bytes as `out` has, fewer at the end of the member, and says how many.
    fn fill(&mut self, out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<usize, Failure> {
        let mut done = 0;
        while done < out.len() && !self.has_ended {
            let Step { used, made, has_ended } = self.step(&mut out[done..], keep_going)?;
            self.input = &self.input[used..];
            done += made;
            self.may_end = has_ended;
            self.has_ended = has_ended && self.codec.is_last(self.input.is_empty());
            if used == 0 && made == 0 && !self.has_ended {
                return Err(ErrorKind::Compression(ENDS_EARLY).into());
            }
        }
        Ok(done)
    }

    /// Takes a step. Input can have any number of blocks without a byte, so it is not taken all at once.
    fn step(&mut self, out: &mut [u8], keep_going: KeepGoing<'_>) -> Result<Step, Failure> {
        if self.taken >= PIECE {
            check(keep_going)?;
            self.taken = 0;
        }
        let step = self.codec.step(&self.input[..self.input.len().min(PIECE)], out)?;
        self.taken += step.used;
        Ok(step)
    }

    /// Makes sure that there is no more. What follows the end of the stream, or of a frame of Zstandard, does
    /// not matter. Nor does it that there is no end: the checksum tells whether all is there.
    fn end(&mut self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        while !self.may_end {
            let Step { used, made, has_ended } = self.step(&mut [0], keep_going)?;
            self.input = &self.input[used..];
            self.may_end = has_ended;
            if made > 0 {
                return Err(ErrorKind::Compression(IS_LONGER).into());
            }
            if used == 0 {
                break;
            }
        }
        Ok(())
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

    /// Goes on with the next bytes of the member, which are the last ones if `is_last`. Returns false if it
    /// should not go on.
    ///
    /// # Errors
    /// If they are damaged.
    pub(crate) fn add(
        &mut self,
        mut input: &[u8],
        is_last: bool,
        go_on: &dyn Fn() -> bool,
    ) -> Result<bool, Error> {
        let mut made_since = 0;
        while !self.has_ended {
            let Step { used, made, has_ended } = self.codec.step(input, &mut self.out)?;
            input = &input[used..];
            self.crc.update(&self.out[..made]);
            let too_many = || ErrorKind::Compression(IS_LONGER);
            self.left = self.left.checked_sub(made as u64).ok_or_else(too_many)?;
            let is_all = self.left == 0 || (is_last && input.is_empty());
            self.has_ended = has_ended && self.codec.is_last(is_all);
            if used == 0 && made == 0 {
                break;
            }
            made_since += made;
            if made_since >= PIECE {
                made_since = 0;
                if !go_on() {
                    return Ok(false);
                }
            }
        }
        Ok(go_on())
    }

    /// The checksum of all bytes.
    ///
    /// # Errors
    /// If there were too few.
    pub(crate) fn end(self) -> Result<u32, Error> {
        match (self.has_ended, self.left) {
            // It need not end: the checksum tells whether all is there.
            (_, 0) => Ok(self.crc.finalize()),
            (true, _) => Err(ErrorKind::Compression(IS_SHORTER).into()),
            (false, _) => Err(ErrorKind::Compression(ENDS_EARLY).into()),
        }
    }
}
