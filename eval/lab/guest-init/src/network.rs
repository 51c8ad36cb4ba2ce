//! The guest's network, by the tools in busybox.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cmdline::{Address, Network};

/// Sets up the loopback interface and these.
///
/// # Errors
///
/// An interface that is missing or refuses, and no answer to DHCP.
pub fn set_up(networks: &[Network]) -> Result<()> {
    if networks.is_empty() {
        return Ok(());
    }
    ip(&["link", "set", "lo", "up"])?;
    for network in networks {
        let device = &*network.interface;
        if let Some(mtu) = network.mtu {
            ip(&["link", "set", device, "mtu", &mtu.to_string()])?;
        }
        ip(&["link", "set", device, "up"])?;
        match &network.address {
            Address::Dhcp => dhcp(device)?,
            Address::Static {
                address,
                prefix,
                gateway,
            } => {
                let address = format!("{address}/{prefix}");
                ip(&["addr", "add", &address, "dev", device])?;
                if let Some(gateway) = gateway {
                    ip(&["route", "add", "default", "via", &gateway.to_string()])?;
                }
            }
            Address::None => {}
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    busybox("ip", arguments)
}

/// Asks for an address. The client's script (`/etc/udhcpc/default.script`) sets it.
fn dhcp(interface: &str) -> Result<()> {
    let tries = ["-n", "-q", "-t", "10", "-T", "1"];
    busybox("udhcpc", &[&["-i", interface][..], &tries].concat())
}

fn busybox(tool: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox")
        .arg(tool)
        .args(arguments)
        .status()
        .context("running /bin/busybox")?;
    let line = arguments.join(" ");
    ensure!(
        status.success(),
        "setting up the network: {tool} {line} failed"
    );
    Ok(())
}
