//! Roles `echo` and `ping`: frames there and back.
#![deny(unsafe_code)]

use core::array;

use postern_abi::window::MAX_FRAME;
use postern_guest::frames::synthetic;
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;
use postern_guest_bare::cmdline::{Frames, Input, MAX_BATCH};

use super::error::RoleError;
use super::idle::Idle;
use super::port::{self, PortRole};
use super::resources::Resources;
use super::send::{Numbered, Source, send_all};
use crate::console::println;

/// Default length of the frames of `ping`, in bytes.
const PING_SIZE: usize = 64;

/// Plays the role `echo`.
pub fn echo(resources: Resources) -> Result<(), RoleError> {
    port::with_port(resources, Echo)
}

/// Plays the role `ping`.
pub fn ping(resources: Resources) -> Result<(), RoleError> {
    port::with_port(resources, Ping)
}

/// The role `echo`.
struct Echo;

impl PortRole for Echo {
    fn run<S: Service>(self, resources: &mut Resources, mut nic: Nic<S>) -> Result<(), RoleError> {
        let options = resources.options;
        let wanted = match options.frames {
            Frames::Count(count) => count,
            Frames::Input | Frames::Endless => u64::MAX,
        };
        let memory = resources.arena.take(MAX_BATCH * MAX_FRAME as usize);
        let memory = memory.ok_or(RoleError::Full { frames: 0 })?;
        let mut buffers = memory.chunks_exact_mut(MAX_FRAME as usize);
        let mut buffers: [_; MAX_BATCH] = array::from_fn(|_| buffers.next().unwrap_or_default());

        let mut idle = Idle::new(&options);
        nic.rx_discard();
        port::send_beacons(&mut nic, &mut idle, options.hello)?;
        nic.set_when_full(WhenFull::Hold);
        let mac = nic.mac();
        let mut frames = 0;
        while frames < wanted {
            let mut sizes = [0; MAX_BATCH];
            let mut slots = buffers.iter_mut().zip(&mut sizes);
            let got = nic.rx_burst(options.batch, |frame| {
                if let Some((buffer, size)) = slots.next() {
                    *size = frame.len();
                    frame.copy_to(&mut buffer[..frame.len()]);
                    buffer.copy_within(6..12, 0);
                    buffer[6..12].copy_from_slice(&mac);
                }
            });
            if got == 0 {
                idle.wait_for_frames(&mut nic, "frames to send back", frames)?;
                continue;
            }
            let replies: [&[u8]; MAX_BATCH] = array::from_fn(|i| &buffers[i][..sizes[i]]);
            send_all(&mut nic, &mut idle, &replies[..got])?;
            frames += got as u64;
            idle.moved();
        }
        let rings = nic.stats().rings;
        println!("result role=echo frames={frames} rings={rings}");
        Ok(())
    }
}

/// The role `ping`.
struct Ping;

impl PortRole for Ping {
    fn run<S: Service>(self, resources: &mut Resources, mut nic: Nic<S>) -> Result<(), RoleError> {
        let options = resources.options;
        let wanted = match options.frames {
            Frames::Count(count) => count,
            Frames::Endless => u64::MAX,
            Frames::Input => return Err(RoleError::Needs("frames=N")),
        };
        let size = match options.input {
            Input::Synthetic(size) => size,
            Input::Pcap => PING_SIZE,
        };
        let mut idle = Idle::new(&options);
        let peer = port::await_beacon(&mut nic, &mut idle)?;
        nic.set_when_full(WhenFull::Hold);
        let mac = nic.mac();
        let mut source = Numbered::new(&mut resources.arena, &nic, size, peer)?;
        let buffer = resources.arena.take(MAX_FRAME as usize);
        let buffer = buffer.ok_or(RoleError::Full { frames: 0 })?;
        let mut frames = 0;
        while frames < wanted {
            let count = (wanted - frames).min(options.batch as u64);
            send_all(&mut nic, &mut idle, source.next(count as usize))?;
            let end = frames + count;
            while frames < end {
                let mut wrong = None;
                let got = nic.rx_burst((end - frames) as usize, |frame| {
                    let bytes = &mut buffer[..frame.len()];
                    frame.copy_to(bytes);
                    // Frames of others to stations that the switch does not know come here, too.
                    if bytes[0..6] != mac || bytes[6..12] != peer {
                        return;
                    }
                    if bytes.len() != size || synthetic::number(bytes) != Some(frames) {
                        wrong.get_or_insert(frames);
                    }
                    frames += 1;
                });
                if let Some(frame) = wrong {
                    return Err(RoleError::Altered { frame });
                }
                if got == 0 {
                    idle.wait_for_frames(&mut nic, "frames to come back", frames)?;
                } else {
                    idle.moved();
                }
            }
        }
        let rings = nic.stats().rings;
        println!("result role=ping frames={frames} rings={rings}");
        Ok(())
    }
}
