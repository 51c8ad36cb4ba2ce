//! What goes over the link: ICMP echoes, DNS over UDP, HTTP over TCP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4Slice};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

use super::{Error, dns};

/// Time to wait for anything that is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval at which a server looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// Bytes after the ICMP header of each echo. The smallest makes a frame of 42 bytes, the largest
/// one of 1514.
const ECHO_SIZES: [usize; 13] = [0, 16, 17, 22, 56, 100, 214, 472, 511, 726, 982, 1238, 1472];

/// Documents by path and size in bytes.
const DOCUMENTS: [(&str, usize); 5] = [
    ("/empty", 0),
    ("/index.html", 612),
    ("/style.css", 4_000),
    ("/picture.jpg", 60_000),
    ("/archive.tar", 150_000),
];

/// Bytes that are uploaded.
const UPLOAD: usize = 40_000;

const DNS_PORT: u16 = 53;
const HTTP_PORT: u16 = 80;

/// The client's side of all conversations, one after the other.
pub fn run(server: Ipv4Addr) -> Result<(), Error> {
    let step = |what: String| move |source: io::Error| Error::Traffic { what, source };
    for (sequence, size) in (1..).zip(ECHO_SIZES) {
        echo(server, sequence, size).map_err(step(format!("an ICMP echo of {size} bytes")))?;
    }
    for (id, (name, kind)) in (1..).zip(dns::QUESTIONS) {
        resolve(server, id, name, kind).map_err(step(format!("the DNS question for {name}")))?;
    }
    for (path, size) in DOCUMENTS {
        get(server, path, size).map_err(step(format!("HTTP GET {path}")))?;
    }
    post(server).map_err(step("HTTP POST".into()))
}

/// Serves DNS and HTTP, calls `until` when both are ready, and ends when it returns.
pub fn serve(address: Ipv4Addr, until: impl FnOnce()) -> Result<(), Error> {
    let step = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| Error::Traffic { what, source }
    };
    let names = UdpSocket::bind((address, DNS_PORT)).map_err(step("starting the DNS server"))?;
    let documents =
        TcpListener::bind((address, HTTP_PORT)).map_err(step("starting the HTTP server"))?;
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let names = scope.spawn(|| serve_names(&names, &end));
        let documents = scope.spawn(|| serve_documents(&documents, &end));
        until();
        end.store(true, Ordering::Relaxed);
        let panicked = |_| Err(io::Error::other("the server panicked"));
        let names = names.join().unwrap_or_else(panicked);
        let documents = documents.join().unwrap_or_else(panicked);
        names.map_err(step("serving DNS"))?;
        documents.map_err(step("serving HTTP"))
    })
}

/// Sends one ICMP echo request with `size` bytes and waits for the kernel at the other end to
/// answer.
fn echo(server: Ipv4Addr, sequence: u16, size: usize) -> io::Result<()> {
    const ID: u16 = 0x706f;
    let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let payload: Vec<_> = (0..size).map(|n| n as u8).collect();
    let header = IcmpEchoHeader {
        id: ID,
        seq: sequence,
    };
    let mut message = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), &payload)
        .to_bytes()
        .to_vec();
    message.extend_from_slice(&payload);
    let to = SocketAddrV4::new(server, 0);
    net::sendto(&socket, &message, SendFlags::empty(), &to)?;

    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0_u8; 2048];
    while Instant::now() < deadline {
        let (_, length) = net::recv(socket.as_fd(), &mut buffer[..], RecvFlags::empty())?;
        let packet = Ipv4Slice::from_slice(&buffer[..length]).map_err(io::Error::other)?;
        let Ok(icmp) = Icmpv4Slice::from_slice(packet.payload().payload) else {
            continue;
        };
        if icmp.icmp_type() == Icmpv4Type::EchoReply(header) && icmp.payload() == payload {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn resolve(server: Ipv4Addr, id: u16, name: &str, kind: simple_dns::TYPE) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, DNS_PORT))?;
    socket.send(&dns::query(id, name, kind)?)?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    dns::check_answer(id, &buffer[..length])
}

fn serve_names(socket: &UdpSocket, end: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(POLL))?;
    let mut buffer = [0; 2048];
    while !end.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                socket.send_to(&dns::answer(&buffer[..length])?, from)?;
            }
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The bytes of a document: never twice the same in a row, so that no two frames are equal.
fn document(size: usize) -> Vec<u8> {
    (0..size)
        .map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect()
}

fn connect(server: Ipv4Addr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(server, HTTP_PORT).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn get(server: Ipv4Addr, path: &str, size: usize) -> io::Result<()> {
    let mut stream = connect(server)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: www.postern.example\r\nUser-Agent: postern-capture/1\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let body = response(stream)?;
    match body == document(size) {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} bytes came, not {size}",
            body.len()
        ))),
    }
}

fn post(server: Ipv4Addr) -> io::Result<()> {
    let mut stream = connect(server)?;
    let request = format!(
        "POST /upload HTTP/1.1\r\nHost: www.postern.example\r\nUser-Agent: postern-capture/1\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {UPLOAD}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    stream.write_all(&document(UPLOAD))?;
    match response(stream)? == UPLOAD.to_string().as_bytes() {
        true => Ok(()),
        false => Err(io::Error::other("the upload arrived in part")),
    }
}

/// The body of a response with status 200.
fn response(stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let status = head(&mut reader)?.0;
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("the server answered {status:?}")));
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok(body)
}

/// Reads the head of a message: its first line, and the value of Content-Length.
fn head(reader: &mut impl BufRead) -> io::Result<(String, usize)> {
    let (mut first, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((first.unwrap_or_default(), length));
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        first.get_or_insert_with(|| line.to_owned());
    }
}

fn serve_documents(listener: &TcpListener, end: &AtomicBool) -> io::Result<()> {
    set_socket_timeout(listener, Timeout::Recv, Some(POLL))?;
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => serve_document(&stream)?,
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers one request.
fn serve_document(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let (request, length) = head(&mut reader)?;
    let mut upload = Vec::new();
    reader.take(length as u64).read_to_end(&mut upload)?;
    let path = request.split(' ').nth(1).unwrap_or("");
    let found = DOCUMENTS.iter().find(|(name, _)| *name == path);
    let (status, body) = match (path, found) {
        ("/upload", _) => ("200 OK", upload.len().to_string().into_bytes()),
        (_, Some((_, size))) => ("200 OK", document(*size)),
        (_, None) => ("404 Not Found", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nServer: postern-capture/1\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// True for the error of a read that only ran out of time.
fn waits(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
