//! Role `receive`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_guest::frames::beacon;
use postern_guest::linux::Port;
use postern_guest_linux::proof::{Order, Proof};
use postern_guest_linux::stamped;

use super::{Queue, meet, on_threads};
use crate::migrate::Mover;
use crate::options::Traffic;
use crate::waiting::{Idle, Patience};

/// How long to go on after the last frame, so that one too many is seen.
const LINGER: Duration = Duration::from_millis(100);

/// Plays the role.
pub fn run(port: &Port, traffic: &Traffic) -> Result<()> {
    let mut patience = Patience::new(traffic.patience);
    let mut all = port.all_queues()?;
    all.rx_discard();
    meet::send_beacons(&mut all, &mut patience)?;
    println!("receiving");
    let all = Mutex::new(Some(all));
    if traffic.threads > 1 {
        // The threads open their queues themselves.
        drop(take(&all));
    }
    let proof = Mutex::new(Proof::default());
    let failed = AtomicBool::new(false);
    let ends = on_threads(traffic.threads, |thread| {
        let nic = match take(&all) {
            Some(nic) => nic,
            None => port.queue(thread)?,
        };
        let mut receiver = Receiver {
            idle: Idle::new(port, traffic.wait)?,
            nic,
            traffic,
            proof: &proof,
            order: Order::default(),
            mover: Mover::new(traffic.migrate, thread)?,
        };
        let result = receiver.receive(&failed);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result.map(|()| receiver.end())
    })?;
    let proof = proof
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let sum = |of: fn(&End) -> u64| ends.iter().map(of).sum::<u64>();
    println!(
        "result role=receive path={} frames={} streams={} lanes={} overtaken={} malformed={} moves={} sleeps={}",
        port.path().name(),
        proof.frames(),
        proof.streams(),
        sum(|end| end.lanes),
        sum(|end| end.overtaken),
        sum(|end| end.malformed),
        sum(|end| end.moves),
        sum(|end| end.sleeps),
    );
    ensure!(sum(|end| end.malformed) == 0, "lanes held no valid record");
    Ok(())
}

fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().ok().and_then(|mut from| from.take())
}

/// What a receiving thread tells at its end.
struct End {
    lanes: u64,
    overtaken: u64,
    malformed: u64,
    moves: u64,
    sleeps: u64,
}

/// A receiving thread.
struct Receiver<'a> {
    nic: Queue,
    idle: Idle,
    traffic: &'a Traffic,
    proof: &'a Mutex<Proof>,
    order: Order,
    mover: Mover,
}

impl Receiver<'_> {
    /// Takes and checks frames until all have come, and some time longer.
    fn receive(&mut self, failed: &AtomicBool) -> Result<()> {
        let mut patience = Patience::new(self.traffic.patience);
        let mut buffer = Vec::new();
        let mut done = None::<Instant>;
        loop {
            let got = self.burst(&mut buffer)?;
            self.mover.burst()?;
            let came = self.came();
            if came == self.traffic.frames {
                let since = *done.get_or_insert_with(Instant::now);
                if since.elapsed() > LINGER {
                    return Ok(());
                }
            }
            ensure!(!failed.load(Ordering::Relaxed), "another thread failed");
            match got {
                // Other threads may have all of the rest.
                0 => self
                    .idle
                    .wait(&mut self.nic, LINGER, &mut patience)
                    .with_context(|| format!("{came} of {} came", self.traffic.frames))?,
                _ => patience.moved(),
            }
        }
    }

    fn came(&self) -> u64 {
        self.proof.lock().map(|proof| proof.frames()).unwrap_or(0)
    }

    /// Takes a burst of frames and checks each.
    fn burst(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let (mac, most) = (self.nic.mac(), self.traffic.frames);
        let mut result = Ok(());
        let (proof, order) = (self.proof, &mut self.order);
        let got = self.nic.rx_burst(self.traffic.batch.into(), |frame| {
            buffer.resize(frame.len(), 0);
            frame.copy_to(buffer);
            // Frames to others are flooded while the switch knows no better.
            let ours = buffer.starts_with(&mac) && beacon::source(buffer).is_none();
            if result.is_ok() && ours {
                result = check(buffer, mac, frame.sender(), most, proof, order);
            }
        });
        result.map(|()| got)
    }

    fn end(&self) -> End {
        End {
            lanes: self.order.lanes() as u64,
            overtaken: self.order.overtaken(),
            malformed: self.nic.stats().malformed,
            moves: self.mover.moves(),
            sleeps: self.idle.sleeps(),
        }
    }
}

fn check(
    frame: &[u8],
    mac: [u8; 6],
    sender: u32,
    most: u64,
    proof: &Mutex<Proof>,
    order: &mut Order,
) -> Result<()> {
    let mut source = [0; 6];
    source.copy_from_slice(frame.get(6..12).context("a frame without addresses")?);
    let stamp = stamped::check(frame, mac, source)?;
    order.note(stamp, sender)?;
    let mut proof = proof
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(proof.note(stamp, most)?)
}
