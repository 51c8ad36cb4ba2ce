//! The owner of a NIC and its clients, over real sockets.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../../switch/tests/common/mod.rs"]
mod common;
mod confined;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs};

use common::{Guest, SMALL, TestNic as OpenedNic, frame, geometry, mac};
use postern_abi::platform::CallPath;
use postern_abi::service::{ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, Secret};
use postern_abi::window::WindowHeader;
use postern_nic_client::bells::{self, Bells};
use postern_nic_client::control::{Control, Holder, Revocation};
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::{AccessFds, Reply, Request, Status};
use postern_nic_client::request::{self, ClientError, Tenancy, counters};
use postern_nic_owner::server::{Server, ServerError, ServerOptions, Stopper};
use postern_switch::credentials::Credentials;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// A NIC on a thread, in a directory of its own.
struct TestNic {
    directory: tempfile::TempDir,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl TestNic {
    fn start(change: impl FnOnce(&mut ServerOptions)) -> TestNic {
        let directory = tempfile::tempdir().unwrap();
        let mut options =
            ServerOptions::new(directory.path().join("nic"), geometry(3, 1, SMALL, SMALL));
        change(&mut options);
        confined::on();
        let server = Server::bind(&options).unwrap();
        let stopper = server.stopper();
        let thread = confined::serve(server);
        TestNic {
            directory,
            stopper,
            thread: Some(thread),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("nic")
    }

    fn attach(&self, port: u32) -> Result<Tenancy, ClientError> {
        request::port(&self.socket(), port, CallPath::ExitUser)
    }

    fn raw(&self) -> OwnedFd {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        socket
    }
}

impl Drop for TestNic {
    fn drop(&mut self) {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.socket().exists(), "the socket is removed");
    }
}

fn open(tenancy: &mut Tenancy) -> OpenedNic {
    let nothing = AccessFds::Memory {
        state: rustix::fs::memfd_create("none", rustix::fs::MemfdFlags::empty()).unwrap(),
        windows: Vec::new(),
    };
    match std::mem::replace(&mut tenancy.fds.access, nothing) {
        AccessFds::Memory { state, windows } => {
            OpenedNic::opened(Memory::open(state, windows).unwrap())
        }
        AccessFds::View { .. } => panic!("exit-user needs no view"),
    }
}

/// The status and the reason of a refusal.
fn refusal(result: Result<Tenancy, ClientError>) -> (Status, String) {
    match result {
        Err(ClientError::Refused { status, text, .. }) => (status, text),
        other => panic!("{other:?}"),
    }
}

/// Asks until the port is free: the server learns of a closed connection when it gets to it.
fn attach_soon(nic: &TestNic, port: u32) -> Tenancy {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match nic.attach(port) {
            Ok(tenancy) => return tenancy,
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn receive(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let (size, _) = recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    buffer.truncate(size);
    buffer
}

#[test]
fn two_clients_exchange_a_frame() {
    let nic = TestNic::start(|_| {});
    let (mut a, mut b) = (nic.attach(0).unwrap(), nic.attach(2).unwrap());
    assert_ne!(a.mac, b.mac);
    let (memory_a, memory_b) = (open(&mut a), open(&mut b));
    let mut sender = Guest::alias(&memory_a, a.credentials);
    let mut receiver = Guest::alias(&memory_b, b.credentials);
    sender.send(&frame(mac(2), mac(0), 99, 1));
    assert_eq!(sender.call(1, true), 1);
    assert_eq!(receiver.receive(0, 9), [frame(mac(2), mac(0), 99, 1)]);

    let counters = counters(&nic.socket()).unwrap();
    assert_eq!(counters.ports.len(), 3);
    assert_eq!(
        (counters.ports[0].tx_frames, counters.ports[0].tx_bytes),
        (1, 99)
    );
    assert_eq!(counters.ports[2].rx_frames, 1);
    let attached: Vec<_> = counters.ports.iter().map(|port| port.attached).collect();
    assert_eq!(attached, [true, false, true]);
}

/// The bells that came with a tenancy.
fn bells(tenancy: &mut Tenancy) -> Bells {
    let bells = std::mem::take(&mut tenancy.fds.bells);
    Bells::from_fds(tenancy.geometry(), bells).unwrap()
}

#[test]
fn tenants_ring_each_others_bells() {
    // More descriptors than one record takes.
    let large = geometry(64, 4, SMALL, SMALL);
    let nic = TestNic::start(|options| options.geometry = large);
    let (mut one, mut other) = (nic.attach(1).unwrap(), nic.attach(63).unwrap());
    let (one, other) = (bells(&mut one), bells(&mut other));
    assert_eq!(one.fds().count(), 256);
    let last = large.rx_queue(large.port(63).unwrap(), 3);
    one.ring(last);
    one.ring(last);
    other.ring(5);
    let rung = |bells: &Bells, queue| bells::take(bells.get(queue).unwrap());
    assert_eq!((rung(&other, last), rung(&one, 5)), (2, 1));
    for queue in 0..256 {
        assert_eq!(rung(&one, queue), 0);
    }
}

#[test]
fn who_sleeps_hears_of_frames_that_nobody_told_and_of_the_end() {
    let nic = TestNic::start(|_| {});
    let (mut sleeper, mut other) = (nic.attach(2).unwrap(), nic.attach(1).unwrap());
    let [first, second] = [&mut sleeper, &mut other].map(bells);
    let (port, memory) = (sleeper.credentials.port(), open(&mut sleeper));
    let by_owner = |port: usize| counters(&nic.socket()).unwrap().ports[port].rung_by_owner;
    let asleep = memory.switch().asleep(port, 0).unwrap();
    asleep.store(1, Ordering::Relaxed);
    while by_owner(2) < 2 {
        std::thread::yield_now();
    }
    assert!(bells::take(first.get(2).unwrap()) >= 2);
    // Who is awake is not rung, but at the end.
    let rung = || bells::take(second.get(1).unwrap());
    assert_eq!((rung(), by_owner(1)), (0, 0));
    let revoke = Control::Revoke {
        port: 1,
        kill: false,
    };
    let _: Revocation = request::control(&nic.socket(), &revoke).unwrap();
    assert_eq!(rung(), 1);
}

#[test]
fn a_port_is_let_once() {
    let nic = TestNic::start(|_| {});
    let first = nic.attach(1).unwrap();
    let (status, text) = refusal(nic.attach(1));
    assert_eq!(status, Status::PortTaken);
    assert!(text.contains("port 1 is taken by process"), "{text}");
    let former = first.credentials;
    drop(first);
    let mut second = attach_soon(&nic, 1);
    assert_ne!(second.credentials.tenancy(), former.tenancy());
    // The word of the former tenancy is worth nothing any more.
    let memory = open(&mut second);
    assert_eq!(Guest::alias(&memory, former).call(1, false), u64::MAX);
    assert_eq!(Guest::alias(&memory, second.credentials).call(1, false), 0);
}

#[test]
fn what_does_not_exist_is_refused() {
    let nic = TestNic::start(|options| options.paths.retain(|path| *path != CallPath::Direct));
    let (status, text) = refusal(nic.attach(3));
    assert_eq!(status, Status::NoSuchPort);
    assert_eq!(text, "there is no port 3; the NIC has ports 0 to 2");
    assert_eq!(refusal(nic.attach(u32::MAX)).0, Status::NoSuchPort);
    let (status, text) = refusal(request::port(&nic.socket(), 0, CallPath::Direct));
    assert_eq!(status, Status::PathRefused);
    assert_eq!(text, "the NIC does not offer the path direct");
    for path in [CallPath::Elisa, CallPath::ElisaStrict, CallPath::ExitKernel] {
        let (status, text) = refusal(request::port(&nic.socket(), 0, path));
        assert_eq!(status, Status::NoViews);
        assert!(text.contains("--image"), "{text}");
    }
    nic.attach(0).expect("refusals take nothing");
}

#[test]
fn nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let error = request::port(&directory.path().join("nic"), 0, CallPath::ExitUser).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

#[test]
fn garbage_is_answered_and_harms_nobody() {
    let nic = TestNic::start(|_| {});
    let attached = nic.attach(0).unwrap();
    let mut other_version = Request::Counters.encode();
    other_version[8] = 99;
    let mut other_kind = Request::Counters.encode();
    other_kind[12] = 77;
    let records: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 32],
        &[0xff; 33],
        &[0; 100_000],
        &other_version,
        &other_kind,
    ];
    for record in records {
        let socket = nic.raw();
        send(&socket, record, SendFlags::empty()).unwrap();
        let reply = Reply::decode(&receive(&socket)).unwrap();
        assert_eq!(reply.status, Status::BadRequest);
        assert!(!reply.text.is_empty());
        assert!(receive(&socket).is_empty(), "disconnected");
    }
    // Descriptors that nobody asked for, and half a connection.
    let socket = nic.raw();
    rustix::net::shutdown(&socket, rustix::net::Shutdown::Write).unwrap();
    drop(nic.raw());
    assert_eq!(
        refusal(nic.attach(0)).0,
        Status::PortTaken,
        "still attached"
    );
    drop(attached);
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    let nic = TestNic::start(|_| {});
    let deaf = nic.raw();
    let mut sent = 0;
    // Until the server has disconnected it, or takes no more.
    while sent < 10_000
        && send(
            &deaf,
            &Request::Counters.encode(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
        .is_ok()
    {
        sent += 1;
    }
    assert!(sent > 10);
    let start = Instant::now();
    nic.attach(0).unwrap();
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn silent_clients_are_disconnected_and_do_not_keep_others_out() {
    let nic = TestNic::start(|_| {});
    let silent: Vec<_> = (0..330).map(|_| nic.raw()).collect();
    let start = Instant::now();
    // The last ones are over the limit, and closed at once; the first ones after a while.
    assert!(receive(silent.last().unwrap()).is_empty());
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(receive(&silent[0]).is_empty());
    nic.attach(0).unwrap();
}

#[test]
fn a_second_port_needs_a_second_connection() {
    let nic = TestNic::start(|_| {});
    let socket = nic.raw();
    let request = |port| Request::Attach {
        port,
        path: CallPath::ExitUser,
    };
    send(&socket, &request(0).encode(), SendFlags::empty()).unwrap();
    assert_eq!(
        Reply::decode(&receive(&socket)).unwrap().status,
        Status::Granted
    );
    send(&socket, &request(1).encode(), SendFlags::empty()).unwrap();
    let reply = Reply::decode(&receive(&socket)).unwrap();
    assert_eq!(reply.status, Status::BadRequest);
    assert!(reply.text.contains("has port 0"), "{}", reply.text);
    nic.attach(1).expect("not taken by it");
}

#[test]
fn the_socket_is_private_and_its_name_is_respected() {
    let nic = TestNic::start(|_| {});
    let mode = fs::metadata(nic.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Server::bind(&ServerOptions::new(
        nic.socket(),
        geometry(2, 1, SMALL, SMALL),
    ))
    .unwrap_err();
    assert!(matches!(error, ServerError::InUse(_)), "{error}");
    let file = nic.directory.path().join("file");
    fs::write(&file, "keep me").unwrap();
    let error = Server::bind(&ServerOptions::new(&file, geometry(2, 1, SMALL, SMALL))).unwrap_err();
    assert!(matches!(error, ServerError::NotASocket(_)), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"keep me");
    let long = nic.directory.path().join("x".repeat(120));
    let error = Server::bind(&ServerOptions::new(long, geometry(2, 1, SMALL, SMALL))).unwrap_err();
    assert!(matches!(error, ServerError::Listen { .. }), "{error}");
}

#[test]
fn a_socket_left_behind_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nic");
    let kind = SocketType::SEQPACKET;
    let dead = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&dead, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(dead);
    let server = Server::bind(&ServerOptions::new(&path, geometry(2, 1, SMALL, SMALL))).unwrap();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn bad_options_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nic");
    let mut options = ServerOptions::new(&path, geometry(2, 1, SMALL, SMALL));
    options.unlearned = vec![2];
    let error = Server::bind(&options).unwrap_err();
    assert_eq!(error.to_string(), "there is no port 2 on a NIC of 2 ports");
    options.unlearned.clear();
    options.image = Some(directory.path().join("absent"));
    let error = Server::bind(&options).unwrap_err();
    assert!(matches!(error, ServerError::Image(_)), "{error}");
    assert!(!path.exists());
}

/// A tenant in a process of its own: this test program, asked to be one.
struct Tenant {
    child: Child,
    said: BufReader<ChildStdout>,
    orders: ChildStdin,
}

const TENANT: &str = "POSTERN_TEST_TENANT";

impl Tenant {
    fn start(socket: &FilePath) -> Tenant {
        let mut tenant = Tenant::with_role("be_a_tenant", socket);
        tenant.hear("attached");
        tenant
    }

    fn with_role(role: &str, socket: &FilePath) -> Tenant {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", role, "--nocapture"])
            .env(TENANT, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let orders = child.stdin.take().unwrap();
        Tenant {
            child,
            said,
            orders,
        }
    }

    fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "no {word}");
        }
        line
    }
}

#[test]
fn be_a_tenant() {
    let Some(socket) = env::var_os(TENANT) else {
        return;
    };
    let tenancy = request::port(FilePath::new(&socket), 0, CallPath::ExitUser).unwrap();
    println!("attached");
    let mut order = [0];
    std::io::stdin().read_exact(&mut order).unwrap();
    drop(tenancy);
    println!("released");
    let _ = std::io::stdin().read(&mut order);
}

#[test]
fn a_killed_tenant_gives_up_its_port() {
    let nic = TestNic::start(|_| {});
    let mut tenant = Tenant::start(&nic.socket());
    let (status, text) = refusal(nic.attach(0));
    assert_eq!(status, Status::PortTaken);
    assert!(text.contains(&tenant.child.id().to_string()), "{text}");
    tenant.child.kill().unwrap();
    // Before it is reaped: a zombie has no memory any more.
    attach_soon(&nic, 0);
    tenant.child.wait().unwrap();
}

/// The process has the window mapped, maybe, until it ends.
#[test]
fn a_port_is_not_let_while_its_former_tenant_lives() {
    let nic = TestNic::start(|_| {});
    let mut tenant = Tenant::start(&nic.socket());
    tenant.orders.write_all(b"x").unwrap();
    tenant.hear("released");
    let start = Instant::now();
    let socket = nic.socket();
    let (status, text) = refusal(request::port(&socket, 0, CallPath::ExitUser));
    assert_eq!(status, Status::PortTaken);
    assert!(text.contains("still has its memory"), "{text}");
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "it was waited for"
    );
    // A request that waits does not keep others waiting, and is served in the end.
    let waiting = std::thread::spawn(move || request::port(&socket, 0, CallPath::ExitUser));
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    nic.attach(1).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    tenant.child.kill().unwrap();
    waiting.join().unwrap().unwrap();
    tenant.child.wait().unwrap();
}

/// A connection, with what a reply brought of descriptors.
fn raw_tenancy(socket: &FilePath) -> (OwnedFd, Vec<OwnedFd>) {
    let kind = SocketType::SEQPACKET;
    let connection = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    connect(&connection, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    let request = Request::Attach {
        port: 0,
        path: CallPath::ExitUser,
    };
    send(&connection, &request.encode(), SendFlags::empty()).unwrap();
    let mut buffer = [0; 4096];
    let (size, fds) = postern_nic_client::socket::receive(&connection, &mut buffer).unwrap();
    let reply = Reply::decode(&buffer[..size]).unwrap();
    assert_eq!(reply.status, Status::Granted, "{}", reply.text);
    (connection, fds)
}

/// Ends this process, and leaves another one that has these descriptors until the orders end.
fn leave_to_an_heir(fds: &[OwnedFd]) -> ! {
    for fd in fds {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let heir = Command::new("cat").stdout(Stdio::null()).spawn().unwrap();
    println!("left to process {}", heir.id());
    std::process::exit(0);
}

#[test]
fn be_a_tenant_that_leaves_its_memory() {
    if let Some(socket) = env::var_os(TENANT) {
        let (_connection, fds) = raw_tenancy(FilePath::new(&socket));
        leave_to_an_heir(&fds);
    }
}

#[test]
fn be_a_tenant_that_leaves_its_connection() {
    if let Some(socket) = env::var_os(TENANT) {
        let (connection, fds) = raw_tenancy(FilePath::new(&socket));
        drop(fds);
        leave_to_an_heir(&[connection]);
    }
}

/// The connection is closed and the process has ended, yet another one has the port's memory.
#[test]
fn a_port_is_not_let_while_an_heir_of_its_tenant_has_its_memory() {
    let nic = TestNic::start(|_| {});
    let mut tenant = Tenant::with_role("be_a_tenant_that_leaves_its_memory", &nic.socket());
    tenant.hear("left to process");
    tenant.child.wait().unwrap();
    let (status, text) = refusal(nic.attach(0));
    assert_eq!(status, Status::PortTaken);
    assert!(
        text.contains("left its memory to another process"),
        "{text}"
    );
    nic.attach(1).expect("another port");
    // The heir ends with its input.
    drop(tenant.orders);
    attach_soon(&nic, 0);
}

/// The process has ended, yet the connection goes on in another one.
#[test]
fn a_connection_that_an_heir_has_goes_on() {
    let nic = TestNic::start(|_| {});
    let mut tenant = Tenant::with_role("be_a_tenant_that_leaves_its_connection", &nic.socket());
    tenant.hear("left to process");
    tenant.child.wait().unwrap();
    assert_eq!(refusal(nic.attach(0)).0, Status::PortTaken);
    drop(tenant.orders);
    attach_soon(&nic, 0);
}

const PARENT: &str = "POSTERN_TEST_PARENT";

#[test]
fn be_a_client_that_leaves_its_connection() {
    let Some(socket) = env::var_os(TENANT) else {
        return;
    };
    let kind = SocketType::SEQPACKET;
    let connection = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    connect(&connection, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "be_an_asking_heir", "--nocapture"])
        .env(PARENT, std::process::id().to_string())
        .stdin(Stdio::from(connection))
        .spawn()
        .unwrap();
    std::process::exit(0);
}

#[test]
fn be_an_asking_heir() {
    let Some(parent) = env::var_os(PARENT) else {
        return;
    };
    let parent = format!("/proc/{}", parent.to_str().unwrap());
    while FilePath::new(&parent).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let request = Request::Attach {
        port: 0,
        path: CallPath::ExitUser,
    };
    send(std::io::stdin(), &request.encode(), SendFlags::empty()).unwrap();
    let mut buffer = vec![0; 4096];
    let (size, _) = recv(std::io::stdin(), &mut buffer[..], RecvFlags::empty()).unwrap();
    let reply = Reply::decode(&buffer[..size]).unwrap();
    println!("the answer is {:?}: {}", reply.status, reply.text);
    std::process::exit(0);
}

/// Nobody would see the end of the process that asks: another one has connected.
#[test]
fn who_asks_over_the_connection_of_a_process_that_has_ended_is_refused() {
    let nic = TestNic::start(|_| {});
    let role = "be_a_client_that_leaves_its_connection";
    let mut tenant = Tenant::with_role(role, &nic.socket());
    tenant.child.wait().unwrap();
    let answer = tenant.hear("the answer is");
    assert!(answer.contains("PeerUnknown"), "{answer}");
    nic.attach(0).unwrap();
}

/// The tenant's process ends by it, so that the port can be let at once.
#[test]
fn a_port_is_taken_with_the_end_of_its_process() {
    let nic = TestNic::start(|_| {});
    let mut tenant = Tenant::start(&nic.socket());
    let take = |kill| {
        let order = Control::Revoke { port: 0, kill };
        request::control::<Revocation>(&nic.socket(), &order).unwrap()
    };
    let pid = Some(tenant.child.id() as i32);
    let leaving = Holder::Leaving { pid, left: false };
    assert_eq!(take(false).holder, leaving);
    assert!(tenant.child.try_wait().unwrap().is_none(), "it lives");
    assert_eq!(take(true).pid, pid);
    let end = tenant.child.wait().unwrap();
    assert_eq!(end.signal(), Some(9), "{end}");
    nic.attach(0).unwrap();
}

/// The owner draws a secret for each tenancy: it is in the tenant's words, in its window, and in no
/// other's.
#[test]
fn each_tenancy_has_a_secret_of_its_own() {
    let nic = TestNic::start(|_| {});
    let mut former = Tenant::start(&nic.socket());
    let mut other = nic.attach(1).unwrap();
    let opened = open(&mut other);
    let memory = &opened.memory;
    let old = memory.switch().credentials(0).unwrap();
    former.child.kill().unwrap();
    // The port is its while its connection lasts.
    let newcomer = attach_soon(&nic, 0);
    let new = newcomer.credentials;
    former.child.wait().unwrap();

    let secrets = [old, new, other.credentials].map(|tenant| tenant.secret());
    assert!(secrets.iter().all(|secret| secret.is_valid()));
    assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2] && secrets[0] != secrets[2]);
    for (port, secret) in [(0, secrets[1]), (1, secrets[2])] {
        let window = memory.switch().window(common::port(port)).unwrap();
        // SAFETY: the window begins with a header, which nobody writes now.
        let header = unsafe { window.cast::<WindowHeader>().read() };
        assert_eq!(header.secret, secret);
        let credentials = memory.switch().credentials(port).unwrap();
        assert_eq!(credentials.secret(), secret);
    }
    // By the words of the former tenant, and by its secret, nothing is served.
    let request = |tenant: &Credentials, secret: Secret| {
        memory.serve(tenant, 0, secret.request(OP_FEATURES), 0, 0)
    };
    assert_eq!(request(&old, secrets[0]), ERR_BAD_REQUEST);
    assert_eq!(request(&new, secrets[0]), ERR_NO_SECRET);
    assert_eq!(request(&new, secrets[1]), 0);
    let counters = counters(&nic.socket()).unwrap();
    assert_eq!(
        [0, 1, 2].map(|port| counters.ports[port].refused),
        [1, 0, 0]
    );
    let text = counters.to_string();
    assert!(text.contains(" requests_without_secret 1"), "{text}");
}
