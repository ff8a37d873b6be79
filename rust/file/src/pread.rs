//! Reading at places of a file, by calls of the system.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

use crate::failure::{Failure, KeepGoing, check};

/// How many bytes are read between two questions whether to go on.
const STEP: usize = 1 << 23;

/// The error for a file that ends before the bytes do that are read.
pub(crate) fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut short since it was opened")
}

/// Reads some bytes at a place of a file: none at its end.
pub(crate) fn read_at(file: &File, block: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(file, block, at);
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(file, block, at);
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Reads as many bytes from `at` on as the file has, at most as many as `block` has, and says how many.
pub(crate) fn read_up_to(file: &File, block: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < block.len() {
        match read_at(file, &mut block[count..], at + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// Reads as many bytes from `at` on as `block` has.
pub(crate) fn read_exact_at(file: &File, block: &mut [u8], at: u64) -> io::Result<()> {
    if read_up_to(file, block, at)? < block.len() { Err(cut_short()) } else { Ok(()) }
}

/// Reads as many bytes from `at` on as `out` has.
///
/// # Errors
/// Those of the system, and [`Failure::Interrupted`].
pub(crate) fn read_all_at(
    file: &File,
    out: &mut [MaybeUninit<u8>],
    at: u64,
    keep_going: KeepGoing<'_>,
) -> Result<(), Failure> {
    for (number, out) in out.chunks_mut(STEP).enumerate() {
        check(keep_going)?;
        read_exact_to(file, out, at + (number * STEP) as u64)?;
    }
    Ok(())
}

/// As [`read_exact_at`], to memory that need not be initialized. Once it returns without an error, it is.
#[cfg(unix)]
pub(crate) fn read_exact_to(file: &File, out: &mut [MaybeUninit<u8>], at: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    use libc::{off_t, pread};
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    use libc::{off64_t as off_t, pread64 as pread};

    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = off_t::try_from(at + done as u64).map_err(|_| cut_short())?;
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the system writes no more bytes
        // than `rest` has.
        let read = unsafe { pread(file.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len().min(STEP), at) };
        match usize::try_from(read) {
            Ok(0) => return Err(cut_short()),
            Ok(more) => done += more,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(crate) fn read_exact_to(file: &File, out: &mut [MaybeUninit<u8>], at: u64) -> io::Result<()> {
    // Zeros first, as no reference may be made to bytes that are not initialized.
    out.fill(MaybeUninit::new(0));
    // SAFETY: they are initialized, and bytes have the same layout.
    let out = unsafe { &mut *(out as *mut [MaybeUninit<u8>] as *mut [u8]) };
    read_exact_at(file, out, at)
}
