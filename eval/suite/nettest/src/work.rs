//! What is done with interfaces.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_words::mark;

use crate::interface::{MAX_BATCH, Packets, bring_up};

/// Size of an Ethernet header in bytes.
const HEADER: usize = 14;
/// The shortest frame that is sent: a header and the frame's number.
const SHORTEST: usize = HEADER + 8;
/// How long a receiver waits for the next frame.
const PATIENCE: Duration = Duration::from_secs(20);

/// Brings an interface up, and says what it is.
pub fn up(name: &str) -> Result<()> {
    bring_up(name)?;
    let read = |file: &str| {
        let path = format!("/sys/class/net/{name}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    };
    println!("UP {} {}", read("address")?.trim(), read("mtu")?.trim());
    Ok(())
}

/// Sends frames to everybody, each with its number.
pub fn send(name: &str, size: usize, count: usize, batch: usize, pause: Duration) -> Result<()> {
    ensure!(size >= SHORTEST, "the shortest frame has {SHORTEST} bytes");
    ensure!(
        (1..=MAX_BATCH).contains(&batch),
        "no call has {batch} frames"
    );
    let packets = Packets::open(name, PATIENCE)?;
    let mut frames = vec![frame(size); batch];
    mark(&format!("send-{size} begin"));
    let mut number = 0;
    while number < count {
        let now = batch.min(count - number);
        for (frame, number) in frames.iter_mut().zip(number..) {
            frame[HEADER..SHORTEST].copy_from_slice(&(number as u64).to_be_bytes());
        }
        packets.send(&frames[..now])?;
        number += now;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    mark(&format!("send-{size} end"));
    Ok(())
}

fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![0; size];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&Packets::PROTOCOL.to_be_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(SHORTEST) {
        *byte = at as u8;
    }
    frame
}

/// Receives frames, all of them, in order, unchanged.
pub fn receive(name: &str, size: usize, count: usize) -> Result<()> {
    let mut packets = Packets::open(name, PATIENCE)?;
    let mut wanted = frame(size.max(SHORTEST));
    mark(&format!("receive-{size} begin"));
    let mut number = 0;
    while number < count {
        let received = packets.receive(size + 1);
        let received = received.with_context(|| format!("after {number} frames"))?;
        for got in received {
            wanted[HEADER..SHORTEST].copy_from_slice(&(number as u64).to_be_bytes());
            ensure!(
                got == wanted,
                "frame {number} is not what was sent: {got:?}"
            );
            number += 1;
        }
    }
    mark(&format!("receive-{size} end"));
    Ok(())
}
