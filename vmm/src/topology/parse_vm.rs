//! The VMs of a topology.
#![deny(unsafe_code)]

use std::path;

use postern_abi::platform::NIC_GPA;
use postern_abi::window::Geometry;

use super::nic::NicConfig;
use super::parse_nic::{ReadNic, check_port, path};
use super::reader::{At, Reader, Section, check_name, hint};
use super::vm::{DEFAULT_MEMORY, PortConfig, VmConfig};
use crate::console::Destination;
use crate::cpuid::CpuModel;
use crate::event_counters::CounterSource;
use crate::layout::MAX_VCPUS;
use crate::nic;
use crate::size::Bytes;
use crate::socket_path;
use crate::virtio::blk::DiskConfig;
use crate::virtio::net::NetConfig;
use crate::virtio::vsock::VsockConfig;
use crate::vm::OnReboot;

/// Memory of a VM whose text says an amount that cannot be read: nothing else is found wrong for it.
const AMPLE_MEMORY: Bytes = Bytes(NIC_GPA);

/// The VM of a section, as far as it could be read: a name or kernel that is not there is empty.
pub(super) fn vm(
    reader: &mut Reader,
    mut section: Section<'_>,
    directory: &path::Path,
    nics: &[ReadNic],
    others: &[VmConfig],
) -> VmConfig {
    let name = section.need::<String>(reader, "name");
    if let Some(name) = &name {
        check_name(reader, name.offset, &name.value);
        if others.iter().any(|other| other.name == name.value) {
            reader.fault(name.offset, format!("two VMs have the name {}", name.value));
        }
    }
    let kernel = section.need_file(reader, "kernel", directory);
    let initrd = section.file(reader, "initrd", directory);
    let cmdline = section.take::<String>(reader, "cmdline");
    let memory = match section.has("memory") {
        true => {
            let memory = section.take::<Bytes>(reader, "memory");
            memory.map_or(AMPLE_MEMORY, |memory| memory.value)
        }
        false => DEFAULT_MEMORY,
    };
    let mut vcpus = section.take::<usize>(reader, "vcpus");
    if let Some(wrong) = vcpus.take_if(|vcpus| !(1..=MAX_VCPUS).contains(&vcpus.value)) {
        let message = format!("a VM has 1 to {MAX_VCPUS} vCPUs, not {}", wrong.value);
        reader.fault(wrong.offset, message);
    }
    let says_port = section.has("port") || section.has("path");
    let port = connection(reader, &mut section, nics, others, vcpus.as_ref());
    let nic_plain = section.take::<bool>(reader, "nic_plain");
    if let (Some(plain), None) = (&nic_plain, &port)
        && !says_port
    {
        reader.fault(
            plain.offset,
            "nic_plain goes with a port: add port and path",
        );
    }
    let cpu = section.take::<CpuModel>(reader, "cpu");
    let on_reboot = section.take::<OnReboot>(reader, "on_reboot");
    let exit_on_abort = section.take::<bool>(reader, "exit_on_abort");
    let serial = section.take::<Destination>(reader, "serial");
    let serial = serial.map(|serial| serial_within(reader, serial, directory));
    let outbox = section.file(reader, "outbox", directory);
    let stats = section.file(reader, "stats", directory);
    let counters = section.take::<CounterSource>(reader, "counters");
    let rng = section.take::<bool>(reader, "rng");
    let seccomp = section.take::<bool>(reader, "seccomp");
    let vsock = section.take::<VsockConfig>(reader, "vsock");
    if let Some(vsock) = &vsock
        && let Some(other) = others.iter().find(|vm| vm.vsock == Some(vsock.value))
    {
        let message = format!("this cid is of {}, too: give another", called(other));
        reader.fault(vsock.offset, message);
    }
    let disks = disks(reader, &mut section, directory, others);
    let nets = nets(reader, &mut section, others);
    section.finish(reader);
    VmConfig {
        initrd: initrd.map(|file| file.value),
        cmdline: cmdline.map_or_else(String::new, |cmdline| cmdline.value),
        memory,
        vcpus: vcpus.map_or(1, |vcpus| vcpus.value),
        port,
        nic_plain: nic_plain.is_some_and(|plain| plain.value),
        cpu: cpu.map(|cpu| cpu.value),
        on_reboot: on_reboot.map_or_else(OnReboot::default, |what| what.value),
        exit_on_abort: exit_on_abort.is_some_and(|exit| exit.value),
        serial,
        outbox: outbox.map(|file| file.value),
        stats: stats.map(|file| file.value),
        counters: counters.map_or(CounterSource::None, |counters| counters.value),
        rng: rng.is_some_and(|rng| rng.value),
        seccomp: seccomp.is_none_or(|seccomp| seccomp.value),
        vsock: vsock.map(|vsock| vsock.value),
        disks,
        nets,
        ..VmConfig::new(
            name.map(|name| name.value).unwrap_or_default(),
            kernel.map(|kernel| kernel.value).unwrap_or_default(),
        )
    }
}

/// A VM as the text calls it.
fn called(vm: &VmConfig) -> String {
    match vm.name.is_empty() {
        true => "another VM".to_owned(),
        false => format!("VM {}", vm.name),
    }
}

fn serial_within(
    reader: &mut Reader,
    serial: At<Destination>,
    directory: &path::Path,
) -> Destination {
    let destination = serial.value.within(directory);
    if let Destination::Unix(socket) = &destination
        && let Err(error) = socket_path::check(socket)
    {
        reader.fault(serial.offset, error.to_string());
    }
    destination
}

fn disks(
    reader: &mut Reader,
    section: &mut Section<'_>,
    directory: &path::Path,
    others: &[VmConfig],
) -> Vec<DiskConfig> {
    let mut disks: Vec<DiskConfig> = Vec::new();
    for disk in section.list::<DiskConfig>(reader, "disk") {
        let mut config = disk.value;
        config.path = directory.join(config.path);
        let shared =
            |other: &DiskConfig| other.path == config.path && !(other.readonly && config.readonly);
        let other = others.iter().find(|vm| vm.disks.iter().any(shared));
        if other.is_some() || disks.iter().any(shared) {
            let whose = match other {
                Some(vm) => format!("of {}, too", called(vm)),
                None => "there twice".to_owned(),
            };
            let message = format!(
                "the disk {} is {whose}: several can have it if each says readonly = true",
                config.path.display()
            );
            reader.fault(disk.offset, message);
        }
        disks.push(config);
    }
    disks
}

fn nets(reader: &mut Reader, section: &mut Section<'_>, others: &[VmConfig]) -> Vec<NetConfig> {
    let mut nets: Vec<NetConfig> = Vec::new();
    for net in section.list::<NetConfig>(reader, "net") {
        let config = net.value;
        let all = others
            .iter()
            .flat_map(|vm| vm.nets.iter().map(move |net| (net, Some(vm))));
        for (other, whose) in all.chain(nets.iter().map(|net| (net, None))) {
            let whose = match whose {
                Some(vm) => format!("of {}, too", called(vm)),
                None => "there twice".to_owned(),
            };
            if other.tap == config.tap {
                let message = format!("the TAP {} is {whose}: name another", config.tap);
                reader.fault(net.offset, message);
            }
            if let (Some(mac), true) = (config.mac, other.mac == config.mac) {
                let message = format!("the address {mac} is {whose}: give another mac");
                reader.fault(net.offset, message);
            }
        }
        nets.push(config);
    }
    nets
}

fn connection(
    reader: &mut Reader,
    section: &mut Section<'_>,
    nics: &[ReadNic],
    others: &[VmConfig],
    vcpus: Option<&At<usize>>,
) -> Option<PortConfig> {
    let named = section.take::<String>(reader, "nic");
    let (has_port, has_path) = (section.has("port"), section.has("path"));
    let port = section.take::<u32>(reader, "port");
    let name = section.take::<String>(reader, "path");
    let (port, name) = match (port, name) {
        (None, None) => {
            if let Some(nic) = named
                && !has_port
                && !has_path
            {
                reader.fault(nic.offset, "a NIC needs a port and a path");
            }
            return None;
        }
        (Some(port), Some(name)) => (port, name),
        (Some(port), None) => {
            if !has_path {
                reader.fault(port.offset, "a port needs a path");
            }
            return None;
        }
        (None, Some(name)) => {
            if !has_port {
                reader.fault(name.offset, "a path needs a port");
            }
            return None;
        }
    };
    let nic = match (&named, nics) {
        (_, []) => {
            reader.fault(port.offset, "a port needs a NIC: add a [nic]");
            return None;
        }
        (None, [only]) => only,
        (None, _) => {
            let message = "there are several NICs: say of which the port is by nic = \"NAME\"";
            reader.fault(port.offset, message);
            return None;
        }
        (Some(named), _) => {
            let is_it = |nic: &&ReadNic| nic.config.name.as_deref() == Some(&named.value);
            let Some(nic) = nics.iter().find(is_it) else {
                let names = nics.iter().filter_map(|nic| nic.config.name.as_deref());
                let names: Vec<&str> = names.collect();
                let hint = match names.is_empty() {
                    true => "the only NIC has no name".to_owned(),
                    false => hint(&named.value, &names),
                };
                reader.fault(
                    named.offset,
                    format!("there is no NIC {}; {hint}", named.value),
                );
                return None;
            };
            nic
        }
    };
    let (geometry, has_image) = (nic.geometry, nic.has_image);
    let nic = &nic.config;
    check_port(reader, &port, geometry);
    let taken = |vm: &&VmConfig| {
        vm.port
            .as_ref()
            .is_some_and(|other| other.nic == nic.name && other.number == port.value)
    };
    if let Some(other) = others.iter().find(taken) {
        let message = format!("port {} is taken by {}", port.value, called(other));
        reader.fault(port.offset, message);
    }
    check_settings(reader, &port, nic, geometry);
    let found = path(reader, &name)?;
    if found.needs_view() && !has_image {
        let message = format!(
            "the path {} needs the NIC's image: [nic] image",
            found.name()
        );
        reader.fault(name.offset, message);
    }
    if !nic.paths.is_empty() && !nic.paths.contains(&found) {
        let message = format!(
            "the NIC does not offer the path {}: see its paths",
            found.name()
        );
        reader.fault(name.offset, message);
    }
    if let (Some(vcpus), Some(geometry)) = (vcpus, geometry)
        && let Err(error) = nic::check_vcpus(vcpus.value, geometry, found)
    {
        reader.fault(vcpus.offset, error.to_string());
    }
    Some(PortConfig {
        nic: nic.name.clone(),
        number: port.value,
        path: found,
    })
}

/// Notes a port that is not for VMs.
fn check_settings(
    reader: &mut Reader,
    port: &At<u32>,
    nic: &NicConfig,
    geometry: Option<Geometry>,
) {
    let settings = nic
        .ports
        .iter()
        .find(|settings| settings.number == port.value);
    let why = match settings {
        Some(settings) if settings.uplink.is_some() => "has an uplink",
        Some(settings) if !settings.enabled => "is disabled",
        _ if nic
            .captures
            .iter()
            .any(|capture| via(capture.via, geometry) == Some(port.value)) =>
        {
            "brings the frames of a capture"
        }
        _ => return,
    };
    let message = format!("port {} {why}: no VM can have it", port.value);
    reader.fault(port.offset, message);
}

/// The port through which captured frames come.
fn via(named: Option<u32>, geometry: Option<Geometry>) -> Option<u32> {
    named.or(geometry.map(|geometry| geometry.ports() - 1))
}
