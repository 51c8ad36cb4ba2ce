//! The NIC's template, and those of former owners of which grants may be left.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{self, Path, PathBuf};

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use postern_kvm::{Grant, Right, Rights, SealedTemplate};
use postern_nic_client::bells::Bells;
use postern_nic_client::control::TemplateInfo;
use postern_nic_client::memory::Memory;
use postern_switch::credentials::Credentials;

use super::error::explain;
use super::options::ServerOptions;
use super::saved_state::SavedTemplate;
use crate::image::Image;
use crate::template::{self, NicTemplate, Obtained};

/// The right that a path needs, if it needs views.
pub(super) fn right_of(path: CallPath) -> Option<Right> {
    match path {
        CallPath::Elisa => Some(Right::Fast),
        CallPath::ElisaStrict => Some(Right::Strict),
        CallPath::ExitKernel => Some(Right::Hypercall),
        CallPath::ExitUser | CallPath::Direct => None,
    }
}

/// What templates make of the rights that tenants need.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// The template of which grants are made, and its number.
    current: Option<(u32, NicTemplate)>,
    /// What is saved of it.
    saved: Option<SavedTemplate>,
    /// Rights that a path would need, and why they are not there.
    missing: Vec<(Right, String)>,
    /// Templates of former owners, with another image: tenants may still have grants of them.
    former: BTreeMap<u32, SealedTemplate>,
    /// The absolute path of the image that the owner was started with.
    image: Option<PathBuf>,
}

impl Templates {
    /// None of these rights, for one reason.
    fn without(wanted: Rights, reason: &str) -> Templates {
        let missing = wanted.iter().map(|right| (right, reason.to_owned()));
        Templates {
            missing: missing.collect(),
            ..Templates::default()
        }
    }

    /// The NIC's template, as far as the options ask for one and there can be one. It is the one
    /// of a former owner, if that was made of the same image.
    pub(super) fn make(
        options: &ServerOptions,
        image: Option<&Image>,
        memory: &Memory,
        bells: &Bells,
        kept: BTreeMap<u32, OwnedFd>,
        saved: &BTreeMap<u32, SavedTemplate>,
    ) -> Templates {
        let paths = options.paths.iter().copied();
        let wanted: Rights = paths.filter_map(right_of).collect();
        let mut kept: BTreeMap<u32, SealedTemplate> = kept
            .into_iter()
            .map(|(number, fd)| (number, fd.into()))
            .collect();
        let next = kept.keys().chain(saved.keys()).max();
        let next = next.map_or(0, |last| last.wrapping_add(1));
        let mut templates = match image {
            _ if wanted.is_empty() => Templates::default(),
            None => Templates::without(wanted, "the NIC was started without an image (--image)"),
            Some(image) => match same_image(image, &mut kept, saved) {
                Some((number, template, known)) => {
                    Templates::resumed(wanted, number, template, known)
                }
                None => Templates::new(wanted, next, image, memory, bells),
            },
        };
        templates.former = kept;
        let image = options.image.as_ref();
        templates.image = image.and_then(|image| path::absolute(image).ok());
        templates
    }

    fn new(
        wanted: Rights,
        number: u32,
        image: &Image,
        memory: &Memory,
        bells: &Bells,
    ) -> Templates {
        match NicTemplate::make(image, memory, bells, wanted) {
            Ok((template, Obtained { rights, missing })) => Templates {
                current: template.map(|template| (number, template)),
                saved: Some(SavedTemplate {
                    rights: rights.bits(),
                    image: image.fingerprint(),
                }),
                missing,
                ..Templates::default()
            },
            Err(error) => Templates::without(wanted, &explain(&error)),
        }
    }

    fn resumed(
        wanted: Rights,
        number: u32,
        template: SealedTemplate,
        saved: SavedTemplate,
    ) -> Templates {
        let rights = Rights::from_bits(saved.rights);
        let reason = "the former owner sealed the NIC's template without it; stop the NIC \
                      (postern nic stop) and start it again";
        let lacking = wanted.iter().filter(|right| !rights.contains(*right));
        let missing = lacking.map(|right| (right, reason.to_owned()));
        Templates {
            current: Some((number, NicTemplate::resume(template, rights))),
            saved: Some(saved),
            missing: missing.collect(),
            ..Templates::default()
        }
    }

    /// The reason why a right is not there, if it is wanted and not there.
    pub(super) fn why_not(&self, right: Right) -> Option<&str> {
        let mut missing = self.missing.iter();
        let reason = missing.find(|(other, _)| *other == right);
        reason.map(|(_, reason)| reason.as_str())
    }

    /// Makes a grant for a tenant; nothing without a template that has the right.
    pub(super) fn grant(&self, tenant: &Credentials, right: Right) -> Option<io::Result<Grant>> {
        let (_, template) = self.current.as_ref()?;
        let has = template.rights().contains(right);
        has.then(|| template.grant(tenant, right))
    }

    /// Takes back all that was granted for a port, and gives how many grants it was. When it
    /// returns, no vCPU calls the NIC by one of them, and none ever will.
    pub(super) fn revoke(&self, port: PortId) -> io::Result<u32> {
        let mut grants = 0;
        if let Some((_, template)) = &self.current {
            grants += template.revoke(port)?;
        }
        for template in self.former.values() {
            grants += template::revoke(template, port)?;
        }
        Ok(grants)
    }

    /// Lets templates of former owners go of which nobody has a grant any more; gives their
    /// numbers.
    pub(super) fn drop_unused(&mut self) -> Vec<u32> {
        let is_unused =
            |template: &SealedTemplate| template.info().is_ok_and(|info| info.grants == 0);
        let unused = self.former.iter().filter(|(_, one)| is_unused(one));
        let unused: Vec<u32> = unused.map(|(number, _)| *number).collect();
        for number in &unused {
            self.former.remove(number);
        }
        unused
    }

    /// Each template, by the number under which it is kept.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let current = self.current.iter();
        let current = current.map(|(number, template)| (*number, template.as_fd()));
        let former = self.former.iter();
        current.chain(former.map(|(number, template)| (*number, template.as_fd())))
    }

    /// What is to be saved of the template of which grants are made.
    pub(super) fn saved(&self) -> BTreeMap<u32, SavedTemplate> {
        let number = self.current.as_ref().map(|(number, _)| *number);
        number.zip(self.saved).into_iter().collect()
    }

    /// The absolute path of the image that the owner was started with, if it was.
    pub(super) fn image(&self) -> Option<&Path> {
        self.image.as_deref()
    }

    /// What the template costs; nothing if there is none, or KVM does not tell.
    pub(super) fn info(&self) -> Option<TemplateInfo> {
        let (_, template) = self.current.as_ref()?;
        let info = template.info().ok()?;
        Some(TemplateInfo {
            rights: template
                .rights()
                .iter()
                .map(|right| right.to_string())
                .collect(),
            pinned_bytes: info.pinned_bytes,
            kernel_bytes: info.kernel_bytes,
            attachment_bytes: info.attachment_bytes,
            bytes_in_2m: info.bytes_in_2m,
            grants: info.grants,
            attachments: info.attachments,
            former: self.former.len(),
        })
    }
}

/// The latest template that is made of an image, taken out of those that are kept.
fn same_image(
    image: &Image,
    kept: &mut BTreeMap<u32, SealedTemplate>,
    saved: &BTreeMap<u32, SavedTemplate>,
) -> Option<(u32, SealedTemplate, SavedTemplate)> {
    let fingerprint = image.fingerprint();
    let mut known = saved.iter().rev();
    let (number, saved) =
        known.find(|(number, saved)| saved.image == fingerprint && kept.contains_key(number))?;
    Some((*number, kept.remove(number)?, *saved))
}

#[cfg(test)]
mod tests {
    use postern_abi::window::Geometry;

    use super::*;
    use crate::image::Segment;

    fn image(byte: u8) -> Image {
        let segment = |gva| Segment {
            gva,
            bytes: vec![byte; 16],
        };
        Image {
            entry: 0x2000,
            rodata: segment(0x1000),
            text: segment(0x2000),
        }
    }

    fn options(paths: &[CallPath]) -> (ServerOptions, Memory, Bells) {
        let geometry = Geometry::new(2, 1, 4096, 4096).unwrap();
        let mut options = ServerOptions::new("nic", geometry);
        options.paths = paths.to_vec();
        let memory = Memory::create(geometry).unwrap();
        (options, memory, Bells::create(geometry).unwrap())
    }

    /// Stands for a template: every call of it fails.
    fn kept() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_template_of_the_same_image_goes_on_with_its_rights() {
        let (options, memory, bells) = options(&CallPath::ALL);
        let saved = |byte| SavedTemplate {
            rights: Rights::from(Right::Strict).bits(),
            image: image(byte).fingerprint(),
        };
        let saved = BTreeMap::from([(3, saved(1)), (4, saved(2)), (5, saved(1))]);
        let kept = || (3..7).map(|number| (number, kept())).collect();
        let one = image(1);
        let templates = Templates::make(&options, Some(&one), &memory, &bells, kept(), &saved);
        assert_eq!(templates.saved(), BTreeMap::from([(5, saved[&5])]));
        assert!(templates.why_not(Right::Strict).is_none());
        assert!(
            templates
                .why_not(Right::Fast)
                .unwrap()
                .contains("postern nic stop")
        );
        // The others stay for as long as it is not known that nobody has a grant of them.
        let numbers: Vec<u32> = templates.each().map(|(number, _)| number).collect();
        assert_eq!(numbers, [5, 3, 4, 6]);
        let mut templates = templates;
        assert!(templates.drop_unused().is_empty());
        let port = PortId::new(1).unwrap();
        assert!(
            templates.revoke(port).is_err(),
            "what is unknown is no success"
        );
    }

    #[test]
    fn paths_without_views_need_no_template_and_no_image() {
        let (some, memory, bells) = options(&[CallPath::ExitUser, CallPath::Direct]);
        let none = BTreeMap::new();
        let templates = Templates::make(&some, None, &memory, &bells, BTreeMap::new(), &none);
        assert!(templates.each().next().is_none() && templates.missing.is_empty());
        assert_eq!(templates.revoke(PortId::new(0).unwrap()).unwrap(), 0);
        let (elisa, memory, bells) = options(&[CallPath::Elisa]);
        let templates = Templates::make(&elisa, None, &memory, &bells, BTreeMap::new(), &none);
        assert!(templates.why_not(Right::Fast).unwrap().contains("--image"));
        assert!(
            templates.why_not(Right::Strict).is_none(),
            "nobody asked for it"
        );
    }
}
