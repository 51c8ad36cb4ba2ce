//! Bridges in network namespaces of their own, which stand for guests, on a NIC that is a file: all
//! but the calls that leave a guest, and interrupts.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../../tests/devices/mod.rs"]
mod devices;
mod guest;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::thread;
use std::time::Duration;

use self::guest::{Lan, ip, link, until};

#[test]
fn programs_reach_each_other_over_all_queues() {
    Lan::run(|lan| {
        let [a, b] = [0, 1].map(|port| lan.guest(port));
        let bridges = [&a, &b].map(|guest| guest.start(&["--mtu", "9000", "--queues", "all"]));
        b.inside(|| {
            let link = link("postern0");
            assert!(
                link.contains("mtu 9000") && link.contains("02:00:00:00:00:01"),
                "{link}"
            );
        });
        guest::exchange(&a, &b, 100, 8000);
        for (bridge, guest) in bridges.into_iter().zip([&a, &b]) {
            let counters = guest.inside(|| bridge.counters());
            assert_eq!(counters["queues"].as_array().unwrap().len(), 2);
            assert!(guest::sum(&counters, "to_nic_frames") >= 100, "{counters}");
            assert!(
                guest::sum(&counters, "to_interface_frames") >= 100,
                "{counters}"
            );
            assert_eq!(guest::sum(&counters, "dropped_no_room"), 0, "{counters}");
            assert_eq!(bridge.end(), Some(0));
            guest.inside(|| assert_eq!(link("postern0"), "", "it is gone"));
        }
    });
}

#[test]
fn large_segments_pass_whole_and_none_is_lost() {
    const SIZE: usize = 16 << 20;
    Lan::run(|lan| {
        for options in [&["--queues", "1"][..], &["--queues", "1", "--no-offloads"]] {
            let [a, b] = [0, 1].map(|port| lan.guest(port));
            let (sender, receiver) = (a.start(options), b.start(options));
            let listener = b.inside(|| TcpListener::bind("10.0.0.2:80").unwrap());
            let read = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all
            });
            let bytes: Vec<u8> = (0..SIZE).map(|at| ((at / 7) ^ (at >> 16)) as u8).collect();
            a.inside(|| {
                TcpStream::connect("10.0.0.2:80")
                    .unwrap()
                    .write_all(&bytes)
                    .unwrap()
            });
            assert!(read.join().unwrap() == bytes, "the bytes are others");
            let counters = a.inside(|| sender.counters());
            let frames = guest::sum(&counters, "to_nic_frames");
            let whole = guest::sum(&counters, "to_nic_bytes") / frames > 1514;
            assert_eq!(whole, options.len() == 2, "{counters}");
            assert_eq!([sender.end(), receiver.end()], [Some(0); 2]);
        }
    });
}

#[test]
fn a_second_bridge_is_refused_by_name() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        let first = a.start(&[]);
        let said = a.fail(&[]);
        assert!(
            said.contains("a postern-bridge runs with postern0"),
            "{said}"
        );
        let said = a.fail(&["--tap", "other0"]);
        assert!(said.contains("queue 0 of the port is in use"), "{said}");
        a.inside(|| assert_eq!(link("other0"), "", "nothing is left of it"));
        // One that is killed leaves all to the next.
        first.kill();
        assert_eq!(a.start(&[]).end(), Some(0));
    });
}

#[test]
fn no_other_program_takes_the_bridges_place() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        // A name that any program of the guest can take.
        let squatter = a.inside(|| {
            let name = SocketAddr::from_abstract_name("postern-bridge/postern0").unwrap();
            UnixListener::bind_addr(&name).unwrap()
        });
        let bridge = a.start(&["--user", "nobody"]);
        let folder = fs::metadata("/run/postern-bridge").unwrap();
        assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o700));
        // One that could not remove its socket leaves it to the next, and so does one that is killed.
        assert_eq!(bridge.end(), Some(0));
        a.start(&[]).kill();
        let last = a.start(&[]);
        assert!(a.inside(|| last.counters())["interface"] == "postern0");
        assert_eq!(last.end(), Some(0));
        drop(squatter);
    });
}

#[test]
fn a_tap_of_others_is_refused_and_one_that_is_free_is_reset() {
    Lan::run(|lan| {
        let (a, b) = (lan.guest(0), lan.guest(1));
        let other = b.start(&[]);
        a.inside(|| ip("tuntap add mode tap multi_queue name t0").unwrap());
        let user = a.inside(|| {
            let tap = postern_tap::Tap::open("t0", postern_tap::Kind::MultiQueue).unwrap();
            tap.set_offloads(postern_tap::offload::CSUM | postern_tap::offload::TSO4)
                .unwrap();
            tap
        });
        let said = a.fail(&["--tap", "t0"]);
        assert!(said.contains("TAP t0: it is in use"), "{said}");
        // Its offloads stay: nothing of the user's end is seen by the kernel.
        std::mem::forget(user);
        let said = a.fail(&["--tap", "t0"]);
        assert!(said.contains("in use"), "{said}");
        a.inside(|| ip("tuntap add mode tap name t1").unwrap());
        let said = a.fail(&["--tap", "t1", "--queues", "all"]);
        assert!(said.contains("it was made for one"), "{said}");
        let bridge = a.start_as("t1", &["--tap", "t1"]);
        guest::exchange(&a, &b, 1, 1000);
        assert_eq!([bridge.end(), other.end()], [Some(0); 2]);
        a.inside(|| {
            assert!(
                link("t1").contains("NO-CARRIER"),
                "the administrator's stays"
            )
        });
    });
}

#[test]
fn an_interface_stays_without_a_carrier_if_it_is_to() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        assert_eq!(a.start(&["--persist"]).end(), Some(0));
        a.inside(|| {
            assert!(
                link("postern0").contains("NO-CARRIER"),
                "{}",
                link("postern0")
            )
        });
        let again = a.spawn("postern0", &["--persist"]);
        a.inside(|| {
            until("a carrier", || link("postern0").contains("LOWER_UP"));
            let addresses = guest::run("ip", "addr show postern0").unwrap();
            assert!(addresses.contains("10.0.0.1/24"), "{addresses}");
        });
        again.kill();
        a.inside(|| {
            assert!(
                link("postern0").contains("NO-CARRIER"),
                "also when it is killed"
            )
        });
    });
}

#[test]
fn a_receiver_that_never_reads_keeps_nobody_for_ever() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        // Its port is attached, and nobody reads it.
        let bridge = a.start(&["--queues", "1", "--hold", "20"]);
        let counters = a.inside(|| {
            let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
            socket.set_broadcast(true).unwrap();
            let mut counters = bridge.counters();
            until("frames that are given up", || {
                for _ in 0..100 {
                    // The queue of the interface may be full.
                    let _ = socket.send_to(&[0; 1000], "10.0.0.255:9");
                }
                counters = bridge.counters();
                guest::sum(&counters, "dropped_no_room") != 0
            });
            counters
        });
        assert!(guest::sum(&counters, "held") != 0, "{counters}");
        assert_eq!(guest::sum(&counters, "refused"), 0, "{counters}");
        assert_eq!(bridge.end(), Some(0));
    });
}

#[test]
fn the_interface_becomes_a_member_of_a_bridge() {
    Lan::run(|lan| {
        let [a, b] = [0, 1].map(|port| lan.guest(port));
        let far = b.start(&[]);
        a.inside(|| {
            ip("link add br0 type bridge").unwrap();
            ip("addr add 10.0.0.1/24 dev br0").unwrap();
            ip("link set br0 up").unwrap();
        });
        let near = a.spawn("postern0", &["--bridge", "br0"]);
        a.inside(|| {
            until("the interface", || link("postern0").contains("master br0"));
        });
        guest::exchange(&a, &b, 3, 1000);
        assert_eq!([near.end(), far.end()], [Some(0); 2]);
        let said = a.fail(&["--bridge", "no-such"]);
        assert!(said.contains("no-such"), "{said}");
    });
}

#[test]
fn it_says_when_it_is_ready_and_keeps_no_right() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let socket = path.to_str().unwrap();
        let bridge = a.spawn_with(
            "postern0",
            &["--user", "nobody"],
            &[("NOTIFY_SOCKET", socket)],
        );
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
        let status = fs::read_to_string(format!("/proc/{}/status", bridge.id())).unwrap();
        for line in [
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        assert!(!status.contains("Uid:\t0"), "{status}");
        assert_eq!(bridge.end(), Some(0));
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"STOPPING=1");
    });
}

#[test]
fn what_cannot_be_begun_is_one_sentence() {
    Lan::run(|lan| {
        let a = lan.guest(0);
        for (options, expected) in [
            (
                &["--mtu", "40000"][..],
                "an MTU of 40000 bytes is too large",
            ),
            (&["--user", "no-such-user"], "there is no user no-such-user"),
            (&["--tap", "a b"], "no name of a network interface"),
            (&["--macvtap", "no-such"], "no-such"),
            (&["--stats"], "no postern-bridge runs with postern0"),
        ] {
            let said = a.fail(options);
            assert!(
                said.contains(expected) && said.trim().lines().count() == 1,
                "{said}"
            );
        }
    });
}
