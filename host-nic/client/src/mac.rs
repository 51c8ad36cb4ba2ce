//! MAC addresses as people write them.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// A MAC address. As text it has six bytes of one or two hexadecimal digits each, with colons
/// between them; only addresses of stations are read by [`FromStr`] and serde.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is no MAC address of a station.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no MAC address of a station: give six bytes such as 02:00:00:00:00:01")]
pub struct MacError(String);

impl Mac {
    /// Reads any address, also that of a group; `None` if the text is none.
    pub fn parse_any(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next()?;
            if part.len() > 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }

    /// Draws an address that no other station has, but for bad luck: a locally administered one.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn draw() -> io::Result<Mac> {
        let mut bytes = [0; 6];
        // So few bytes come whole (getrandom(2)).
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        bytes[0] = bytes[0] & !1 | 2;
        Ok(Mac(bytes))
    }

    /// The address that a NIC gives the tenant of a port, unless another was chosen: a locally
    /// administered one, by the port's number.
    pub const fn of_port(port: u32) -> Mac {
        Mac([0x02, b'P', b'S', b'T', (port >> 8) as u8, port as u8])
    }

    /// Whether it is all zeros, which is no station's address.
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether it is the address of a group of stations: whether its group bit is set.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let mac = Mac::parse_any(text).filter(|mac| !mac.is_group());
        mac.ok_or_else(|| MacError(text.to_owned()))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

crate::serde_as_text!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_addresses_are_of_stations_and_differ() {
        let (one, other) = (Mac::draw().unwrap(), Mac::draw().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.0[0] & 3, other.0[0] & 3), (2, 2));
    }

    #[test]
    fn addresses_are_read_and_written() {
        let mac = Mac([2, 0, 0, 0, 0xa, 0xff]);
        assert_eq!("02:00:00:00:0a:ff".parse(), Ok(mac));
        assert_eq!("2:0:0:0:A:fF".parse(), Ok(mac));
        assert_eq!(mac.to_string(), "02:00:00:00:0a:ff");
        let group = Mac([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(Mac::parse_any("01:00:5e:00:00:01"), Some(group));
        for text in [
            "",
            "01:00:5e:00:00:01",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:001",
            "02:00:00:00:00:",
            "02-00-00-00-00-01",
        ] {
            let error = text.parse::<Mac>().unwrap_err();
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }
}
