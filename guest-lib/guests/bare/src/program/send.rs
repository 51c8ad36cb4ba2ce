//! Role `send`: frames of a pcap file, or made-up ones, as fast as they are taken.
#![deny(unsafe_code)]

use core::array;

use postern_abi::platform::label;
use postern_guest::frames::synthetic;
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;
use postern_guest_bare::cmdline::{Frames, Input, MAX_BATCH};
use postern_guest_bare::pcap::PcapReader;

use super::arena::Arena;
use super::error::RoleError;
use super::idle::Idle;
use super::port::{self, PortRole};
use super::resources::Resources;
use crate::console::{println, snapshot_counters};

/// How long to be silent after the last frame, in ticks. A line on the console and the end of a VM
/// cost the host much; they should not fall into the time in which others still take the frames.
const LINGER: u64 = 20;

/// MAC address of no station, for frames where the receiver's is not known.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0xff, 0xff];

/// Plays the role.
pub fn run(resources: Resources) -> Result<(), RoleError> {
    port::with_port(resources, Send)
}

/// The role `send`.
struct Send;

impl PortRole for Send {
    fn run<S: Service>(self, resources: &mut Resources, mut nic: Nic<S>) -> Result<(), RoleError> {
        let options = resources.options;
        let longest = nic.geometry().max_frame() as usize;
        let pcap = match options.input {
            Input::Pcap => {
                let file = resources.initrd.ok_or(RoleError::NoInitrd)?;
                Some(PcapReader::parse(file, longest).map_err(RoleError::Pcap)?)
            }
            Input::Synthetic(_) => None,
        };
        let count = match (options.frames, pcap) {
            (Frames::Count(count), _) => Some(count),
            (Frames::Endless, _) => None,
            (Frames::Input, Some(pcap)) => Some(pcap.len() as u64),
            (Frames::Input, None) => return Err(RoleError::Needs("frames=N")),
        };

        let mut idle = Idle::new(&options);
        let destination = if options.hello {
            port::await_beacon(&mut nic, &mut idle)?
        } else {
            NOBODY
        };
        nic.set_when_full(WhenFull::Hold);
        match (options.input, pcap) {
            (Input::Synthetic(size), _) => {
                let source = Numbered::new(&mut resources.arena, &nic, size, destination)?;
                transmit(&mut nic, &mut idle, source, options.batch, count)
            }
            (Input::Pcap, Some(pcap)) => {
                let source = Replay {
                    frames: pcap.frames().cycle(),
                    batch: [&[]; MAX_BATCH],
                };
                transmit(&mut nic, &mut idle, source, options.batch, count)
            }
            (Input::Pcap, None) => Err(RoleError::NoInitrd),
        }
    }
}

/// A source of frames.
pub trait Source {
    /// The type of a frame.
    type Frame: AsRef<[u8]>;

    /// The next `count` frames, at most [`MAX_BATCH`].
    fn next(&mut self, count: usize) -> &[Self::Frame];
}

/// The source of a pcap file's frames, over and over.
struct Replay<I> {
    frames: I,
    batch: [&'static [u8]; MAX_BATCH],
}

impl<I: Iterator<Item = &'static [u8]>> Source for Replay<I> {
    type Frame = &'static [u8];

    fn next(&mut self, count: usize) -> &[&'static [u8]] {
        let batch = &mut self.batch[..count];
        for (slot, frame) in batch.iter_mut().zip(&mut self.frames) {
            *slot = frame;
        }
        batch
    }
}

/// The source of made-up frames ([`synthetic`]).
pub struct Numbered {
    batch: [&'static mut [u8]; MAX_BATCH],
    number: u64,
}

impl Numbered {
    /// Frames of `size` bytes from a NIC's port to a station, from number 0.
    pub fn new<S>(
        arena: &mut Arena,
        nic: &Nic<S>,
        size: usize,
        destination: [u8; 6],
    ) -> Result<Numbered, RoleError>
    where
        S: Service,
    {
        let longest = nic.geometry().max_frame() as usize;
        if size > longest {
            return Err(RoleError::TooLong { size, longest });
        }
        let memory = arena.take(size * MAX_BATCH);
        let memory = memory.ok_or(RoleError::Full { frames: 0 })?;
        let mut frames = memory.chunks_exact_mut(size);
        let mut batch = array::from_fn(|_| frames.next().unwrap_or_default());
        for frame in &mut batch {
            synthetic::prepare(frame, destination, nic.mac());
        }
        Ok(Numbered { batch, number: 0 })
    }
}

impl Source for Numbered {
    type Frame = &'static mut [u8];

    fn next(&mut self, count: usize) -> &[&'static mut [u8]] {
        let batch = &mut self.batch[..count];
        for frame in batch.iter_mut() {
            synthetic::set_number(frame, self.number);
            self.number += 1;
        }
        batch
    }
}

/// Sends `count` frames, or for ever.
fn transmit<S: Service>(
    nic: &mut Nic<S>,
    idle: &mut Idle,
    mut source: impl Source,
    batch: usize,
    count: Option<u64>,
) -> Result<(), RoleError> {
    let before = nic.stats();
    let waits = idle.waits();
    let mut left = count.unwrap_or(u64::MAX);
    snapshot_counters(label::NOTHING_BEGIN);
    snapshot_counters(label::NOTHING_END);
    snapshot_counters(label::TRAFFIC_BEGIN);
    while left != 0 {
        let frames = source.next(left.min(batch as u64) as usize);
        left -= frames.len() as u64;
        send_all(nic, idle, frames)?;
    }
    snapshot_counters(label::TRAFFIC_END);
    let after = nic.stats();
    let waits = idle.waits() - waits;
    idle.moved();
    while idle.since() < LINGER {
        idle.sleep();
    }
    println!(
        "result role=send frames={} calls={} waits={waits}",
        after.sent - before.sent,
        after.calls - before.calls,
    );
    Ok(())
}

/// Sends frames until the switch has taken the last one.
pub fn send_all<S: Service, F: AsRef<[u8]>>(
    nic: &mut Nic<S>,
    idle: &mut Idle,
    mut frames: &[F],
) -> Result<(), RoleError> {
    loop {
        let before = nic.stats().sent;
        let written = nic.tx_burst(frames);
        frames = &frames[written..];
        if frames.is_empty() && nic.pending() == 0 {
            return Ok(());
        }
        if written != 0 || nic.stats().sent != before {
            idle.moved();
        }
        idle.wait("room at the receiver", nic.stats().sent)?;
    }
}
