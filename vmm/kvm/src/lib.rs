//! EPT views of the patched KVM, from the side of programs: one safe method for each ioctl.
//!
//! | object | what it is | calls |
//! | --- | --- | --- |
//! | [`Device`] | /dev/kvm | `KVM_CHECK_EXTENSION`, `KVM_CREATE_EPT_VIEW` |
//! | [`View`] | a view that is being put together | `KVM_EPT_VIEW_MAP`, `KVM_EPT_VIEW_SEAL` |
//! | [`SealedView`] | a view that is complete, for any number of vCPUs | |
//! | [`Attachment`] | a sealed view on one vCPU | `KVM_ATTACH_EPT_VIEW`, its detach and stats |
//!
//! The owner of a NIC makes views and passes their descriptors to VMMs, which attach them to their
//! vCPUs. Numbers and structures are those of [`postern_abi::kvm`]; `kvm_ept_view.h`, which the
//! kernel patches add, documents each call and its errors. [`ioctl`] is the table beneath: the same
//! calls with arguments that nobody has checked, for tests of the kernel.
//!
//! Every error is the [`std::io::Error`] of the system call: what it means depends on what the
//! caller wanted, and the caller says it.
//!
//! `examples/attach_view.rs` goes all the way from pages of memory to a vCPU with a view.
//!
//! ```
//! use postern_abi::view::{DATA_GVA, IMAGE_GVA};
//! use postern_kvm::{Device, Protection, Seal, SharedPages, View, ViewMode};
//!
//! /// Makes a service of a page of code and some data.
//! fn service(view: View, code: &SharedPages, data: &SharedPages) -> std::io::Result<()> {
//!     view.map(IMAGE_GVA, code, Protection::ReadExecute)?;
//!     view.map(DATA_GVA, data, Protection::ReadWrite)?;
//!     let sealed = view.seal(&Seal {
//!         mode: ViewMode::Strict,
//!         entry_gva: IMAGE_GVA,
//!         data_gva: DATA_GVA,
//!         data_size: data.size(),
//!         caller: [0; 8],
//!     })?;
//!     // Its descriptor now goes to a VMM.
//!     drop(sealed);
//!     Ok(())
//! }
//!
//! // Most hosts make no views: their KVM says so, and gives none.
//! match Device::open() {
//!     Ok(device) if device.has_views() => assert!(device.create_view().is_ok()),
//!     Ok(device) => assert!(device.create_view().is_err()),
//!     Err(error) => println!("no /dev/kvm here: {error}"),
//! }
//! # let _ = service;
//! ```

mod attachment;
mod device;
pub mod ioctl;
mod view;

pub use attachment::{AttachMode, Attachment};
pub use device::{Device, has_views, why_no_views};
pub use view::{Protection, Seal, SealedView, SharedPages, View, ViewMode};
