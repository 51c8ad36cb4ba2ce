//! How long after frames were sent captures stamp them: percentiles in microseconds, of a capture that
//! looks for frames from time to time and of one that polls (`postern nic capture add --busy`).
//!
//! A frame carries the time at which it was given to the switch. Both times are of this machine's
//! CLOCK_REALTIME, so they can be compared; what else runs on it is in the figures.
//!
//! `cargo run --release -p postern-nic-owner --example capture_stamps`

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::{CaptureInfo, Control, Format};
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::AccessFds;
use postern_nic_client::request::{self, control};
use postern_nic_owner::capture::Recording;
use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use postern_nic_owner::server::{Server, ServerOptions};

/// Frames that are sent for a figure.
const FRAMES: usize = 4000;
/// Time between two of them.
const SPACE: Duration = Duration::from_micros(300);
/// Offset of the time in a frame: behind addresses and EtherType.
const TIME: usize = 14;

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_nanos() as u64
}

/// The time from each frame's sending to its stamp, in nanoseconds, in ascending order.
fn measure(busy: bool) -> Result<Vec<i64>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (socket, file) = (directory.path().join("nic"), directory.path().join("file"));
    let geometry = Geometry::new(3, 1, 1 << 16, 1 << 16)?;
    let mut owner = Server::bind(&ServerOptions::new(&socket, geometry))?;
    let stopper = owner.stopper();
    let owner = thread::spawn(move || owner.run(|event| eprintln!("{event}")));
    control::<()>(
        &socket,
        &Control::AddCapture {
            port: Some(0),
            via: Some(2),
            file: file.clone(),
            format: Format::PcapNg,
            snap: None,
            busy,
        },
    )?;
    let tenancy = request::port(&socket, 0, CallPath::Direct)?;
    let AccessFds::Memory { state, windows } = tenancy.fds.access else {
        return Err("direct gives all of the memory".into());
    };
    let memory = Arc::new(Memory::open(state, windows)?);
    let mut port = HostPort::open(memory, tenancy.credentials.port())?;
    for _ in 0..FRAMES {
        thread::sleep(SPACE);
        let mut frame = [0x02; 60];
        frame[..6].fill(0xff);
        frame[TIME..TIME + 8].copy_from_slice(&now().to_le_bytes());
        port.send(&[&frame]);
    }
    thread::sleep(Duration::from_millis(100));
    let remove = Control::RemoveCapture { file: file.clone() };
    let done: CaptureInfo = control(&socket, &remove)?;
    stopper.stop();
    owner.join().map_err(|_| "the owner has panicked")??;
    if done.written != FRAMES as u64 {
        return Err(format!("{} of {FRAMES} frames are in the file", done.written).into());
    }
    let recording = Recording::open(&file)?;
    let late = recording.frames().map(|frame| {
        let sent = frame
            .data
            .get(TIME..TIME + 8)
            .and_then(|time| time.try_into().ok());
        frame.time as i64 - u64::from_le_bytes(sent.unwrap_or_default()) as i64
    });
    let mut late: Vec<i64> = late.collect();
    late.sort_unstable();
    Ok(late)
}

fn main() -> Result<(), Box<dyn Error>> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "load of the last minute {}",
        load.split(' ').next().unwrap_or("?")
    );
    println!("microseconds   least  median     90%     99%    most");
    for (name, busy) in [("as is", false), ("--busy", true)] {
        let late = measure(busy)?;
        let at = |percent: usize| late[(late.len() - 1) * percent / 100] as f64 / 1000.0;
        let [least, half, most_of, nearly, most] = [0, 50, 90, 99, 100].map(at);
        println!("{name:12} {least:7.1} {half:7.1} {most_of:7.1} {nearly:7.1} {most:7.1}");
    }
    Ok(())
}
