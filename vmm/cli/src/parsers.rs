//! Values of flags.
#![deny(unsafe_code)]

use std::path::PathBuf;

use postern_abi::platform::CallPath;
use postern_vmm::socket_path::{self, SocketPathError};

/// The path of that name, or what there is instead.
pub fn path(name: &str) -> Result<CallPath, String> {
    CallPath::from_name(name).ok_or_else(|| {
        let names = CallPath::ALL.map(CallPath::name);
        format!("no such path; there are {}", names.join(", "))
    })
}

/// The name of a NIC's socket.
pub fn socket(name: &str) -> Result<PathBuf, SocketPathError> {
    let path = PathBuf::from(name);
    socket_path::check(&path)?;
    Ok(path)
}
