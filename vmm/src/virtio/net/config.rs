//! A network device as people describe it.
#![deny(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use postern_nic_client::mac::Mac;
use postern_tap::{Interface, check_name};
use serde::{Deserialize, Serialize};

/// The most queue pairs of a device: as many as a VM has vCPUs.
pub const MAX_QUEUE_PAIRS: u16 = 64;

/// The smallest MTU in bytes: what IPv4 demands (RFC 791).
pub const MIN_MTU: u16 = 68;

/// A virtio-net device over a TAP.
///
/// As text, `tap=NAME[,mac=MAC][,backend=vhost|user][,queues=N][,mtu=BYTES][,vhostfd=N[:N...]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct NetConfig {
    /// Name of the TAP.
    pub tap: String,
    /// The device's MAC address; without one it gets one of its own at each start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Who moves the packets.
    pub backend: Backend,
    /// Queue pairs.
    pub queues: u16,
    /// MTU of the TAP and of the device; without one, the TAP keeps the one that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Descriptors of `/dev/vhost-net` that this process inherited, one a queue pair; if there are
    /// none it opens the device itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vhostfd: Vec<i32>,
}

/// Who moves packets between the TAP and the device's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The host's kernel (vhost-net).
    #[default]
    Vhost,
    /// A thread of the VMM for each queue pair.
    User,
}

/// The same as keys, not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    tap: String,
    #[serde(default)]
    mac: Option<Mac>,
    #[serde(default)]
    backend: Backend,
    #[serde(default = "one")]
    queues: u16,
    #[serde(default)]
    mtu: Option<u16>,
    #[serde(default)]
    vhostfd: Vec<i32>,
}

fn one() -> u16 {
    1
}

/// Why a text describes no network device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetConfigError {
    /// A part that is no `KEY=VALUE`, or has a key that there is not.
    #[error(
        "'{0}' is not known: give tap=NAME[,mac=MAC][,backend=vhost|user][,queues=N][,mtu=BYTES]\
         [,vhostfd=N[:N...]]"
    )]
    Unknown(String),
    /// A key that is given twice.
    #[error("{0}= is given twice")]
    Twice(&'static str),
    /// There is no `tap=`.
    #[error("it names no TAP: give tap=NAME")]
    NoTap,
    /// No interface can have this name.
    #[error("tap={name} is no name of a network interface: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The fault.
        reason: &'static str,
    },
    /// The address is none of a station.
    #[error("mac={0} is no MAC address of a station: give six bytes such as 02:00:00:00:00:01")]
    Mac(String),
    /// There is no such backend.
    #[error("backend={0} is none: there are vhost and user")]
    Backend(String),
    /// No number, or none within the limits.
    #[error("{key}={value} is no number from {min} to {max}")]
    Number {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
        /// The smallest number.
        min: u32,
        /// The largest one.
        max: u32,
    },
    /// The number of inherited descriptors does not fit.
    #[error(
        "vhostfd= gives {given} descriptors for {queues} queue pairs of backend {backend}: give one \
         for each queue pair of backend vhost, or none"
    )]
    Descriptors {
        /// Descriptors given.
        given: usize,
        /// Queue pairs.
        queues: u16,
        /// The backend.
        backend: Backend,
    },
}

impl NetConfig {
    /// A device over that TAP, with one queue pair moved by vhost-net.
    ///
    /// # Errors
    ///
    /// No interface can have that name.
    pub fn new(tap: &str) -> Result<NetConfig, NetConfigError> {
        Fields {
            tap: tap.to_owned(),
            mac: None,
            backend: Backend::default(),
            queues: 1,
            mtu: None,
            vhostfd: Vec::new(),
        }
        .try_into()
    }

    /// What people should know of the TAP, which is there, if there is anything.
    pub fn notice(&self) -> Option<String> {
        Interface::new(&self.tap).ok()?.xdp_notice()
    }
}

impl TryFrom<Fields> for NetConfig {
    type Error = NetConfigError;

    fn try_from(fields: Fields) -> Result<NetConfig, NetConfigError> {
        let Fields {
            tap,
            mac,
            backend,
            queues,
            mtu,
            vhostfd,
        } = fields;
        if let Err(reason) = check_name(&tap) {
            return Err(NetConfigError::Name { name: tap, reason });
        }
        within("queues", queues, 1, MAX_QUEUE_PAIRS)?;
        if let Some(mtu) = mtu {
            within("mtu", mtu, MIN_MTU, u16::MAX)?;
        }
        let fits = backend == Backend::Vhost && vhostfd.len() == usize::from(queues);
        if !vhostfd.is_empty() && !fits {
            return Err(NetConfigError::Descriptors {
                given: vhostfd.len(),
                queues,
                backend,
            });
        }
        Ok(NetConfig {
            tap,
            mac,
            backend,
            queues,
            mtu,
            vhostfd,
        })
    }
}

fn within(key: &'static str, value: u16, min: u16, max: u16) -> Result<(), NetConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(NetConfigError::Number {
        key,
        value: value.to_string(),
        min: min.into(),
        max: max.into(),
    })
}

impl FromStr for NetConfig {
    type Err = NetConfigError;

    fn from_str(text: &str) -> Result<NetConfig, NetConfigError> {
        let (mut tap, mut mac, mut backend, mut queues, mut mtu, mut vhostfd) =
            (None, None, None, None, None, None);
        for part in text.split(',') {
            let unknown = || NetConfigError::Unknown(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(unknown)?;
            match key {
                "tap" => once(&mut tap, "tap", value.to_owned())?,
                "mac" => {
                    let parsed = value.parse();
                    let parsed = parsed.map_err(|_| NetConfigError::Mac(value.to_owned()))?;
                    once(&mut mac, "mac", parsed)?;
                }
                "backend" => once(&mut backend, "backend", value.parse()?)?,
                "queues" => {
                    let parsed = number("queues", value, 1, MAX_QUEUE_PAIRS)?;
                    once(&mut queues, "queues", parsed)?;
                }
                "mtu" => {
                    let parsed = number("mtu", value, MIN_MTU, u16::MAX)?;
                    once(&mut mtu, "mtu", parsed)?;
                }
                "vhostfd" => {
                    let list = value.split(':').map(|one| {
                        let bad = || NetConfigError::Number {
                            key: "vhostfd",
                            value: value.to_owned(),
                            min: 0,
                            max: i32::MAX as u32,
                        };
                        let number: i32 = one.parse().map_err(|_| bad())?;
                        (number >= 0).then_some(number).ok_or_else(bad)
                    });
                    let list: Vec<i32> = list.collect::<Result<_, _>>()?;
                    once(&mut vhostfd, "vhostfd", list)?;
                }
                _ => return Err(unknown()),
            }
        }
        Fields {
            tap: tap.ok_or(NetConfigError::NoTap)?,
            mac,
            backend: backend.unwrap_or_default(),
            queues: queues.unwrap_or(1),
            mtu,
            vhostfd: vhostfd.unwrap_or_default(),
        }
        .try_into()
    }
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), NetConfigError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(NetConfigError::Twice(key)),
    }
}

fn number(key: &'static str, text: &str, min: u16, max: u16) -> Result<u16, NetConfigError> {
    let number = text.parse().map_err(|_| NetConfigError::Number {
        key,
        value: text.to_owned(),
        min: min.into(),
        max: max.into(),
    })?;
    within(key, number, min, max)?;
    Ok(number)
}

impl FromStr for Backend {
    type Err = NetConfigError;

    fn from_str(text: &str) -> Result<Backend, NetConfigError> {
        match text {
            "vhost" => Ok(Backend::Vhost),
            "user" => Ok(Backend::User),
            _ => Err(NetConfigError::Backend(text.to_owned())),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Vhost => "vhost",
            Backend::User => "user",
        })
    }
}

impl fmt::Display for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tap={}", self.tap)?;
        if let Some(mac) = self.mac {
            write!(f, ",mac={mac}")?;
        }
        write!(f, ",backend={},queues={}", self.backend, self.queues)?;
        if let Some(mtu) = self.mtu {
            write!(f, ",mtu={mtu}")?;
        }
        for (number, fd) in self.vhostfd.iter().enumerate() {
            write!(f, "{}{fd}", if number == 0 { ",vhostfd=" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        let plain: NetConfig = "tap=tap0".parse().unwrap();
        assert_eq!(plain, NetConfig::new("tap0").unwrap());
        assert_eq!((plain.backend, plain.queues), (Backend::Vhost, 1));
        for text in [
            "tap=tap0,backend=vhost,queues=1",
            "tap=t,mac=02:00:00:00:00:01,backend=user,queues=4,mtu=9000",
            "tap=t,backend=vhost,queues=2,vhostfd=3:4",
        ] {
            let config: NetConfig = text.parse().unwrap();
            assert_eq!(config.to_string(), text);
            let toml = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<NetConfig>(&toml).unwrap(), config);
        }
        assert_eq!(
            toml::from_str::<NetConfig>("tap = \"tap0\"").unwrap(),
            plain
        );
    }

    #[test]
    fn faults_are_named() {
        for (text, part) in [
            ("", "'' is not known"),
            ("tap0", "'tap0' is not known"),
            ("mac=02:00:00:00:00:01", "names no TAP"),
            ("tap=t,tap=u", "tap= is given twice"),
            ("tap=sixteen-bytes-xx", "longer than 15 bytes"),
            ("tap=t,mac=01:00:5e:00:00:01", "no MAC address of a station"),
            ("tap=t,mac=1", "no MAC address of a station"),
            ("tap=t,backend=dpdk", "there are vhost and user"),
            ("tap=t,queues=0", "queues=0 is no number from 1 to 64"),
            ("tap=t,queues=65", "queues=65 is no number"),
            ("tap=t,mtu=67", "mtu=67 is no number from 68 to 65535"),
            ("tap=t,mtu=65536", "mtu=65536 is no number"),
            ("tap=t,vhostfd=-1", "vhostfd=-1 is no number"),
            ("tap=t,vhostfd=3:4", "gives 2 descriptors for 1 queue pairs"),
            ("tap=t,backend=user,vhostfd=3", "of backend user"),
            ("tap=t,speed=1", "'speed=1' is not known"),
        ] {
            let error = text.parse::<NetConfig>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, part) in [
            ("tap = \"a b\"", "white space"),
            ("tap = \"t\"\nqueues = 100", "queues=100"),
            ("tap = \"t\"\nbackend = \"dpdk\"", "dpdk"),
            ("tap = \"t\"\nspeed = 1", "speed"),
        ] {
            let error = toml::from_str::<NetConfig>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
