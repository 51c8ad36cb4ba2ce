//! The NIC's template: what the patched KVM makes of the image and the NIC's memory, once, and the
//! grants of it that VMMs attach to their vCPUs. [`postern_kvm`] makes the calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::kvm::EptViewInfo;
use postern_abi::view::DATA_GVA;
use postern_abi::window::PortId;
use postern_kvm::{
    Device, Grant, GrantTerms, Protection, Right, Rights, Seal, SealedTemplate, SharedPages,
    Template,
};

use crate::image::{Image, Segment};
use postern_nic_client::bells::Bells;
use postern_nic_client::mapping::Mapping;
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;

/// A template that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// KVM's device cannot be opened.
    #[error("cannot open /dev/kvm; load KVM, and run as a user who may use it")]
    Open(#[source] io::Error),
    /// KVM is there, without views.
    #[error("{}", postern_kvm::why_no_views())]
    NoViews,
    /// A template cannot be created.
    #[error("KVM created no template")]
    Create(#[source] io::Error),
    /// A part of the template cannot be mapped.
    #[error(
        "KVM cannot map the {what} at {gva:#x} ({size} bytes) into the NIC's template{}",
        locked(source)
    )]
    Map {
        /// The part of the template.
        what: &'static str,
        /// Guest-virtual address of the part in views.
        gva: u64,
        /// Size of the part in bytes.
        size: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The bells cannot be given to the template.
    #[error("KVM cannot take the NIC's {count} bells into its template")]
    Bells {
        /// Number of the bells.
        count: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The template cannot be completed.
    #[error("KVM cannot seal the NIC's template ({rights})")]
    Seal {
        /// The rights that it was to have.
        rights: Rights,
        /// The system's error.
        source: io::Error,
    },
    /// There is no memory for the image.
    #[error("cannot allocate {size} bytes for the NIC image")]
    Memory {
        /// Size of the memory in bytes.
        size: u64,
        /// The system's error.
        source: io::Error,
    },
}

fn locked(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::OutOfMemory => {
            "; raise the limit of locked memory (ulimit -l), or run as root"
        }
        _ => "",
    }
}

/// Why a right is not among those of a template, for people.
fn lacks_privilege(right: Right) -> String {
    let instead = match right {
        Right::Fast => ", or use elisa-strict",
        Right::Strict | Right::Hypercall => "",
    };
    format!("run postern nic with CAP_SYS_RAWIO (as root){instead}")
}

/// Why KVM of this host gives no template a right, for people.
fn not_offered(right: Right) -> String {
    match right {
        Right::Hypercall => postern_kvm::why_no_hypercall(),
        Right::Fast | Right::Strict => postern_kvm::why_no_views(),
    }
}

/// The rights that a template got, and the reasons why it did not get others.
#[derive(Debug, Default)]
pub struct Obtained {
    /// The rights.
    pub rights: Rights,
    /// What was wanted, is not among them, and why.
    pub missing: Vec<(Right, String)>,
}

/// Seals with as many of the wanted rights as the kernel gives, of those that are possible on this
/// host. `seal` tries a set of rights, and can be called again when it fails.
fn obtain(
    wanted: Rights,
    possible: Rights,
    mut seal: impl FnMut(Rights) -> io::Result<()>,
) -> Result<Obtained, TemplateError> {
    let mut obtained = Obtained {
        rights: wanted.intersection(possible),
        missing: Vec::new(),
    };
    let impossible = wanted.iter().filter(|right| !possible.contains(*right));
    for right in impossible {
        obtained.missing.push((right, not_offered(right)));
    }
    while !obtained.rights.is_empty() {
        let source = match seal(obtained.rights) {
            Ok(()) => break,
            Err(source) => source,
        };
        let rights = obtained.rights;
        let refused: Vec<(Right, String)> = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => rights
                .iter()
                .filter(|right| right.is_privileged())
                .map(|right| (right, lacks_privilege(right)))
                .collect(),
            // The module's parameter can have changed since it was asked.
            Some(libc::EOPNOTSUPP) if rights.contains(Right::Hypercall) => {
                vec![(Right::Hypercall, not_offered(Right::Hypercall))]
            }
            _ => Vec::new(),
        };
        if refused.is_empty() {
            return Err(TemplateError::Seal { rights, source });
        }
        for (right, reason) in refused {
            obtained.rights = obtained.rights.without(right);
            obtained.missing.push((right, reason));
        }
    }
    Ok(obtained)
}

/// The template of a NIC: sealed, with its memory pinned, once for all tenants.
#[derive(Debug)]
pub struct NicTemplate {
    template: SealedTemplate,
    rights: Rights,
}

impl NicTemplate {
    /// Makes the template of the NIC in `memory` with as many of the rights as this host and the
    /// owner's privileges allow; without one if there are none. The pages stay pinned for as long
    /// as any grant of it lives, whatever becomes of this process. Where KVM can ring for requests
    /// that it serves, it gets the bells; where it cannot, guests are asked to.
    ///
    /// # Errors
    ///
    /// There are no views here, or KVM refuses a step.
    pub fn make(
        image: &Image,
        memory: &Memory,
        bells: &Bells,
        wanted: Rights,
    ) -> Result<(Option<NicTemplate>, Obtained), TemplateError> {
        let device = Device::open().map_err(TemplateError::Open)?;
        if !device.has_views() {
            return Err(TemplateError::NoViews);
        }
        let parts = [
            Part::copy(&image.rodata, "read-only data", Protection::Read)?,
            Part::copy(&image.text, "code", Protection::ReadExecute)?,
        ];
        let template = device.create_template().map_err(TemplateError::Create)?;
        for part in &parts {
            map(
                &template,
                part.what,
                part.gva,
                part.shared(),
                part.protection,
            )?;
        }
        memory.use_large_pages();
        // SAFETY: the memory is mapped while it is borrowed here, and shared and atomic by nature.
        let data = unsafe { SharedPages::new(memory.base(), memory.size()) };
        map(
            &template,
            "NIC's memory",
            DATA_GVA,
            data,
            Protection::ReadWrite,
        )?;
        let bells: Vec<BorrowedFd<'_>> = bells.fds().collect();
        if wanted.contains(Right::Hypercall) && bells.len() <= device.max_bells() as usize {
            template
                .set_bells(&bells)
                .map_err(|source| TemplateError::Bells {
                    count: bells.len(),
                    source,
                })?;
        }
        let mut open = Some(template);
        let mut sealed = None;
        let obtained = obtain(wanted, device.rights(), |rights| {
            let Some(template) = open.take() else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let seal = Seal {
                rights,
                entry_gva: image.entry,
                data_gva: DATA_GVA,
                data_size: data.size(),
            };
            match template.seal(&seal) {
                Ok(template) => {
                    sealed = Some(template);
                    Ok(())
                }
                Err(error) => {
                    open = Some(error.template);
                    Err(error.source)
                }
            }
        })?;
        let rights = obtained.rights;
        let made = sealed.map(|template| NicTemplate { template, rights });
        Ok((made, obtained))
    }

    /// The template that another owner made, with the rights that it sealed it with.
    pub fn resume(template: SealedTemplate, rights: Rights) -> NicTemplate {
        NicTemplate { template, rights }
    }

    /// The rights that grants of it can have.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Makes a grant for a tenant of a port: for as many vCPUs as the port has queues, and for one
    /// way to call.
    ///
    /// # Errors
    ///
    /// KVM refuses it.
    pub fn grant(&self, tenant: &Credentials, right: Right) -> io::Result<Grant> {
        self.template.grant(&GrantTerms {
            id: grant_id(tenant.port()),
            rights: right.into(),
            members: tenant.geometry().queues(),
            caller: tenant.words(),
        })
    }

    /// Its descriptor, which no tenant may have.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.template.as_fd()
    }

    /// Takes back what was granted for a port; see [`revoke`].
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn revoke(&self, port: PortId) -> io::Result<u32> {
        revoke(&self.template, port)
    }

    /// What it costs.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn info(&self) -> io::Result<EptViewInfo> {
        self.template.info()
    }
}

/// The number of the grants of a port: known to each owner of the NIC.
fn grant_id(port: PortId) -> u64 {
    port.number().into()
}

/// Takes back what was granted of a template for a port, and gives how many grants it was. When it
/// returns, no vCPU calls the NIC by one of them, and none ever will.
///
/// # Errors
///
/// KVM refuses.
pub fn revoke(template: &SealedTemplate, port: PortId) -> io::Result<u32> {
    template.revoke(grant_id(port))
}

fn map(
    template: &Template,
    what: &'static str,
    gva: u64,
    pages: SharedPages,
    protection: Protection,
) -> Result<(), TemplateError> {
    let size = pages.size();
    template
        .map(gva, &pages, protection)
        .map_err(|source| TemplateError::Map {
            what,
            gva,
            size,
            source,
        })
}

/// A segment of the image on pages of its own.
#[derive(Debug)]
struct Part {
    what: &'static str,
    gva: u64,
    pages: Mapping,
    protection: Protection,
}

impl Part {
    /// Writable memory, because templates pin pages as writable; `protection` decides what a view
    /// may do.
    fn copy(
        segment: &Segment,
        what: &'static str,
        protection: Protection,
    ) -> Result<Part, TemplateError> {
        let bytes = &segment.bytes;
        let size = bytes.len().next_multiple_of(PAGE_SIZE as usize);
        let pages = Mapping::anonymous(size).map_err(|errno| TemplateError::Memory {
            size: size as u64,
            source: errno.into(),
        })?;
        // SAFETY: the mapping is new, writable and at least as long as the bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), pages.base().as_ptr(), bytes.len()) };
        Ok(Part {
            what,
            gva: segment.gva,
            pages,
            protection,
        })
    }

    /// The pages, for a template.
    fn shared(&self) -> SharedPages {
        // SAFETY: they are mapped while `self` is borrowed and the template is made, and nothing in
        // this process refers to what they hold once `copy` has returned.
        unsafe { SharedPages::new(self.pages.base(), self.pages.size() as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that seals with these rights, and answers others with that error.
    fn kernel(gives: Rights, otherwise: i32) -> impl FnMut(Rights) -> io::Result<()> {
        move |rights| match rights.intersection(gives) == rights {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(otherwise)),
        }
    }

    fn rights(list: &[Right]) -> Rights {
        list.iter().copied().collect()
    }

    #[test]
    fn an_owner_with_all_privileges_gets_what_it_wants() {
        for wanted in 0..8 {
            let wanted = Rights::from_bits(wanted);
            let all = rights(&Right::ALL);
            let obtained = obtain(wanted, all, kernel(all, libc::EPERM)).unwrap();
            assert_eq!(obtained.rights, wanted);
            assert!(obtained.missing.is_empty());
        }
    }

    #[test]
    fn an_owner_without_privileges_gets_strict_and_the_reasons() {
        let all = rights(&Right::ALL);
        let strict = rights(&[Right::Strict]);
        let obtained = obtain(all, all, kernel(strict, libc::EPERM)).unwrap();
        assert_eq!(obtained.rights, strict);
        let reasons = obtained.missing;
        assert_eq!(
            reasons.iter().map(|one| one.0).collect::<Vec<_>>(),
            [Right::Fast, Right::Hypercall]
        );
        assert!(reasons.iter().all(|one| one.1.contains("CAP_SYS_RAWIO")));
        assert!(reasons[0].1.contains("elisa-strict"));
        // One that wants nothing else gets nothing, and no error.
        let fast = rights(&[Right::Fast]);
        let obtained = obtain(fast, all, kernel(strict, libc::EPERM)).unwrap();
        assert!(obtained.rights.is_empty());
        assert_eq!(obtained.missing.len(), 1);
    }

    #[test]
    fn a_kernel_that_serves_no_hypercalls_is_asked_for_the_others() {
        let all = rights(&Right::ALL);
        let views = all.without(Right::Hypercall);
        for possible in [views, all] {
            let obtained = obtain(all, possible, kernel(views, libc::EOPNOTSUPP)).unwrap();
            assert_eq!(obtained.rights, views);
            let [(Right::Hypercall, reason)] = &obtained.missing[..] else {
                panic!("{:?}", obtained.missing);
            };
            assert!(reason.contains("ept_views_hypercall"), "{reason}");
        }
    }

    #[test]
    fn what_no_right_explains_is_an_error() {
        let all = rights(&Right::ALL);
        let error = obtain(all, all, kernel(Rights::NONE, libc::EINVAL)).unwrap_err();
        assert!(
            error.to_string().contains("fast, strict, hypercall"),
            "{error}"
        );
        let strict = rights(&[Right::Strict]);
        assert!(obtain(strict, all, kernel(Rights::NONE, libc::EPERM)).is_err());
    }
}
