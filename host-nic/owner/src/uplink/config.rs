//! The device and the interface of an uplink, as text.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use super::error::UplinkError;
use super::link::{self, MAX_MTU};
use super::xdp;

/// The device and the interface of an uplink; as text `tap:NAME[,mtu=BYTES]`, `packet:INTERFACE` or
/// `xdp:INTERFACE[,queue=N][,mode=auto|copy|zero-copy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkConfig {
    /// A TAP.
    Tap {
        /// Name of the TAP.
        name: String,
        /// The TAP's MTU in bytes; `None` leaves it as it is (1500 for a new one).
        mtu: Option<u32>,
    },
    /// An AF_PACKET socket.
    Packet {
        /// Name of the interface.
        interface: String,
    },
    /// An AF_XDP socket.
    Xdp {
        /// Name of the interface.
        interface: String,
        /// Number of the receive and transmit queue.
        queue: u32,
        /// The way of frames between driver and socket.
        mode: xdp::Mode,
    },
}

impl UplinkConfig {
    /// Name of the interface.
    pub fn interface(&self) -> &str {
        match self {
            UplinkConfig::Tap { name, .. } => name,
            UplinkConfig::Packet { interface } | UplinkConfig::Xdp { interface, .. } => interface,
        }
    }
}

impl fmt::Display for UplinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UplinkConfig::Tap { name, mtu: None } => write!(f, "tap:{name}"),
            UplinkConfig::Tap {
                name,
                mtu: Some(mtu),
            } => write!(f, "tap:{name},mtu={mtu}"),
            UplinkConfig::Packet { interface } => write!(f, "packet:{interface}"),
            UplinkConfig::Xdp {
                interface,
                queue,
                mode,
            } => write!(f, "xdp:{interface},queue={queue},mode={mode}"),
        }
    }
}

impl FromStr for UplinkConfig {
    type Err = UplinkError;

    fn from_str(text: &str) -> Result<UplinkConfig, UplinkError> {
        let bad = |reason: &'static str| UplinkError::Config {
            text: text.into(),
            reason,
        };
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| bad("it has no colon after the kind"))?;
        let mut parts = rest.split(',');
        let interface = parts.next().unwrap_or_default().to_owned();
        link::check_name(&interface)?;
        let mut config = match kind {
            "tap" => UplinkConfig::Tap {
                name: interface,
                mtu: None,
            },
            "packet" => UplinkConfig::Packet { interface },
            "xdp" => UplinkConfig::Xdp {
                interface,
                queue: 0,
                mode: xdp::Mode::Auto,
            },
            _ => return Err(bad("its kind is not tap, packet or xdp")),
        };
        for part in parts {
            match (&mut config, part.split_once('=')) {
                (UplinkConfig::Tap { mtu, .. }, Some(("mtu", value))) => {
                    let bytes = value.parse().map_err(|_| bad("its mtu is no number"))?;
                    if !(68..=MAX_MTU).contains(&bytes) {
                        return Err(bad("its mtu is not 68 to 9000"));
                    }
                    *mtu = Some(bytes);
                }
                (UplinkConfig::Xdp { queue, .. }, Some(("queue", value))) => {
                    *queue = value.parse().map_err(|_| bad("its queue is no number"))?;
                }
                (UplinkConfig::Xdp { mode, .. }, Some(("mode", value))) => {
                    *mode = value
                        .parse()
                        .map_err(|()| bad("its mode is not auto, copy or zero-copy"))?;
                }
                _ => return Err(bad("it has an option that this kind does not know")),
            }
        }
        Ok(config)
    }
}
