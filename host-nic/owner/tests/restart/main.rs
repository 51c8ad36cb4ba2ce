//! Owners of a NIC that die, and those that go on in their place; each is a process of its own.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../net/mod.rs"]
mod net;
mod process;
mod requests;

use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, thread};

use net::confined;
use postern_abi::window::Geometry;
use postern_confine::{Kind, enter_alone};
use postern_nic_client::bells;
use postern_nic_client::control::{
    CaptureInfo, Control, Format, Holder, MacInfo, PolicyInfo, UplinkInfo,
};
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_client::policy::rate::RateLimit;
use postern_nic_client::request::{ClientError, control, counters};
use postern_nic_owner::capture::Recording;
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::server::{
    KeeperProgram, Server, ServerError, ServerOptions, keep, launch_keepers,
};
use process::{Bench, GRACE, PATIENCE, SOCKET, Tenant, eventually};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// The end of the NIC.
const END: Control = Control::Stop {
    keep: false,
    discard: false,
};
/// The end of the owner alone.
const KEEP: Control = Control::Stop {
    keep: true,
    discard: false,
};

fn options(socket: &FilePath) -> ServerOptions {
    let geometry = Geometry::new(4, 1, 64 << 10, 64 << 10).unwrap();
    let mut options = ServerOptions::new(socket, geometry);
    options.keeper = Some(keeper());
    options
}

fn keeper() -> KeeperProgram {
    let arguments = |role: &str| ["--exact", role, "--nocapture"].map(Into::into).to_vec();
    KeeperProgram {
        program: env::current_exe().unwrap(),
        arguments: arguments("be_a_keeper"),
        launcher: Some(arguments("be_a_launcher")),
    }
}

#[test]
fn be_a_launcher() {
    if env::var_os(GRACE).is_some() {
        launch_keepers(&keeper()).unwrap();
    }
}

#[test]
fn be_a_keeper() {
    let Some(grace) = env::var_os(GRACE) else {
        return;
    };
    let grace = grace.to_str().unwrap().parse().unwrap();
    let confine = || enter_alone(Kind::NicKeeper, confined::REFUSED).unwrap();
    keep(Duration::from_millis(grace), confine).unwrap();
}

#[test]
fn be_an_owner() {
    let Some(socket) = env::var_os(SOCKET) else {
        return;
    };
    confined::on();
    let server = Server::bind(&options(FilePath::new(&socket))).unwrap();
    let resumed = server.is_resumed();
    println!("{}", if resumed { "taken over" } else { "made" });
    confined::serve(server).join().unwrap();
}

/// Sends back whatever comes, to where it came from, until it is killed.
#[test]
fn be_an_echo() {
    let Some(socket) = env::var_os(SOCKET) else {
        return;
    };
    let mut tenant = Tenant::attach(FilePath::new(&socket), 1);
    println!("attached");
    loop {
        let mut frames = Vec::new();
        tenant.port.receive(64, &mut |frame| {
            let mut frame = frame.to_vec();
            let (to, from) = frame[..12].split_at_mut(6);
            to.swap_with_slice(from);
            frames.push(frame);
        });
        tenant.send_all(&frames);
        if frames.is_empty() {
            thread::yield_now();
        }
    }
}

/// A frame from port 0 to port 1.
fn frame(number: u64) -> Vec<u8> {
    let mac = |port| [0x02, b'P', b'S', b'T', 0, port];
    let mut frame = [mac(1), mac(0)].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_le_bytes());
    frame.resize(60 + (number % 1400) as usize, number as u8);
    frame
}

/// Has frames go round, each checked, until told to stop; how many did.
fn go_round(tenant: &mut Tenant, stop: &AtomicBool, rounds: &AtomicU64) -> u64 {
    let mut next = 0;
    while !stop.load(Relaxed) {
        let frames: Vec<_> = (next..next + 20).map(frame).collect();
        tenant.send_all(&frames);
        let end = Instant::now() + PATIENCE;
        let mut back = 0;
        while back < frames.len() {
            tenant.port.receive(64, &mut |frame| {
                assert_eq!(
                    frame[12..],
                    frames[back][12..],
                    "frame {}",
                    next + back as u64
                );
                back += 1;
            });
            assert!(Instant::now() < end, "frame {} is lost", next + back as u64);
        }
        next += 20;
        rounds.fetch_add(1, Relaxed);
    }
    next
}

#[test]
fn traffic_goes_on_while_owners_are_killed() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let mut echo = bench.echo();
    let mut tenant = Tenant::attach(&socket, 0);
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut descriptors = Vec::new();
    let sent = thread::scope(|scope| {
        let going = scope.spawn(|| go_round(&mut tenant, &stop, &rounds));
        let stopping = Stop(&stop);
        for _ in 0..5 {
            owner.kill();
            // With nobody there, frames go round as ever.
            let before = rounds.load(Relaxed);
            eventually("frame without an owner", || {
                rounds.load(Relaxed) > before + 10
            });
            owner = bench.owner("taken over");
            let before = rounds.load(Relaxed);
            eventually("frame with another owner", || {
                rounds.load(Relaxed) > before + 10
            });
            let counters = counters(&socket).unwrap();
            assert!(
                counters.ports[1].rx_frames >= (before + 10) * 20,
                "they continue"
            );
            let ports = bench.ports();
            let (here, there) = (std::process::id() as i32, echo.child.id() as i32);
            for (port, process) in [(0, here), (1, there)] {
                let attached = Holder::Attached {
                    pid: Some(process),
                    path: "direct".to_owned(),
                };
                assert_eq!(ports[port].holder, attached);
                assert_eq!(ports[port].tenancy, 2 - port as u32);
            }
            let mut counts: Vec<_> = bench.processes().iter().map(|(_, fds)| *fds).collect();
            counts.sort_unstable();
            descriptors.push(counts);
        }
        drop(stopping);
        going.join().unwrap()
    });
    let counters = counters(&socket).unwrap();
    for port in [0, 1] {
        assert_eq!(counters.ports[port].tx_frames, sent);
        assert_eq!(counters.ports[port].rx_frames, sent);
    }
    // An echo, an owner with its launcher, and a keeper; and no descriptor more after the fifth owner than after the first one.
    assert_eq!(descriptors[0].len(), 4, "{descriptors:?}");
    // A request that was just answered may still have its connection.
    for (first, last) in descriptors[0].iter().zip(&descriptors[4]) {
        assert!(*last <= first + 3, "{descriptors:?}");
    }

    // A client that ends is found out, by an owner that it never spoke to.
    echo.kill();
    eventually("vacant port", || bench.ports()[1].holder == Holder::Vacant);
    let again = Tenant::attach(&socket, 1);
    assert_eq!(bench.ports()[1].tenancy, 3, "numbers of tenancies continue");
    drop((tenant, again));
    control::<()>(&socket, &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

/// Says stop when it goes, also because a check failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn bells_outlive_their_owner() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let one = Tenant::attach(&socket, 0);
    let rung = |tenant: &Tenant, queue| bells::take(tenant.bells.get(queue).unwrap());
    for port in 1..3 {
        owner.kill();
        owner = bench.owner("taken over");
        eventually("the new owner's ring", || rung(&one, 0) != 0);
        // Who comes now and who has been there have the same.
        let other = Tenant::attach(&socket, port);
        one.bells.ring(port);
        other.bells.ring(0);
        assert_eq!((rung(&other, port), rung(&one, 0)), (1, 1));
    }
    // A keeper of an older Postern has none: tenants that come then have others.
    owner.kill();
    bench.tell_keeper(b"drop bells.0");
    owner = bench.owner_soon("taken over");
    let late = Tenant::attach(&socket, 3);
    one.bells.ring(3);
    assert_eq!(rung(&late, 3), 0);
    late.bells.ring(3);
    assert_eq!(rung(&late, 3), 1);
    control::<()>(&socket, &END).unwrap();
    owner.end();
}

#[test]
fn who_ends_while_there_is_no_owner_is_found_out() {
    let bench = Bench::new(60_000);
    let mut owner = bench.owner("made");
    let mut echo = bench.echo();
    // It gives up its port, and lives.
    let tenant = Tenant::attach(&bench.socket(), 0);
    owner.kill();
    echo.kill();
    drop(tenant);
    let mut owner = bench.owner("taken over");
    let leaving = Holder::Leaving {
        pid: Some(std::process::id() as i32),
        left: false,
    };
    eventually("vacant port", || {
        let ports = bench.ports();
        // This process has the memory of the NIC, maybe.
        ports[0].holder == leaving && ports[1].holder == Holder::Vacant
    });
    assert!(bench.ports().iter().all(|port| port.tenancy == 0));
    // The next owner knows that, too.
    owner.kill();
    owner = bench.owner("taken over");
    assert_eq!(bench.ports()[0].holder, leaving);
    drop(bench.echo());
    control::<()>(&bench.socket(), &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

#[test]
fn a_keeper_ends_when_nobody_needs_it() {
    let bench = Bench::new(300);
    let mut owner = bench.owner("made");
    let mut echo = bench.echo();
    owner.kill();
    thread::sleep(Duration::from_millis(900));
    assert_eq!(bench.processes().len(), 2, "it stays for the tenant");
    echo.kill();
    bench.expect_nothing();
}

#[test]
fn what_people_set_survives() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let policy = PortPolicy {
        ingress: Some(RateLimit {
            bits_per_second: 1_000_000,
            burst_bytes: 10_000,
        }),
        ..PortPolicy::default()
    };
    let mac = "02:11:22:33:44:55".parse().unwrap();
    let own = "02:11:22:33:44:66".parse().unwrap();
    let orders = [
        Control::SetPolicy {
            port: 2,
            policy: Box::new(policy.clone()),
        },
        Control::Disable { port: 3 },
        Control::AddMac {
            port: 1,
            mac,
            vlan: 7,
        },
        Control::SetMac {
            port: 2,
            mac: Some(own),
        },
    ];
    for order in &orders {
        control::<()>(&socket, order).unwrap();
    }
    // In good order, and not.
    control::<()>(&socket, &KEEP).unwrap();
    owner.end();
    bench.owner("taken over").kill();
    let mut owner = bench.owner("taken over");

    let policies: Vec<PolicyInfo> = control(&socket, &Control::Policies).unwrap();
    assert_eq!(policies[2].policy, policy);
    assert_eq!(policies[1].policy, PortPolicy::default());
    assert_eq!(bench.ports()[3].holder, Holder::Disabled);
    assert_eq!(bench.ports()[2].mac, own);
    let stations: Vec<MacInfo> = control(&socket, &Control::Macs).unwrap();
    let told = MacInfo {
        mac,
        vlan: 7,
        port: 1,
        pinned: true,
    };
    assert_eq!(stations, [told]);

    // One owner at a time, and of this NIC.
    let error = Server::bind(&options(&socket)).unwrap_err();
    assert!(matches!(error, ServerError::InUse(_)), "{error}");
    owner.child.kill().unwrap();
    owner.child.wait().unwrap();
    let mut other = options(&socket);
    other.geometry = Geometry::new(2, 1, 4096, 4096).unwrap();
    let error = Server::bind(&other).unwrap_err();
    assert!(matches!(error, ServerError::Kept { .. }), "{error}");
    other.keeper = None;
    let error = Server::bind(&other).unwrap_err();
    assert!(matches!(error, ServerError::InUse(_)), "{error}");
    other = options(&socket);
    other.geometry = Geometry::new(2, 1, 4096, 4096).unwrap();
    other.any_geometry = true;
    let server = Server::bind(&other).unwrap();
    assert_eq!(server.geometry().ports(), 4);
    drop(server);
    bench.expect_nothing();
}

#[test]
fn captures_go_on_in_another_file() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let echo = bench.echo();
    let mut tenant = Tenant::attach(&socket, 0);
    let stop = AtomicBool::new(true);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("frames");
    let add = Control::AddCapture {
        port: Some(0),
        via: Some(3),
        file: file.clone(),
        format: Format::PcapNg,
        snap: None,
        busy: false,
    };
    control::<()>(&socket, &add).unwrap();
    owner.kill();
    // Copies for a port that nobody has any more.
    let go = |tenant: &mut Tenant| {
        stop.store(false, Relaxed);
        let rounds = AtomicU64::new(0);
        thread::scope(|scope| {
            let stopping = Stop(&stop);
            let going = scope.spawn(|| go_round(tenant, &stop, &rounds));
            eventually("rounds", || {
                rounds.load(Relaxed) > 10 || going.is_finished()
            });
            drop(stopping);
            going.join().unwrap()
        })
    };
    go(&mut tenant);
    let mut owner = bench.owner("taken over");
    let list: Vec<CaptureInfo> = control(&socket, &Control::Captures).unwrap();
    let next = elsewhere.path().join("frames.1");
    assert_eq!((list.len(), &list[0].file, list[0].via), (1, &next, 3));
    let before = list[0].written + list[0].lost;
    let sent = go(&mut tenant);
    let end = Control::RemoveCapture { file: next.clone() };
    let info: CaptureInfo = control(&socket, &end).unwrap();
    // Both ways.
    assert_eq!(info.written + info.lost - before, 2 * sent);
    Recording::open(&next).unwrap();
    drop((tenant, echo));
    control::<()>(&socket, &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

#[test]
fn uplinks_are_joined_again() {
    net::in_namespace(|| {
        let bench = Bench::new(60_000);
        let socket = bench.socket();
        let mut owner = bench.owner("made");
        let add = Control::AddUplink {
            port: 2,
            interface: "tap:again0".to_owned(),
            busy: false,
        };
        match control::<()>(&socket, &add) {
            Err(ClientError::Refused { text, .. }) => return Err(text),
            other => other.unwrap(),
        }
        owner.kill();
        let mut owner = bench.owner("taken over");
        let uplink = Holder::Uplink {
            interface: "tap:again0".to_owned(),
        };
        assert_eq!(bench.ports()[2].holder, uplink);
        let wire = net::Wire::open("again0");
        let mut tenant = Tenant::attach(&socket, 0);
        let sent = net::frame(200, 1);
        tenant.send_all(std::slice::from_ref(&sent));
        assert!(wire.receive() == sent);
        drop(tenant);
        control::<()>(&socket, &END).unwrap();
        owner.end();
        bench.expect_nothing();
        Ok(())
    });
}

#[test]
fn an_uplink_whose_interface_is_down_is_taken_along() {
    net::in_namespace(|| {
        net::veth(1500)?;
        let bench = Bench::new(60_000);
        let socket = bench.socket();
        let mut owner = bench.owner("made");
        let interface = "packet:near".to_owned();
        let add = Control::AddUplink {
            port: 2,
            interface: interface.clone(),
            busy: false,
        };
        match control::<()>(&socket, &add) {
            Err(ClientError::Refused { text, .. }) => return Err(text),
            other => other.unwrap(),
        }
        let uplink = Holder::Uplink { interface };
        let failure = || {
            let list: Vec<UplinkInfo> = control(&socket, &Control::Uplinks).unwrap();
            list[0].failure.clone()
        };
        // Down, and then not there at all, when the next owner comes.
        for (port, end, why, again) in [
            (0, "link set near down", "near is down", ""),
            (
                1,
                "link del near",
                "near was removed",
                "link add near type veth peer name far",
            ),
        ] {
            net::ip(end)?;
            owner.kill();
            owner = bench.owner("taken over");
            assert_eq!(bench.ports()[2].holder, uplink);
            net::wait_until("the reason", || {
                failure().is_some_and(|failure| failure.contains(why))
            });
            if !again.is_empty() {
                net::ip(again)?;
            }
            net::ip("link set near up")?;
            net::ip("link set far up")?;
            net::wait_until("the link", || failure().is_none());
            let wire = net::Wire::open("far");
            let mut tenant = Tenant::attach(&socket, port);
            let sent = net::frame(200, 1);
            tenant.send_all(std::slice::from_ref(&sent));
            assert!(wire.receive() == sent);
        }
        control::<()>(&socket, &END).unwrap();
        owner.end();
        bench.expect_nothing();
        Ok(())
    });
}

#[test]
fn nonsense_at_the_keepers_socket_changes_nothing() {
    let bench = Bench::new(60_000);
    let mut owner = bench.owner("made");
    let echo = bench.echo();
    let path = bench.directory.path().join("nic.keeper");
    let dial = || {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        socket
    };
    // With an owner nobody gets anything, whatever they say.
    for record in [&b"end"[..], b"drop state", &[0xff; 600]] {
        let socket = dial();
        let _ = send(&socket, record, SendFlags::NOSIGNAL);
        let mut buffer = [0; 100];
        // A connection that is closed with something unread may be reset before the answer is seen.
        if let Ok((size, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            assert!(buffer[..size].starts_with(b"owned"));
        }
    }
    owner.kill();
    // One that takes over, and says nothing that a keeper understands, is no owner.
    let socket = dial();
    let _ = send(&socket, &[0xff; 600], SendFlags::NOSIGNAL);
    owner = bench.owner_soon("taken over");
    assert!(matches!(bench.ports()[1].holder, Holder::Attached { .. }));
    // Nor is one that goes away at once, or does not read.
    owner.kill();
    drop(dial());
    owner = bench.owner_soon("taken over");
    assert!(matches!(bench.ports()[1].holder, Holder::Attached { .. }));
    drop((socket, echo));
    control::<()>(&bench.socket(), &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

#[test]
fn a_keeper_that_is_killed_is_replaced() {
    let bench = Bench::new(60_000);
    let mut owner = bench.owner("made");
    let echo = bench.echo();
    let known = [owner.child.id(), echo.child.id()];
    let keeper = || {
        let mut processes = bench.processes().into_iter().map(|(pid, _)| pid);
        processes.find(|pid| !known.contains(pid))
    };
    let first = keeper().unwrap();
    let pid = rustix::process::Pid::from_raw(first as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("other keeper", || {
        keeper().is_some_and(|other| other != first)
    });
    // The owner gives it everything before it answers anybody.
    assert_eq!(bench.ports().len(), 4);
    owner.kill();
    let mut owner = bench.owner("taken over");
    let stop = AtomicBool::new(true);
    let mut tenant = Tenant::attach(&bench.socket(), 0);
    go_round(&mut tenant, &stop, &AtomicU64::new(0));
    drop((tenant, echo));
    control::<()>(&bench.socket(), &END).unwrap();
    owner.end();
    bench.expect_nothing();
}
