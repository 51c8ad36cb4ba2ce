//! Uplinks on real devices: TAPs and veth pairs in network namespaces of their own.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../net/mod.rs"]
mod net;

mod asleep;
mod links;
mod offloads;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;

use net::{Lists, Wire, frame, in_namespace, ip, is_ours, tagged, veth, wait_until};
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::uplink::xdp::{Mode, XdpSocket};
use postern_nic_owner::uplink::{
    Device, Pump, PumpThread, PumpWait, Stop, Uplink, UplinkConfig, UplinkError,
};

const MAX_FRAME: usize = postern_abi::window::MAX_FRAME as usize;

/// Frame lengths around what headers, batches, chunks and rings make special.
const LENGTHS: [usize; 10] = [14, 15, 59, 60, 64, 65, 1000, 1513, 1514, 128];
const JUMBO: [usize; 9] = [60, 1514, 3839, 3840, 3841, 4096, 4097, 8193, 9014];

fn config(text: &str) -> UplinkConfig {
    text.parse().unwrap()
}

/// Opens a device; `Err` with a reason to skip when this kernel has none of its kind. One that was
/// just closed may be held for a moment by a child of another test, between fork and exec.
fn open(text: &str) -> Result<Uplink, String> {
    let mut result = Uplink::open(&config(text));
    wait_until("the end of the device before", || {
        if matches!(result, Err(UplinkError::Busy { .. })) {
            result = Uplink::open(&config(text));
        }
        !matches!(result, Err(UplinkError::Busy { .. }))
    });
    match result {
        Ok(device) => Ok(device),
        Err(error @ (UplinkError::Unsupported { .. } | UplinkError::Denied { .. })) => {
            Err(format!("{text}: {error}"))
        }
        Err(error) => panic!("{text}: {error}"),
    }
}

/// Sends frames through the uplink both ways, window by window, and compares every byte and the
/// order.
fn exchange(device: Uplink, drive: PumpWait, wire: &Wire, lengths: &[usize], tag: Option<u16>) {
    // More frames than any ring has entries.
    const WINDOWS: u64 = 100;
    let port = Lists::default();
    let bridge = PumpThread::start(device, port.clone(), drive).unwrap();
    let make = |number: u64| {
        let length = lengths[number as usize % lengths.len()];
        match tag {
            Some(vlan) => tagged(length.max(22) + 4, number, vlan),
            None => frame(length, number),
        }
    };
    let mut bytes = 0;
    for window in 0..WINDOWS {
        let numbers = window * 50..(window + 1) * 50;
        for number in numbers.clone() {
            wire.send(&make(number));
            port.give(make(!number));
        }
        for number in numbers {
            let expected = make(number);
            bytes += expected.len() as u64;
            assert!(port.take() == expected, "to the port, frame {number}");
            let expected = make(!number);
            assert!(wire.receive() == expected, "to the wire, frame {number}");
        }
    }
    // What was sent to the wire does not come back to the port.
    let counters = bridge.counters();
    bridge.stop().unwrap();
    let counters = counters.snapshot();
    assert!(
        port.try_take().is_none_or(|frame| !is_ours(&frame)),
        "an echo"
    );
    let (inward, outward) = (counters.to_port, counters.to_interface);
    assert_eq!(outward.frames, WINDOWS * 50);
    assert!(inward.frames >= WINDOWS * 50 && inward.bytes >= bytes);
    for way in [inward, outward] {
        let lost = way.too_long + way.too_short + way.offload + way.refused + way.missed;
        assert_eq!(lost, 0, "{way:?}");
        assert!(way.batches <= way.frames, "{way:?}");
    }
}

#[test]
fn tap_passes_every_byte_both_ways() {
    in_namespace(|| {
        for drive in [PumpWait::default(), PumpWait::Busy] {
            let device = open("tap:tap0")?;
            let wire = Wire::open("tap0");
            exchange(device, drive, &wire, &LENGTHS, None);
        }
        let device = open("tap:tap0,mtu=9000")?;
        let wire = Wire::open("tap0");
        exchange(device, PumpWait::default(), &wire, &JUMBO, None);
        let device = open("tap:tap0")?;
        let wire = Wire::open("tap0");
        exchange(device, PumpWait::default(), &wire, &LENGTHS, Some(0x2123));
        Ok(())
    });
}

#[test]
fn packet_passes_every_byte_both_ways() {
    in_namespace(|| {
        veth(9000)?;
        let wire = Wire::open("far");
        for drive in [PumpWait::default(), PumpWait::Busy] {
            exchange(open("packet:near")?, drive, &wire, &LENGTHS, None);
        }
        exchange(
            open("packet:near")?,
            PumpWait::default(),
            &wire,
            &JUMBO,
            None,
        );
        exchange(
            open("packet:near")?,
            PumpWait::default(),
            &wire,
            &LENGTHS,
            Some(0x2123),
        );
        Ok(())
    });
}

#[test]
fn what_the_host_sends_itself_is_not_received() {
    in_namespace(|| {
        veth(1500)?;
        let (near, far) = (Wire::open("near"), Wire::open("far"));
        for text in ["packet:near", "xdp:near"] {
            let port = Lists::default();
            let bridge = PumpThread::start(open(text)?, port.clone(), PumpWait::default()).unwrap();
            for number in 0..10 {
                near.send(&frame(100, number));
                assert!(far.receive() == frame(100, number));
            }
            far.send(&frame(100, 10));
            assert!(port.take() == frame(100, 10), "{text}");
            bridge.stop().unwrap();
        }
        Ok(())
    });
}

#[test]
fn xdp_in_copy_mode_passes_every_byte_both_ways() {
    in_namespace(|| {
        veth(1500)?;
        let wire = Wire::open("far");
        for drive in [PumpWait::default(), PumpWait::Busy] {
            exchange(open("xdp:near,mode=copy")?, drive, &wire, &LENGTHS, None);
        }
        Ok(())
    });
}

#[test]
fn xdp_passes_jumbo_frames_in_several_chunks() {
    in_namespace(|| {
        veth(9000)?;
        let wire = Wire::open("far");
        let device = open("xdp:near")?;
        if device.longest() < MAX_FRAME {
            return Err("this kernel's AF_XDP has no frames of several chunks".into());
        }
        exchange(device, PumpWait::default(), &wire, &JUMBO, None);
        Ok(())
    });
}

#[test]
fn xdp_zero_copy_works_or_is_refused_clearly() {
    in_namespace(|| {
        veth(1500)?;
        let wire = Wire::open("far");
        match XdpSocket::open("near", 0, Mode::ZeroCopy) {
            Ok(device) => {
                assert!(device.is_zero_copy());
                let device = Uplink::Xdp(Box::new(device));
                exchange(device, PumpWait::default(), &wire, &LENGTHS, None);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                let named = text.contains("near") && text.contains("zero-copy");
                assert!(named || text.contains("AF_XDP"), "{text}");
                // The refused attempt left nothing behind.
                exchange(
                    open("xdp:near,mode=auto")?,
                    PumpWait::default(),
                    &wire,
                    &LENGTHS,
                    None,
                );
                Err(format!("zero-copy: {text}"))
            }
        }
    });
}

/// The Internet checksum over a UDP datagram in an IPv4 frame, which is 0xffff when right.
fn udp_sum(frame: &[u8]) -> u16 {
    let udp = &frame[34..];
    let mut data = frame[26..34].to_vec();
    data.extend([0, 17]);
    data.extend((udp.len() as u16).to_be_bytes());
    data.extend(udp);
    data.resize(data.len().next_multiple_of(2), 0);
    let mut sum: u32 = 0;
    for word in data.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Has the host's own stack send datagrams out of `interface` and checks their checksums at the
/// port.
fn checksums(device: Uplink, interface: &str) -> Result<(), String> {
    ip(&format!("addr add 10.9.0.1/24 dev {interface}"))?;
    ip(&format!(
        "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {interface}"
    ))?;
    let port = Lists::default();
    let bridge = PumpThread::start(device, port.clone(), PumpWait::default()).unwrap();
    let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
    for length in [0usize, 1, 2, 17, 18, 19, 1000, 1471, 1472] {
        socket
            .send_to(&vec![0xa7; length], "10.9.0.2:5000")
            .unwrap();
        let found = loop {
            match port.try_take() {
                Some(frame) if frame.get(23) == Some(&17) && frame[12..14] == [8, 0] => {
                    break frame;
                }
                Some(_) => {}
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(found.len(), 42 + length);
        assert_ne!(found[40..42], [0, 0], "a checksum is there");
        assert_eq!(udp_sum(&found), 0xffff, "datagram of {length} bytes");
    }
    assert_eq!(bridge.counters().snapshot().to_port.offload, 0);
    bridge.stop().unwrap();
    Ok(())
}

#[test]
fn checksums_left_to_hardware_are_completed() {
    in_namespace(|| {
        veth(1500)?;
        checksums(open("packet:near")?, "far")
    });
    in_namespace(|| checksums(open("tap:tap0")?, "tap0"));
}

#[test]
fn datagrams_that_the_host_left_in_one_are_cut() {
    in_namespace(|| {
        veth(1500)?;
        let device = open("packet:near")?;
        ip("addr add 10.9.0.1/24 dev far")?;
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev far")?;
        let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
        net::set_segment(&socket, 700)?;
        let port = Lists::default();
        let bridge = PumpThread::start(device, port.clone(), PumpWait::default()).unwrap();
        // 86 datagrams a call: more than a batch.
        let data: Vec<u8> = (0..60_000u32)
            .map(|number| (number * 7 % 251) as u8)
            .collect();
        for _ in 0..20 {
            socket.send_to(&data, "10.9.0.2:5000").unwrap();
            let mut found: Vec<u8> = Vec::new();
            while found.len() < data.len() {
                let Some(frame) = port.try_take() else {
                    std::thread::yield_now();
                    continue;
                };
                if frame.get(23) == Some(&17) && frame[12..14] == [8, 0] {
                    assert_eq!(udp_sum(&frame), 0xffff);
                    assert_eq!(frame.len(), 42 + 700.min(data.len() - found.len()));
                    found.extend(&frame[42..]);
                }
            }
            assert!(found == data);
        }
        let counters = bridge.counters().snapshot().to_port;
        assert_eq!((counters.too_long, counters.offload), (0, 0));
        bridge.stop().unwrap();
        Ok(())
    });
}

/// One end of two ports that are joined.
#[derive(Clone, Default)]
struct End(Lists, Lists);

impl FramePort for End {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        self.0.send(frames)
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        while let Some(frame) = self.1.try_take() {
            self.1.give(frame);
        }
        self.1.receive(most, sink)
    }
}

/// TCP between two hosts' stacks, through uplinks of two ports that are joined: segments are cut,
/// checksums completed, nothing is lost that TCP would not send again.
fn tcp_passes<P: FramePort + Send + 'static>(ports: impl FnOnce() -> [P; 2] + Send) {
    in_namespace(|| {
        ip("link add near mtu 1500 type veth peer name far mtu 1500")?;
        ip("link add near2 mtu 1500 type veth peer name far2 mtu 1500")?;
        for interface in ["near", "near2", "far"] {
            ip(&format!("link set {interface} up"))?;
        }
        // A second namespace, which a thread keeps.
        let (sender, thread) = mpsc::channel();
        let (done, end) = mpsc::channel::<()>();
        let data: Vec<u8> = (0..8 << 20u32)
            .map(|number: u32| (number * 31 % 253) as u8)
            .collect();
        std::thread::scope(|scope| {
            let expected = &data;
            // Dropped on every way out, which ends the other thread.
            let done = done;
            scope.spawn(move || {
                // SAFETY: only this thread moves.
                let (made, id) = unsafe { (libc::unshare(libc::CLONE_NEWNET), libc::gettid()) };
                assert_eq!(made, 0);
                sender.send(id).unwrap();
                let Ok(()) = end.recv() else { return };
                ip("addr add 10.9.0.2/24 dev far2").unwrap();
                ip("link set far2 up").unwrap();
                let listener = TcpListener::bind("10.9.0.2:5000").unwrap();
                sender.send(0).unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                let mut found = Vec::new();
                stream.read_to_end(&mut found).unwrap();
                assert!(found == *expected, "{} bytes", found.len());
                stream.write_all(&found).unwrap();
                drop(stream);
                // The namespace ends with this thread.
                let _ = end.recv();
            });
            let id = thread.recv().unwrap();
            ip(&format!(
                "link set far2 netns /proc/{}/task/{id}/ns/net",
                std::process::id()
            ))?;
            ip("addr add 10.9.0.1/24 dev far")?;
            let [first, second] = ports();
            let bridges = [
                PumpThread::start(open("packet:near")?, first, PumpWait::default()).unwrap(),
                PumpThread::start(open("packet:near2")?, second, PumpWait::default()).unwrap(),
            ];
            done.send(()).unwrap();
            thread.recv().unwrap();
            let mut stream = TcpStream::connect("10.9.0.2:5000").unwrap();
            stream.write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut found = Vec::new();
            stream.read_to_end(&mut found).unwrap();
            assert!(found == data, "{} bytes", found.len());
            for bridge in bridges {
                let counters = bridge.counters().snapshot();
                assert_eq!(
                    (counters.to_port.too_long, counters.to_port.offload),
                    (0, 0)
                );
                assert_eq!(counters.to_interface.too_long, 0, "nothing is over the MTU");
                bridge.stop().unwrap();
            }
            Ok(())
        })
    });
}

#[test]
fn tcp_connections_of_the_host_pass() {
    tcp_passes(|| {
        let (a, b) = (Lists::default(), Lists::default());
        [End(a.clone(), b.clone()), End(b, a)]
    });
}

/// Frames that are too long or short for one side or the other.
fn bounds(text: &str, far: &str, mtu: u32) -> Result<(), String> {
    let device = open(text)?;
    ip(&format!("link set {far} mtu {mtu}"))?;
    let wire = Wire::open(far);
    let port = Lists::default();
    let bridge = PumpThread::start(device, port.clone(), PumpWait::default()).unwrap();
    // The pump has seen the new MTU once this one has passed.
    wait_until("a frame of the new MTU", || {
        port.give(frame(9015, 0));
        wire.try_receive().is_some_and(|found| found.len() == 9015)
    });
    wire.send(&frame(MAX_FRAME + 1, 1));
    wire.send(&frame(12_000, 2));
    wire.send(&frame(MAX_FRAME, 3));
    assert!(port.take() == frame(MAX_FRAME, 3), "only the third passes");
    wait_until("the count", || {
        bridge.counters().snapshot().to_port.too_long == 2
    });
    let before = bridge.counters().snapshot().to_interface;
    port.give(frame(13, 4));
    port.give(frame(0, 5));
    port.give(frame(MAX_FRAME + 1, 6));
    port.give(frame(100_000, 7));
    port.give(frame(MAX_FRAME, 8));
    loop {
        let found = wire.receive();
        if found.len() == 9015 {
            continue;
        }
        assert!(found == frame(MAX_FRAME, 8), "only the last passes");
        break;
    }
    let after = bridge.counters().snapshot().to_interface;
    assert_eq!(after.too_short - before.too_short, 2);
    assert_eq!(after.too_long - before.too_long, 2);
    bridge.stop().unwrap();
    Ok(())
}

#[test]
fn frames_out_of_bounds_are_dropped_and_counted() {
    in_namespace(|| bounds("tap:tap0,mtu=9000", "tap0", 20_000));
    in_namespace(|| {
        veth(20_000)?;
        bounds("packet:near", "far", 20_000)
    });
    in_namespace(|| {
        veth(20_000)?;
        bounds("xdp:near", "far", 20_000)
    });
}

#[test]
fn frames_longer_than_the_mtu_do_not_leave() {
    in_namespace(|| {
        veth(1500)?;
        for text in ["packet:near", "xdp:near", "tap:tap0"] {
            let port = Lists::default();
            let bridge = PumpThread::start(open(text)?, port.clone(), PumpWait::default()).unwrap();
            let wire = Wire::open(if text == "tap:tap0" { "tap0" } else { "far" });
            port.give(frame(1515, 1));
            port.give(tagged(1519, 2, 7));
            port.give(tagged(1518, 3, 7));
            assert!(wire.receive() == tagged(1518, 3, 7), "{text}");
            assert_eq!(bridge.counters().snapshot().to_interface.too_long, 2);
            bridge.stop().unwrap();
        }
        Ok(())
    });
}

#[test]
fn a_renamed_interface_goes_on() {
    in_namespace(|| {
        veth(1500)?;
        let port = Lists::default();
        let wire = Wire::open("far");
        let bridge =
            PumpThread::start(open("packet:near")?, port.clone(), PumpWait::default()).unwrap();
        // Linux 6.2 and later rename interfaces that are up.
        if ip("link set near name other").is_err() {
            return Err("this kernel renames no interface that is up".into());
        }
        for number in 0..300 {
            wire.send(&frame(100, number));
            assert!(port.take() == frame(100, number));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        bridge.stop().unwrap();
        Ok(())
    });
}

#[test]
fn what_the_port_does_not_take_is_counted() {
    in_namespace(|| {
        veth(1500)?;
        let wire = Wire::open("far");
        let port = Lists::default();
        port.limit(0);
        let bridge =
            PumpThread::start(open("packet:near")?, port.clone(), PumpWait::default()).unwrap();
        for number in 0..100 {
            wire.send(&frame(100, number));
        }
        wait_until("the count", || {
            bridge.counters().snapshot().to_port.refused >= 100
        });
        assert_eq!(bridge.counters().snapshot().to_port.frames, 0);
        bridge.stop().unwrap();
        assert_eq!(port.try_take(), None);
        Ok(())
    });
}

/// A device that nobody empties loses frames; each is either received or counted.
fn conserves(text: &str, sent: u64) -> Result<(), String> {
    let device = open(text)?;
    let wire = Wire::open("far");
    for number in 0..sent {
        wire.send(&frame(8000, number));
    }
    let port = Lists::default();
    let mut pump = Pump::new(device, port.clone(), PumpWait::Busy);
    let stop = Stop::new().unwrap();
    let counters = pump.counters();
    // A block of the AF_PACKET ring may still be open for a millisecond.
    wait_until("every frame", || {
        while pump.step().unwrap() {}
        stop.stop();
        pump.run(&stop).unwrap();
        let now = counters.snapshot().to_port;
        now.frames + now.missed >= sent
    });
    let now = counters.snapshot().to_port;
    assert_eq!(now.frames + now.missed, sent, "{now:?}");
    assert!(now.missed > 0 && now.frames > 100, "{now:?}");
    let mut last = None;
    while let Some(found) = port.try_take() {
        // Byte 14 on follows from the number; those that came are in order and whole.
        let number = (last.map_or(0, |last| last + 1)..sent)
            .find(|&number| frame(24, number)[14..] == found[14..24])
            .expect("a frame that was sent, later than the one before");
        assert!(found == frame(8000, number));
        last = Some(number);
    }
    Ok(())
}

#[test]
fn what_the_kernel_could_not_keep_is_counted() {
    in_namespace(|| {
        veth(9000)?;
        conserves("packet:near", 3000)
    });
    in_namespace(|| {
        veth(9000)?;
        conserves("xdp:near", 3000)
    });
}

#[test]
fn what_cannot_be_opened_is_named_with_a_remedy() {
    in_namespace(|| {
        veth(1500)?;
        ip("link set near down")?;
        for text in ["packet:near", "xdp:near"] {
            let error = Uplink::open(&config(text)).unwrap_err();
            assert!(matches!(error, UplinkError::Down { .. }), "{error}");
            assert!(error.to_string().contains("ip link set near up"), "{error}");
        }
        for text in ["packet:none0", "xdp:none0"] {
            let error = Uplink::open(&config(text)).unwrap_err();
            assert!(matches!(error, UplinkError::Absent { .. }), "{error}");
        }
        let error = Uplink::open(&config("packet:lo")).unwrap_err();
        assert!(matches!(error, UplinkError::NotEthernet { .. }), "{error}");
        ip("link set near up")?;
        // No TAP of the name of another interface, nor twice.
        let error = Uplink::open(&config("tap:near")).unwrap_err();
        assert!(error.to_string().contains("take another name"), "{error}");
        let _tap = open("tap:tap0")?;
        let error = Uplink::open(&config("tap:tap0")).unwrap_err();
        assert!(matches!(error, UplinkError::Busy { .. }), "{error}");
        let _xdp = open("xdp:near")?;
        let error = Uplink::open(&config("xdp:near")).unwrap_err();
        assert!(matches!(error, UplinkError::Busy { .. }), "{error}");
        let error = Uplink::open(&config("xdp:far,queue=7")).unwrap_err();
        assert!(error.to_string().contains("no such queue"), "{error}");
        Ok(())
    });
}

#[test]
fn nothing_is_left_behind() {
    in_namespace(|| {
        veth(1500)?;
        let shown = |interface: &str| {
            let output = Command::new("ip")
                .args(["-d", "link", "show", interface])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        {
            let _tap = open("tap:tap0")?;
            assert!(shown("tap0").contains("tun type tap"));
        }
        wait_until("the end of the TAP", || shown("tap0").is_empty());
        {
            let _packet = open("packet:near")?;
            assert!(shown("near").contains("promiscuity 1"), "{}", shown("near"));
        }
        wait_until("the end of promiscuous mode", || {
            shown("near").contains("promiscuity 0")
        });
        {
            let _xdp = open("xdp:near")?;
            assert!(shown("near").contains("xdp"), "{}", shown("near"));
            assert!(shown("near").contains("promiscuity 1"));
        }
        wait_until("the end of the program", || !shown("near").contains("xdp"));
        wait_until("the end of promiscuous mode", || {
            shown("near").contains("promiscuity 0")
        });
        Ok(())
    });
}

#[test]
fn texts_name_devices() {
    for text in [
        "tap:tap0",
        "tap:tap0,mtu=9000",
        "packet:eth0",
        "xdp:eth0,queue=3,mode=zero-copy",
    ] {
        assert_eq!(config(text).to_string(), text);
    }
    assert_eq!(config("xdp:eth0").to_string(), "xdp:eth0,queue=0,mode=auto");
    for text in [
        "",
        "tap",
        "tap:",
        "tun:x",
        "tap:a b",
        "tap:t,mtu=67",
        "tap:t,mtu=9001",
        "tap:t,mtu=x",
        "tap:t,queue=1",
        "packet:eth0,mtu=1500",
        "xdp:eth0,queue=-1",
        "xdp:eth0,mode=fast",
        "xdp:eth0,",
        "xdp:much-too-long-a-name",
    ] {
        let error = text.parse::<UplinkConfig>().unwrap_err().to_string();
        assert!(
            error.contains("names no uplink") || error.contains("no name"),
            "{error}"
        );
    }
}
