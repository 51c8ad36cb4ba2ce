//! Role `receive`: takes frames and hands them to the host as a pcap file.

use postern_abi::PAGE_SIZE;
use postern_abi::machine::mark;
use postern_guest::nic::Nic;
use postern_guest::service::Service;
use postern_guest_bare::cmdline::{Frames, Options};
use postern_guest_bare::pcap::{FILE_HEADER, Full, RECORD_HEADER, Recorder};

use super::Machine;
use super::failure::Failure;
use super::idle::Idle;
use super::nic::{self, Work};
use crate::console::{mark, println};

/// How long to go on after the last frame that was asked for, in ticks: one too many is to be seen.
const LINGER: u64 = 10;

/// Longest frame that memory is readied for, in bytes: an MTU of 1500. Longer ones are recorded as well.
const USUAL_FRAME: usize = 1514;

/// Plays the role.
pub fn play(machine: Machine) -> Result<(), Failure> {
    nic::with_port(machine, Receive)
}

struct Receive;

impl Work for Receive {
    fn run<S: Service>(self, machine: &mut Machine, mut nic: Nic<S>) -> Result<(), Failure> {
        let options = machine.options;
        let memory = machine.arena.take_rest();
        let wanted = match options.frames {
            Frames::Count(count) => count,
            Frames::Endless => u64::MAX,
            Frames::Input => return Err(Failure::Needs("frames=N or frames=endless")),
        };
        touch(memory, wanted);
        let full = |Full| Failure::Full { frames: 0 };
        let mut recorder = Recorder::new(memory).map_err(full)?;
        let mut idle = Idle::new(&options);
        mark(mark::NOTHING_BEGIN);
        mark(mark::NOTHING_END);
        let received = record(&mut nic, &mut idle, &mut recorder, &options, wanted);
        // Whatever happened: the host gets what there is.
        machine.arena.send_to_host(recorder.file());
        println!(
            "result role=receive frames={} malformed={} waits={}",
            recorder.frames(),
            nic.stats().malformed,
            idle.waits()
        );
        received
    }
}

/// Has the host give memory for that many frames now, not while they come.
fn touch(memory: &mut [u8], frames: u64) {
    let size = frames.saturating_mul((RECORD_HEADER + USUAL_FRAME) as u64);
    let size = size.saturating_add(FILE_HEADER as u64);
    let size = size.min(memory.len() as u64) as usize;
    for page in memory[..size].chunks_mut(PAGE_SIZE as usize) {
        page[0] = 0;
    }
}

fn record<S: Service>(
    nic: &mut Nic<S>,
    idle: &mut Idle,
    recorder: &mut Recorder<'_>,
    options: &Options<'_>,
    wanted: u64,
) -> Result<(), Failure> {
    nic.rx_discard();
    nic::announce(nic, idle, options.hello)?;
    mark(mark::TRAFFIC_BEGIN);
    while recorder.frames() < wanted {
        if take(nic, recorder, options.batch)? != 0 {
            idle.moved();
        } else if let Err(failure) = idle.wait("more frames", recorder.frames()) {
            return match options.frames {
                Frames::Endless => Ok(()),
                _ => Err(failure),
            };
        }
    }
    mark(mark::TRAFFIC_END);
    idle.moved();
    while idle.since() < LINGER {
        take(nic, recorder, options.batch)?;
        idle.sleep();
    }
    Ok(())
}

/// Records a burst; gives the number of its frames.
fn take<S: Service>(
    nic: &mut Nic<S>,
    recorder: &mut Recorder<'_>,
    batch: usize,
) -> Result<usize, Failure> {
    let mut full = false;
    let got = nic.rx_burst(batch, |frame| {
        full |= recorder
            .append(frame.len(), |room| frame.copy_to(room))
            .is_err();
    });
    if full {
        return Err(Failure::Full {
            frames: recorder.frames(),
        });
    }
    Ok(got)
}
