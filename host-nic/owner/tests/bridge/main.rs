//! The switch beside Linux' bridge, a second implementation of IEEE 802.1Q: both get the same frames,
//! and the same frames must come out of the same ports.
//!
//! Where the two differ on purpose, the test says so:
//!
//! * Linux without spanning tree forwards frames to 01:80:c2:00:00:00 unless it is told not to, "to keep
//!   loop detection"; the switch filters them unless it is told not to. The test sends none.
//! * An access port of the switch admits no tag but a priority tag; a port of Linux admits the tag of a
//!   VLAN that it is a member of. The switch lets no second tag get in front
//!   (`postern_switch::policy::vlan`), which to Linux is payload. Linux gets no frames that the switch
//!   does not admit for these reasons, and is forgiven what it lets out so.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../net/mod.rs"]
mod net;
#[path = "../../../switch/tests/ports/mod.rs"]
mod ports;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use net::{PATIENCE, in_namespace, ip};
use ports::packet::{tagged, with_tag};
use ports::{BROADCAST, Net, mac};
use postern_nic_client::policy::port::ReservedAddress;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_tap::{Kind, Tap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

const PORTS: u32 = 4;
/// Number of frames of a run.
const FRAMES: u32 = 2000;
/// Number of frames between two changes of a port's settings.
const PERIOD: u32 = 40;
/// Size of `struct virtio_net_hdr`, which is before each frame of a TAP.
const HEADER: usize = 10;
/// The VLANs that ports are members of.
const VIDS: [u16; 4] = [10, 20, 30, 4094];

/// Numbers that follow from a seed (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn some_of<T: Clone>(&mut self, list: &[T]) -> Vec<T> {
        let chosen = list.iter().filter(|_| self.below(2) == 0);
        chosen.cloned().collect()
    }

    fn vlan(&mut self) -> VlanSpec {
        if self.one_in(4) {
            return VlanSpec::Access {
                pvid: self.of(&VIDS),
            };
        }
        let mut members = self.some_of(&VIDS);
        members.push(self.of(&VIDS));

        VlanSpec::Trunk {
            pvid: self.one_in(2).then(|| self.of(&VIDS)),
            untagged: self.some_of(&members),
            members,
        }
    }

    /// Any reserved addresses but those of spanning trees and of MAC control, by their last bytes.
    fn reserved(&mut self) -> Vec<u8> {
        let all: Vec<u8> = (2..16).collect();
        self.some_of(&all)
    }

    fn address(&mut self) -> [u8; 6] {
        match self.below(16) {
            0 => BROADCAST,
            1 => [0x01, 0x00, 0x5e, 0, 0, 7],
            2 => [0x01, 0x80, 0xc2, 0, 0, 1 + self.below(0x20) as u8],
            3 => [0; 6],
            // Of the ports' tenants, and others.
            _ => mac(self.below(8) as u32),
        }
    }

    fn tags(&mut self) -> Vec<(u16, u16)> {
        let count = self.of(&[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 3]);
        let tag = |_| {
            let kind = self.of(&[
                [0x8100; 8],
                [
                    0x8100, 0x8100, 0x8100, 0x8100, 0x8100, 0x8100, 0x88a8, 0x9100,
                ],
            ]
            .concat());
            let vid = match self.below(16) {
                0..3 => 0,
                3 => 4095,
                4 => 50,
                _ => self.of(&VIDS),
            };
            (kind, (self.below(16) as u16) << 12 | vid)
        };
        (0..count).map(tag).collect()
    }
}

/// The VLANs of a port, each with whether its frames leave untagged, and the one of untagged frames.
fn members(vlan: &VlanSpec) -> (BTreeMap<u16, bool>, Option<u16>) {
    let (mut members, native) = match vlan {
        VlanSpec::Access { pvid } => (BTreeMap::new(), Some(*pvid)),
        VlanSpec::Trunk {
            pvid,
            members,
            untagged,
        } => {
            let member = |vid: &u16| (*vid, untagged.contains(vid));
            (members.iter().map(member).collect(), *pvid)
        }
    };
    members.extend(native.map(|vid| (vid, true)));
    (members, native)
}

/// Whether the switch refuses a frame with these tags, which Linux would admit.
fn is_stricter(vlan: &VlanSpec, tags: &[(u16, u16)]) -> bool {
    match tags {
        [(0x8100, tci), rest @ ..] if tci & 0xfff == 0 => !rest.is_empty(),
        [(0x8100, _), ..] => matches!(vlan, VlanSpec::Access { .. }),
        rest => !rest.is_empty(),
    }
}

/// Runs commands of iproute2's `bridge`.
fn bridge(commands: &str) -> Result<(), String> {
    let mut child = Command::new("bridge")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the command bridge cannot be run ({error}); install iproute2"))?;
    let mut input = child.stdin.take().unwrap();
    input.write_all(commands.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`bridge` failed: {}\n{commands}", said.trim()))
        }
    }
}

/// A text with a MAC address as iproute2 takes it.
fn text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Linux' bridge between TAPs.
struct LinuxBridge {
    taps: Vec<Tap>,
    vlans: Vec<Option<VlanSpec>>,
    /// Frames that came out, by number: port and bytes.
    out: BTreeMap<u32, Vec<(u32, Vec<u8>)>>,
}

impl LinuxBridge {
    fn new(with_vlans: bool) -> Result<LinuxBridge, String> {
        let filtering = match with_vlans {
            true => "vlan_filtering 1 vlan_default_pvid 0",
            false => "",
        };
        let made = ip(&format!(
            "link add name lan type bridge stp_state 0 mcast_snooping 0 {filtering}"
        ));
        made.map_err(|error| format!("this kernel has no such bridge ({error})"))?;
        ip("link set lan up")?;
        let mut taps = Vec::new();
        for port in 0..PORTS {
            let tap = Tap::open(&format!("t{port}"), Kind::OneQueue);
            let tap = tap.map_err(|error| format!("no TAP can be made ({error})"))?;
            tap.reset(HEADER).unwrap();
            ip(&format!(
                "link set t{port} address 06:00:00:00:00:{port:02x}"
            ))?;
            ip(&format!("link set t{port} master lan"))?;
            ip(&format!("link set t{port} up"))?;
            taps.push(tap);
        }
        let mut bridge = LinuxBridge {
            taps,
            vlans: vec![None; PORTS as usize],
            out: BTreeMap::new(),
        };
        if !with_vlans {
            for port in 0..PORTS {
                bridge.tell(port, "")?;
            }
        }
        Ok(bridge)
    }

    /// Has the address of a port's tenant stay there.
    fn tell(&mut self, port: u32, vlan: &str) -> Result<(), String> {
        let address = text(mac(port));
        bridge(&format!(
            "fdb replace {address} dev t{port} master static sticky {vlan}\n"
        ))
    }

    fn set_vlan(&mut self, port: u32, vlan: &VlanSpec) {
        let former = self.vlans[port as usize].replace(vlan.clone());
        let former = former.map(|former| members(&former).0).unwrap_or_default();
        let (present, native) = members(vlan);
        let address = text(mac(port));
        let mut commands = String::new();
        for vid in former.keys().filter(|vid| !present.contains_key(vid)) {
            commands += &format!("fdb del {address} dev t{port} master vlan {vid}\n");
            commands += &format!("vlan del dev t{port} vid {vid}\n");
        }
        for (vid, bare) in present {
            let pvid = if native == Some(vid) { "pvid" } else { "" };
            let bare = if bare { "untagged" } else { "" };
            commands += &format!("vlan add dev t{port} vid {vid} {pvid} {bare}\n");
            commands +=
                &format!("fdb replace {address} dev t{port} master static sticky vlan {vid}\n");
        }
        bridge(&commands).unwrap();
    }

    fn set_reserved(&self, port: u32, reserved: &[u8]) {
        let mask = reserved.iter().fold(0u32, |mask, last| mask | 1 << last);
        ip(&format!(
            "link set t{port} type bridge_slave group_fwd_mask {mask:#x}"
        ))
        .unwrap();
    }

    fn send(&self, port: u32, frame: &[u8]) {
        let bytes = [&[0; HEADER], frame].concat();
        let sent = rustix::io::write(self.taps[port as usize].as_fd(), &bytes);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Takes what has come out of all ports.
    fn drain(&mut self) {
        for (port, tap) in (0..).zip(&self.taps) {
            let mut bytes = [0u8; 4096];
            loop {
                match rustix::io::read(tap.as_fd(), &mut bytes[..]) {
                    Ok(length) => {
                        let frame = bytes[HEADER..length].to_vec();
                        // The kernel may have something of its own to say.
                        if let Some(number) = number(&frame) {
                            self.out.entry(number).or_default().push((port, frame));
                        }
                    }
                    Err(Errno::AGAIN) => break,
                    Err(errno) => panic!("TAP {port}: {errno}"),
                }
            }
        }
    }

    /// What came out of a frame of this number, once it is as much as is expected.
    fn take(&mut self, number: u32, expected: usize) -> Vec<(u32, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.drain();
            let count = self.out.get(&number).map_or(0, Vec::len);
            if count >= expected || Instant::now() >= deadline {
                break;
            }
            let mut fds: Vec<_> = self
                .taps
                .iter()
                .map(|tap| PollFd::new(tap, PollFlags::IN))
                .collect();
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let _ = poll(&mut fds, Some(&second));
        }
        self.out.remove(&number).unwrap_or_default()
    }
}

/// The frames of a test end with this and a number.
const MARK: [u8; 4] = *b"PSTN";

fn number(frame: &[u8]) -> Option<u32> {
    let (_, end) = frame.split_at_checked(frame.len().checked_sub(8)?)?;
    (end[..4] == MARK).then(|| u32::from_be_bytes(end[4..].try_into().unwrap()))
}

fn frame(to: [u8; 6], from: [u8; 6], tags: &[(u16, u16)], number: u32) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &net::KIND, &[0; 38], &MARK].concat();
    bytes.extend(number.to_be_bytes());
    let tags = tags.iter().rev();
    tags.fold(bytes, |bytes, (kind, tci)| with_tag(&bytes, *kind, *tci))
}

/// Sends both the same frames and compares what comes out.
fn compare(seed: u64, with_vlans: bool) -> Result<(), String> {
    let mut numbers = Numbers(seed);
    let mut linux = LinuxBridge::new(with_vlans)?;
    let net = Net::new(PORTS);
    let mut guests = net.guests();
    let mut vlans = Vec::new();
    for port in (0..PORTS).filter(|_| with_vlans) {
        let vlan = numbers.vlan();
        net.set(port, |policy| policy.vlan = Some(vlan.clone()));
        linux.set_vlan(port, &vlan);
        vlans.push(vlan);
    }
    let (mut delivered, mut withheld) = (0, 0);
    for count in 0..FRAMES {
        if count % PERIOD == PERIOD - 1 {
            let port = numbers.below(PORTS as usize) as u32;
            if with_vlans && numbers.one_in(2) {
                let vlan = numbers.vlan();
                net.set(port, |policy| policy.vlan = Some(vlan.clone()));
                linux.set_vlan(port, &vlan);
                vlans[port as usize] = vlan;
            } else {
                let reserved = numbers.reserved();
                let address =
                    |last: &u8| -> ReservedAddress { format!("{last:02x}").parse().unwrap() };
                net.set(port, |policy| {
                    policy.reserved = reserved.iter().map(address).collect();
                });
                linux.set_reserved(port, &reserved);
            }
        }
        let from = numbers.below(PORTS as usize);
        let tags = numbers.tags();
        let sent = frame(numbers.address(), numbers.address(), &tags, count);
        guests[from].send(&sent);
        let mut ours: Vec<(u32, Vec<u8>)> = Vec::new();
        for guest in &mut guests {
            let port = guest.number();
            ours.extend(guest.receive().into_iter().map(|bytes| (port, bytes)));
        }
        if with_vlans && is_stricter(&vlans[from], &tags) {
            assert_eq!(ours, [], "seed {seed}: {sent:x?}");
            withheld += 1;
            continue;
        }
        linux.send(from as u32, &sent);
        let mut theirs = linux.take(count, ours.len());
        if with_vlans && tags.len() > 1 {
            let bare = frame(
                sent[..6].try_into().unwrap(),
                sent[6..12].try_into().unwrap(),
                &tags[1..],
                count,
            );
            theirs.retain(|(_, bytes)| *bytes != bare);
        }
        theirs.sort_unstable();
        assert_eq!(
            ours, theirs,
            "seed {seed}, frame {count} from port {from} with tags {tags:x?}, VLANs {vlans:?}: \
             the switch, then Linux"
        );
        delivered += ours.len() as u32;
    }
    // Nothing comes late: what was sent last is behind all else.
    let vid = 99;
    for port in (0..PORTS).filter(|_| with_vlans) {
        let trunk = VlanSpec::Trunk {
            pvid: None,
            members: vec![vid],
            untagged: vec![],
        };
        linux.set_vlan(port, &trunk);
    }
    for from in [0, 1] {
        let last = frame(BROADCAST, mac(7), &[], FRAMES + from);
        let last = if with_vlans { tagged(&last, vid) } else { last };
        linux.send(from, &last);
        assert_eq!(linux.take(FRAMES + from, 3).len(), 3);
    }
    assert!(linux.out.is_empty(), "late: {:x?}", linux.out);
    println!("{delivered} frames came out of both; {withheld} were for the switch alone");
    assert!(delivered > FRAMES / 8, "the frames say little: {delivered}");
    Ok(())
}

#[test]
fn frames_come_out_as_of_linux() {
    for seed in [1, 2, 3] {
        in_namespace(|| compare(seed, false));
    }
}

#[test]
fn frames_come_out_as_of_linux_with_vlans() {
    for seed in [4, 5, 6, 7] {
        in_namespace(|| compare(seed, true));
    }
}
