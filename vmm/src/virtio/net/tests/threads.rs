//! A queue pair in its thread.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::driver::{Driver, WRITE, memory};
use crate::virtio::buffers::Buffers;
use crate::virtio::net::fault::Fault;
use crate::virtio::net::receive::Receive;
use crate::virtio::net::ring::Ring;
use crate::virtio::net::transmit::Transmit;
use crate::virtio::net::user::QueuePair;

const DATA: u64 = 0x20_0000;

/// Waits for what a thread is about to do; a test that waits in vain fails by its own time limit.
fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Runs a queue pair while `drive` plays the driver and the network; how the pair ended.
fn with_pair(drive: impl FnOnce(&Driver, &Driver, &UnixDatagram, &EventFd)) -> Result<(), Fault> {
    let memory = memory();
    let receive = Driver::new(&memory, 0, 64);
    let transmit = Driver::new(&memory, 0x1_0000, 64);
    let (tap, network) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    let stop = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let buffers = || Buffers::new(memory.clone());
    let (active_receive, active_transmit) = (receive.active(true), transmit.active(true));
    let kicks = [
        active_receive.kick.try_clone().unwrap(),
        active_transmit.kick.try_clone().unwrap(),
    ];
    let [receive_kick, transmit_kick] = kicks;
    let receiver = Receive::new(Ring::new(&memory, active_receive), buffers(), true);
    let transmitter = Transmit::new(Ring::new(&memory, active_transmit), buffers());
    let mut pair = QueuePair {
        tap,
        receive: (receiver, receive_kick),
        transmit: (transmitter, transmit_kick),
    };
    let stopping = stop.try_clone().unwrap();
    let thread = thread::spawn(move || pair.run(&stopping));
    drive(&receive, &transmit, &network, &stop);
    thread.join().unwrap()
}

#[test]
fn packets_go_both_ways_until_it_is_stopped() {
    let result = with_pair(|receive, transmit, network, stop| {
        let mut buffer = [0; 2000];
        for round in 0..500u64 {
            transmit.post(&[(DATA, 100, 0)]);
            transmit.kick();
            assert_eq!(network.recv(&mut buffer).unwrap(), 100);
            until(|| !transmit.take_used().is_empty());
            // Frames before buffers, and buffers before frames.
            if round % 2 == 0 {
                network.send(&[1; 80]).unwrap();
                receive.post(&[(DATA + 4096, 2000, WRITE)]);
                receive.kick();
            } else {
                receive.post(&[(DATA + 4096, 2000, WRITE)]);
                receive.kick();
                network.send(&[1; 80]).unwrap();
            }
            let mut used = Vec::new();
            until(|| {
                used = receive.take_used();
                !used.is_empty()
            });
            assert_eq!(used[0].1, 80);
        }
        stop.write(1).unwrap();
    });
    assert!(result.is_ok());
}

#[test]
fn a_full_network_does_not_stop_the_other_way() {
    let result = with_pair(|receive, transmit, network, stop| {
        // The socket takes fewer frames than that.
        for _ in 0..64 {
            transmit.post(&[(DATA, 60_000, 0)]);
        }
        transmit.kick();
        receive.post(&[(DATA + 0x1_0000, 2000, WRITE)]);
        receive.kick();
        network.send(&[1; 80]).unwrap();
        until(|| !receive.take_used().is_empty());
        let mut buffer = vec![0; 70_000];
        for _ in 0..64 {
            assert_eq!(network.recv(&mut buffer).unwrap(), 60_000);
        }
        let mut used = 0;
        until(|| {
            used += transmit.take_used().len();
            used == 64
        });
        stop.write(1).unwrap();
    });
    assert!(result.is_ok());
}

#[test]
fn a_mistake_ends_the_thread() {
    let result = with_pair(|_, transmit, _, _| {
        transmit.post(&[(DATA, 100, WRITE)]);
        transmit.kick();
    });
    assert!(matches!(result, Err(Fault::WrongWay)));
}

#[test]
fn it_can_be_stopped_while_a_driver_is_busy() {
    let result = with_pair(|_, transmit, network, stop| {
        let mut buffer = [0; 200];
        stop.write(1).unwrap();
        network.set_nonblocking(true).unwrap();
        for _ in 0..1000 {
            transmit.post(&[(DATA, 100, 0)]);
            transmit.kick();
            let _ = network.recv(&mut buffer);
        }
    });
    // It may have seen more available than the queue has room for.
    assert!(matches!(result, Ok(()) | Err(Fault::Queue(_))));
}
