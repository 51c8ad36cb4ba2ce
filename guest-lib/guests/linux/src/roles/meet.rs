//! How a sender and a receiver meet: the receiver sends beacons until the first frame comes, and the
//! sender waits for one.

use std::time::{Duration, Instant};

use anyhow::Result;
use postern_guest::frames::beacon;
use postern_guest::nic::WhenFull;

use super::Queue;
use crate::waiting::Patience;

/// Time between two beacons.
const INTERVAL: Duration = Duration::from_millis(20);

/// Sends beacons until a frame comes.
pub fn send_beacons(nic: &mut Queue, patience: &mut Patience) -> Result<()> {
    let frame = beacon::frame(nic.mac());
    nic.set_when_full(WhenFull::Drop);
    let mut last = None::<Instant>;
    while !nic.rx_ready() {
        if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            nic.tx_burst(&[frame]);
            last = Some(Instant::now());
        }
        patience.wait("the first frame")?;
    }
    patience.moved();
    Ok(())
}

/// Waits for a beacon; gives the address of who sent it.
pub fn await_beacon(nic: &mut Queue, patience: &mut Patience) -> Result<[u8; 6]> {
    nic.rx_discard();
    let mut found = None;
    while found.is_none() {
        nic.rx_burst(1, |frame| {
            let mut bytes = [0; beacon::SIZE];
            if frame.len() == bytes.len() {
                frame.copy_to(&mut bytes);
                found = beacon::source(&bytes);
            }
        });
        if found.is_none() {
            patience.wait("a receiver's beacon")?;
        }
    }
    patience.moved();
    Ok(found.unwrap_or_default())
}
