//! The bytes of an array in memory, in the order in which they are stored.

use std::marker::PhantomData;
use std::ops::Range;

/// Where the items of an array lie in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// From the first byte of the item that lies first, to the last byte of the item that lies last.
    pub addresses: Range<usize>,
    /// How many bytes the items have.
    pub bytes: usize,
}

/// If items fill less than one byte in this many, it does not pay to read the bytes between them.
const SPARSE: usize = 4;

impl Extent {
    /// The extent of an array with its first item at the address `start`, and these lengths and strides, in
    /// bytes, of its axes. None if the array has no items, or is larger than the address space.
    pub fn new(start: usize, itemsize: usize, shape: &[usize], strides: &[isize]) -> Option<Self> {
        let bytes = shape.iter().try_fold(itemsize, |product, &n| product.checked_mul(n))?;
        if bytes == 0 {
            return None;
        }
        let (mut first, mut last) = (start, start);
        for (&number, &stride) in shape.iter().zip(strides) {
            let far = stride.checked_mul(isize::try_from(number - 1).ok()?)?;
            let end = if far < 0 { &mut first } else { &mut last };
            *end = end.checked_add_signed(far)?;
        }
        Some(Extent { addresses: first..last.checked_add(itemsize)?, bytes })
    }

    /// Whether some of the items may be those of another array.
    pub fn overlaps(&self, other: &Extent) -> bool {
        self.addresses.start < other.addresses.end && other.addresses.start < self.addresses.end
    }

    /// Whether the items lie so far apart that a program should read one after the other.
    pub fn is_sparse(&self) -> bool {
        self.addresses.len() / SPARSE > self.bytes
    }
}

/// The items of an array, read block by block in the order in which they are stored.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    /// The address of the first item.
    start: *const u8,
    /// The lengths and the strides in bytes of the axes, slowest first, without the axes that a `run` covers.
    axes: Vec<(usize, isize)>,
    /// The position along each of these axes.
    position: Vec<usize>,
    /// How many bytes lie side by side.
    run: usize,
    /// How many bytes of the current run were read.
    in_run: usize,
    /// How many bytes all items have.
    length: u64,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Items<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let (start, run, length) = (bytes.as_ptr(), bytes.len(), bytes.len() as u64);
        Items { start, axes: Vec::new(), position: Vec::new(), run, in_run: 0, length, memory: PhantomData }
    }
}

// SAFETY:
// - The pointer is only read from.
// - The memory is there for `'a`, for any thread: by the contract of `new`, and as `from` borrows it.
unsafe impl Send for Items<'_> {}
// SAFETY: as above; the position changes through `&mut` only.
unsafe impl Sync for Items<'_> {}

impl Items<'_> {
    /// The items of an array with these lengths and strides, in bytes, of its axes. If the array
    /// `is_contiguous`, in C or in Fortran order, all items are one run. None if the array is larger than the
    /// address space.
    ///
    /// # Safety
    /// - `start` points to the first item of such an array.
    /// - No thread frees the memory of the array as long as the result is used (for `'a`). Threads may change
    ///   it meanwhile: the bytes are moved and never interpreted.
    pub unsafe fn new(
        start: *const u8,
        itemsize: usize,
        shape: &[usize],
        strides: &[isize],
        is_contiguous: bool,
    ) -> Option<Self> {
        let length = shape.iter().try_fold(itemsize, |product, &n| product.checked_mul(n))?;
        let (mut axes, mut run) = (Vec::new(), length);
        if !is_contiguous {
            // An axis of one item does not move. An axis whose items follow one another without a gap joins
            // the run.
            let all = shape.iter().copied().zip(strides.iter().copied());
            axes.extend(all.filter(|&(n, _)| n != 1));
            run = itemsize;
            while let Some((n, _)) = axes.pop_if(|(_, stride)| usize::try_from(*stride) == Ok(run)) {
                run *= n;
            }
        }
        let position = vec![0; axes.len()];
        Some(Items { start, axes, position, run, in_run: 0, length: length as u64, memory: PhantomData })
    }

    /// The number of bytes in all.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Goes to byte `at` of the stored order, which must be less than the number of bytes.
    pub fn seek(&mut self, at: u64) {
        // The size of the array is a usize.
        let at = at as usize;
        self.in_run = at % self.run;
        let mut run = at / self.run;
        for (position, &(n, _)) in self.position.iter_mut().zip(&self.axes).rev() {
            *position = run % n;
            run /= n;
        }
    }

    /// Appends the next `count` bytes to `block`; there must be as many.
    pub fn read(&mut self, mut count: usize, block: &mut Vec<u8>) {
        block.reserve(count);
        while count > 0 {
            let offset: isize =
                self.axes.iter().zip(&self.position).map(|(&(_, stride), &at)| stride * at as isize).sum();
            let part = count.min(self.run - self.in_run);
            let used = block.len();
            // SAFETY: `position` is inside the array's shape, so that its run lies in the array's memory,
            // which is there for `'a`, see above; `in_run + part` is at most `run`. The block has room
            // for `count` bytes, reserved above, and is other memory. Another thread may change the array
            // meanwhile: the bytes are moved and never interpreted, as in NumPy's own `tofile`, and the
            // checksum is taken of the copy.
            unsafe {
                let from = self.start.offset(offset).add(self.in_run);
                std::ptr::copy_nonoverlapping(from, block.as_mut_ptr().add(used), part);
                block.set_len(used + part);
            }
            count -= part;
            self.in_run += part;
            if self.in_run == self.run {
                self.in_run = 0;
                self.step();
            }
        }
    }

    /// Goes to the next run. The last axis moves first.
    fn step(&mut self) {
        for (position, &(n, _)) in self.position.iter_mut().zip(&self.axes).rev() {
            *position += 1;
            if *position < n {
                return;
            }
            *position = 0;
        }
    }
}
