//! The port on Linux, on devices that are files: everything but calls that leave the guest.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod devices;

use std::fs;
use std::path::Path;

use postern_abi::ABI_VERSION;
use postern_abi::nic_device::{NicDevice, NicDeviceError, register};
use postern_abi::platform::CallPath;
use postern_abi::window::HeaderError;
use postern_guest::linux::device::Device;
use postern_guest::linux::{Error, Port};

use self::devices::{AT, Devices, QUEUES, config, description, nic};

#[test]
fn two_ports_exchange_frames_on_all_queues() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let memory = nic(files.path());
    let ports = [0, 1].map(|port| {
        let folder = devices.add_port(&format!("0000:00:0{port}.0"), port, &memory);
        let opened = Port::open_device(Device::at(&folder).unwrap()).unwrap();
        assert_eq!(opened.path(), CallPath::Direct);
        assert_eq!(opened.mac(), [2, 0, 0, 0, 0, port as u8]);
        assert_eq!(fs::read_to_string(folder.join("enable")).unwrap(), "1");
        opened
    });
    let mut receiver = ports[1].all_queues().unwrap();
    for queue in 0..QUEUES {
        let mut sender = ports[0].queue(queue).unwrap();
        // The thread may change in between.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut frame = [queue as u8; 60];
                frame[..6].copy_from_slice(&[0xff; 6]);
                frame[6..12].copy_from_slice(&sender.mac());
                assert_eq!(sender.tx_burst(&[frame; 3]), 3);
            });
        });
        let mut last = 0;
        let got = receiver.rx_burst(32, |frame| {
            let mut copy = [0; 60];
            frame.copy_to(&mut copy);
            last = copy[59];
            assert_eq!(
                frame.sender(),
                queue,
                "the sender is the queue on this path"
            );
        });
        assert_eq!((got, last), (3, queue as u8));
    }
}

#[test]
fn a_queue_has_one_user() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let folder = devices.add_port("0000:00:03.0", 0, &nic(files.path()));
    let port = Port::open_device(Device::at(&folder).unwrap()).unwrap();
    let first = port.queue(0).unwrap();
    assert!(matches!(port.queue(0), Err(Error::QueueInUse(0))));
    assert!(matches!(port.all_queues(), Err(Error::QueueInUse(0))));
    assert!(port.queue(1).is_ok());
    assert!(matches!(
        port.queue(QUEUES),
        Err(Error::NoSuchQueue {
            queue: QUEUES,
            queues: QUEUES
        })
    ));
    drop(first);
    assert!(port.all_queues().is_ok());
}

#[test]
fn the_only_port_is_found_among_other_devices() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let missing = Device::find(&devices.folder().join("missing")).unwrap_err();
    assert!(
        missing.to_string().contains("postern run --nic"),
        "{missing}"
    );
    let memory = nic(files.path());
    let mut other = config(&description(CallPath::Elisa, 0, &memory));
    other[2] ^= 1;
    devices.add("0000:00:01.0", &other, &memory);
    other[2] ^= 1;
    other[AT] = 0x11;
    devices.add("0000:00:02.0", &other, &memory);
    assert!(matches!(
        Device::find(devices.folder()),
        Err(Error::NoDevice(_))
    ));
    devices.add_port("0000:00:03.0", 1, &memory);
    let found = Device::find(devices.folder()).unwrap();
    assert_eq!(found.address(), "0000:00:03.0");
    assert_eq!(found.description().port.number(), 1);
    devices.add_port("0000:00:04.0", 0, &memory);
    let error = Device::find(devices.folder()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "several PCI devices are ports of Postern NICs: choose one of 0000:00:03.0, 0000:00:04.0"
    );
    let error = Device::at(&devices.folder().join("0000:00:1f.0")).unwrap_err();
    assert!(matches!(error, Error::NoSuchDevice(_)), "{error}");
}

#[test]
fn another_abi_version_is_one_sentence_with_the_remedy_in_both_directions() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let memory = nic(files.path());
    for (host, remedy) in [
        (ABI_VERSION + 1, "build the program anew"),
        (ABI_VERSION - 1, "update Postern on the host"),
    ] {
        let mut config = config(&description(CallPath::Direct, 0, &memory));
        config[AT + 8..AT + 12].copy_from_slice(&host.to_le_bytes());
        let folder = devices.add(&format!("0000:00:0{host}.0"), &config, &memory);
        let error = Device::at(&folder).unwrap_err();
        assert!(matches!(
            error,
            Error::Device { error: NicDeviceError::Version { host: found }, .. } if found == host
        ));
        let text = error.to_string();
        assert!(text.contains(remedy) && !text.contains('\n'), "{text}");
        // It does not hide behind another device.
        assert!(Device::find(devices.folder()).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let memory = nic(files.path());
    let open = |folder: &Path| Port::open_device(Device::at(folder).unwrap()).unwrap_err();

    // The memory of the whole NIC is no window; a file that is gone is no memory.
    let strange = config(&description(CallPath::ExitKernel, 0, &memory));
    let folder = devices.add("0000:00:01.0", &strange, &memory);
    assert!(matches!(
        open(&folder),
        Error::Window(HeaderError::Magic(_))
    ));
    let folder = devices.add_port("0000:00:02.0", 0, &memory);
    fs::remove_file(folder.join("resource2")).unwrap();
    assert!(matches!(open(&folder), Error::System { .. }));
    // Only the header, as for users that are not root.
    let config = config(&description(CallPath::Direct, 0, &memory));
    let folder = devices.add("0000:00:03.0", &config[..64], &memory);
    let error = Device::at(&folder).unwrap_err().to_string();
    assert!(error.contains("root"), "{error}");
    // A port that nobody has, and memory that is too small.
    let mut small = description(CallPath::Direct, 0, &memory);
    small.size = 4096;
    let folder = devices.add("0000:00:04.0", &self::config(&small), &memory);
    assert!(matches!(open(&folder), Error::Direct(_)));
}

#[test]
fn the_bell_of_who_sleeps_is_rung() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let memory = nic(files.path());
    let [sender, receiver] = [("0000:00:01.0", 0), ("0000:00:02.0", 1)].map(|(address, port)| {
        let folder = devices.add_port(address, port, &memory);
        Port::open_device(Device::at(&folder).unwrap()).unwrap()
    });
    // Which of its queues gets a frame is the NIC's choice.
    let (mut sender, mut receiver) = (sender.queue(1).unwrap(), receiver.all_queues().unwrap());
    let mut frame = [0xff; 60];
    frame[6..12].copy_from_slice(&sender.mac());
    // Those of port 1.
    let bell = || {
        let bells = (QUEUES..2 * QUEUES).map(|number| register::BELLS + 4 * u64::from(number));
        bells
            .map(|bell| devices.register("0000:00:01.0", bell))
            .sum::<u32>()
    };
    sender.tx_burst(&[frame]);
    assert_eq!((sender.service().rings(), bell()), (0, 0), "nobody sleeps");
    assert_eq!(receiver.rx_burst(32, |_| ()), 1);
    assert!(receiver.arm());
    sender.tx_burst(&[frame]);
    assert_eq!(sender.service().rings(), 1);
    assert_eq!(bell(), 1);
    sender.tx_burst(&[frame]);
    assert_eq!(sender.service().rings(), 1, "it is awake");
}

#[test]
fn a_device_without_a_doorbell_is_polled() {
    let (devices, files) = (Devices::new(), tempfile::tempdir().unwrap());
    let memory = nic(files.path());
    let plain = NicDevice {
        vectors: 0,
        ..description(CallPath::Direct, 0, &memory)
    };
    let folder = devices.add("0000:00:01.0", &config(&plain), &memory);
    fs::remove_file(folder.join("resource0")).unwrap();
    let port = Port::open_device(Device::at(&folder).unwrap()).unwrap();
    let error = port.sleeper().unwrap_err();
    assert!(matches!(error, Error::NoDoorbell(_)), "{error}");
    assert!(error.to_string().contains("--nic-plain"), "{error}");
}
