//! EPT views of the patched KVM, from the side of programs: one safe method for each ioctl.
//!
//! | object | what it is | calls |
//! | --- | --- | --- |
//! | [`Device`] | /dev/kvm | `KVM_CHECK_EXTENSION`, `KVM_CREATE_EPT_VIEW` |
//! | [`Template`] | a service that is being put together | `KVM_EPT_VIEW_MAP`, `KVM_EPT_VIEW_SEAL` |
//! | [`SealedTemplate`] | a complete one | `KVM_EPT_VIEW_GRANT`, its revocation and info |
//! | [`Grant`] | what a VMM is given of it: identity, rights, members | |
//! | [`Attachment`] | a member of a grant on one vCPU | `KVM_ATTACH_EPT_VIEW`, its detach and stats |
//!
//! The owner of a service makes one template of it, and a grant for each tenant, whose descriptor
//! goes to a VMM. The VMM attaches its vCPUs as members of the grant, by a [`Right`] that the grant
//! gives. The owner can revoke the grant at any time. Numbers and structures are those of
//! [`postern_abi::kvm`]; `kvm_ept_view.h`, which the kernel patches add, documents each call and
//! its errors. [`ioctl`] is the table beneath: the same calls with arguments that nobody has
//! checked, for tests of the kernel.
//!
//! Every error is the [`std::io::Error`] of the system call: what it means depends on what the
//! caller wanted, and the caller says it.
//!
//! `examples/attach_view.rs` goes all the way from pages of memory to a vCPU with a service.
//!
//! ```
//! use postern_abi::view::{DATA_GVA, IMAGE_GVA};
//! use postern_kvm::{Device, GrantTerms, Protection, Right, Seal, SharedPages, Template};
//!
//! /// Makes a service of a page of code and some data, and lets a VM of one vCPU call it.
//! fn service(template: Template, code: &SharedPages, data: &SharedPages) -> std::io::Result<()> {
//!     template.map(IMAGE_GVA, code, Protection::ReadExecute)?;
//!     template.map(DATA_GVA, data, Protection::ReadWrite)?;
//!     let sealed = template.seal(&Seal {
//!         rights: Right::Strict.into(),
//!         entry_gva: IMAGE_GVA,
//!         data_gva: DATA_GVA,
//!         data_size: data.size(),
//!     })?;
//!     let grant = sealed.grant(&GrantTerms {
//!         id: 7,
//!         rights: Right::Strict.into(),
//!         members: 1,
//!         caller: [0; 8],
//!     })?;
//!     // Its descriptor now goes to a VMM; that of the template does not.
//!     drop(grant);
//!     // When this returns, that VM has no access any more.
//!     assert_eq!(sealed.revoke(7)?, 0);
//!     Ok(())
//! }
//!
//! // Most hosts have no views: their KVM says so, and makes no template.
//! match Device::open() {
//!     Ok(device) if device.has_views() => assert!(device.create_template().is_ok()),
//!     Ok(device) => assert!(device.create_template().is_err()),
//!     Err(error) => println!("no /dev/kvm here: {error}"),
//! }
//! # let _ = service;
//! ```

mod attachment;
mod device;
pub mod ioctl;
mod rights;
mod template;

pub use attachment::{AttachTerms, Attachment};
pub use device::{Device, has_views, why_no_hypercall, why_no_views};
pub use rights::{Right, Rights};
pub use template::{
    Grant, GrantTerms, Protection, Seal, SealError, SealedTemplate, SharedPages, Template,
};
