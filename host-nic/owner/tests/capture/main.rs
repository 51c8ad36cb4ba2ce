//! Capture files, written and read, and replay into a port.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod formats;
#[path = "../net/mod.rs"]
mod net;
mod pace;

use std::cell::Cell;
use std::error::Error as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use net::{Lists, frame, wait_until};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use postern_nic_owner::capture::{
    Capture, CaptureError, CaptureOptions, Direction, Format, Recording, RecordingError, Replay,
    Skipped, Tapped,
};
use postern_nic_owner::frame_port::FramePort;
use proptest::prelude::*;
use tempfile::TempDir;

const MAX_FRAME: usize = postern_abi::window::MAX_FRAME as usize;

const PCAP: CaptureOptions = CaptureOptions {
    format: Format::Pcap,
    snap: 65_535,
    queue: 8 << 20,
};

/// A moment with a different value in each part of its nanoseconds.
const MOMENT: u64 = 1_700_000_001_234_567_891;

fn parse(bytes: &[u8]) -> Result<Recording, RecordingError> {
    Recording::parse(Path::new("some.pcap"), bytes.to_vec())
}

/// `(time, frame)` of every frame of a file.
fn contents(recording: &Recording) -> Vec<(u64, Vec<u8>)> {
    recording
        .frames()
        .map(|frame| (frame.time, frame.data.to_vec()))
        .collect()
}

/// Little-endian pcap with nanoseconds.
fn pcap(packets: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0];
    for word in [0u32, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for &(seconds, fraction, original, data) in packets {
        for word in [seconds, fraction, data.len() as u32, original] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(data);
    }
    bytes
}

/// One pcapng block, big or little endian, of 32-bit words and bytes.
fn block(big: bool, kind: u32, words: &[u32], data: &[u8]) -> Vec<u8> {
    let word = |word: u32| {
        if big {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        }
    };
    let mut body: Vec<u8> = words.iter().flat_map(|&value| word(value)).collect();
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0xcc);
    let length = body.len() as u32 + 12;
    [&word(kind)[..], &word(length), &body, &word(length)].concat()
}

/// The blocks at the beginning of a pcapng file with one Ethernet interface.
fn pcapng_head(big: bool, snap: u32) -> Vec<u8> {
    let version = if big { 0x0001_0000 } else { 0x0000_0001 };
    let mut bytes = block(big, 0x0a0d_0d0a, &[0x1a2b_3c4d, version, !0, !0], &[]);
    let link = if big { 0x0001_0000 } else { 0x0000_0001 };
    bytes.extend(block(big, 1, &[link, snap], &[]));
    bytes
}

#[test]
fn pcapng_holds_interfaces_nanoseconds_directions_and_loss() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.pcapng");
    let now = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
    };
    let before = now();
    let capture = Capture::create(&file, CaptureOptions::default()).unwrap();
    let first = capture.interface("port 0");
    let mut expected = Vec::new();
    for number in 0..1000u64 {
        let data = frame(14 + number as usize * 9, number);
        first.frame_at(MOMENT + number, Direction::In, &data);
        expected.push((MOMENT + number, data));
    }
    let second = capture.interface("port 1, added later");
    let data = frame(60, 7);
    second.frame_at(MOMENT + 5000, Direction::Out, &data);
    // It is too long to be sent again, but not to be captured.
    second.frame_at(MOMENT + 6000, Direction::Out, &[9; MAX_FRAME + 1]);
    expected.push((MOMENT + 5000, data));
    let stats = capture.finish().unwrap();
    let found: Vec<_> = stats
        .interfaces
        .iter()
        .map(|i| (i.name.as_str(), i.written, i.lost))
        .collect();
    assert_eq!(found, [("port 0", 1000, 0), ("port 1, added later", 2, 0)]);

    let recording = Recording::open(&file).unwrap();
    assert!(contents(&recording) == expected);
    assert_eq!(recording.skipped().too_long, 1);

    let mut reader = PcapNgReader::new(File::open(&file).unwrap()).unwrap();
    let (mut names, mut flags, mut statistics) = (vec![], vec![], vec![]);
    while let Some(block) = reader.next_block() {
        match block.unwrap().into_owned() {
            Block::InterfaceDescription(block) => {
                assert_eq!(block.options[1], InterfaceDescriptionOption::IfTsResol(9));
                let InterfaceDescriptionOption::IfName(name) = &block.options[0] else {
                    panic!("no name");
                };
                names.push(name.to_string());
            }
            Block::EnhancedPacket(block) => {
                flags.push((block.interface_id, block.options[0].clone()))
            }
            Block::InterfaceStatistics(block) => {
                // The upper word comes first, which the crate does not know.
                let real = Duration::from_nanos(block.timestamp.rotate_left(32));
                assert!((before..=now()).contains(&real), "{real:?}");
                assert_eq!(
                    block.options[1],
                    InterfaceStatisticsOption::IsbEndTime(block.timestamp)
                );
                statistics.push((block.interface_id, block.options[2..].to_vec()));
            }
            _ => {}
        }
    }
    assert_eq!(names, ["port 0", "port 1, added later"]);
    assert_eq!(flags.len(), 1002);
    assert_eq!(flags[0], (0, EnhancedPacketOption::Flags(1)));
    assert_eq!(flags[1000], (1, EnhancedPacketOption::Flags(2)));
    use InterfaceStatisticsOption::{IsbIfDrop, IsbIfRecv, IsbUsrDeliv};
    let of = |seen| vec![IsbIfRecv(seen), IsbIfDrop(0), IsbUsrDeliv(seen)];
    assert_eq!(statistics, [(0, of(1000)), (1, of(2))]);
}

#[test]
fn pcap_holds_nanoseconds() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.pcap");
    let capture = Capture::create(&file, PCAP).unwrap();
    let tap = capture.interface("port 0");
    let expected: Vec<_> = (0..100)
        .map(|number| (MOMENT + number, frame(14 + number as usize, number)))
        .collect();
    for (time, data) in &expected {
        tap.frame_at(*time, Direction::In, data);
    }
    capture.finish().unwrap();
    assert_eq!(fs::read(&file).unwrap()[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    assert!(contents(&Recording::open(&file).unwrap()) == expected);
}

#[test]
fn tcpdump_reads_both_formats() {
    let folder = TempDir::new().unwrap();
    for options in [CaptureOptions::default(), PCAP] {
        let file = folder.path().join(format!("{:?}", options.format));
        let capture = Capture::create(&file, options).unwrap();
        let tap = capture.interface("port 0");
        for number in 0..10 {
            tap.frame_at(MOMENT + number, Direction::In, &frame(60, number));
        }
        capture.finish().unwrap();
        let output = Command::new("tcpdump")
            .args(["-tt", "--nano", "-e", "-n", "-r"])
            .arg(&file)
            .output();
        let Ok(output) = output else {
            println!("SKIP: the command tcpdump cannot be run; install tcpdump");
            return;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Lines that begin with a tab show bytes.
        let lines = text.lines().filter(|line| !line.starts_with('\t'));
        let times: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        let expected: Vec<_> = (0..10)
            .map(|number| format!("1700000001.{}", 234_567_891 + number))
            .collect();
        assert_eq!(times, expected, "{text}");
    }
}

#[test]
fn frames_are_cut_to_the_snap_length() {
    let folder = TempDir::new().unwrap();
    for format in [Format::PcapNg, Format::Pcap] {
        let file = folder.path().join(format!("{format:?}"));
        let options = CaptureOptions {
            format,
            snap: 100,
            ..CaptureOptions::default()
        };
        let capture = Capture::create(&file, options).unwrap();
        let tap = capture.interface("port 0");
        tap.frame(Direction::In, &frame(100, 1));
        tap.frame(Direction::In, &frame(101, 2));
        capture.finish().unwrap();
        let recording = Recording::open(&file).unwrap();
        assert_eq!(recording.len(), 1);
        assert_eq!(recording.frame(0).unwrap().data, frame(100, 1));
        let expected = Skipped {
            truncated: 1,
            ..Skipped::default()
        };
        assert_eq!(recording.skipped(), expected);
    }
}

/// A writer that lets nothing pass until it is told to.
struct Gate {
    open: mpsc::Receiver<()>,
    waited: bool,
    file: File,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The header passes.
        if self.file.metadata()?.len() > 0 && !self.waited {
            self.waited = true;
            let _ = self.open.recv();
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[test]
fn what_does_not_fit_the_queue_is_lost_and_counted_in_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.pcapng");
    let (sender, open) = mpsc::channel();
    let gate = Gate {
        open,
        waited: false,
        file: File::create(&file).unwrap(),
    };
    let options = CaptureOptions {
        queue: 64 << 10,
        ..CaptureOptions::default()
    };
    let capture = Capture::to(gate, "a gate", options).unwrap();
    let taps = [capture.interface("a"), capture.interface("b")];
    // While the gate is shut the queue holds 64 KiB and the thread at most as much again.
    for number in 0..3000u64 {
        let tap = &taps[usize::from(number % 3 == 0)];
        tap.frame_at(MOMENT + number, Direction::In, &frame(100, number));
    }
    sender.send(()).unwrap();
    let stats = capture.finish().unwrap();
    let (a, b) = (&stats.interfaces[0], &stats.interfaces[1]);
    assert_eq!((a.written + a.lost, b.written + b.lost), (2000, 1000));
    assert!(
        a.lost > 0 && b.lost > 0 && a.written > 0 && b.written > 0,
        "{stats:?}"
    );

    let mut reader = PcapNgReader::new(File::open(&file).unwrap()).unwrap();
    let mut counts = [0, 0];
    let mut dropped = [0, 0];
    while let Some(block) = reader.next_block() {
        match block.unwrap().into_owned() {
            Block::EnhancedPacket(block) => counts[block.interface_id as usize] += 1,
            Block::InterfaceStatistics(block) => {
                let InterfaceStatisticsOption::IsbIfDrop(number) = block.options[3] else {
                    panic!("no loss");
                };
                dropped[block.interface_id as usize] = number;
            }
            _ => {}
        }
    }
    assert_eq!(counts, [a.written, b.written]);
    assert_eq!(dropped, [a.lost, b.lost]);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("there.pcap");
    fs::write(&file, "precious").unwrap();
    let error = Capture::create(&file, PCAP).unwrap_err();
    assert!(matches!(error, CaptureError::Exists { .. }));
    assert!(
        error.to_string().contains("there.pcap exists; remove it"),
        "{error}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let error = Capture::create(&folder.path().join("no/such.pcap"), PCAP).unwrap_err();
    assert!(error.to_string().contains("no/such.pcap"), "{error}");
}

#[test]
fn a_stream_that_fails_is_named_and_what_it_did_not_get_is_lost() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = Capture::to(full, "/dev/full", PCAP).unwrap_err();
    assert!(error.to_string().contains("/dev/full"), "{error}");

    let (reader, writer) = io::pipe().unwrap();
    let mut capture = Capture::to(writer, "a pipe", PCAP).unwrap();
    drop(reader);
    let tap = capture.interface("port 0");
    for number in 0..10 {
        tap.frame(Direction::In, &frame(100, number));
    }
    let mut failure = None;
    wait_until("the failure", || {
        failure = capture.take_failure();
        failure.is_some()
    });
    tap.frame(Direction::In, &frame(100, 10));
    let stats = capture.stats();
    assert_eq!(
        (stats.interfaces[0].written, stats.interfaces[0].lost),
        (0, 11)
    );
    let error = failure.unwrap();
    assert!(error.to_string().contains("a pipe"), "{error}");
    assert!(capture.take_failure().is_none(), "told once");
}

#[test]
fn a_stream_that_nobody_reads_is_not_waited_for() {
    let (_unread, writer) = io::pipe().unwrap();
    let capture = Capture::to(writer, "a pipe", PCAP).unwrap();
    let tap = capture.interface("port 0");
    // More than a pipe holds.
    for number in 0..300 {
        tap.frame(Direction::In, &frame(9000, number));
    }
    let error = capture.finish().unwrap_err();
    assert!(matches!(error, CaptureError::Slow { .. }), "{error}");
}

#[test]
fn a_full_disk_leaves_whole_records() {
    let folder = TempDir::new().unwrap();
    let place = folder.path();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
            // SAFETY: only this thread gets a mount namespace of its own; the strings end in zero.
            let made = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(
                        c"none".as_ptr(),
                        c"/".as_ptr(),
                        std::ptr::null(),
                        libc::MS_REC | libc::MS_PRIVATE,
                        std::ptr::null(),
                    ) == 0
                    && libc::mount(
                        c"none".as_ptr(),
                        path.as_ptr(),
                        c"tmpfs".as_ptr(),
                        0,
                        c"size=512k".as_ptr().cast(),
                    ) == 0
            };
            if !made {
                let error = io::Error::last_os_error();
                println!("SKIP: no small file system can be mounted ({error}); run as root");
                return;
            }
            let file = place.join("a.pcapng");
            let mut capture = Capture::create(&file, CaptureOptions::default()).unwrap();
            let tap = capture.interface("port 0");
            let mut sent = 0;
            let mut failure = None;
            wait_until("the failure", || {
                tap.frame_at(MOMENT + sent, Direction::In, &frame(1000, sent));
                sent += 1;
                failure = capture.take_failure();
                failure.is_some()
            });
            let stats = capture.stats();
            assert_eq!(stats.interfaces[0].written + stats.interfaces[0].lost, sent);
            let error = failure.unwrap();
            assert!(error.to_string().contains("a.pcapng"), "{error}");
            let recording = Recording::open(&file).unwrap();
            assert_eq!(recording.len() as u64, stats.interfaces[0].written);
            for (number, found) in recording.frames().enumerate() {
                assert_eq!(found.data, frame(1000, number as u64));
            }
        });
    });
}

#[test]
fn a_tapped_port_captures_what_passes() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.pcapng");
    let capture = Capture::create(&file, CaptureOptions::default()).unwrap();
    let lists = Lists::default();
    let mut port = Tapped::new(lists.clone(), capture.interface("port 0"));
    lists.limit(2);
    let frames = [frame(60, 0), frame(70, 1), frame(80, 2)];
    let slices: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
    assert_eq!(port.send(&slices), 2);
    lists.give(frame(90, 3));
    let mut given = Vec::new();
    assert_eq!(port.receive(5, &mut |frame| given.push(frame.to_vec())), 1);
    assert_eq!(given, [frame(90, 3)]);
    capture.finish().unwrap();
    let recording = Recording::open(&file).unwrap();
    let found: Vec<_> = recording
        .frames()
        .map(|frame| frame.data.to_vec())
        .collect();
    assert_eq!(found, [frame(60, 0), frame(70, 1), frame(90, 3)]);
}

#[test]
fn every_kind_of_file_is_read() {
    let data = frame(61, 1);
    let little = [(7_000_000_009, data.clone())];
    assert_eq!(
        contents(&parse(&pcap(&[(7, 9, 61, &data)])).unwrap()),
        little
    );
    // Microseconds, big endian.
    let mut bytes = vec![0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4];
    for word in [0u32, 0, 65_535, 1, 7, 9, 61, 61] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(&data);
    assert_eq!(
        contents(&parse(&bytes).unwrap()),
        [(7_000_009_000, data.clone())]
    );
    for big in [false, true] {
        let mut bytes = pcapng_head(big, 0);
        // Enhanced, simple, and the old packet block; a block that nobody knows.
        bytes.extend(block(big, 6, &[0, 1, 2, 61, 61], &data));
        bytes.extend(block(big, 0x7fff_1234, &[1, 2, 3], b"?"));
        bytes.extend(block(big, 3, &[61], &data));
        bytes.extend(block(big, 2, &[0, 1, 3, 61, 61], &data));
        let time = |low: u64| ((1 << 32) + low) * 1000;
        let expected = [
            (time(2), data.clone()),
            (0, data.clone()),
            (time(3), data.clone()),
        ];
        assert_eq!(
            contents(&parse(&bytes).unwrap()),
            expected,
            "big endian: {big}"
        );
    }
}

#[test]
fn frames_that_cannot_be_sent_are_skipped_and_counted() {
    let (long, longest) = (vec![1; MAX_FRAME + 1], vec![2; MAX_FRAME]);
    let bytes = pcap(&[
        (0, 0, 1514, &[3; 100]),
        (0, 0, MAX_FRAME as u32 + 1, &long),
        (0, 0, u32::MAX, &[3; 100]),
        (0, 0, 13, &[4; 13]),
        (0, 0, 0, &[]),
        (0, 0, MAX_FRAME as u32, &longest),
    ]);
    let recording = parse(&bytes).unwrap();
    assert_eq!(contents(&recording), [(0, longest)]);
    let expected = Skipped {
        truncated: 1,
        too_long: 2,
        too_short: 2,
    };
    assert_eq!(recording.skipped(), expected);
    let error = parse(&pcap(&[(0, 0, 13, &[4; 13])])).unwrap_err();
    assert!(error.to_string().contains("1 under 14 bytes"), "{error}");
    let mut bytes = pcapng_head(false, 60);
    bytes.extend(block(false, 3, &[61], &frame(60, 1)));
    let error = parse(&bytes).unwrap_err();
    assert!(error.to_string().contains("1 cut short"), "{error}");
}

#[test]
fn malformed_files_are_named_with_the_packet() {
    let data = frame(60, 1);
    let good = pcap(&[(0, 0, 60, &data), (0, 0, 60, &data)]);
    let wrong_link = {
        let mut bytes = good.clone();
        bytes[20] = 113;
        bytes
    };
    let mut no_interface = pcapng_head(false, 0);
    no_interface.extend(block(false, 6, &[0, 0, 0, 60, 60], &data));
    no_interface.extend(block(false, 6, &[1, 0, 0, 60, 60], &data));
    let mut bad_trailer = pcapng_head(false, 0);
    bad_trailer.extend(block(false, 6, &[0, 0, 0, 60, 60], &data));
    *bad_trailer.last_mut().unwrap() = 1;
    let mut too_much = pcapng_head(false, 0);
    too_much.extend(block(false, 6, &[0, 0, 0, 64, 60], &data));
    let cases: [(&[u8], &str); 9] = [
        (b"", "is no pcap or pcapng file: it has 0 bytes"),
        (
            b"PK\x03\x04 an archive of some length",
            "is no pcap or pcapng file",
        ),
        (
            &good[..23],
            "is no pcap or pcapng file: it ends inside its header",
        ),
        (
            &good[..good.len() - 1],
            "ends inside packet 2, whose record starts at byte 100",
        ),
        (&good[..24 + 76 + 3], "ends inside packet 2"),
        (&wrong_link, "has link type 113 at packet 1, not Ethernet"),
        (&no_interface, "damaged at packet 2"),
        (&bad_trailer, "damaged at packet 1"),
        (&too_much, "damaged at packet 1"),
    ];
    for (bytes, expected) in cases {
        let error = parse(bytes).unwrap_err().to_string();
        assert!(
            error.starts_with("some.pcap ") && error.contains(expected),
            "{error}"
        );
    }
    let folder = TempDir::new().unwrap();
    for (path, fault) in [
        (folder.path(), "is a directory"),
        ("/dev/zero".as_ref(), "is a device"),
    ] {
        let error = Recording::open(path).unwrap_err();
        let source = error.source().unwrap().to_string();
        assert!(source.starts_with(fault), "{source}");
    }
    let error = Recording::open(&folder.path().join("none.pcap"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("none.pcap"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_shorter() {
    let data = frame(60, 1);
    let mut files = vec![pcap(&[(0, 0, 60, &data), (0, 0, 60, &data)])];
    for big in [false, true] {
        let mut bytes = pcapng_head(big, 0);
        bytes.extend(block(big, 6, &[0, 1, 2, 60, 60], &data));
        bytes.extend(block(big, 3, &[60], &data));
        files.push(bytes);
    }
    for bytes in files {
        assert_eq!(parse(&bytes).unwrap().len(), 2);
        for end in 0..bytes.len() {
            if let Ok(recording) = parse(&bytes[..end]) {
                assert_eq!(recording.len(), 1, "cut between the packets");
            }
        }
    }
}

#[test]
fn replay_sends_every_frame_in_order_whatever_the_port_refuses() {
    let frames: Vec<_> = (0..300u64)
        .map(|number| frame(14 + number as usize * 7, number))
        .collect();
    let packets: Vec<_> = frames
        .iter()
        .map(|data| (1, 2, data.len() as u32, &data[..]))
        .collect();
    let recording = parse(&pcap(&packets)).unwrap();
    for limit in [usize::MAX, 7, 1] {
        let port = Lists::default();
        port.limit(limit);
        let replay = Replay {
            loops: Some(3),
            ..Replay::default()
        };
        let stats = replay.run(&recording, &mut port.clone(), &|| false);
        assert_eq!((stats.frames, stats.loops), (900, 3));
        let bytes: usize = frames.iter().map(Vec::len).sum();
        assert_eq!(stats.bytes, 3 * bytes as u64);
        assert_eq!(stats.refused == 0, limit == usize::MAX, "{stats:?}");
        for data in frames.iter().cycle().take(900) {
            assert_eq!(port.try_take().as_ref(), Some(data));
        }
        assert_eq!(port.try_take(), None);
    }
}

/// A port that refuses all but every third request.
struct Moody(u64, Lists);

impl FramePort for Moody {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        self.0 += 1;
        if self.0.is_multiple_of(3) {
            self.1.send(frames)
        } else {
            0
        }
    }

    fn receive(&mut self, _: usize, _: &mut dyn FnMut(&[u8])) -> usize {
        0
    }
}

#[test]
fn refusals_are_counted_and_a_stop_is_heard_while_the_port_refuses() {
    let data = frame(60, 1);
    let recording = parse(&pcap(&[(0, 0, 60, &data), (0, 0, 60, &data)])).unwrap();
    let mut port = Moody(0, Lists::default());
    let stats = Replay::default().run(&recording, &mut port, &|| false);
    assert_eq!((stats.frames, stats.refused), (2, 4));

    let port = Lists::default();
    port.limit(0);
    let asked = Cell::new(0);
    let stopped = || {
        asked.set(asked.get() + 1);
        asked.get() > 1000
    };
    let endless = Replay {
        loops: None,
        ..Replay::default()
    };
    let stats = endless.run(&recording, &mut port.clone(), &stopped);
    assert_eq!((stats.frames, stats.refused, stats.loops), (0, 2000, 0));
}

/// What reading a file must hold to, whatever is in it.
fn check(bytes: &[u8]) {
    match parse(bytes) {
        Ok(recording) => {
            assert!(recording.len() > 0);
            for frame in recording.frames() {
                assert!((14..=MAX_FRAME).contains(&frame.data.len()));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("some.pcap ")),
    }
}

fn magic() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(pcap(&[])),
        Just(pcapng_head(false, 0)),
        Just(pcapng_head(true, 100)),
        Just(vec![0xa1, 0xb2, 0xc3, 0xd4]),
        Just(vec![0x0a, 0x0d, 0x0d, 0x0a]),
        Just(vec![]),
    ]
}

/// Blocks whose frame is right and whose content is anything.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![1..12u32, Just(0x0a0d_0d0a), any::<u32>()];
    let words = prop::collection::vec(prop_oneof![0..4u32, 50..70u32, any::<u32>()], 0..8);
    let data = prop::collection::vec(any::<u8>(), 0..80);
    let one = (any::<bool>(), kind, words, data)
        .prop_map(|(big, kind, words, data)| block(big && kind % 5 == 0, kind, &words, &data));
    prop::collection::vec(one, 0..12).prop_map(|blocks| blocks.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn anything_is_read_without_a_panic(
        head in magic(),
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        check(&[head, tail].concat());
    }

    #[test]
    fn any_blocks_are_read_without_a_panic(big in any::<bool>(), tail in blocks()) {
        check(&[pcapng_head(big, 0), tail].concat());
    }

    #[test]
    fn changed_files_are_read_without_a_panic(
        nano in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let data = frame(60, 1);
        let mut bytes = if nano {
            pcap(&[(1, 2, 60, &data), (3, 4, 60, &data)])
        } else {
            let mut bytes = pcapng_head(false, 0);
            bytes.extend(block(false, 6, &[0, 1, 2, 60, 60], &data));
            bytes.extend(block(false, 3, &[60], &data));
            bytes
        };
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        check(&bytes);
    }
}
