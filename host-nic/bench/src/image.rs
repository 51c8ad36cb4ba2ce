//! The view's image in this program: the very file that `postern nic --image` takes, mapped at its
//! addresses in the view and called as the view's entry stub calls it.
//!
//! What a view adds to that is the gate's 27 instructions with three VMFUNCs
//! (`cargo paper`, figure 1), and walks through EPT.

use std::ffi::OsStr;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSegment};
use postern_abi::PAGE_SIZE;
use postern_abi::service::TX_AVX;
use postern_abi::view::{CALL_PAGE_GVA, CallPage, DATA_GVA};
use postern_abi::window::PortId;
use postern_guest::service::Service;

use crate::memory::{BenchNic, Pages};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The script cannot be run.
    #[error("cannot run {}", .0.display())]
    Run(PathBuf, #[source] io::Error),
    /// The script has failed.
    #[error("{} failed; it says why above", .0.display())]
    Build(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the image {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file is no image.
    #[error("{} is no image; build it with host-nic/image/build.sh", .0.display())]
    Elf(PathBuf, #[source] object::Error),
    /// A part of it cannot be mapped.
    #[error("cannot map {size:#x} bytes of the image at {address:#x}")]
    Map {
        /// The part's address.
        address: u64,
        /// The part's size in bytes.
        size: u64,
        /// What the system says.
        source: io::Error,
    },
}

/// `entry` of host-nic/image.
type Entry = unsafe extern "sysv64" fn(u64, u64, u64) -> u64;

/// An image that is mapped. There can be one at a time, since its addresses are fixed.
#[derive(Debug)]
pub struct ViewImage {
    entry: Entry,
    call_page: Pages,
    _segments: Vec<Pages>,
}

impl ViewImage {
    /// Builds the image of this checkout into a directory, which cargo uses too. Returns the file.
    ///
    /// # Errors
    ///
    /// [`ImageError`]: the script does not work here.
    pub fn build(directory: &Path) -> Result<PathBuf, ImageError> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/build.sh");
        let file = directory.join("nic-image");
        let arguments = [OsStr::new("--out"), file.as_os_str()];
        let status = Command::new(&script)
            .args(arguments)
            .arg("--target-dir")
            .arg(directory)
            .status();
        match status {
            Ok(status) if status.success() => Ok(file),
            Ok(_) => Err(ImageError::Build(script)),
            Err(source) => Err(ImageError::Run(script, source)),
        }
    }

    /// Maps the image of a file.
    ///
    /// # Errors
    ///
    /// [`ImageError`]: there is none, or another one is mapped.
    ///
    /// # Safety
    ///
    /// The file is an image of this revision, as [`ViewImage::build`] makes it: its code is run.
    pub unsafe fn load(file: &Path) -> Result<ViewImage, ImageError> {
        let bytes = std::fs::read(file).map_err(|source| ImageError::Read(file.into(), source))?;
        let no_image = |source| ImageError::Elf(file.into(), source);
        let elf = object::File::parse(&*bytes).map_err(no_image)?;
        let map = |address, size: u64| {
            let pages = Pages::at(address, size.next_multiple_of(PAGE_SIZE) as usize);
            pages.map_err(|source| ImageError::Map {
                address,
                size,
                source,
            })
        };
        let mut segments = Vec::new();
        for segment in elf.segments() {
            let (address, bytes) = (segment.address(), segment.data().map_err(no_image)?);
            let size = bytes.len() as u64;
            let pages = map(address, size)?;
            // SAFETY: the mapping is new and has as many bytes.
            unsafe {
                pages
                    .base()
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
            };
            if (address..address + size).contains(&elf.entry()) {
                pages.make_code().map_err(|source| ImageError::Map {
                    address,
                    size,
                    source,
                })?;
            }
            segments.push(pages);
        }
        let entry = elf.entry() as *const ();
        Ok(ViewImage {
            // SAFETY: the caller promises an image, whose entry has this type.
            entry: unsafe { std::mem::transmute::<*const (), Entry>(entry) },
            call_page: map(CALL_PAGE_GVA, PAGE_SIZE)?,
            _segments: segments,
        })
    }

    /// The call by which a port of a NIC reaches the image's switch.
    ///
    /// # Panics
    ///
    /// The NIC is not [in the view's place](BenchNic::in_view), or has no such port.
    pub fn call<'a>(&'a mut self, nic: &'a BenchNic, port: PortId) -> ViewCall<'a> {
        assert_eq!(
            nic.base() as u64,
            DATA_GVA,
            "the NIC is not where the view has it"
        );
        let caller = nic.switch().credentials(port.number());
        let words = caller.expect("the port has a tenant").words();
        let page = self.call_page.base().cast::<CallPage>();
        // SAFETY: the page is mapped for writing, and nothing refers to it.
        unsafe {
            (&raw mut (*page).caller).write(words);
            (&raw mut (*page).member).write(0);
        }
        ViewCall {
            entry: self.entry,
            _borrows: PhantomData,
        }
    }
}

/// The call to the switch of the view's image, as [`Direct`](postern_guest::direct::Direct) is that
/// to the switch of this program.
#[derive(Debug)]
pub struct ViewCall<'a> {
    entry: Entry,
    _borrows: PhantomData<(&'a mut ViewImage, &'a BenchNic)>,
}

impl Service for ViewCall<'_> {
    #[inline(never)]
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: the image is mapped, and the call page has the credentials of a tenant of the NIC
        // at `DATA_GVA`. The borrows of both keep anybody else from calling or changing them.
        Some(unsafe { (self.entry)(request, a, b) })
    }

    /// As in a Linux guest.
    fn tx_flags(&self) -> u64 {
        match std::arch::is_x86_feature_detected!("avx") {
            true => TX_AVX,
            false => 0,
        }
    }
}
