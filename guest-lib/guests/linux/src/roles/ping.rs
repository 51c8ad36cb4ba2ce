//! Role `ping`.

use anyhow::{Context, Result, ensure};
use postern_guest::frames::beacon;
use postern_guest::linux::Port;
use postern_guest::nic::WhenFull;
use postern_guest_linux::proof::Proof;
use postern_guest_linux::stamped::{self, Stamp};

use super::{Queue, meet};
use crate::migrate::Mover;
use crate::options::Traffic;
use crate::waiting::Patience;

/// Plays the role: has a batch of frames on its way at a time.
pub fn run(port: &Port, traffic: &Traffic) -> Result<()> {
    ensure!(traffic.threads == 1, "a ping has one thread");
    let mut patience = Patience::new(traffic.patience);
    let mut nic = port.all_queues()?;
    let echo = meet::await_beacon(&mut nic, &mut patience)?;
    nic.set_when_full(WhenFull::Hold);
    let mut mover = Mover::new(traffic.migrate, 0)?;
    let mut proof = Proof::default();
    let mut sent = 0;
    while sent < traffic.frames {
        let count = (traffic.frames - sent).min(traffic.batch.into());
        let batch: Vec<Vec<u8>> = (sent..sent + count)
            .map(|number| {
                let mut frame = vec![0; traffic.length(number)];
                stamped::write(&mut frame, echo, nic.mac(), Stamp { stream: 0, number });
                frame
            })
            .collect();
        sent += count;
        let mut left = &batch[..];
        while !left.is_empty() || nic.pending() != 0 || proof.frames() < sent {
            left = &left[nic.tx_burst(left)..];
            mover.burst()?;
            match take(&mut nic, echo, sent, &mut proof)? {
                0 => patience
                    .wait("frames that come back")
                    .with_context(|| format!("{} of {sent} came", proof.frames()))?,
                _ => patience.moved(),
            }
        }
    }
    println!(
        "result role=ping path={} frames={} calls={} moves={}",
        port.path().name(),
        proof.frames(),
        nic.stats().calls,
        mover.moves()
    );
    Ok(())
}

/// Takes the frames that came back, and checks each.
fn take(nic: &mut Queue, echo: [u8; 6], most: u64, proof: &mut Proof) -> Result<usize> {
    let mac = nic.mac();
    let mut result = Ok(());
    let mut bytes = Vec::new();
    let got = nic.rx_burst(usize::MAX, |frame| {
        bytes.resize(frame.len(), 0);
        frame.copy_to(&mut bytes);
        if result.is_ok() && beacon::source(&bytes).is_none() {
            let checked = stamped::check(&bytes, mac, echo).map_err(anyhow::Error::from);
            result = checked.and_then(|stamp| Ok(proof.note(stamp, most)?));
        }
    });
    result.map(|()| got)
}
