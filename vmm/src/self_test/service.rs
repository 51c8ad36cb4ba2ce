//! Services of the self-test: templates of its own, and attachments of them.
#![deny(unsafe_code)]

use postern_abi::kvm::EptViewStats;
use postern_abi::view::{DATA_GVA, IMAGE_GVA};
use postern_kvm::{
    AttachTerms, Attachment, Device, Grant, GrantTerms, Protection, Right, Rights, Seal,
    SealedTemplate,
};

use super::code::{self, DATA_PAGES, SLOT};
use super::error::{Error, view};
use super::guest::Guest;
use super::pages::Pages;

/// What grants are revoked by.
const ID: u64 = 1;

/// A service whose data begins with a mark on each page.
pub struct Service {
    template: SealedTemplate,
    /// Its data.
    pub data: Pages,
    /// The mark.
    pub mark: u8,
    right: Right,
    _code: Pages,
}

impl Service {
    /// Makes one that is called by `right`.
    pub fn new(device: &Device, right: Right, mark: u8) -> Result<Service, Error> {
        let (code, data) = (
            Pages::with_code(code::service())?,
            Pages::filled(DATA_PAGES, mark)?,
        );
        let template = device
            .create_template()
            .map_err(view("KVM_CREATE_EPT_VIEW"))?;
        for (gva, pages, protection) in [
            (IMAGE_GVA, &code, Protection::ReadExecute),
            (DATA_GVA, &data, Protection::ReadWrite),
        ] {
            template
                .map(gva, &pages.shared()?, protection)
                .map_err(view("KVM_EPT_VIEW_MAP"))?;
        }
        let seal = Seal {
            rights: Rights::NONE.with(right),
            entry_gva: IMAGE_GVA,
            data_gva: DATA_GVA,
            data_size: DATA_PAGES * postern_abi::PAGE_SIZE,
        };
        let template = template
            .seal(&seal)
            .map_err(|error| view("KVM_EPT_VIEW_SEAL")(error.into()))?;
        Ok(Service {
            template,
            data,
            mark,
            right,
            _code: code,
        })
    }

    /// Makes a grant for one vCPU.
    fn grant(&self) -> Result<Grant, Error> {
        let terms = GrantTerms {
            id: ID,
            rights: Rights::NONE.with(self.right),
            members: 1,
            caller: [0; 8],
        };
        self.template
            .grant(&terms)
            .map_err(view("KVM_EPT_VIEW_GRANT"))
    }

    /// Attaches it to the guest's vCPU; aborted calls return to this process.
    pub fn attach(&self, guest: &Guest) -> Result<Attached, Error> {
        let terms = AttachTerms {
            slot: SLOT,
            member: 0,
            right: self.right,
            exit_on_abort: true,
        };
        let attachment = Attachment::attach(guest.vcpu(), &self.grant()?, &terms);
        Ok(Attached(attachment.map_err(view("KVM_ATTACH_EPT_VIEW"))?))
    }

    /// Revokes all that was granted, and says how many grants there were.
    pub fn revoke(&self) -> Result<u32, Error> {
        self.template
            .revoke(ID)
            .map_err(view("KVM_EPT_VIEW_REVOKE"))
    }
}

/// A service on the guest's vCPU.
pub struct Attached(Attachment);

impl Attached {
    /// What KVM has counted.
    pub fn stats(&self) -> Result<EptViewStats, Error> {
        self.0.stats().map_err(view("KVM_GET_EPT_VIEW_STATS"))
    }

    /// Takes it away.
    pub fn detach(self) -> Result<(), Error> {
        self.0.detach().map_err(view("KVM_DETACH_EPT_VIEW"))
    }
}
