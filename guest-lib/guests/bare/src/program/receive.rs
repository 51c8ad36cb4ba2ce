//! Role `receive`: takes frames and hands them to the host as a pcap file.
#![deny(unsafe_code)]

use postern_abi::PAGE_SIZE;
use postern_abi::platform::label;
use postern_guest::nic::Nic;
use postern_guest::service::Service;
use postern_guest_bare::cmdline::{Frames, GuestOptions};
use postern_guest_bare::pcap::{FILE_HEADER, PcapFullError, PcapWriter, RECORD_HEADER};

use super::error::RoleError;
use super::idle::Idle;
use super::port::{self, PortRole};
use super::resources::Resources;
use crate::console::{println, snapshot_counters};

/// How long to go on after the last frame that was asked for, in ticks, so that one too many is
/// seen.
const LINGER: u64 = 10;

/// Length of the frames that memory is made ready for, in bytes: an MTU of 1500. Longer ones are
/// recorded as well.
const USUAL_FRAME: usize = 1514;

/// Plays the role.
pub fn run(resources: Resources) -> Result<(), RoleError> {
    port::with_port(resources, Receive)
}

/// The role `receive`.
struct Receive;

impl PortRole for Receive {
    fn run<S: Service>(self, resources: &mut Resources, mut nic: Nic<S>) -> Result<(), RoleError> {
        let options = resources.options;
        let memory = resources.arena.take_rest();
        let wanted = match options.frames {
            Frames::Count(count) => count,
            Frames::Endless => u64::MAX,
            Frames::Input => return Err(RoleError::Needs("frames=N or frames=endless")),
        };
        touch(memory, wanted);
        let full = |PcapFullError| RoleError::Full { frames: 0 };
        let mut writer = PcapWriter::new(memory).map_err(full)?;
        let mut idle = Idle::new(&options);
        snapshot_counters(label::NOTHING_BEGIN);
        snapshot_counters(label::NOTHING_END);
        let received = record(&mut nic, &mut idle, &mut writer, &options, wanted);
        // Even if the role failed, the host gets the frames that came.
        resources.arena.send_to_host(writer.file());
        println!(
            "result role=receive frames={} malformed={} waits={}",
            writer.frames(),
            nic.stats().malformed,
            idle.waits()
        );
        received
    }
}

/// Has the host give memory for this many frames now, so that none waits for it later.
fn touch(memory: &mut [u8], frames: u64) {
    let size = frames.saturating_mul((RECORD_HEADER + USUAL_FRAME) as u64);
    let size = size.saturating_add(FILE_HEADER as u64);
    let size = size.min(memory.len() as u64) as usize;
    for page in memory[..size].chunks_mut(PAGE_SIZE as usize) {
        page[0] = 0;
    }
}

/// Records frames until `wanted` have come, and some time longer.
fn record<S: Service>(
    nic: &mut Nic<S>,
    idle: &mut Idle,
    writer: &mut PcapWriter<'_>,
    options: &GuestOptions<'_>,
    wanted: u64,
) -> Result<(), RoleError> {
    nic.rx_discard();
    port::send_beacons(nic, idle, options.hello)?;
    snapshot_counters(label::TRAFFIC_BEGIN);
    while writer.frames() < wanted {
        if take(nic, writer, options.batch)? != 0 {
            idle.moved();
        } else if let Err(error) = idle.wait_for_frames(nic, "more frames", writer.frames()) {
            return match options.frames {
                Frames::Endless => Ok(()),
                _ => Err(error),
            };
        }
    }
    snapshot_counters(label::TRAFFIC_END);
    idle.moved();
    while idle.since() < LINGER {
        take(nic, writer, options.batch)?;
        idle.sleep();
    }
    Ok(())
}

/// Records a burst; gives the number of its frames.
fn take<S: Service>(
    nic: &mut Nic<S>,
    writer: &mut PcapWriter<'_>,
    batch: usize,
) -> Result<usize, RoleError> {
    let mut full = false;
    let got = nic.rx_burst(batch, |frame| {
        full |= writer
            .append(frame.len(), |room| frame.copy_to(room))
            .is_err();
    });
    if full {
        return Err(RoleError::Full {
            frames: writer.frames(),
        });
    }
    Ok(got)
}
