//! The memory of a NIC: one sealed memfd of switch state, one of each port's window, mapped side by
//! side.
//!
//! The owner creates it, and gives each guest's VMM the descriptor of its own window only, unless
//! the path has no isolation from the NIC anyway ([`Memory::open`]). Sealed means that no holder of
//! a descriptor can change the size under another's mapping. A holder can still punch holes into
//! what it was given; the pages of the NIC's template are pinned, so it cuts itself off from the
//! NIC, and later tenants of its port, but no other port.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Relaxed, Release};

use postern_abi::service::Secret;
use postern_abi::window::{Geometry, PortId};
use postern_abi::{ABI_VERSION, PAGE_SIZE};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::mapping::Mapping;
use postern_switch::credentials::Credentials;
use postern_switch::layout::{self, memory_size, window_offset};
use postern_switch::state::{STATE_MAGIC, State, StateError};
use postern_switch::switch::{self, Switch};

/// Memory that is not a NIC's, or cannot be made one.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The system refused a step.
    #[error("cannot {step} the NIC's memory ({size} bytes)")]
    System {
        /// The step that was tried.
        step: &'static str,
        /// Size of the memory of that step, in bytes.
        size: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A descriptor is not sealed memory of the right size.
    #[error(
        "the descriptor of the NIC's {what} is not a sealed memfd of {expected} bytes \
         (it has {found})"
    )]
    Unsealed {
        /// The part of the memory that the descriptor is to be.
        what: &'static str,
        /// Size of the part by the NIC's geometry, in bytes.
        expected: u64,
        /// Size of what the descriptor is, in bytes.
        found: u64,
    },
    /// The number of windows is not that of the ports.
    #[error("the NIC has {ports} ports, but {windows} windows came with it")]
    Windows {
        /// Number of the NIC's ports.
        ports: u32,
        /// Number of windows.
        windows: usize,
    },
    /// The state is not that of a NIC.
    #[error(transparent)]
    State(#[from] StateError),
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

fn failed(step: &'static str, size: u64) -> impl FnOnce(rustix::io::Errno) -> MemoryError {
    move |errno| MemoryError::System {
        step,
        size,
        source: errno.into(),
    }
}

/// A NIC's memory, mapped into this process.
#[derive(Debug)]
pub struct Memory {
    mapping: Mapping,
    geometry: Geometry,
    state: OwnedFd,
    windows: Vec<OwnedFd>,
}

impl Memory {
    /// Creates the memory of a new NIC, with no port attached.
    ///
    /// # Errors
    ///
    /// The system has not enough memory or descriptors.
    pub fn create(geometry: Geometry) -> Result<Memory, MemoryError> {
        let state = sealed_memfd("postern-nic-state", state_file(geometry))?;
        let windows = geometry
            .all_ports()
            .map(|_| sealed_memfd("postern-nic-window", geometry.window_size()))
            .collect::<Result<Vec<_>, _>>()?;
        let mapping = map_all(geometry, &state, &windows)?;
        let memory = Memory {
            mapping,
            geometry,
            state,
            windows,
        };
        memory.initialise()?;
        Ok(memory)
    }

    /// Maps the memory of an existing NIC: for the paths on which a process other than the owner
    /// works with all of it.
    ///
    /// # Errors
    ///
    /// The descriptors are not those of a NIC of this version, or cannot be mapped.
    pub fn open(state: OwnedFd, windows: Vec<OwnedFd>) -> Result<Memory, MemoryError> {
        let least = size_of::<State>() as u64;
        let found = fstat(&state).map_or(0, |stat| stat.st_size as u64);
        check_memfd(&state, "state", found.max(least))?;
        let head = reserve(least.next_multiple_of(PAGE_SIZE))?;
        map(&head, 0, least.next_multiple_of(PAGE_SIZE), &state, 0)?;
        // SAFETY: the mapping is shared memory of that size, which this module only accesses as
        // `State`.
        let geometry = unsafe { State::at(head.base().as_ptr()) }.check()?;
        check_memfd(&state, "state", state_file(geometry))?;
        if windows.len() != geometry.ports() as usize {
            return Err(MemoryError::Windows {
                ports: geometry.ports(),
                windows: windows.len(),
            });
        }
        for window in &windows {
            check_memfd(window, "window", geometry.window_size())?;
        }
        let mapping = map_all(geometry, &state, &windows)?;
        mapping.populate();
        Ok(Memory {
            mapping,
            geometry,
            state,
            windows,
        })
    }

    fn initialise(&self) -> Result<(), MemoryError> {
        let key = u128::from_ne_bytes(random().map_err(failed("draw the random key of", 16))?);
        let switch = self.switch();
        let state = switch.state();
        state.key[0].store(key as u64, Relaxed);
        state.key[1].store((key >> 64) as u64, Relaxed);
        state.generation.store(1, Relaxed);
        state.abi_version.store(ABI_VERSION, Relaxed);
        state.set_geometry(self.geometry);
        state.magic.store(STATE_MAGIC, Release);
        Ok(())
    }

    /// The switch in this memory.
    pub fn switch(&self) -> Switch<'_> {
        // SAFETY: the mapping is page aligned, has the size of the geometry, lives as long as the
        // borrow, and nothing in this crate accesses it but the core, atomically.
        unsafe { Switch::from_base(self.mapping.base().as_ptr(), self.geometry) }
    }

    /// Serves one request of a vCPU of a tenant, see [`switch::serve`]. No two calls of one port
    /// may have the same `vcpu` at the same time, else its lanes hold anything.
    ///
    /// # Panics
    ///
    /// The credentials are not those of a tenant of this NIC.
    #[inline]
    pub fn serve(&self, tenant: &Credentials, vcpu: u32, request: u64, a: u64, b: u64) -> u64 {
        assert_eq!(tenant.geometry(), self.geometry, "a tenant of this NIC");
        // SAFETY: the mapping has the size that callers of this geometry need, is page aligned, and
        // nothing in this crate accesses it but the core, atomically; a `Credentials` is valid by
        // construction.
        unsafe { switch::serve(self.mapping.base().as_ptr(), tenant, vcpu, request, a, b) }
    }

    /// The NIC's numbers of ports and queues, and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// First byte of the mapping. All of it may only be accessed atomically.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// Size of the mapping in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.size() as u64
    }

    /// Has the system put the memory on large pages (2 MiB) as far as it can. They make views of it
    /// smaller and faster, and it does without.
    pub fn use_large_pages(&self) {
        let geometry = self.geometry;
        let state = layout::state_size(geometry);
        self.mapping.use_large_pages(0, state as usize);
        for port in geometry.all_ports() {
            let offset = window_offset(geometry, port) as usize;
            let size = geometry.window_size() as usize;
            self.mapping.use_large_pages(offset, size);
        }
    }

    /// The memfd of the switch state.
    pub fn state_fd(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }

    /// The memfd of a port's window, if the NIC has the port.
    pub fn window_fd(&self, port: PortId) -> Option<BorrowedFd<'_>> {
        self.windows.get(port.index()).map(AsFd::as_fd)
    }

    /// The memfds of all windows, in the order of the ports.
    pub fn window_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.windows.iter().map(AsFd::as_fd)
    }
}

/// Draws the secret of a tenancy.
///
/// # Errors
///
/// The system gives no random numbers.
pub fn draw_secret() -> Result<Secret, MemoryError> {
    loop {
        let word = random().map_err(failed("draw the secret of a tenancy in", 8))?;
        // It is one of the few words that are no secret once in 2^47 times.
        if let Some(secret) = Secret::drawn(u64::from_ne_bytes(word)) {
            return Ok(secret);
        }
    }
}

/// Random bytes.
fn random<const N: usize>() -> Result<[u8; N], rustix::io::Errno> {
    const { assert!(N <= 256, "so many bytes come whole: getrandom(2)") };
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

fn sealed_memfd(name: &str, size: u64) -> Result<OwnedFd, MemoryError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags).map_err(failed("create", size))?;
    ftruncate(&fd, size).map_err(failed("size", size))?;
    fcntl_add_seals(&fd, SEALS).map_err(failed("seal", size))?;
    Ok(fd)
}

fn check_memfd(fd: &OwnedFd, what: &'static str, expected: u64) -> Result<(), MemoryError> {
    let found = fstat(fd).map_or(0, |stat| stat.st_size as u64);
    let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SEALS));
    if !sealed || found != expected {
        return Err(MemoryError::Unsealed {
            what,
            expected,
            found,
        });
    }
    Ok(())
}

fn map_all(
    geometry: Geometry,
    state: &OwnedFd,
    windows: &[OwnedFd],
) -> Result<Mapping, MemoryError> {
    let mapping = reserve(memory_size(geometry))?;
    let (state_size, padding) = (layout::state_size(geometry), layout::padding(geometry));
    map(&mapping, 0, state_size, state, 0)?;
    for (port, window) in geometry.all_ports().zip(windows) {
        let offset = window_offset(geometry, port);
        map(&mapping, offset, geometry.window_size(), window, 0)?;
        if padding != 0 {
            let offset = offset + geometry.window_size();
            map(&mapping, offset, padding, state, state_size)?;
        }
    }
    let slack = memory_size(geometry) - layout::SLACK;
    map(&mapping, slack, layout::SLACK, state, state_size)?;
    Ok(mapping)
}

fn reserve(size: u64) -> Result<Mapping, MemoryError> {
    Mapping::reserve_aligned(size as usize, layout::LARGE_PAGE as usize)
        .map_err(failed("reserve addresses for", size))
}

/// Size of the state's memfd: the state, then the slack, which is mapped behind the windows; the
/// padding of each window is the same memory.
fn state_file(geometry: Geometry) -> u64 {
    layout::state_size(geometry) + layout::SLACK.max(layout::padding(geometry))
}

fn map(
    mapping: &Mapping,
    offset: u64,
    size: u64,
    fd: &OwnedFd,
    file_offset: u64,
) -> Result<(), MemoryError> {
    mapping
        .map(offset as usize, size as usize, fd, file_offset)
        .map_err(failed("map", size))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(3, 1, 1 << 14, 1 << 14).unwrap()
    }

    fn fds(memory: &Memory) -> (OwnedFd, Vec<OwnedFd>) {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        (
            own(memory.state_fd()),
            memory.window_fds().map(own).collect(),
        )
    }

    #[test]
    fn another_mapping_sees_the_same_nic() {
        let memory = Memory::create(geometry()).unwrap();
        let (state, windows) = fds(&memory);
        let other = Memory::open(state, windows).unwrap();
        assert_eq!(other.geometry(), geometry());
        let (port, secret) = (PortId::new(2).unwrap(), draw_secret().unwrap());
        memory.switch().admit(port, 77, secret, [2, 0, 0, 0, 0, 2]);
        let caller = other.switch().credentials(2).unwrap();
        assert_eq!(caller.secret(), secret);
        assert_eq!(caller.tenancy(), 77);
        assert!(other.switch().credentials(1).is_err(), "not attached");
        assert!(other.switch().credentials(3).is_err(), "no such port");
    }

    #[test]
    fn large_windows_are_mapped_at_large_pages() {
        let geometry = Geometry::new(2, 1, 8 << 20, 1 << 20).unwrap();
        let memory = Memory::create(geometry).unwrap();
        memory.use_large_pages();
        let base = memory.base().as_ptr();
        assert!(base.addr().is_multiple_of(layout::LARGE_PAGE as usize));
        // The last word of each window is the window's own, on whatever pages it is.
        for (number, port) in (1u64..).zip(geometry.all_ports()) {
            let window = File::from(
                memory
                    .window_fd(port)
                    .unwrap()
                    .try_clone_to_owned()
                    .unwrap(),
            );
            let last = geometry.window_size() - 8;
            window.write_all_at(&number.to_ne_bytes(), last).unwrap();
            let offset = (window_offset(geometry, port) + last) as usize;
            // SAFETY: inside the mapping, aligned, and nothing else writes there.
            let word = unsafe { base.add(offset).cast::<u64>().read_volatile() };
            assert_eq!(word, number);
        }
        let size = memory.size() as usize;
        // SAFETY: the last byte of the mapping, which is the slack's.
        unsafe { base.add(size - 1).write_volatile(1) };
        let (state, windows) = fds(&memory);
        assert_eq!(Memory::open(state, windows).unwrap().size(), memory.size());
    }

    #[test]
    fn nobody_can_change_the_size() {
        let memory = Memory::create(geometry()).unwrap();
        let (state, windows) = fds(&memory);
        for fd in windows.iter().chain([&state]) {
            assert!(ftruncate(fd, 0).is_err());
            assert!(ftruncate(fd, 1 << 30).is_err());
        }
    }

    #[test]
    fn other_files_are_refused() {
        let memory = Memory::create(geometry()).unwrap();
        let (state, mut windows) = fds(&memory);
        let (other, _) = fds(&memory);
        windows.pop();
        let error = Memory::open(state, windows).unwrap_err();
        assert!(matches!(error, MemoryError::Windows { .. }), "{error}");

        let (state, mut windows) = fds(&memory);
        windows[1] = other;
        let error = Memory::open(state, windows).unwrap_err();
        assert!(matches!(error, MemoryError::Unsealed { .. }), "{error}");

        let (_, windows) = fds(&memory);
        let blank = sealed_memfd("blank", state_file(geometry())).unwrap();
        let error = Memory::open(blank, windows).unwrap_err();
        assert!(matches!(error, MemoryError::State(_)), "{error}");

        let (_, windows) = fds(&memory);
        let unsealed = rustix::fs::memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, state_file(geometry())).unwrap();
        let error = Memory::open(unsealed, windows).unwrap_err();
        assert!(matches!(error, MemoryError::Unsealed { .. }), "{error}");
    }
}
