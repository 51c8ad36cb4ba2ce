//! The NIC port of the VM, on any path.

use core::ptr::NonNull;

use postern_abi::platform::{CallPath, NIC_SLOT};
use postern_guest::direct::Direct;
use postern_guest::frames::beacon;
use postern_guest::gate::Gate;
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::ring::Window;
use postern_guest::service::{Hypercall, PortRequest, Service};

use super::error::RoleError;
use super::idle::Idle;
use super::resources::Resources;
use crate::layout;

/// Address at which the kernel maps the window or, on the direct path, the NIC's memory.
const BASE: NonNull<u8> = match NonNull::new(layout::WINDOW as *mut u8) {
    Some(base) => base,
    None => unreachable!(),
};

/// Time between two beacons of a receiver, in ticks.
const BEACON_INTERVAL: u64 = 20;

/// A role that works with a port. It is compiled once for each path.
pub trait PortRole {
    /// Plays the role.
    fn run<S: Service>(self, resources: &mut Resources, nic: Nic<S>) -> Result<(), RoleError>;
}

/// The window of the VM's port.
pub fn window(resources: &Resources) -> Result<Window, RoleError> {
    let port_word = resources.options.nic.ok_or(RoleError::NoNic)?;
    if port_word.path == CallPath::Direct {
        // SAFETY: the kernel mapped that much there, for nobody else.
        let opened = unsafe { Direct::new(BASE, resources.window_size, port_word.port) };
        return opened.map(|(_, window)| window).map_err(RoleError::Direct);
    }
    // SAFETY: the kernel mapped that much there, for nobody else.
    let window = unsafe { Window::new(BASE, resources.window_size) };
    let window = window.map_err(RoleError::Window)?;
    if window.port() != port_word.port {
        return Err(RoleError::OtherPort);
    }
    Ok(window)
}

/// Opens the VM's port and plays a role with it.
pub fn with_port(mut resources: Resources, role: impl PortRole) -> Result<(), RoleError> {
    let port_word = resources.options.nic.ok_or(RoleError::NoNic)?;
    if port_word.path == CallPath::Direct {
        // SAFETY: the kernel mapped that much there, for nobody else.
        let opened = unsafe { Direct::new(BASE, resources.window_size, port_word.port) };
        let (direct, window) = opened.map_err(RoleError::Direct)?;
        direct.populate();
        return role.run(&mut resources, Nic::new(direct, window));
    }
    let window = window(&resources)?;
    window.populate();
    let resources = &mut resources;
    // SAFETY: the VM is on that path, as the VMM says: the kernel mapped the gate area, and the
    // host serves the hypercall or the I/O port. The program runs at CPL 3 with IOPL 3.
    unsafe {
        match port_word.path {
            CallPath::ExitKernel => role.run(resources, Nic::new(Hypercall::new(NIC_SLOT), window)),
            CallPath::ExitUser => role.run(resources, Nic::new(PortRequest::new(), window)),
            _ => role.run(resources, Nic::new(Gate::new(NIC_SLOT), window)),
        }
    }
}

/// Sends beacons from this station, if `enabled`, until the first frame comes.
pub fn send_beacons<S: Service>(
    nic: &mut Nic<S>,
    idle: &mut Idle,
    enabled: bool,
) -> Result<(), RoleError> {
    let frame = beacon::frame(nic.mac());
    let mut next = 0;
    while !nic.rx_ready() {
        if enabled && idle.since() >= next {
            nic.set_when_full(WhenFull::Drop);
            nic.tx_burst(&[frame]);
            next = idle.since() + BEACON_INTERVAL;
        }
        idle.wait("the first frame", 0)?;
    }
    idle.moved();
    Ok(())
}

/// Waits for the beacon of a station that receives; gives its MAC address.
pub fn await_beacon<S: Service>(nic: &mut Nic<S>, idle: &mut Idle) -> Result<[u8; 6], RoleError> {
    nic.rx_discard();
    let mut found = None;
    loop {
        nic.rx_burst(1, |frame| {
            let mut bytes = [0; beacon::SIZE];
            if frame.len() == bytes.len() {
                frame.copy_to(&mut bytes);
                found = beacon::source(&bytes);
            }
        });
        match found {
            Some(source) => {
                idle.moved();
                return Ok(source);
            }
            None => idle.wait("a receiver's announcement", 0)?,
        }
    }
}
