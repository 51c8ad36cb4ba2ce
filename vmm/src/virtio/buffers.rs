//! The buffers of a descriptor chain, as vectors that the host's kernel reads and writes.
//!
//! What lies in them is the guest's, which changes it at will: nothing here makes a reference to it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_void, iovec, off_t};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A range that a guest named does not lie in its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a buffer of {len} bytes at {gpa:#x} is not in RAM")]
pub(super) struct OutsideRam {
    gpa: u64,
    len: u32,
}

/// Bytes of guest memory, in the order of their descriptors. They are used up from the front.
pub(super) struct Buffers {
    // Keeps what `vectors` and `last` point to mapped.
    memory: GuestMemoryMmap,
    vectors: Vec<iovec>,
    /// The vectors before this one are used up.
    first: usize,
    /// Bytes in all vectors from the first one on.
    len: u64,
    last: *mut u8,
}

// SAFETY: the pointers in it are to guest memory, which it keeps mapped, and which any thread may
// access by raw copies, as the guest's own processors do.
unsafe impl Send for Buffers {}

/// The most vectors that [`Buffers::receive_from`] and [`Buffers::send_to`] take: what one system call
/// takes, less one for an overflow of the caller's.
pub(super) const MAX_VECTORS: usize = libc::UIO_MAXIOV as usize - 1;

impl Buffers {
    /// No bytes of that memory.
    pub(super) fn new(memory: GuestMemoryMmap) -> Buffers {
        Buffers {
            memory,
            vectors: Vec::new(),
            first: 0,
            len: 0,
            last: ptr::null_mut(),
        }
    }

    /// Forgets all bytes; what was allocated is used again.
    pub(super) fn clear(&mut self) {
        self.vectors.clear();
        self.first = 0;
        self.len = 0;
        self.last = ptr::null_mut();
    }

    /// Adds `len` bytes at `gpa`. Some may have been added after an error.
    pub(super) fn push(&mut self, gpa: GuestAddress, len: u32) -> Result<(), OutsideRam> {
        for slice in self.memory.get_slices(gpa, len as usize) {
            let slice = slice.map_err(|_| OutsideRam { gpa: gpa.0, len })?;
            self.vectors.push(iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
            self.len += slice.len() as u64;
        }
        Ok(())
    }

    /// Number of bytes left.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Number of vectors left.
    pub(super) fn vectors(&self) -> usize {
        self.vectors.len() - self.first
    }

    /// Uses up the first `count` vectors, or all if there are fewer.
    pub(super) fn skip_vectors(&mut self, count: usize) {
        let end = (self.first + count).min(self.vectors.len());
        for vector in &self.vectors[self.first..end] {
            self.len -= vector.iov_len as u64;
        }
        self.first = end;
        if self.first == self.vectors.len() {
            self.vectors.clear();
            self.first = 0;
        } else if self.first > MAX_VECTORS {
            self.vectors.drain(..self.first);
            self.first = 0;
        }
    }

    /// Whether addresses and sizes of all parts are multiples of `unit`, a power of two.
    pub(super) fn aligned_to(&self, unit: u64) -> bool {
        let bits = self.vectors[self.first..]
            .iter()
            .fold(0, |bits, one| bits | one.iov_base as usize | one.iov_len);
        (bits as u64) & (unit - 1) == 0
    }

    /// Takes the last byte away; [`Buffers::write_last`] writes it. `false` if there is none.
    pub(super) fn split_last(&mut self) -> bool {
        while let Some(vector) = self.vectors[self.first..].last_mut() {
            if let Some(rest) = vector.iov_len.checked_sub(1) {
                vector.iov_len = rest;
                self.len -= 1;
                self.last = vector.iov_base.cast::<u8>().wrapping_add(rest);
                return true;
            }
            self.vectors.pop();
        }
        false
    }

    /// Writes the byte that [`Buffers::split_last`] took away; nothing without one.
    pub(super) fn write_last(&self, value: u8) {
        if !self.last.is_null() {
            // SAFETY: `last` is a byte of a mapping that `memory` keeps.
            unsafe { self.last.write_volatile(value) };
        }
    }

    /// Copies the first bytes out, as many as `to` has, and uses them up; `false`, and nothing done,
    /// if there are fewer.
    pub(super) fn read(&mut self, to: &mut [u8]) -> bool {
        if self.len < to.len() as u64 {
            return false;
        }
        let mut rest = to;
        self.each(rest.len(), |base, count| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(count);
            rest = after;
            // SAFETY: `count` bytes at `base` are in a mapping that `memory` keeps. The guest's vCPUs
            // may write them meanwhile, and `part` then has any bytes: no reference is made to them.
            unsafe { ptr::copy_nonoverlapping(base, part.as_mut_ptr(), count) };
        });
        true
    }

    /// Copies `from` into the first bytes and uses them up: as much as there is room for.
    pub(super) fn write(&mut self, from: &[u8]) -> usize {
        let total = usize::try_from(self.len).map_or(from.len(), |len| len.min(from.len()));
        let mut rest = &from[..total];
        self.each(total, |base, count| {
            let (part, after) = rest.split_at(count);
            rest = after;
            // SAFETY: `count` bytes at `base` are in a mapping that `memory` keeps; only guests have
            // references to them.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), base, count) };
        });
        total
    }

    /// Copies `bytes` in, from the byte `offset` on; what does not fit is left out. Nothing is used up.
    pub(super) fn copy_in(&self, mut offset: usize, mut bytes: &[u8]) {
        for vector in &self.vectors[self.first..] {
            if offset >= vector.iov_len {
                offset -= vector.iov_len;
                continue;
            }
            let count = bytes.len().min(vector.iov_len - offset);
            let to = vector.iov_base.cast::<u8>().wrapping_add(offset);
            // SAFETY: `offset + count` is at most `iov_len`, so that `count` bytes at `to` are in a
            // mapping that `memory` keeps; only guests have references to them.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return;
            }
            offset = 0;
        }
    }

    /// Reads once from `file`, into the buffers and, if they are full, into `overflow`. Nothing is used
    /// up.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` if there are more than [`MAX_VECTORS`].
    pub(super) fn receive_from(
        &mut self,
        file: BorrowedFd<'_>,
        overflow: &mut [u8],
    ) -> io::Result<usize> {
        self.vectors.push(iovec {
            iov_base: overflow.as_mut_ptr().cast(),
            iov_len: overflow.len(),
        });
        let vectors = &self.vectors[self.first..];
        // SAFETY: all vectors but the last are of mappings that `memory` keeps and of which no
        // reference exists; the last is the caller's, borrowed for as long as this call.
        let result =
            unsafe { libc::readv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as c_int) };
        let result = usize::try_from(result).map_err(|_| io::Error::last_os_error());
        self.vectors.pop();
        result
    }

    /// Writes all bytes to `file` at once. Nothing is used up.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` if there are more than [`MAX_VECTORS`].
    pub(super) fn send_to(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let vectors = &self.vectors[self.first..];
        // SAFETY: the vectors are of mappings that `memory` keeps, which the kernel only reads.
        let result =
            unsafe { libc::writev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as c_int) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Reads the file at `offset` into all bytes, and uses them up.
    ///
    /// # Errors
    ///
    /// The system's, or `UnexpectedEof` if the file ends before. Some bytes may have been read.
    pub(super) fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.transfer(offset, |vectors, count, offset| {
            // SAFETY: `vectors` are `count` vectors of mappings that `memory` keeps.
            unsafe { libc::preadv(file.as_raw_fd(), vectors, count, offset) }
        })
    }

    /// Writes all bytes to the file at `offset`, and uses them up; `durable`, so that they are on the
    /// medium (RWF_DSYNC of pwritev2(2)).
    ///
    /// # Errors
    ///
    /// The system's. Some bytes may have been written.
    pub(super) fn store_to(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        durable: bool,
    ) -> io::Result<()> {
        self.transfer(offset, |vectors, count, offset| {
            // SAFETY: `vectors` are `count` vectors of mappings that `memory` keeps.
            unsafe {
                match durable {
                    false => libc::pwritev(file.as_raw_fd(), vectors, count, offset),
                    true => {
                        libc::pwritev2(file.as_raw_fd(), vectors, count, offset, libc::RWF_DSYNC)
                    }
                }
            }
        })
    }

    fn transfer(
        &mut self,
        mut offset: u64,
        mut call: impl FnMut(*const iovec, c_int, off_t) -> isize,
    ) -> io::Result<()> {
        while self.len > 0 {
            let vectors = &self.vectors[self.first..];
            let count = vectors.len().min(libc::UIO_MAXIOV as usize) as c_int;
            let at = off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let done = match call(vectors.as_ptr(), count, at) {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                done @ 1.. => done as usize,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            offset += done as u64;
            self.each(done, |_, _| ());
        }
        Ok(())
    }

    /// Calls `act` with the parts of the first `count` bytes, of which there are as many, and uses
    /// them up.
    fn each(&mut self, mut count: usize, mut act: impl FnMut(*mut u8, usize)) {
        self.len -= count as u64;
        while count > 0 {
            let vector = &mut self.vectors[self.first];
            let part = vector.iov_len.min(count);
            act(vector.iov_base.cast(), part);
            count -= part;
            if part == vector.iov_len {
                self.first += 1;
            } else {
                vector.iov_base = vector
                    .iov_base
                    .cast::<u8>()
                    .wrapping_add(part)
                    .cast::<c_void>();
                vector.iov_len -= part;
            }
        }
    }
}
