//! Values of flags.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use postern_abi::platform::CallPath;
use postern_vmm::console::Destination;
use postern_vmm::socket_path::{self, SocketPathError};
use postern_vmm::topology;

/// The path of that name, or what there is instead.
pub fn path(name: &str) -> Result<CallPath, String> {
    CallPath::from_name(name).ok_or_else(|| {
        let names = CallPath::ALL.map(CallPath::name);
        format!("no such path; there are {}", names.join(", "))
    })
}

/// Where a console goes.
pub fn console() -> impl TypedValueParser<Value = Destination> {
    OsStringValueParser::new().map(|text| match text.to_str().map(str::parse) {
        Some(Ok(destination)) => destination,
        // A name that is not Unicode is none of the words.
        None => Destination::File(text.into()),
    })
}

/// The name of a VM.
pub fn name(name: &str) -> Result<String, String> {
    match topology::is_name(name) {
        true => Ok(name.to_owned()),
        false => Err("a name is made of letters, digits, '-', '_' and '.', 40 at most".to_owned()),
    }
}

/// The name of a NIC's socket.
pub fn socket(name: &str) -> Result<PathBuf, SocketPathError> {
    let path = PathBuf::from(name);
    socket_path::check(&path)?;
    Ok(path)
}
