//! Role `echo`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_guest::frames::beacon;
use postern_guest::linux::Port;
use postern_guest::nic::WhenFull;

use super::{Queue, meet};
use crate::migrate::Mover;
use crate::options::Traffic;
use crate::waiting::{Idle, Patience};

/// Longest sleep, after which patience is looked at.
const WAIT: Duration = Duration::from_secs(1);

/// Plays the role.
pub fn run(port: &Port, traffic: &Traffic) -> Result<()> {
    ensure!(traffic.threads == 1, "an echo has one thread");
    let mut patience = Patience::new(traffic.patience);
    let mut nic = port.all_queues()?;
    nic.rx_discard();
    meet::send_beacons(&mut nic, &mut patience)?;
    nic.set_when_full(WhenFull::Hold);
    let mut idle = Idle::new(port, traffic.wait)?;
    let mut mover = Mover::new(traffic.migrate, 0)?;
    let mut frames = Vec::new();
    let mut echoed = 0;
    while echoed < traffic.frames {
        take(&mut nic, traffic.batch.into(), &mut frames);
        mover.burst()?;
        if frames.is_empty() {
            let waited = idle.wait(&mut nic, WAIT, &mut patience);
            waited.with_context(|| format!("{echoed} of {} came", traffic.frames))?;
            continue;
        }
        patience.moved();
        echoed += frames.len() as u64;
        let mut left = &frames[..];
        while !left.is_empty() || nic.pending() != 0 {
            left = &left[nic.tx_burst(left)..];
            if !left.is_empty() || nic.pending() != 0 {
                patience.wait("room at the other end")?;
            }
        }
    }
    println!(
        "result role=echo path={} frames={echoed} moves={} sleeps={} rings={}",
        port.path().name(),
        mover.moves(),
        idle.sleeps(),
        nic.service().rings(),
    );
    Ok(())
}

/// Takes a burst of frames, and turns each round.
fn take(nic: &mut Queue, batch: usize, frames: &mut Vec<Vec<u8>>) {
    frames.clear();
    nic.rx_burst(batch, |frame| {
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        if beacon::source(&bytes).is_none() {
            let (destination, rest) = bytes.split_at_mut(6);
            destination.swap_with_slice(&mut rest[..6]);
            frames.push(bytes);
        }
    });
}
