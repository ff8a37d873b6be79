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

/// Where items fill less than one byte in this many, it is not worth while to read what is between them.
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

    /// Whether the items lie so far apart that a program should read one after the other.
    pub fn is_sparse(&self) -> bool {
        self.addresses.len() / SPARSE > self.bytes
    }
}

/// The items of an array, read block by block in the order in which they are stored.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    /// The first item.
    start: *const u8,
    /// Lengths and strides in bytes of the axes, slowest first, without those that a `run` covers.
    axes: Vec<(usize, isize)>,
    /// Position along each of the axes.
    position: Vec<usize>,
    /// Bytes that lie side by side.
    run: usize,
    /// How many of them of the current run were read.
    in_run: usize,
    /// Bytes in all.
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
// SAFETY: as above; what changes is changed through `&mut`.
unsafe impl Sync for Items<'_> {}

impl Items<'_> {
    /// The items of an array with these lengths and strides, in bytes, of its axes. If it `is_contiguous`, in
    /// C or in Fortran order, all of it is one run. None if it is larger than the address space.
    ///
    /// # Safety
    /// - `start` points to the first item of such an array.
    /// - The memory of the array stays, and nobody frees it, for as long as what is returned is used (for
    ///   `'a`), in any thread. It may be changed meanwhile: the bytes are moved and never interpreted.
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
            // Axes of one item do not move; an axis that continues the run behind it joins it.
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Goes to a byte of the stored order, which must be one that there is.
    pub fn seek(&mut self, at: u64) {
        // Inside the array, whose size is a usize.
        let at = at as usize;
        self.in_run = at % self.run;
        let mut run = at / self.run;
        for (position, &(n, _)) in self.position.iter_mut().zip(&self.axes).rev() {
            *position = run % n;
            run /= n;
        }
    }

    /// Appends the next `count` bytes to `block`; the caller asks for no more than there are.
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

    /// Goes to the next run, last axis first.
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
