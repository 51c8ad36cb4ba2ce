//! Requests to the owner of a running NIC.
#![deny(unsafe_code)]

use std::path::Path;

use postern_nic_client::control::Control;
use postern_nic_client::request;

use crate::error::CommandError;

/// Asks the owner, and has its answer.
pub fn ask<T: serde::de::DeserializeOwned>(
    socket: &Path,
    control: &Control,
) -> Result<T, CommandError> {
    Ok(request::control(socket, control)?)
}

/// Has the owner do something; returns the exit status.
pub fn order(socket: &Path, control: &Control) -> Result<u8, CommandError> {
    ask::<()>(socket, control)?;
    Ok(0)
}
