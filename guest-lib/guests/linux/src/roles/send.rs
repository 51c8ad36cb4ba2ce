//! Role `send`.

use std::time::Duration;

use anyhow::{Result, ensure};
use postern_guest::linux::Port;
use postern_guest::nic::WhenFull;
use postern_guest_linux::stamped::{self, Stamp};

use super::{Queue, meet, on_threads};
use crate::migrate::Mover;
use crate::options::Traffic;
use crate::waiting::Patience;

/// Plays the role.
pub fn run(port: &Port, traffic: &Traffic, to: Option<[u8; 6]>) -> Result<()> {
    let mut patience = Patience::new(traffic.patience);
    let (receiver, when_full) = match to {
        Some(station) => (station, WhenFull::Drop),
        None => {
            let receiver = meet::await_beacon(&mut port.all_queues()?, &mut patience)?;
            (receiver, WhenFull::Hold)
        }
    };
    println!("sending");
    let sent = on_threads(traffic.threads, |thread| {
        let mut sender = Sender::new(port, traffic, thread, receiver)?;
        sender.nic.set_when_full(when_full);
        sender.send()?;
        Ok((sender.nic.stats(), sender.mover.moves()))
    })?;
    let sum = |of: fn(&(postern_guest::nic::Stats, u64)) -> u64| sent.iter().map(of).sum::<u64>();
    println!(
        "result role=send path={} frames={} calls={} moves={}",
        port.path().name(),
        sum(|(stats, _)| stats.sent),
        sum(|(stats, _)| stats.calls),
        sum(|(_, moves)| *moves),
    );
    Ok(())
}

/// A sending thread.
struct Sender<'a> {
    nic: Queue,
    traffic: &'a Traffic,
    thread: u32,
    receiver: [u8; 6],
    mover: Mover,
}

impl Sender<'_> {
    fn new<'a>(
        port: &Port,
        traffic: &'a Traffic,
        thread: u32,
        receiver: [u8; 6],
    ) -> Result<Sender<'a>> {
        Ok(Sender {
            nic: port.queue(thread)?,
            traffic,
            thread,
            receiver,
            mover: Mover::new(traffic.migrate, thread)?,
        })
    }

    /// Sends the thread's share, until the switch has taken the last frame.
    fn send(&mut self) -> Result<()> {
        let (traffic, share) = (self.traffic, self.traffic.share(self.thread));
        let mut patience = Patience::new(traffic.patience);
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut number = 0;
        while number < share {
            let count = (share - number).min(traffic.batch.into()) as usize;
            batch.resize_with(count, Vec::new);
            for frame in &mut batch {
                frame.resize(traffic.length(number), 0);
                let stamp = Stamp {
                    stream: self.thread as u16,
                    number,
                };
                stamped::write(frame, self.receiver, self.nic.mac(), stamp);
                number += 1;
            }
            self.send_all(&batch, &mut patience)?;
            if traffic.pause != 0 {
                std::thread::sleep(Duration::from_micros(traffic.pause));
            }
        }
        let stats = self.nic.stats();
        ensure!(
            stats.sent == share && stats.bad_length == 0 && stats.refused == 0,
            "{} of {share} frames were sent: {stats:?}",
            stats.sent
        );
        Ok(())
    }

    fn send_all(&mut self, mut frames: &[Vec<u8>], patience: &mut Patience) -> Result<()> {
        loop {
            let before = self.nic.stats().sent;
            let written = self.nic.tx_burst(frames);
            self.mover.burst()?;
            frames = &frames[written..];
            if frames.is_empty() && self.nic.pending() == 0 {
                patience.moved();
                return Ok(());
            }
            if written != 0 || self.nic.stats().sent != before {
                patience.moved();
            }
            patience.wait("room at the receiver")?;
        }
    }
}
