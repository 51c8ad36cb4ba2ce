//! The NICs of a topology.
#![deny(unsafe_code)]

use std::path;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_nic_client::control::Format;
use postern_nic_client::mac::Mac;
use postern_nic_client::policy::port::PortPolicy;

use super::nic::{CaptureConfig, NicConfig, PortSettings, Station};
use super::reader::{At, Reader, Section, check_name, hint};
use crate::geometry::{self, DEFAULT_QUEUES, GeometryRequest};
use crate::size::Bytes;
use crate::socket_path;

/// A NIC as far as it could be read.
pub(super) struct ReadNic {
    /// What it is; if the text does not say how large, with the least geometry in its place.
    pub(super) config: NicConfig,
    /// How large it is, if the text says it.
    pub(super) geometry: Option<Geometry>,
    /// Whether the text names an image, be it readable or not.
    pub(super) has_image: bool,
}

/// What stands for the geometry of a NIC whose text says none.
const LEAST: GeometryRequest = GeometryRequest {
    ports: 2,
    queues: DEFAULT_QUEUES,
    ring: None,
    lanes: None,
    lane: None,
};

/// The NIC of a section.
pub(super) fn nic(
    reader: &mut Reader,
    mut section: Section<'_>,
    directory: &path::Path,
    others: &[ReadNic],
) -> Option<ReadNic> {
    let name = section.take::<String>(reader, "name");
    if let Some(name) = &name {
        check_name(reader, name.offset, &name.value);
        if others
            .iter()
            .any(|nic| nic.config.name.as_deref() == Some(&name.value))
        {
            reader.fault(
                name.offset,
                format!("two NICs have the name {}", name.value),
            );
        }
    }
    let geometry = geometry(reader, &mut section);
    let has_image = section.has("image");
    let image = section.file(reader, "image", directory);
    let stats = section.file(reader, "stats", directory);
    let socket = section.file(reader, "socket", directory);
    if let Some(socket) = &socket
        && let Err(error) = socket_path::check(&socket.value)
    {
        reader.fault(socket.offset, error.to_string());
    }
    let paths = section.list::<String>(reader, "paths");
    let paths = paths.iter().filter_map(|name| path(reader, name)).collect();
    let ageing = section.take::<u64>(reader, "ageing");
    let seccomp = section.take::<bool>(reader, "seccomp");
    let no_learning = section.list::<u32>(reader, "no_learning");
    let ports = section.tables(reader, "port", "[[nic.port]]");
    let captures = section.tables(reader, "capture", "[[nic.capture]]");
    section.finish(reader);
    for port in &no_learning {
        check_port(reader, port, geometry);
    }
    let mut nic = NicConfig {
        name: name.map(|name| name.value),
        image: image.map(|file| file.value),
        socket: socket.map(|file| file.value),
        no_learning: no_learning.into_iter().map(|port| port.value).collect(),
        paths,
        ageing: ageing.map(|seconds| seconds.value),
        stats: stats.map(|file| file.value),
        seccomp: seccomp.is_none_or(|seccomp| seccomp.value),
        ..NicConfig::new(geometry.or(LEAST.geometry().ok())?)
    };
    for section in ports {
        let settings = port_settings(reader, section, geometry, &nic.ports);
        nic.ports.extend(settings);
    }
    for section in captures {
        let found = capture(reader, section, directory, geometry);
        nic.captures.extend(found);
    }
    Some(ReadNic {
        config: nic,
        geometry,
        has_image,
    })
}

fn geometry(reader: &mut Reader, section: &mut Section<'_>) -> Option<Geometry> {
    let ports = section.need::<u32>(reader, "ports");
    let queues = section.take::<u32>(reader, "queues");
    let ring = section.take::<Bytes>(reader, "ring");
    let lanes = section.take::<u32>(reader, "lanes");
    let lane = section.take::<Bytes>(reader, "lane");
    let ports = ports?;
    let request = GeometryRequest {
        ports: ports.value,
        queues: queues
            .as_ref()
            .map_or(DEFAULT_QUEUES, |queues| queues.value),
        ring: ring.as_ref().map(|size| size.value),
        lanes: lanes.as_ref().map(|number| number.value),
        lane: lane.as_ref().map(|size| size.value),
    };
    match request.geometry() {
        Ok(geometry) => Some(geometry),
        Err(error) => {
            let offset = match error {
                geometry::Error::Ring(_) => ring.map(|size| size.offset),
                geometry::Error::Lanes(_) => lanes.map(|number| number.offset),
                geometry::Error::Lane(_) => lane.map(|size| size.offset),
                geometry::Error::Numbers(_) => None,
            };
            reader.fault(offset.unwrap_or(section.offset), error.to_string());
            None
        }
    }
}

/// The path of that name.
pub(super) fn path(reader: &mut Reader, name: &At<String>) -> Option<CallPath> {
    let found = CallPath::from_name(&name.value);
    if found.is_none() {
        let names = CallPath::ALL.map(CallPath::name);
        let hint = hint(&name.value, &names);
        let all = names.join(", ");
        let message = match hint.starts_with("there") {
            true => format!("there is no path {}; {hint}", name.value),
            false => format!("there is no path {}; {hint} There are {all}", name.value),
        };
        reader.fault(name.offset, message);
    }
    found
}

/// Notes a port that the NIC does not have.
pub(super) fn check_port(reader: &mut Reader, port: &At<u32>, geometry: Option<Geometry>) {
    if let Some(geometry) = geometry
        && geometry.port(port.value).is_none()
    {
        reader.fault(
            port.offset,
            format!(
                "there is no port {}; the NIC has ports 0 to {}",
                port.value,
                geometry.ports() - 1
            ),
        );
    }
}

fn port_settings(
    reader: &mut Reader,
    mut section: Section<'_>,
    geometry: Option<Geometry>,
    others: &[PortSettings],
) -> Option<PortSettings> {
    let number = section.need::<u32>(reader, "number");
    let mac = section.take::<Mac>(reader, "mac");
    let stations = section.list::<Station>(reader, "stations");
    let has_uplink = section.has("uplink");
    let uplink = section.take::<String>(reader, "uplink");
    let busy = section.take::<bool>(reader, "busy");
    let enabled = section.take::<bool>(reader, "enabled");
    let policy = section.take::<PortPolicy>(reader, "policy");
    section.finish(reader);
    let number = number?;
    check_port(reader, &number, geometry);
    if others.iter().any(|port| port.number == number.value) {
        let message = format!("port {} has two [[nic.port]]: make them one", number.value);
        reader.fault(number.offset, message);
    }
    if let Some(mac) = &mac {
        check_mac(reader, mac, number.value, geometry, others);
    }
    for (index, station) in stations.iter().enumerate() {
        let earlier = stations[..index]
            .iter()
            .map(|other| (number.value, other.value));
        let elsewhere = others
            .iter()
            .flat_map(|port| port.stations.iter().map(|station| (port.number, *station)));
        let busy = elsewhere
            .chain(earlier)
            .find(|(_, other)| *other == station.value);
        if let Some((port, _)) = busy {
            let message = format!(
                "the station {} is behind port {port} already: an address is behind one port",
                station.value
            );
            reader.fault(station.offset, message);
        }
        let address = station.value.mac;
        let own = mac.iter().map(|mac| (number.value, mac.value));
        if let Some(port) = has_address(address, own.chain(chosen(others)), geometry) {
            let message = format!("the station {address} has the address of port {port} itself");
            reader.fault(station.offset, message);
        }
    }
    if let (Some(busy), false) = (&busy, has_uplink) {
        reader.fault(busy.offset, "busy goes with uplink only");
    }
    if let Some(policy) = &policy {
        check_policy(reader, policy, number.value, geometry);
    }
    Some(PortSettings {
        number: number.value,
        mac: mac.map(|mac| mac.value),
        stations: stations.into_iter().map(|station| station.value).collect(),
        uplink: uplink.map(|uplink| uplink.value),
        busy: busy.is_some_and(|busy| busy.value),
        enabled: enabled.is_none_or(|enabled| enabled.value),
        policy: policy.map(|policy| Box::new(policy.value)),
    })
}

/// The addresses that ports have been given, with their numbers.
fn chosen(ports: &[PortSettings]) -> impl Iterator<Item = (u32, Mac)> {
    ports
        .iter()
        .filter_map(|port| Some((port.number, port.mac?)))
}

/// The port that has an address, chosen or by its number.
fn has_address(
    mac: Mac,
    mut chosen: impl Iterator<Item = (u32, Mac)>,
    geometry: Option<Geometry>,
) -> Option<u32> {
    let found = chosen
        .find(|(_, other)| *other == mac)
        .map(|(port, _)| port);
    let ports = geometry.map_or(0, Geometry::ports);
    found.or_else(|| (0..ports).find(|port| Mac::of_port(*port) == mac))
}

/// Notes an address that its port cannot have.
fn check_mac(
    reader: &mut Reader,
    mac: &At<Mac>,
    number: u32,
    geometry: Option<Geometry>,
    others: &[PortSettings],
) {
    let address = mac.value;
    if address.is_zero() {
        let message =
            format!("mac: {address} is nobody's address, choose one such as 02:00:00:00:00:01");
        return reader.fault(mac.offset, message);
    }
    let port = has_address(address, chosen(others), geometry).filter(|port| *port != number);
    let station = others.iter().find(|port| {
        let mut stations = port.stations.iter();
        // The address is the port's in every VLAN.
        stations.any(|station| station.mac == address)
    });
    let whose = match (port, station) {
        (Some(port), _) => format!("of port {port}"),
        (None, Some(port)) => format!("of a station behind port {}", port.number),
        (None, None) => return,
    };
    reader.fault(
        mac.offset,
        format!("mac: {address} is the address {whose}: choose another"),
    );
}

fn check_policy(
    reader: &mut Reader,
    policy: &At<PortPolicy>,
    number: u32,
    geometry: Option<Geometry>,
) {
    let others = policy.value.blocked.iter().chain(&policy.value.mirror);
    for &port in others {
        let port = At {
            value: port,
            offset: policy.offset,
        };
        check_port(reader, &port, geometry);
        if port.value == number {
            let message = format!("port {number} cannot be blocked from itself, or mirror itself");
            reader.fault(policy.offset, message);
        }
    }
}

fn capture(
    reader: &mut Reader,
    mut section: Section<'_>,
    directory: &path::Path,
    geometry: Option<Geometry>,
) -> Option<CaptureConfig> {
    let file = section.need_file(reader, "file", directory);
    let port = section.take::<u32>(reader, "port");
    let via = section.take::<u32>(reader, "via");
    let format = section.take::<Format>(reader, "format");
    let snap = section.take::<u32>(reader, "snap");
    section.finish(reader);
    for port in [&port, &via].into_iter().flatten() {
        check_port(reader, port, geometry);
    }
    if let Some(snap) = &snap
        && snap.value == 0
    {
        reader.fault(snap.offset, "snap: at least 1 byte of each frame is kept");
    }
    Some(CaptureConfig {
        file: file?.value,
        port: port.map(|port| port.value),
        via: via.map(|port| port.value),
        format: format.map_or_else(Format::default, |format| format.value),
        snap: snap.map(|snap| snap.value),
    })
}
