//! Sockets between a guest and its host (vsock(7)).
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;

use anyhow::{Context, Result, ensure};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Gives one peer back what it sends, to its end.
pub fn echo(port: u32) -> Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port);
    let listener = listener.with_context(|| format!("listening at port {port}"))?;
    println!("LISTENING {port}");
    let (mut stream, peer) = listener.accept().context("waiting for a peer")?;
    let mut reader = stream.try_clone().context("duplicating a descriptor")?;
    let length = io::copy(&mut reader, &mut stream).context("giving back what came")?;
    println!("ECHOED {length} to {}", peer.cid());
    Ok(())
}

/// Sends bytes, all of which must come back.
pub fn ask(cid: u32, port: u32, length: usize) -> Result<()> {
    let mut stream = VsockStream::connect_with_cid_port(cid, port)
        .with_context(|| format!("connecting to port {port} of {cid}"))?;
    let sent: Vec<u8> = (0..length).map(|at| (at / 251 + at) as u8).collect();
    let mut writer = stream.try_clone().context("duplicating a descriptor")?;
    let mut got = Vec::new();
    // At once: what is on its way is less than all of it.
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(Shutdown::Write)
        });
        stream.read_to_end(&mut got).context("reading")?;
        match sender.join() {
            Ok(done) => done.context("sending"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    ensure!(got.len() == length, "{} bytes came back", got.len());
    ensure!(got == sent, "other bytes came back");
    println!("ANSWERED {length} from {cid}");
    Ok(())
}
