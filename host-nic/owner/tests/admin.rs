//! Administration of a running NIC: through its socket, with what ports see of it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod net;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net::{PATIENCE, Wire, confined, in_namespace};
use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::{
    CaptureInfo, Control, Format, Holder, MacInfo, PathReport, PolicyInfo, PortInfo, Revocation,
    UplinkInfo,
};
use postern_nic_client::mac::Mac;
use postern_nic_client::memory::Memory;
use postern_nic_client::policy::port::{PortPolicy, Source};
use postern_nic_client::policy::rate::RateLimit;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_nic_client::protocol::{AccessFds, MAX_REQUEST, Reply, Request, Status};
use postern_nic_client::request::{self, ClientError, EndReason, Tenancy, control, counters};
use postern_nic_owner::capture::Recording;
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use postern_nic_owner::server::{Server, ServerEvent, ServerOptions, Stopper};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// A NIC on a thread, in a directory of its own.
struct TestNic {
    directory: tempfile::TempDir,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    /// What the owner has told.
    told: Arc<Mutex<Vec<String>>>,
}

impl TestNic {
    fn start(ports: u32) -> TestNic {
        let directory = tempfile::tempdir().unwrap();
        let geometry = Geometry::new(ports, 1, 64 << 10, 64 << 10).unwrap();
        confined::on();
        let server =
            Server::bind(&ServerOptions::new(directory.path().join("nic"), geometry)).unwrap();
        let stopper = server.stopper();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let list = Arc::clone(&told);
        let observer = move |event: ServerEvent| list.lock().unwrap().push(event.to_string());
        let thread = Some(confined::serve_and_tell(server, observer));
        TestNic {
            directory,
            stopper,
            thread,
            told,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("nic")
    }

    fn order(&self, order: &Control) {
        control::<()>(&self.socket(), order).unwrap();
    }

    /// The reason of a refusal.
    fn refuse(&self, order: &Control) -> String {
        match control::<serde_json::Value>(&self.socket(), order) {
            Err(ClientError::Refused { text, .. }) => text,
            other => panic!("{order:?} gave {other:?}"),
        }
    }

    fn ports(&self) -> Vec<PortInfo> {
        control(&self.socket(), &Control::Ports).unwrap()
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn macs(&self) -> Vec<MacInfo> {
        control(&self.socket(), &Control::Macs).unwrap()
    }

    fn raw(&self) -> OwnedFd {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        socket
    }

    fn tenant(&self, port: u32) -> Tenant {
        Tenant::attach(&self.socket(), port)
    }
}

impl Drop for TestNic {
    fn drop(&mut self) {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.socket().exists(), "the socket is removed");
    }
}

/// A port used by this process.
struct Tenant {
    port: HostPort,
    mac: [u8; 6],
    tenancy: Tenancy,
}

impl Tenant {
    fn attach(socket: &FilePath, port: u32) -> Tenant {
        let mut tenancy = request::port(socket, port, CallPath::Direct).unwrap();
        let nothing = AccessFds::Memory {
            state: std::fs::File::open("/dev/null").unwrap().into(),
            windows: Vec::new(),
        };
        let resources = std::mem::replace(&mut tenancy.fds.access, nothing);
        let AccessFds::Memory { state, windows } = resources else {
            panic!("direct gives all of the memory");
        };
        let memory = Arc::new(Memory::open(state, windows).unwrap());
        Tenant {
            port: HostPort::open(memory, tenancy.credentials.port()).unwrap(),
            mac: tenancy.mac,
            tenancy,
        }
    }

    fn send(&mut self, to: [u8; 6], seed: u64) -> Vec<u8> {
        let mut frame = net::frame(80, seed);
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&self.mac);
        assert_eq!(self.port.send(&[&frame]), 1);
        frame
    }

    /// What has come until now: delivery is done when the sender's request is.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.port
            .receive(usize::MAX, &mut |frame| frames.push(frame.to_vec()));
        frames
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn mac(number: u8) -> Mac {
    Mac([0x02, 0, 0, 0, 9, number])
}

#[test]
fn ports_are_disabled_and_enabled_live() {
    let nic = TestNic::start(3);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    let frame = first.send(second.mac, 1);
    assert_eq!(second.take(), [frame]);
    nic.order(&Control::Disable { port: 1 });
    first.send(second.mac, 2);
    assert!(second.take().is_empty(), "nothing reaches it");
    assert_eq!(second.port.send(&[&net::frame(80, 3)]), 1);
    assert!(first.take().is_empty(), "nothing comes from it");
    let leaving = Holder::Leaving {
        pid: Some(std::process::id() as i32),
        left: true,
    };
    assert_eq!(nic.ports()[1].holder, leaving);
    let error = request::port(&nic.socket(), 1, CallPath::Direct).unwrap_err();
    let disabled = Status::Disabled;
    assert!(matches!(error, ClientError::Refused { status, .. } if status == disabled));
    // This process has its memory until here.
    drop(second);
    eventually("disabled port", || {
        nic.ports()[1].holder == Holder::Disabled
    });
    nic.order(&Control::Enable { port: 1 });
    let mut second = nic.tenant(1);
    let frame = first.send(second.mac, 4);
    assert_eq!(second.take(), [frame]);
    // One that nobody has.
    nic.order(&Control::Disable { port: 2 });
    nic.order(&Control::Disable { port: 2 });
    assert!(
        nic.refuse(&Control::Disable { port: 3 })
            .contains("ports 0 to 2")
    );
}

#[test]
fn a_port_is_taken_from_its_tenant_live() {
    let nic = TestNic::start(3);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    let pid = Some(std::process::id() as i32);
    let take = Control::Revoke {
        port: 1,
        kill: false,
    };
    let done: Revocation = control(&nic.socket(), &take).unwrap();
    let holder = Holder::Leaving { pid, left: true };
    let expected = Revocation {
        pid,
        // Those of views, which this path does without.
        grants: 0,
        holder,
    };
    assert_eq!(done, expected);
    first.send(second.mac, 2);
    assert!(second.take().is_empty(), "nothing reaches it");
    assert_eq!(second.port.send(&[&net::frame(80, 3)]), 1);
    assert!(first.take().is_empty(), "nothing comes from it");
    // Its tenant is told.
    let never = UnixStream::pair().unwrap();
    let told = second.tenancy.end().unwrap().wait(never.0.as_fd());
    let Some(EndReason::Revoked(text)) = told.unwrap() else {
        panic!("it was told nothing");
    };
    assert_eq!(text, "port 1 was taken from it by postern nic port");
    assert!(counters(&nic.socket()).unwrap().ports[1].leaving);
    // Again it changes nothing, and a process cannot be asked to end the owner's.
    assert_eq!(control::<Revocation>(&nic.socket(), &take).unwrap(), done);
    let kill = Control::Revoke {
        port: 1,
        kill: true,
    };
    assert!(nic.refuse(&kill).contains("does not know"));
    // As soon as nobody has the memory, it is let anew.
    drop(second);
    eventually("vacant port", || nic.ports()[1].holder == Holder::Vacant);
    let mut second = nic.tenant(1);
    let frame = first.send(second.mac, 4);
    assert_eq!(second.take(), [frame]);
    let nobody = Control::Revoke {
        port: 2,
        kill: false,
    };
    assert!(nic.refuse(&nobody).contains("no tenant"));
}

#[test]
fn the_paths_that_are_offered_are_told() {
    let nic = TestNic::start(2);
    let report: PathReport = control(&nic.socket(), &Control::Paths).unwrap();
    assert_eq!(report.template, None);
    for (path, info) in CallPath::ALL.iter().zip(report.paths) {
        assert_eq!(info.path, path.name());
        let reason = info.missing.unwrap_or_default();
        assert_eq!(reason.contains("--image"), path.needs_view(), "{reason}");
    }
}

#[test]
fn stations_are_told_listed_and_forgotten() {
    let nic = TestNic::start(3);
    let mut tenants: Vec<_> = (0..3).map(|port| nic.tenant(port)).collect();
    let add = |port, vlan| Control::AddMac {
        port,
        mac: mac(1),
        vlan,
    };
    nic.order(&add(2, 0));
    let frame = tenants[0].send(mac(1).0, 1);
    assert!(tenants[1].take().is_empty(), "it is not flooded");
    assert_eq!(tenants[2].take(), [frame]);
    // It stays when the tenant goes, and moves when told.
    nic.order(&Control::FlushMacs { port: None });
    nic.order(&add(1, 0));
    let frame = tenants[0].send(mac(1).0, 2);
    assert_eq!(tenants[1].take(), [frame]);
    drop(tenants.remove(1));
    eventually("vacant port", || nic.ports()[1].holder == Holder::Vacant);
    let told = nic.macs().into_iter().find(|entry| entry.mac == mac(1));
    assert!(told.is_some_and(|entry| entry.pinned && entry.port == 1));
    nic.order(&Control::RemoveMac {
        mac: mac(1),
        vlan: 0,
    });
    assert!(nic.macs().iter().all(|entry| entry.mac != mac(1)));
    let frame = tenants[0].send(mac(1).0, 3);
    assert_eq!(tenants[1].take(), [frame], "unknown again, and flooded");
    let remove = Control::RemoveMac {
        mac: mac(1),
        vlan: 0,
    };
    assert!(nic.refuse(&remove).contains("has no"));
    assert!(nic.refuse(&add(0, 4095)).contains("no VLAN"));
    assert!(nic.refuse(&add(3, 0)).contains("ports 0 to 2"));
    let own = Control::AddMac {
        port: 0,
        mac: Mac(tenants[1].mac),
        vlan: 0,
    };
    assert!(nic.refuse(&own).contains("port 2 itself"));
}

/// Told without a VLAN, a station is there in all VLANs of its port, and so is a port's own address.
#[test]
fn stations_are_told_for_every_vlan() {
    let nic = TestNic::start(4);
    let mut tenants: Vec<_> = (0..4).map(|port| nic.tenant(port)).collect();
    for port in 0..4 {
        let policy = PortPolicy {
            vlan: Some(VlanSpec::Access { pvid: 10 }),
            ..PortPolicy::default()
        };
        let policy = Box::new(policy);
        nic.order(&Control::SetPolicy { port, policy });
    }
    nic.order(&Control::AddMac {
        port: 2,
        mac: mac(1),
        vlan: 0,
    });
    let own = tenants[3].mac;
    for (to, port) in [(mac(1).0, 2), (own, 3)] {
        let frame = tenants[0].send(to, 1);
        for (number, tenant) in tenants.iter_mut().enumerate() {
            let expected = Vec::from_iter((number == port).then(|| frame.clone()));
            assert_eq!(tenant.take(), expected, "{number}");
        }
    }
    // The address of a port is no station's in any VLAN.
    let station = |port, mac, vlan| Control::AddMac { port, mac, vlan };
    let refusal = nic.refuse(&station(0, Mac(own), 10));
    assert!(refusal.contains("port 3 itself"), "{refusal}");
    nic.order(&station(0, mac(5), 7));
    drop(tenants.remove(1));
    eventually("vacant port", || nic.ports()[1].holder == Holder::Vacant);
    let taken = Control::SetMac {
        port: 1,
        mac: Some(mac(5)),
    };
    assert!(nic.refuse(&taken).contains("a station behind port 0"));
    let nobody = nic.refuse(&station(0, Mac([0; 6]), 0));
    assert!(nobody.contains("nobody's address"), "{nobody}");
}

#[test]
fn a_port_has_the_address_that_was_chosen() {
    let nic = TestNic::start(3);
    let set = |port, mac| Control::SetMac { port, mac };
    nic.order(&set(1, Some(mac(9))));
    assert_eq!(nic.ports()[1].mac, mac(9));
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    assert_eq!(second.mac, mac(9).0);
    let frame = first.send(mac(9).0, 1);
    assert_eq!(second.take(), [frame]);
    // It is the address of the port's own tenant, also where that may use no other.
    let policy = PortPolicy {
        source: Source::Own,
        ..PortPolicy::default()
    };
    nic.order(&Control::SetPolicy {
        port: 1,
        policy: Box::new(policy),
    });
    let frame = second.send(first.mac, 2);
    assert_eq!(first.take(), [frame]);

    let station = Control::AddMac {
        port: 0,
        mac: mac(8),
        vlan: 0,
    };
    nic.order(&station);
    for (order, part) in [
        (set(1, Some(mac(7))), "somebody has port 1"),
        (
            set(2, Some(mac(9))),
            "the address of port 1: choose another",
        ),
        (set(2, Some(Mac::of_port(0))), "the address of port 0"),
        // Although it has another one now.
        (set(2, Some(Mac::of_port(1))), "the address of port 1"),
        (set(2, Some(mac(8))), "a station behind port 0"),
        (set(2, Some(Mac([0; 6]))), "nobody's address"),
        (set(3, Some(mac(7))), "ports 0 to 2"),
        (
            Control::AddMac {
                port: 0,
                mac: mac(9),
                vlan: 0,
            },
            "port 1 itself",
        ),
    ] {
        let text = nic.refuse(&order);
        assert!(text.contains(part), "{order:?}: {text}");
    }
    drop(second);
    eventually("vacant port", || nic.ports()[1].holder == Holder::Vacant);
    nic.order(&set(1, None));
    assert_eq!(nic.tenant(1).mac, Mac::of_port(1).0);
}

#[test]
fn calls_are_counted_for_the_vcpu_that_makes_them() {
    let nic = TestNic::start(2);
    let (mut first, second) = (nic.tenant(0), nic.tenant(1));
    for number in 0..3 {
        first.send(second.mac, number);
    }
    let counted = counters(&nic.socket()).unwrap().ports;
    // More than one where a call took no frame.
    assert!(counted[0].calls >= 3, "{counted:?}");
    assert_eq!(counted[0].queues[0].calls, counted[0].calls);
    assert_eq!(counted[1].calls, 0, "it has sent nothing");
    // The next tenant's are counted anew.
    drop(first);
    eventually("vacant port", || nic.ports()[0].holder == Holder::Vacant);
    let _next = nic.tenant(0);
    assert_eq!(counters(&nic.socket()).unwrap().ports[0].calls, 0);
}

#[test]
fn policies_count_at_once_and_are_shown() {
    let nic = TestNic::start(3);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    let set = |policy: &PortPolicy| Control::SetPolicy {
        port: 0,
        policy: Box::new(policy.clone()),
    };
    let mut policy = PortPolicy {
        source: Source::Own,
        ..PortPolicy::default()
    };
    policy.acl.rules = vec!["deny in ethertype 0x88b5".parse().unwrap()];
    nic.order(&set(&policy));
    first.send(second.mac, 1);
    assert!(second.take().is_empty());
    let list: Vec<PolicyInfo> = control(&nic.socket(), &Control::Policies).unwrap();
    assert_eq!(
        (&list[0].policy, &list[0].acl_hits[..]),
        (&policy, &[1][..])
    );
    assert!(nic.ports()[0].policy && !nic.ports()[1].policy);
    // Other stations told for the port, some of which the table has before it, are not its tenant's
    // own address.
    policy.acl.rules.clear();
    for number in 0..30 {
        nic.order(&Control::AddMac {
            port: 0,
            mac: mac(number),
            vlan: 0,
        });
    }
    nic.order(&set(&policy));
    let frame = first.send(second.mac, 2);
    assert_eq!(second.take(), [frame]);
    let own = std::mem::replace(&mut first.mac, [2; 6]);
    first.send(second.mac, 3);
    assert!(second.take().is_empty(), "another source");
    first.mac = own;
    // What is wrong changes nothing.
    policy.mirror = Some(0);
    assert!(nic.refuse(&set(&policy)).contains("its own mirror"));
    first.send(second.mac, 4);
    assert_eq!(second.take().len(), 1);
    nic.order(&set(&PortPolicy::default()));
    first.mac = [2; 6];
    first.send(second.mac, 5);
    assert_eq!(second.take().len(), 1);
}

fn capture(nic: &TestNic, port: Option<u32>, name: &str) -> Control {
    Control::AddCapture {
        port,
        via: None,
        file: nic.path(name),
        format: Format::PcapNg,
        snap: None,
        busy: false,
    }
}

fn end_capture(nic: &TestNic, name: &str) -> CaptureInfo {
    let file = nic.path(name);
    control(&nic.socket(), &Control::RemoveCapture { file }).unwrap()
}

#[test]
fn captures_see_what_they_should_once() {
    let nic = TestNic::start(4);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(1));
    nic.order(&capture(&nic, Some(0), "one"));
    assert!(matches!(nic.ports()[3].holder, Holder::Capture { .. }));
    let mut seen = Vec::new();
    for number in 0..200u64 {
        // Both ways, unicast and broadcast; between other ports.
        let frame = match number % 4 {
            0 => first.send(second.mac, number),
            1 => first.send([0xff; 6], number),
            2 => second.send(first.mac, number),
            _ => second.send([0xff; 6], number),
        };
        seen.push(frame);
        first.take();
        second.take();
    }
    let info = end_capture(&nic, "one");
    assert_eq!((info.written, info.lost, info.failure), (200, 0, None));
    let recording = Recording::open(&nic.path("one")).unwrap();
    let mut found: Vec<_> = recording
        .frames()
        .map(|frame| frame.data.to_vec())
        .collect();
    found.sort_unstable();
    seen.sort_unstable();
    assert!(found == seen);
    assert_eq!(nic.ports()[3].holder, Holder::Vacant);

    // The whole switch: each frame once, whoever sends and receives it.
    nic.order(&capture(&nic, None, "all"));
    for number in 0..50 {
        first.send(second.mac, number);
        second.send([0xff; 6], number);
    }
    let info = end_capture(&nic, "all");
    assert_eq!((info.written, info.lost), (100, 0));
    // What does not fit is counted.
    nic.order(&capture(&nic, None, "much"));
    let mut sent = 0;
    for number in 0..20_000 {
        first.send(second.mac, number);
        sent += 1;
    }
    let info = end_capture(&nic, "much");
    assert_eq!(info.written + info.lost, sent, "{info:?}");
}

/// A file system that holds little, for this thread and those that it starts.
fn small_disk(place: &FilePath) -> Result<(), String> {
    let path = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
    let (none, private) = (c"none".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    let nothing = std::ptr::null();
    let size = c"size=256k".as_ptr().cast();
    // SAFETY: only this thread gets a mount namespace of its own; the strings end in zero.
    let made = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), nothing, private, nothing.cast()) == 0
            && libc::mount(none, path.as_ptr(), c"tmpfs".as_ptr(), 0, size) == 0
    };
    match made {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error().to_string()),
    }
}

#[test]
fn a_capture_onto_a_full_disk_is_told_and_loss_counted() {
    let place = tempfile::tempdir().unwrap();
    let thread = std::thread::spawn(move || {
        if let Err(reason) = small_disk(place.path()) {
            println!("SKIP: no small file system can be mounted ({reason}); run as root");
            return;
        }
        let nic = TestNic::start(3);
        let mut tenant = nic.tenant(0);
        let file = place.path().join("full");
        nic.order(&Control::AddCapture {
            port: Some(0),
            via: None,
            file: file.clone(),
            format: Format::PcapNg,
            snap: None,
            busy: true,
        });
        let captures =
            || -> Vec<CaptureInfo> { control(&nic.socket(), &Control::Captures).unwrap() };
        let mut sent = 0;
        eventually("the end of the disk", || {
            (0..100).for_each(|number| drop(tenant.send([0xff; 6], number)));
            sent += 100;
            captures()[0].failure.is_some()
        });
        let failure = captures()[0].failure.clone().unwrap();
        assert!(
            failure.contains("full") && failure.contains("space"),
            "{failure}"
        );
        let info: CaptureInfo = control(&nic.socket(), &Control::RemoveCapture { file }).unwrap();
        assert_eq!(info.written + info.lost, sent, "{info:?}");
        assert!(info.lost > 0 && info.failure.is_some());
        assert!(
            nic.told()
                .iter()
                .any(|event| event.contains("counted as lost"))
        );
    });
    thread.join().unwrap();
}

#[test]
fn captures_that_make_no_sense_leave_nothing() {
    let nic = TestNic::start(2);
    let first = nic.tenant(0);
    assert!(
        nic.refuse(&capture(&nic, Some(9), "x"))
            .contains("ports 0 to 1")
    );
    assert!(nic.refuse(&capture(&nic, Some(1), "x")).contains("--via"));
    let second = nic.tenant(1);
    let full = nic.refuse(&capture(&nic, Some(0), "x"));
    assert!(full.contains("nobody has"), "{full}");
    drop(second);
    eventually("vacant port", || nic.ports()[1].holder == Holder::Vacant);
    std::fs::write(nic.path("taken"), "keep me").unwrap();
    let taken = nic.refuse(&capture(&nic, Some(0), "taken"));
    assert!(taken.contains("taken"), "{taken}");
    assert_eq!(std::fs::read(nic.path("taken")).unwrap(), b"keep me");
    nic.refuse(&capture(&nic, Some(0), "absent/file"));
    assert!(!nic.path("x").exists());
    nic.order(&capture(&nic, Some(0), "one"));
    assert!(
        nic.refuse(&capture(&nic, Some(0), "two"))
            .contains("nobody has")
    );
    let policy = PortPolicy {
        mirror: Some(1),
        ..PortPolicy::default()
    };
    for port in [0, 1] {
        let policy = Box::new(policy.clone());
        assert!(
            nic.refuse(&Control::SetPolicy { port, policy })
                .contains("capture")
        );
    }
    let error = request::port(&nic.socket(), 1, CallPath::Direct).unwrap_err();
    assert!(error.to_string().contains("uplink or a capture"), "{error}");
    nic.refuse(&Control::Disable { port: 1 });
    drop(first);
}

#[test]
fn an_uplink_carries_frames_and_waits_for_its_interface() {
    in_namespace(|| {
        let nic = TestNic::start(3);
        let add = Control::AddUplink {
            port: 2,
            interface: "tap:owner0".to_owned(),
            busy: false,
        };
        match control::<()>(&nic.socket(), &add) {
            Err(ClientError::Refused { text, .. }) => return Err(text),
            other => other.unwrap(),
        }
        let mut tenant = nic.tenant(0);
        let wire = Wire::open("owner0");
        let sent = tenant.send([0x02, 9, 9, 9, 9, 9], 5);
        assert!(wire.receive() == sent);
        let mut back = net::frame(300, 7);
        back[..6].copy_from_slice(&tenant.mac);
        wire.send(&back);
        let mut got = Vec::new();
        eventually("frame from the wire", || {
            got.extend(tenant.take());
            got.contains(&back)
        });
        let list: Vec<UplinkInfo> = control(&nic.socket(), &Control::Uplinks).unwrap();
        assert_eq!(list[0].failure, None);
        assert!(nic.refuse(&add).contains("uplink or a capture"));
        drop(wire);
        // Each obstacle is named with what helps against it, and that does help.
        for (end, why, again) in [
            (
                "link set owner0 down",
                "ip link set owner0 up",
                "link set owner0 up",
            ),
            (
                "link del owner0",
                "owner0 was removed",
                "tuntap add mode tap name owner0",
            ),
        ] {
            net::ip(end)?;
            waits(&nic, why);
            assert!(nic.refuse(&add).contains("uplink or a capture"));
            net::ip(again)?;
            works(&nic);
            let wire = Wire::open("owner0");
            eventually("frame to the wire", || {
                tenant.send([0x02, 9, 9, 9, 9, 9], 6);
                std::iter::from_fn(|| wire.try_receive()).any(|frame| net::is_ours(&frame))
            });
        }
        let [uplink] = &uplinks(&nic)[..] else {
            panic!("one uplink");
        };
        let frames = &uplink.counters["to_port"]["frames"];
        assert!(frames.as_u64() > Some(0), "counters go on: {frames}");
        let told = nic.told();
        let count = |words: &str| told.iter().filter(|event| event.contains(words)).count();
        for words in [
            "port 2 waits: network interface owner0 is down",
            "owner0 was removed",
        ] {
            assert_eq!(count(words), 1, "{told:?}");
        }
        assert_eq!(count("the uplink of port 2 works again"), 2, "{told:?}");
        nic.order(&Control::RemoveUplink { port: 2 });
        assert_eq!(nic.ports()[2].holder, Holder::Vacant);
        assert!(
            nic.refuse(&Control::RemoveUplink { port: 2 })
                .contains("no uplink")
        );
        Ok(())
    });
}

fn uplinks(nic: &TestNic) -> Vec<UplinkInfo> {
    control(&nic.socket(), &Control::Uplinks).unwrap()
}

/// Waits until the uplink says so.
fn waits(nic: &TestNic, why: &str) {
    eventually(why, || {
        let failure = uplinks(nic).remove(0).failure;
        failure.is_some_and(|failure| failure.contains(why))
    });
}

fn works(nic: &TestNic) {
    eventually("a link", || uplinks(nic)[0].failure.is_none());
}

/// Stations behind a dead link may be reached by another one.
#[test]
fn a_lost_link_has_its_stations_forgotten() {
    in_namespace(|| {
        net::veth(1500)?;
        let nic = TestNic::start(3);
        for (port, interface) in [(1, "packet:near"), (2, "tap:other0")] {
            let interface = interface.to_owned();
            let busy = false;
            let add = Control::AddUplink {
                port,
                interface,
                busy,
            };
            match control::<()>(&nic.socket(), &add) {
                Err(ClientError::Refused { text, .. }) => return Err(text),
                other => other.unwrap(),
            }
        }
        let station = Mac([2, 9, 9, 9, 9, 7]);
        let mut from_station = net::frame(100, 1);
        from_station[6..12].copy_from_slice(&station.0);
        let told = Mac([2, 0, 0, 0, 0, 0x55]);
        nic.order(&Control::AddMac {
            port: 1,
            mac: told,
            vlan: 0,
        });
        let behind = |mac| {
            let macs = nic.macs();
            let found = macs.iter().find(|entry| entry.mac == mac);
            found.map(|entry| entry.port)
        };
        for (end, why, again) in [
            (
                "link set far down",
                "near has no carrier",
                "link set far up",
            ),
            ("link set near down", "near is down", "link set near up"),
            (
                "link del near",
                "near was removed",
                "link add near type veth peer name far",
            ),
        ] {
            works(&nic);
            let wire = Wire::open("far");
            eventually("the station", || {
                wire.send(&from_station);
                behind(station) == Some(1)
            });
            drop(wire);
            net::ip(end)?;
            waits(&nic, why);
            eventually("end of the station", || behind(station).is_none());
            assert_eq!(behind(told), Some(1), "told by people: {end}");
            net::ip(again)?;
            for interface in ["near", "far"] {
                net::ip(&format!("link set {interface} up"))?;
            }
        }
        works(&nic);
        Ok(())
    });
}

/// Each kind of interface is joined, used and left with the calls that a confined owner has.
#[test]
fn uplinks_of_all_kinds_are_joined_by_a_confined_owner() {
    in_namespace(|| {
        net::veth(1500)?;
        let nic = TestNic::start(3);
        for interface in ["packet:near", "xdp:near", "tap:owner0,mtu=2000"] {
            let add = Control::AddUplink {
                port: 2,
                interface: interface.to_owned(),
                busy: false,
            };
            match control::<()>(&nic.socket(), &add) {
                Err(ClientError::Refused { text, .. }) => {
                    println!("SKIP: {interface}: {text}");
                    continue;
                }
                other => other.unwrap(),
            }
            let wire = match interface.starts_with("tap:") {
                true => Wire::open("owner0"),
                false => Wire::open("far"),
            };
            let sent = nic.tenant(0).send([0x02, 9, 9, 9, 9, 9], 5);
            assert!(wire.receive() == sent, "{interface}");
            let list: Vec<UplinkInfo> = control(&nic.socket(), &Control::Uplinks).unwrap();
            assert_eq!(list[0].failure, None, "{interface}");
            nic.order(&Control::RemoveUplink { port: 2 });
        }
        Ok(())
    });
}

/// A large segment in one piece would never pass the limit.
#[test]
fn large_segments_of_an_uplink_pass_a_rate_limit_with_a_smaller_burst() {
    in_namespace(|| {
        let nic = TestNic::start(3);
        let add = Control::AddUplink {
            port: 2,
            interface: "tap:owner0".to_owned(),
            busy: false,
        };
        match control::<()>(&nic.socket(), &add) {
            Err(ClientError::Refused { text, .. }) => return Err(text),
            other => other.unwrap(),
        }
        let mut tenant = nic.tenant(0);
        let policy = PortPolicy {
            egress: Some(RateLimit {
                bits_per_second: 1_000_000_000,
                burst_bytes: 20_000,
            }),
            ..PortPolicy::default()
        };
        nic.order(&Control::SetPolicy {
            port: 0,
            policy: Box::new(policy),
        });
        net::ip("addr add 10.9.0.1/24 dev owner0")?;
        let mac = Mac(tenant.mac);
        net::ip(&format!("neigh add 10.9.0.2 lladdr {mac} dev owner0"))?;
        let socket = std::net::UdpSocket::bind("10.9.0.1:4000").unwrap();
        net::set_segment(&socket, 700)?;
        eventually("a part of a segment", || {
            socket.send_to(&[1; 30_000], "10.9.0.2:5000").unwrap();
            let frames = tenant.take();
            frames.iter().any(|frame| frame.len() == 742)
        });
        Ok(())
    });
}

#[test]
fn uplinks_that_cannot_be_leave_the_port_vacant() {
    let nic = TestNic::start(2);
    for interface in [
        "",
        "tap",
        "tap:",
        "carrier:pigeon",
        "packet:no-such-if",
        "tap:a/b",
    ] {
        let interface = interface.to_owned();
        let why = nic.refuse(&Control::AddUplink {
            port: 0,
            interface,
            busy: false,
        });
        assert!(!why.is_empty());
        assert_eq!(nic.ports()[0].holder, Holder::Vacant);
    }
}

/// Some requests, whole ones among them, to be cut and mixed.
fn requests() -> Vec<String> {
    let policy = PortPolicy {
        blocked: vec![1],
        ..PortPolicy::default()
    };
    [
        Control::Ports,
        Control::Policies,
        Control::SetPolicy {
            port: 1,
            policy: Box::new(policy),
        },
        Control::Disable { port: 1 },
        Control::AddMac {
            port: 1,
            mac: mac(3),
            vlan: 9,
        },
        Control::FlushMacs { port: Some(1) },
        Control::RemoveCapture {
            file: "/nowhere".into(),
        },
        Control::Stop {
            keep: true,
            discard: false,
        },
    ]
    .map(|control| serde_json::to_string(&control).unwrap())
    .to_vec()
}

#[test]
fn hostile_requests_are_answered_and_harm_nobody() {
    let nic = TestNic::start(3);
    let (mut first, mut second) = (nic.tenant(0), nic.tenant(2));
    let whole = requests();
    let piece = (0..whole.len(), any::<prop::sample::Index>(), any::<u8>());
    let strategy = (
        prop::collection::vec(piece, 1..3),
        prop::collection::vec(any::<u8>(), 0..8),
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config::with_cases(300));
    let mangled = runner.run(&strategy, |(pieces, tail, deep)| {
        let mut text = Vec::new();
        for (number, cut, byte) in pieces {
            let piece = whole[number].as_bytes();
            let at = cut.index(piece.len());
            text.extend_from_slice(&piece[..at]);
            if byte & 1 != 0 {
                text.push(byte);
                text.extend_from_slice(&piece[at..]);
            }
        }
        text.extend(tail);
        if deep {
            text = [b"{\"do\":".to_vec(), vec![b'['; 3000], text].concat();
        }
        let socket = nic.raw();
        send(
            &socket,
            &Request::Control(text).encode(),
            SendFlags::empty(),
        )
        .unwrap();
        let mut buffer = vec![0; 70_000];
        let (size, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        let reply = Reply::decode(&buffer[..size]).unwrap();
        if reply.status != Status::Granted {
            prop_assert!(!reply.text.is_empty());
            prop_assert!(reply.text.len() < 4096);
        }
        Ok(())
    });
    mangled.unwrap();
    // Too long by one byte, and as long as can be.
    for (size, answer) in [
        (MAX_REQUEST - 32, "understand"),
        (MAX_REQUEST - 31, "bytes"),
    ] {
        let socket = nic.raw();
        let request = Request::Control(vec![b' '; size]).encode();
        send(&socket, &request, SendFlags::empty()).unwrap();
        let mut buffer = vec![0; 70_000];
        let (size, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        let reply = Reply::decode(&buffer[..size]).unwrap();
        assert_eq!(reply.status, Status::BadRequest);
        assert!(reply.text.contains(answer), "{}", reply.text);
    }
    let frame = first.send(second.mac, 1);
    assert_eq!(second.take(), [frame], "frames go on");
}

#[test]
fn clients_that_do_not_read_delay_nobody() {
    let nic = TestNic::start(2);
    let text = serde_json::to_vec(&Control::Ports).unwrap();
    let request = Request::Control(text).encode();
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let socket = nic.raw();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = (0..10_000)
                .take_while(|_| send(&socket, &request, flags).is_ok())
                .count();
            assert!(sent > 0);
            socket
        })
        .collect();
    assert_eq!(nic.ports().len(), 2);
    assert_eq!(counters(&nic.socket()).unwrap().ports.len(), 2);
    drop(deaf);
    assert_eq!(nic.ports().len(), 2);
    let text = nic.refuse(&Control::Stop {
        keep: true,
        discard: false,
    });
    assert!(text.contains("no keeper"), "{text}");
}
