//! Requests to a NIC whose owner ends, and requests of clients that end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path as FilePath;
use std::thread;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::{Control, Holder};
use postern_nic_client::protocol::{Reply, Request, Status};
use postern_nic_client::request::{self, ClientError, control, counters};
use postern_nic_client::socket;
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::server::{Server, ServerError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, connect,
    recv, send, socket_with,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::process::{Bench, PATIENCE, Process, Tenant, eventually};
use super::{END, KEEP, options};

fn dial(socket: &FilePath) -> OwnedFd {
    let kind = SocketType::SEQPACKET;
    let connection = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    connect(&connection, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    set_socket_timeout(&connection, Timeout::Recv, Some(PATIENCE)).unwrap();
    connection
}

fn say(connection: &OwnedFd, control: &Control) {
    let request = Request::Control(serde_json::to_vec(control).unwrap());
    send(connection, &request.encode(), SendFlags::NOSIGNAL).unwrap();
}

/// The next record, or `None` at the end of the connection.
fn hear(connection: &OwnedFd) -> Option<Reply> {
    let mut buffer = vec![0; 4096];
    match recv(connection, &mut buffer[..], RecvFlags::empty()) {
        Ok((0, _)) | Err(Errno::CONNRESET) => None,
        Ok((size, _)) => Some(Reply::decode(&buffer[..size]).unwrap()),
        Err(errno) => panic!("{errno}"),
    }
}

/// The keeper of a NIC whose owner has ended.
fn keeper(bench: &Bench, echo: &Process) -> Pid {
    let other = |pid: &u32| *pid != echo.child.id();
    let find = || {
        bench
            .processes()
            .into_iter()
            .map(|(pid, _)| pid)
            .filter(other)
    };
    // The process that started it ends with the owner.
    eventually("keeper alone", || find().count() == 1);
    Pid::from_raw(find().next().unwrap() as i32).unwrap()
}

/// The end of the NIC, kept or not.
const DISCARD: Control = Control::Stop {
    keep: false,
    discard: true,
};

fn disable(port: u32) -> Control {
    Control::Disable { port }
}

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).unwrap()
    }

    /// Stops it; it reads nothing until [`Process::go_on`].
    fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.unwrap().1.stopped());
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }
}

#[test]
fn what_a_client_asked_for_that_has_gone_is_not_done() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    // One that the owner knows, and that only says something later.
    let known = dial(&socket);
    // The owner accepts in order, so it has accepted the one before.
    assert_eq!(bench.ports().len(), 4);
    owner.freeze();
    // In the queue of the listening socket: gone with a request, with several, with none.
    for requests in [&[disable(1)][..], &[disable(1), END], &[]] {
        let gone = dial(&socket);
        requests.iter().for_each(|request| say(&gone, request));
    }
    say(&known, &disable(2));
    drop(known);
    // One that waits is served.
    let waits = dial(&socket);
    say(&waits, &disable(3));
    owner.go_on();
    assert_eq!(hear(&waits).unwrap().status, Status::Granted);
    let holders: Vec<Holder> = bench.ports().into_iter().map(|port| port.holder).collect();
    assert_eq!(holders[1..3], [Holder::Vacant, Holder::Vacant]);
    assert_eq!(holders[3], Holder::Disabled);
    control::<()>(&socket, &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

#[test]
fn without_an_owner_everybody_is_told_so_at_once() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let echo = bench.echo();
    let known = dial(&socket);
    assert_eq!(bench.ports().len(), 4);
    owner.freeze();
    // Of those who have asked before, the owner has accepted one, and the other is in the queue.
    say(&known, &disable(2));
    let queued = dial(&socket);
    say(&queued, &disable(2));
    let tenant = dial(&socket);
    let attach = Request::Attach {
        port: 2,
        path: CallPath::Direct,
    };
    send(&tenant, &attach.encode(), SendFlags::NOSIGNAL).unwrap();
    owner.kill();
    assert_eq!(hear(&known), None);
    for asked in [queued, tenant] {
        assert_eq!(hear(&asked).unwrap().status, Status::NoOwner);
        assert_eq!(hear(&asked), None);
    }
    // Nor does anybody wait who comes later.
    let no_owner = |result| matches!(result, Err(ClientError::NoOwner { .. }));
    for request in [END, KEEP, disable(2)] {
        assert!(no_owner(control::<()>(&socket, &request)));
    }
    assert!(no_owner(request::stop(&socket, false, false)));
    assert!(no_owner(counters(&socket).map(drop)));
    assert!(no_owner(
        request::port(&socket, 2, CallPath::Direct).map(drop)
    ));
    // Nonsense is told the same, and silence harms nobody.
    let nonsense = dial(&socket);
    send(&nonsense, &[0xff; 600], SendFlags::NOSIGNAL).unwrap();
    assert_eq!(hear(&nonsense).unwrap().status, Status::NoOwner);
    let silent = dial(&socket);
    // The next owner does nothing of all that.
    let mut owner = bench.owner("taken over");
    let ports = bench.ports();
    assert!(matches!(ports[1].holder, Holder::Attached { .. }));
    assert_eq!(ports[2].holder, Holder::Vacant);
    drop((silent, echo));
    control::<()>(&socket, &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

#[test]
fn a_kept_nic_can_be_discarded() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let mut echo = bench.echo();
    let mut tenant = Tenant::attach(&socket, 0);
    owner.kill();
    let mut other = options(&socket);
    other.geometry = Geometry::new(2, 1, 4096, 4096).unwrap();
    let error = Server::bind(&other).unwrap_err();
    assert!(matches!(error, ServerError::Kept { .. }), "{error}");
    assert!(error.to_string().contains("--discard"), "{error}");
    // A client that has gone discards nothing.
    let keeper = keeper(&bench, &echo);
    kill_process(keeper, Signal::STOP).unwrap();
    eventually("keeper that stands still", || {
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.contains(") T ")
    });
    let gone = dial(&socket);
    say(&gone, &DISCARD);
    drop(gone);
    kill_process(keeper, Signal::CONT).unwrap();
    eventually("keeper without an owner", || {
        matches!(counters(&socket), Err(ClientError::NoOwner { .. }))
    });
    request::stop(&socket, false, true).unwrap();
    assert!(!socket.exists(), "its name is free");
    eventually("end of the keeper", || bench.processes().len() == 1);
    // Frames go on between those who have the memory.
    tenant.send_all(&[super::frame(7)]);
    eventually("frame after the end", || {
        tenant.port.receive(1, &mut |_| {}) == 1
    });
    // There is room for another NIC.
    other.keeper = None;
    let server = Server::bind(&other).unwrap();
    assert!(!server.is_resumed());
    drop(server);
    echo.kill();
    drop(tenant);
    bench.expect_nothing();
}

#[test]
fn a_nic_with_an_owner_is_discarded_by_the_owner() {
    let bench = Bench::new(60_000);
    let mut owner = bench.owner("made");
    request::stop(&bench.socket(), false, true).unwrap();
    assert!(!bench.socket().exists());
    owner.end();
    bench.expect_nothing();
    // An owner is gone when its end is told, and the next one finds the NIC.
    let mut owner = bench.owner("made");
    request::stop(&bench.socket(), true, false).unwrap();
    let mut next = bench.owner("taken over");
    owner.end();
    request::stop(&bench.socket(), false, false).unwrap();
    next.end();
    bench.expect_nothing();
}

/// What people set for a tenant's time ends with it, however that ends.
#[test]
fn learning_is_as_ever_after_a_tenancy() {
    let bench = Bench::new(60_000);
    let socket = bench.socket();
    let mut owner = bench.owner("made");
    let learns = |port: usize| bench.ports()[port].learning;
    let off = Control::Learning { port: 1, on: false };
    assert!(matches!(
        control::<()>(&socket, &off),
        Err(ClientError::Refused { .. })
    ));
    let mut echo = bench.echo();
    control::<()>(&socket, &off).unwrap();
    assert!(!learns(1) && learns(0));
    owner.kill();
    let mut owner = bench.owner("taken over");
    assert!(!learns(1), "its tenant is the same");
    echo.kill();
    eventually("learning again", || learns(1));
    // The tenant that ends while nobody is there.
    let mut echo = bench.echo();
    control::<()>(&socket, &off).unwrap();
    owner.kill();
    echo.kill();
    let mut owner = bench.owner("taken over");
    eventually("learning again", || learns(1));
    control::<()>(&socket, &END).unwrap();
    owner.end();
    bench.expect_nothing();
}

/// The owner here is this process, which ends as an owner when it has let a port and not said so.
#[test]
fn who_was_given_a_port_and_not_told_hears_of_the_end_of_the_owner() {
    let bench = Bench::new(PATIENCE.as_millis() as u32);
    bench.owner("made").kill();
    let socket = bench.socket();
    let keeper = dial(&bench.directory.path().join("nic.keeper"));
    let mut record = [0; 512];
    let mut listener = None;
    let (size, _) = socket::receive(&keeper, &mut record).unwrap();
    let kept = String::from_utf8_lossy(&record[..size]).into_owned();
    let count: u32 = kept.strip_prefix("kept ").unwrap().parse().unwrap();
    for _ in 0..count {
        let (size, fds) = socket::receive(&keeper, &mut record).unwrap();
        if &record[..size] == b"socket" {
            listener = fds.into_iter().next();
        }
    }
    let client = thread::spawn(move || request::port(&socket, 1, CallPath::Direct));
    let listener = listener.unwrap();
    eventually("client", || {
        let mut fds = [PollFd::new(&listener, PollFlags::IN)];
        poll(&mut fds, None).unwrap() == 1
    });
    let connection = accept(&listener).unwrap();
    let offer = b"offer tenant.1.direct";
    socket::send(&keeper, offer, &[connection.as_fd()], SendFlags::empty()).unwrap();
    drop((keeper, listener, connection));
    let error = client.join().unwrap().unwrap_err();
    assert!(matches!(error, ClientError::NoOwner { .. }), "{error}");
    // The port is no tenant's.
    let mut owner = bench.owner_soon("taken over");
    eventually("port", || Tenant::try_attach(&bench.socket(), 1).is_ok());
    control::<()>(&bench.socket(), &END).unwrap();
    owner.end();
}
