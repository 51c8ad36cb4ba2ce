//! Work that the host's stack leaves to its interfaces, through uplinks and a switch to guests that
//! take it and guests that do not, and back.

use std::fs::File;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use postern_abi::window::{
    FEATURE_CSUM, FEATURES, FLAG_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Geometry,
    MAX_FRAME, RecordHeader,
};
use postern_nic_client::memory::{Memory, draw_secret};
use postern_nic_owner::frame_port::{Frame, FramePort};
use postern_nic_owner::host_port::HostPort;
use postern_nic_owner::uplink::{Pump, PumpThread, PumpWait};

use super::net::{in_namespace, ip, set_segment, veth, wait_until};
use super::{open, tcp_passes, udp_sum};

/// The address that every guest of a test has, as far as hosts know.
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Offset of a UDP header behind Ethernet and IPv4, in bytes.
const UDP: usize = 34;

/// Two ports of a new NIC.
fn ports(lane: u32) -> [HostPort; 2] {
    let geometry = Geometry::new(2, 1, 256 << 10, lane).unwrap();
    let memory = Arc::new(Memory::create(geometry).unwrap());
    [0, 1].map(|number| {
        let port = geometry.port(number).unwrap();
        let mac = [2, b'P', b'S', b'T', 0, number as u8];
        let secret = draw_secret().unwrap();
        memory.switch().admit(port, 1 + number, secret, mac);
        HostPort::open(Arc::clone(&memory), port).unwrap()
    })
}

/// A socket of the host behind `interface`, from which the guest can be reached.
fn socket(interface: &str) -> Result<UdpSocket, String> {
    ip(&format!("addr add 10.9.0.1/24 dev {interface}"))?;
    ip(&format!(
        "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {interface}"
    ))?;
    let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
    socket.connect("10.9.0.2:5000").unwrap();
    Ok(socket)
}

/// The next frame of UDP over IPv4 that a guest receives, with its header.
fn receive(guest: &mut HostPort) -> (RecordHeader, Vec<u8>) {
    let mut found = None;
    wait_until("a datagram", || {
        guest.receive_frames(1, &mut |frame| {
            let bytes = frame.bytes;
            if bytes.get(12..14) == Some(&[8, 0]) && bytes.get(23) == Some(&17) {
                found = Some((frame.header, bytes.to_vec()));
            }
        });
        found.is_some()
    });
    found.unwrap()
}

/// Devices of both kinds that are told of offloads, and the interface that the host's stack uses.
const KINDS: [(&str, &str); 2] = [("packet:near", "far"), ("tap:tap0", "tap0")];

#[test]
fn a_checksum_is_completed_for_the_guests_that_want_it() {
    for (text, interface) in KINDS {
        for features in [0, FEATURE_CSUM] {
            in_namespace(|| {
                veth(1500)?;
                let device = open(text)?;
                let socket = socket(interface)?;
                let [port, mut guest] = ports(256 << 10);
                assert_eq!(guest.agree(features), features);
                let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
                for length in [0, 1, 1471, 1472] {
                    socket.send(&vec![0xa7; length]).unwrap();
                    let (header, frame) = receive(&mut guest);
                    assert_eq!(frame.len(), UDP + 8 + length);
                    let partial = (header.flags, header.csum_start, header.csum_offset);
                    if features == 0 {
                        assert_eq!(partial, (0, 0, 0), "{text}");
                        assert_eq!(udp_sum(&frame), 0xffff, "{text}");
                    } else {
                        assert_eq!(partial, (FLAG_NEEDS_CSUM, UDP as u16, 6), "{text}");
                    }
                }
                pump.stop().unwrap();
                Ok(())
            });
        }
    }
}

/// Sends 40000 bytes as datagrams of 700 bytes, and gives the frames that the guest receives.
fn send_large(socket: &UdpSocket, guest: &mut HostPort) -> Vec<(RecordHeader, Vec<u8>)> {
    let bytes = (0..40_000u32).map(|number| (number * 7 % 251) as u8);
    let data: Vec<u8> = bytes.collect();
    socket.send(&data).unwrap();
    let (mut frames, mut payload) = (Vec::new(), Vec::<u8>::new());
    while payload.len() < data.len() {
        let (header, frame) = receive(guest);
        payload.extend(&frame[UDP + 8..]);
        frames.push((header, frame));
    }
    assert!(payload == data);
    frames
}

#[test]
fn a_large_segment_is_cut_for_the_guests_that_want_it() {
    for (text, interface) in KINDS {
        // The second NIC's rings take no segment of this size.
        for (features, lane) in [(0, 256 << 10), (FEATURES, 256 << 10), (FEATURES, 64 << 10)] {
            in_namespace(|| {
                veth(1500)?;
                let device = open(text)?;
                let socket = socket(interface)?;
                set_segment(&socket, 700)?;
                let [port, mut guest] = ports(lane);
                assert_eq!(guest.agree(features), features);
                let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
                for round in 0..20 {
                    let frames = send_large(&socket, &mut guest);
                    let cut = frames.iter().all(|(header, frame)| {
                        header.gso_type == GSO_NONE && frame.len() <= UDP + 8 + 700
                    });
                    let whole = frames.iter().all(|(header, frame)| {
                        let large = frame.len() > MAX_FRAME as usize;
                        header.gso_type == GSO_UDP_L4 && header.gso_size == 700 && large
                    });
                    let expected = features == FEATURES && lane == 256 << 10;
                    assert_eq!((whole, cut), (expected, !expected), "{text} round {round}");
                    for (header, frame) in &frames {
                        assert!(header.flags != 0 || udp_sum(frame) == 0xffff);
                    }
                }
                let counters = pump.counters().snapshot().to_port;
                assert_eq!((counters.too_long, counters.offload), (0, 0), "{text}");
                pump.stop().unwrap();
                Ok(())
            });
        }
    }
}

#[test]
fn segments_are_cut_as_soon_as_they_are_not_allowed() {
    for (text, interface) in KINDS {
        in_namespace(|| {
            veth(1500)?;
            let device = open(text)?;
            let socket = socket(interface)?;
            set_segment(&socket, 700)?;
            let [port, mut guest] = ports(256 << 10);
            assert_eq!(guest.agree(FEATURES), FEATURES);
            let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
            let is_cut = |frames: Vec<(RecordHeader, Vec<u8>)>| {
                let mut headers = frames.iter().map(|(header, _)| header.gso_type);
                headers.all(|gso_type| gso_type == GSO_NONE)
            };
            assert!(!is_cut(send_large(&socket, &mut guest)), "{text}");
            pump.allow_segments(false);
            wait_until("a cut segment", || is_cut(send_large(&socket, &mut guest)));
            pump.allow_segments(true);
            wait_until("a whole segment", || {
                !is_cut(send_large(&socket, &mut guest))
            });
            pump.stop().unwrap();
            Ok(())
        });
    }
}

/// A UDP datagram to the host, with the sum of the pseudo-header in place of its checksum.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + length).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    let sum = !folded(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    for field in [5000, 4000, length, folded(&pseudo)] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// The sum of 16-bit words, folded.
fn folded(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = bytes.chunks_exact(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn what_a_guest_leaves_to_do_is_done_by_the_hosts_interface() {
    for (text, interface) in KINDS {
        in_namespace(|| {
            veth(1500)?;
            let device = open(text)?;
            let socket = socket(interface)?;
            let [port, mut guest] = ports(256 << 10);
            let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
            // The device and its port have agreed once this has come.
            socket.send(&[1]).unwrap();
            receive(&mut guest);
            assert_eq!(guest.agree(FEATURES), FEATURES);
            let data: Vec<u8> = (0..30_000u32).map(|number| number as u8).collect();
            let header = RecordHeader {
                flags: FLAG_NEEDS_CSUM,
                csum_start: UDP as u16,
                csum_offset: 6,
                ..RecordHeader::default()
            };
            let large = RecordHeader {
                gso_type: GSO_UDP_L4,
                gso_size: 1000,
                ..header
            };
            let (short, long) = (datagram(&data[..99]), datagram(&data));
            let frames = [(header, &short), (large, &long)];
            let frames = frames.map(|(header, bytes)| Frame { header, bytes });
            assert_eq!(guest.send_frames(&frames), 2);
            let mut buffer = [0; 2000];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], data[..99], "{text}");
            for part in data.chunks(1000) {
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], *part, "{text}");
            }
            let counters = pump.counters().snapshot().to_interface;
            assert_eq!((counters.too_long, counters.refused), (0, 0), "{text}");
            pump.stop().unwrap();
            Ok(())
        });
    }
}

#[test]
fn tcp_connections_pass_through_a_switch() {
    // The second NIC's rings take no segment of the size that TCP makes.
    for lane in [256 << 10, 64 << 10] {
        tcp_passes(move || ports(lane));
    }
}

/// Opens a TAP as another program does. One that was just closed may be held for a moment by a child
/// of another test, between fork and exec.
fn open_tap(name: &str, flags: libc::c_int) -> Result<File, String> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.map_err(|error| format!("no /dev/net/tun ({error})"))?;
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    wait_until("the TAP", || {
        // SAFETY: the request takes a `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        let error = std::io::Error::last_os_error();
        let busy = error.raw_os_error() == Some(libc::EBUSY);
        assert!(result >= 0 || busy, "{error}");
        result >= 0
    });
    Ok(file)
}

/// Uses a persistent TAP, and leaves it with offloads, a longer header and an address filter.
fn leave_settings_behind(name: &str) -> Result<(), String> {
    let file = open_tap(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
    let size: libc::c_int = 12;
    // Checksums, TCP segments of both versions (TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6).
    let offloads: libc::c_ulong = 1 | 2 | 4;
    let mut filter = [0u8; 10];
    filter[2..4].copy_from_slice(&1u16.to_ne_bytes());
    filter[4..].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    let fd = file.as_raw_fd();
    // SAFETY: an int, a number and a `struct tun_filter` are what these take.
    let results = unsafe {
        [
            libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const size),
            libc::ioctl(fd, libc::TUNSETOFFLOAD, offloads),
            libc::ioctl(fd, libc::TUNSETTXFILTER, filter.as_ptr()),
        ]
    };
    let error = std::io::Error::last_os_error();
    assert!(results.iter().all(|result| *result >= 0), "{error}");
    Ok(())
}

#[test]
fn a_tap_forgets_what_its_last_user_has_set() {
    in_namespace(|| {
        ip("tuntap add dev tap0 mode tap")?;
        leave_settings_behind("tap0")?;
        let device = open("tap:tap0")?;
        let socket = socket("tap0")?;
        // A port that agrees to nothing: the kernel is to finish all.
        let port = super::Lists::default();
        let pump = PumpThread::start(device, port.clone(), PumpWait::default()).unwrap();
        let mut found = None;
        for length in [11, 1472] {
            socket.send(&vec![0x5a; length]).unwrap();
            wait_until("a datagram", || {
                found = port.try_take();
                found.as_ref().is_some_and(|frame| {
                    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17)
                })
            });
            let frame = found.take().unwrap();
            assert_eq!(frame.len(), UDP + 8 + length);
            assert_eq!(frame[..6], GUEST);
            assert_eq!(udp_sum(&frame), 0xffff);
        }
        set_segment(&socket, 700)?;
        socket.send(&[1; 7000]).unwrap();
        for _ in 0..10 {
            wait_until("a part of a segment", || {
                found = port.try_take();
                found.is_some()
            });
            let frame = found.take().unwrap();
            assert_eq!((frame.len(), udp_sum(&frame)), (UDP + 8 + 700, 0xffff));
        }
        pump.stop().unwrap();
        Ok(())
    });
}

/// A packet socket that sends with a `virtio_net_hdr` before each frame.
struct LargeWire(std::os::fd::OwnedFd);

impl LargeWire {
    fn open(interface: &str) -> LargeWire {
        use std::os::fd::FromRawFd;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all zeros is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        let size = size_of::<libc::sockaddr_ll>() as u32;
        let (on, option) = (1i32, 15); // PACKET_VNET_HDR
        // SAFETY: the name ends in zero, the option takes an int, the address has this size.
        let results = unsafe {
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let value = (&raw const on).cast();
            [
                libc::setsockopt(socket, libc::SOL_PACKET, option, value, 4),
                libc::bind(socket, (&raw const address).cast(), size),
            ]
        };
        assert_eq!(results, [0; 2], "{}", std::io::Error::last_os_error());
        // SAFETY: a new descriptor.
        LargeWire(unsafe { std::os::fd::OwnedFd::from_raw_fd(socket) })
    }

    /// Sends a frame whose checksum, that of TCP, is left to do, and which is to be cut.
    fn send(&self, gso_type: u8, gso_size: u16, transport: usize, frame: &[u8]) {
        let transport = transport as u16;
        let header_length = if gso_type == GSO_NONE {
            0
        } else {
            transport + 20
        };
        let mut message = vec![FLAG_NEEDS_CSUM, gso_type];
        for field in [header_length, gso_size, transport, 16] {
            message.extend(field.to_ne_bytes());
        }
        message.extend(frame);
        // SAFETY: pointer and size are those of the message.
        let sent = unsafe {
            let fd = self.0.as_raw_fd();
            libc::send(fd, message.as_ptr().cast(), message.len(), 0)
        };
        let error = std::io::Error::last_os_error();
        assert_eq!(sent, message.len() as isize, "{error}");
    }
}

/// A TCP header and payload, with the sum of the pseudo-header in place of the checksum.
fn tcp(addresses: &[u8], payload: usize) -> Vec<u8> {
    let length = (20 + payload) as u16;
    let mut pseudo = addresses.to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(length.to_be_bytes());
    let mut bytes = vec![0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0];
    bytes.extend(folded(&pseudo).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.resize(bytes.len() + payload, b'z');
    bytes
}

/// Lengths of the frames that a guest without features receives, whose TCP checksums are right.
fn cut(guest: &mut HostPort, transport: usize, addresses: &[u8], count: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    wait_until("all segments", || {
        guest.receive_frames(16, &mut |frame| {
            assert_eq!(frame.header.flags, 0);
            let part = &frame.bytes[transport..];
            let mut summed = addresses.to_vec();
            summed.extend([0, 6]);
            summed.extend((part.len() as u16).to_be_bytes());
            summed.extend(part);
            summed.resize(summed.len().next_multiple_of(2), 0);
            assert_eq!(folded(&summed), 0xffff, "a TCP checksum");
            lengths.push(frame.bytes.len());
        });
        lengths.len() >= count
    });
    lengths
}

#[test]
fn segments_behind_tags_and_extension_headers_are_cut() {
    in_namespace(|| {
        veth(1500)?;
        let device = open("packet:near")?;
        let [port, mut guest] = ports(256 << 10);
        let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
        let wire = LargeWire::open("far");
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        let tag = |kind: [u8; 2], vid| [kind[0], kind[1], 0, vid];
        let tags = [
            vec![],
            tag([0x81, 0], 5).to_vec(),
            [tag([0x81, 0], 5), tag([0x81, 0], 6)].concat(),
            [tag([0x88, 0xa8], 5), tag([0x81, 0], 6)].concat(),
        ];
        for tags in tags {
            let mut frame = [&GUEST[..], &[2, 0, 0, 0, 0, 1], &tags, &[8, 0, 0x45, 0]].concat();
            frame.extend(3040u16.to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(addresses);
            let transport = frame.len();
            frame.extend(tcp(&addresses, 3000));
            wire.send(GSO_TCPV4, 1000, transport, &frame);
            let length = 1054 + tags.len();
            let found = cut(&mut guest, transport, &addresses, 3);
            assert_eq!(found, [length; 3], "{} bytes of tags", tags.len());
        }
        let mut addresses = [0; 32];
        (addresses[0], addresses[15], addresses[16], addresses[31]) = (0xfd, 1, 0xfd, 2);
        // No extension header, destination options, hop-by-hop options.
        for extension in [None, Some(60), Some(0)] {
            let options: &[u8] = match extension {
                None => &[],
                Some(_) => &[6, 0, 1, 4, 0, 0, 0, 0],
            };
            let mut frame = [
                &GUEST[..],
                &[2, 0, 0, 0, 0, 1],
                &[0x86, 0xdd, 0x60, 0, 0, 0],
            ]
            .concat();
            frame.extend((3020 + options.len() as u16).to_be_bytes());
            frame.extend([extension.unwrap_or(6), 64]);
            frame.extend(addresses);
            frame.extend(options);
            let transport = frame.len();
            frame.extend(tcp(&addresses, 3000));
            wire.send(GSO_TCPV6, 1000, transport, &frame);
            let length = 1074 + options.len();
            let found = cut(&mut guest, transport, &addresses, 3);
            assert_eq!(found, [length; 3], "{extension:?}");
        }
        assert_eq!(pump.counters().snapshot().to_port.offload, 0);
        pump.stop().unwrap();
        Ok(())
    });
}

/// Behind headers that the switch does not know, it takes no checksum that is left to do.
#[test]
fn a_checksum_behind_unknown_headers_is_completed() {
    for features in [0, FEATURE_CSUM] {
        in_namespace(|| {
            veth(1500)?;
            let device = open("packet:near")?;
            let [port, mut guest] = ports(256 << 10);
            assert_eq!(guest.agree(features), features);
            let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
            let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
            // A session of PPPoE (RFC 2516).
            let mut frame = [
                &GUEST[..],
                &[2, 0, 0, 0, 0, 1, 0x88, 0x64, 0x11, 0, 0, 1, 0, 50, 0, 0x21],
            ]
            .concat();
            frame.extend([0x45, 0, 0, 48, 0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(addresses);
            let transport = frame.len();
            frame.extend(tcp(&addresses, 8));
            LargeWire::open("far").send(GSO_NONE, 0, transport, &frame);
            let found = cut(&mut guest, transport, &addresses, 1);
            assert_eq!(found, [frame.len()]);
            pump.stop().unwrap();
            Ok(())
        });
    }
}

/// A TCP connection with a small MSS makes segments of more parts than the switch cuts in one go.
#[test]
fn a_segment_of_very_many_parts_is_cut() {
    for features in [0, FEATURES] {
        in_namespace(|| {
            veth(1500)?;
            let device = open("packet:near")?;
            let [port, mut guest] = ports(256 << 10);
            assert_eq!(guest.agree(features), features);
            let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
            let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
            let mut frame = [&GUEST[..], &[2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]].concat();
            frame.extend(60_040u16.to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(addresses);
            let transport = frame.len();
            frame.extend(tcp(&addresses, 60_000));
            LargeWire::open("far").send(GSO_TCPV4, 100, transport, &frame);
            let found = cut(&mut guest, transport, &addresses, 600);
            assert_eq!(found, [154; 600]);
            assert_eq!(pump.counters().snapshot().to_port.offload, 0);
            pump.stop().unwrap();
            Ok(())
        });
    }
}

/// Large segments that waited in the interface are more than the ring of the port takes at once.
#[test]
fn a_burst_of_large_segments_is_taken() {
    in_namespace(|| {
        let device = open("tap:tap0")?;
        let socket = socket("tap0")?;
        set_segment(&socket, 1400)?;
        let room: i32 = 64 << 20;
        // SAFETY: the option takes an int.
        let result = unsafe {
            let (fd, option) = (socket.as_raw_fd(), libc::SO_SNDBUFFORCE);
            let value = (&raw const room).cast();
            libc::setsockopt(fd, libc::SOL_SOCKET, option, value, 4)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let [port, mut guest] = ports(256 << 10);
        assert_eq!(guest.agree(FEATURES), FEATURES);
        let mut pump = Pump::new(device, port, PumpWait::Busy);
        // The host has nothing to say before it knows that segments may stay whole.
        while pump.step().unwrap() {}
        let before = pump.counters().snapshot().to_port;
        for _ in 0..20 {
            socket.send(&[7; 60_000]).unwrap();
        }
        while pump.step().unwrap() {}
        let after = pump.counters().snapshot().to_port;
        assert_eq!(after.refused, 0);
        assert!(after.bytes - before.bytes >= 20 * 60_000);
        assert!(after.frames - before.frames < 40, "whole segments");
        Ok(())
    });
}

/// Whoever opens a persistent TAP next may not know of offloads.
#[test]
fn a_tap_is_left_without_offloads() {
    in_namespace(|| {
        ip("tuntap add dev tap0 mode tap")?;
        let device = open("tap:tap0")?;
        let [port, _] = ports(256 << 10);
        let pump = PumpThread::start(device, port, PumpWait::default()).unwrap();
        pump.stop().unwrap();
        let tap = open_tap("tap0", libc::IFF_TAP | libc::IFF_NO_PI)?;
        let socket = socket("tap0")?;
        socket.send(&[0x5a; 100]).unwrap();
        let mut frame = [0; 2000];
        loop {
            let length = (&tap).read(&mut frame).unwrap();
            let frame = &frame[..length];
            if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) {
                assert_eq!((length, udp_sum(frame)), (UDP + 8 + 100, 0xffff));
                return Ok(());
            }
        }
    });
}
