//! From a text to a topology: every number and name is checked, and every mistake is told with its
//! line.
#![deny(unsafe_code)]

use std::path;

use toml::de::DeTable;

use super::error::{ContentError, ContentErrors};
use super::nic::NicConfig;
use super::reader::{Places, Reader, Section, check_name};
use super::vm::VmConfig;
use super::{parse_nic, parse_vm};

/// What a text says.
pub(super) struct Parsed {
    pub(super) name: Option<String>,
    pub(super) nics: Vec<NicConfig>,
    pub(super) vms: Vec<VmConfig>,
}

/// What a text says as far as it could be read, and what is wrong with it, in the order of the text.
///
/// # Errors
///
/// When it is no TOML: then nobody knows what the rest of it says.
pub(super) fn parse(
    text: &str,
    directory: &path::Path,
) -> Result<(Parsed, Places, Vec<ContentError>), ContentErrors> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let fault = |error: &toml::de::Error| ContentError {
            offset: error.span().map_or(0, |span| span.start),
            message: error.message().to_owned(),
        };
        return Err(ContentErrors(errors.iter().map(fault).collect()));
    }
    let mut reader = Reader::default();
    let table = table.into_inner();
    let mut whole = Section::new(&mut reader, "the file", String::new(), 0, table);
    let name = whole.take::<String>(&mut reader, "name");
    if let Some(name) = &name {
        check_name(&mut reader, name.offset, &name.value);
    }
    let mut nics = Vec::new();
    for section in whole.tables(&mut reader, "nic", "[nic]") {
        let nic = parse_nic::nic(&mut reader, section, directory, &nics);
        nics.extend(nic);
    }
    if let (true, Some(unnamed)) = (
        nics.len() > 1,
        nics.iter().position(|nic| nic.config.name.is_none()),
    ) {
        let offset = reader.offset(&format!("nic.{unnamed}"));
        reader.fault(offset, "there are several NICs: give each a name");
    }
    let sections = whole.tables(&mut reader, "vm", "[[vm]]");
    let none = sections.is_empty();
    let mut vms = Vec::new();
    for section in sections {
        let vm = parse_vm::vm(&mut reader, section, directory, &nics, &vms);
        vms.push(vm);
    }
    whole.finish(&mut reader);
    if none {
        reader.fault(text.len(), "there is no VM: add a [[vm]]");
    }
    Ok(reader.finish(Parsed {
        name: name.map(|name| name.value),
        nics: nics.into_iter().map(|nic| nic.config).collect(),
        vms,
    }))
}
