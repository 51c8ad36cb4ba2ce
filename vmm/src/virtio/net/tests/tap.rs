//! The whole device, over a TAP in a network namespace of its own, where the process may make one.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use virtio_bindings::virtio_net as net;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{Driver, Status, WRITE, memory};
use crate::virtio::net::features::bit;
use crate::virtio::net::header::HEADER;
use crate::virtio::net::{Net, NetConfig};
use crate::virtio::{Activation, DeviceStatus, VirtioDevice};

const DATA: u64 = 0x20_0000;
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Runs a test in a namespace of its own, unless there can be none.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: the call changes what the thread's sockets are of, and no memory.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 || NetConfig::new("t0").is_err() {
            println!("skipped: no network namespace can be made here");
        } else if !std::path::Path::new("/dev/net/tun").exists() {
            println!("skipped: there is no /dev/net/tun");
        } else {
            test();
        }
    });
    thread.join().unwrap();
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

fn open(text: &str) -> Result<Net, String> {
    Net::open(&text.parse().unwrap()).map_err(|error| error.to_string())
}

fn activate(device: &mut Net, queues: &[&Driver], status: &Arc<Status>, features: u64) {
    let activation = Activation {
        memory: queues[0].memory.clone(),
        features,
        queues: queues
            .iter()
            .map(|driver| Some(driver.active(true)))
            .collect(),
        config_changed: Arc::clone(&queues[0].calls) as _,
        status: Arc::clone(status) as Arc<dyn DeviceStatus>,
    };
    device.activate(activation).unwrap();
}

/// An ARP request of the guest's for 10.0.0.1, with the header before it.
fn request() -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend([0xff; 6]);
    frame.extend(GUEST);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST);
    frame.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    frame
}

#[test]
fn a_guest_and_its_host_talk() {
    in_namespace(|| {
        let mut device = open("tap=t0,mac=02:00:00:00:00:09,backend=user,mtu=9000").unwrap();
        ip("addr add 10.0.0.1/24 dev t0");
        let mut config = [0xff; 16];
        device.read_config(0, &mut config);
        assert_eq!(config[..6], GUEST);
        assert_eq!(config[6..], [1, 0, 1, 0, 0x28, 0x23, 0, 0, 0, 0]);
        assert_ne!(device.features() & bit(net::VIRTIO_NET_F_MTU), 0);

        // Twice: the driver may come again after a reset.
        for round in 0..2 {
            let memory = memory();
            let receive = Driver::new(&memory, 0, 16);
            let transmit = Driver::new(&memory, 0x1_0000, 16);
            let control = Driver::new(&memory, 0x2_0000, 16);
            let status = Arc::default();
            let features = device.features() | 1 << 32;
            let drivers = [&receive, &transmit, &control];
            activate(&mut device, &drivers, &status, features);
            let data = GuestAddress(DATA);
            memory.write_slice(&request(), data).unwrap();
            receive.post(&[(DATA + 4096, 2000, WRITE)]);
            receive.kick();
            transmit.post(&[(DATA, request().len() as u32, 0)]);
            transmit.kick();
            let mut used = Vec::new();
            // The namespace may say something of its own first (IPv6).
            let reply = loop {
                used.append(&mut receive.take_used());
                let Some((_, len)) = used.pop() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let mut frame = vec![0; len as usize];
                let from = GuestAddress(DATA + 4096);
                memory.read_slice(&mut frame, from).unwrap();
                if frame[HEADER + 12..HEADER + 14] == [0x08, 0x06] {
                    break frame;
                }
                receive.post(&[(DATA + 4096, 2000, WRITE)]);
                receive.kick();
            };
            assert_eq!(reply[HEADER..HEADER + 6], GUEST, "round {round}");
            assert_eq!(reply[HEADER + 20..HEADER + 22], [0, 2], "an ARP reply");
            assert_eq!(reply[10..12], [1, 0]);

            // A mistake stops the device, and is told; the next driver has a new start.
            transmit.post(&[(DATA, 5, 0)]);
            transmit.kick();
            while status.0.lock().unwrap().is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(status.0.lock().unwrap()[0].contains("shorter than its header"));
            device.reset();
        }
    });
}

#[test]
fn taps_that_cannot_be_are_named_with_a_remedy() {
    in_namespace(|| {
        let device = open("tap=t0,backend=user").unwrap();
        let error = open("tap=t0,backend=user").unwrap_err();
        assert!(error.contains("TAP t0: it is in use"), "{error}");
        drop(device);
        // It went with its device.
        assert!(
            !Command::new("ip")
                .args(["link", "show", "t0"])
                .output()
                .unwrap()
                .status
                .success()
        );

        ip("tuntap add mode tap name one");
        assert!(open("tap=one,backend=user").is_ok());
        let error = open("tap=one,backend=user,queues=2").unwrap_err();
        assert!(error.contains("multi_queue name one"), "{error}");

        ip("tuntap add mode tap multi_queue name many");
        let device = open("tap=many,backend=user,queues=4").unwrap();
        assert_ne!(device.features() & bit(net::VIRTIO_NET_F_MQ), 0);
        assert_eq!(device.queue_sizes().len(), 9);
        let error = open("tap=many,backend=user,queues=2").unwrap_err();
        assert!(error.contains("TAP many: it is in use"), "{error}");
        drop(device);
        assert!(open("tap=many,backend=user").is_ok());

        ip("tuntap add mode tun name l3");
        let error = open("tap=l3,backend=user").unwrap_err();
        assert!(error.contains("no TAP of this kind"), "{error}");
        let error = open("tap=lo,backend=user").unwrap_err();
        assert!(error.contains("no TAP of this kind"), "{error}");

        if !std::path::Path::new("/dev/vhost-net").exists() {
            let error = open("tap=t0").unwrap_err();
            assert!(error.contains("modprobe vhost_net"), "{error}");
        }
        let error = open("tap=t0,vhostfd=999").unwrap_err();
        assert!(error.contains("descriptor 999"), "{error}");
    });
}

#[test]
fn a_driver_chooses_its_queues() {
    in_namespace(|| {
        let mut device = open("tap=t0,backend=user,queues=2,mac=02:00:00:00:00:09").unwrap();
        let memory = memory();
        let drivers: Vec<Driver> = (0..5)
            .map(|number| Driver::new(&memory, 0x1_0000 * number, 16))
            .collect();
        let all: Vec<&Driver> = drivers.iter().collect();
        let status = Arc::default();
        let features = device.features() | 1 << 32;
        activate(&mut device, &all, &status, features);
        let control = all[4];
        for (command, answer) in [
            (&[4u8, 0, 2, 0][..], 0u8),
            (&[4, 0, 1, 0], 0),
            (&[4, 0, 1, 0], 0),
            (&[4, 0, 3, 0], 1),
            (&[1, 1, 2, 3, 4, 5, 6, 7], 0),
            (&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
            (&[5, 0, 0, 8, 0, 0, 0, 0, 0, 0], 1),
        ] {
            memory.write_slice(command, GuestAddress(DATA)).unwrap();
            let at = GuestAddress(DATA + 4096);
            memory.write_obj(9u8, at).unwrap();
            control.post(&[(DATA, command.len() as u32, 0), (at.0, 1, WRITE)]);
            control.kick();
            while control.take_used().is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
            let got: u8 = memory.read_obj(at).unwrap();
            assert_eq!(got, answer, "{command:?}");
        }
        let mut mac = [0; 6];
        device.read_config(0, &mut mac);
        assert_eq!(mac, [2, 3, 4, 5, 6, 7]);
        assert!(status.0.lock().unwrap().is_empty());
        device.reset();
        device.read_config(0, &mut mac);
        assert_eq!(
            mac,
            [2, 0, 0, 0, 0, 9],
            "the next driver has the first address"
        );
    });
}
