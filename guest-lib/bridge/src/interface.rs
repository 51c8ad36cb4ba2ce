//! The guest's interface.

use anyhow::{Context, Result, ensure};
use postern_guest::linux::Port;
use postern_tap::{Interface, Tap};

use crate::options::InterfaceOptions;

/// Bytes of a frame besides what its MTU counts: Ethernet's header and a VLAN tag.
const AROUND: u32 = 18;

/// The interface, open.
#[derive(Debug)]
pub struct Opened {
    /// Its queues.
    pub taps: Vec<Tap>,
    /// The features that it can have, `FEATURE_*` of [`postern_abi::window`].
    pub features: u32,
}

/// Makes or opens the interface, with so many queues, and sets it up for the port.
///
/// # Errors
///
/// One sentence: the name is taken, another program has it, or the kernel refuses.
pub fn open(options: &InterfaceOptions, port: &Port, queues: usize) -> Result<Opened> {
    let largest = port.geometry().max_frame().saturating_sub(AROUND);
    if let Some(mtu) = options.mtu {
        ensure!(
            mtu <= largest,
            "an MTU of {mtu} bytes is too large for this NIC, whose frames carry {largest} at most: \
             choose a smaller one, or start the NIC with larger rings"
        );
    }
    let name = options.name();
    let taps = match &options.macvtap {
        Some(name) => Tap::open_macvtap(name, queues)?,
        None => Tap::open_queues(name, queues)?,
    };
    let setting = || format!("setting up {name}");
    let mut features = u32::MAX;
    for tap in &taps {
        features &= tap.reset_features().with_context(setting)?;
    }
    let interface = Interface::new(name)?;
    if options.macvtap.is_none() {
        if options.persist {
            // One that an administrator has made stays in any case.
            let queue = taps.first();
            let set = queue.map_or(Ok(()), |tap| tap.set_persistent(true));
            set.with_context(setting)?;
        }
        interface.set_mac(port.mac())?;
    }
    if let Some(mtu) = options.mtu {
        interface.set_mtu(mtu)?;
    }
    if let Some(bridge) = &options.bridge {
        Interface::new(bridge)?.add_member(&interface)?;
    }
    interface.bring_up()?;
    if let Some(notice) = interface.xdp_notice() {
        eprintln!("postern-bridge: {notice}");
    }
    Ok(Opened { taps, features })
}
