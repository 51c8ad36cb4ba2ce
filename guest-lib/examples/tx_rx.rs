//! Two guests on the ports of one NIC: one sends bursts of frames, the other receives them.
//!
//! The NIC's memory is mapped in this program, and each request is a call of the switch in it (the
//! path `direct`), so the example runs on any host:
//!
//! ```text
//! cargo run -p postern-guest --example tx_rx
//! ```
//!
//! In a VM, [`open`] differs and nothing else: the service is a `Gate`, the window is mapped by the
//! guest's kernel.

use std::error::Error;

use postern_abi::window::{Geometry, PortId};
use postern_guest::direct::Direct;
use postern_guest::nic::{Nic, WhenFull};
use postern_nic_client::memory::{Memory, draw_secret};

/// Length of the example's frames in bytes.
const LENGTH: usize = 64;

/// Opens a port as its guest would.
fn open(memory: &Memory, port: PortId) -> Result<Nic<Direct>, Box<dyn Error>> {
    // SAFETY: the NIC's memory is mapped at its base as long as `memory` lives, and `main` drops it
    // last; no reference to it exists.
    let (direct, window) = unsafe { Direct::new(memory.base(), memory.size(), port)? };
    Ok(Nic::new(direct, window))
}

/// An Ethernet frame with a number in its payload.
fn frame(destination: [u8; 6], source: [u8; 6], number: u32) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[0..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    // IEEE 802 local experimental EtherType 1.
    frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Sends 1000 frames through the NIC and checks what arrives.
pub fn main() -> Result<(), Box<dyn Error>> {
    // The host: a NIC of two ports, with rings that hold about 50 frames. Each port gets a tenant.
    let memory = Memory::create(Geometry::new(2, 1, 4096, 4096)?)?;
    for port in memory.geometry().all_ports() {
        let mac = [2, 0, 0, 0, 0, port.number() as u8];
        memory.switch().admit(port, 1, draw_secret()?, mac);
    }

    // The guests.
    let mut ports = memory.geometry().all_ports();
    let (first, second) = (
        ports.next().ok_or("no port")?,
        ports.next().ok_or("no port")?,
    );
    let mut sender = open(&memory, first)?;
    let mut receiver = open(&memory, second)?;

    // A frame that finds no room waits in the sender's ring; by default it would be dropped.
    sender.set_when_full(WhenFull::Hold);
    let frames: Vec<_> = (0..1000)
        .map(|number| frame(receiver.mac(), sender.mac(), number))
        .collect();

    let mut sent = 0;
    let mut received = 0;
    while received < frames.len() {
        // As many frames as the ring has room for, at most 32. They are copied, and the switch is
        // called once for all of them. An empty burst is a call for the frames that wait.
        let burst = &frames[sent..frames.len().min(sent + 32)];
        sent += sender.tx_burst(burst);

        // As many frames as have arrived, at most 32. Each is copied out of the window: its memory
        // is the NIC's again after the closure. Receiving makes no call.
        receiver.rx_burst(32, |frame| {
            let mut copy = [0; LENGTH];
            frame.copy_to(&mut copy);
            assert_eq!(copy, frames[received], "frame {received}");
            received += 1;
        });
    }

    let (tx, rx) = (sender.stats(), receiver.stats());
    println!("{} frames with {} calls", rx.received, tx.calls);
    assert_eq!((tx.sent, rx.received), (1000, 1000));
    assert!(tx.calls < 100, "a burst is one call");
    assert_eq!(rx.calls, 0);
    Ok(())
}
