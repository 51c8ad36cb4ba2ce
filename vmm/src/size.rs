//! A number of bytes, as people write it.
#![deny(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. It is written with the largest unit that divides it, and read with an
/// optional unit: `65536`, `512K`, `64M`, `2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text such as \"64M\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The unit is none of K, M, G, T.
    #[error("{0:?} has an unknown unit: use K, M, G or T")]
    Unit(String),
    /// There is no whole number.
    #[error("{0:?} is not a size such as 64M or 2G")]
    Number(String),
    /// More than 64 bits hold.
    #[error("{0} is more than a machine can address")]
    TooLarge(String),
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Bytes, Error> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "BYTES" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ if digits.is_empty() => return Err(Error::Number(text.to_owned())),
            _ => return Err(Error::Unit(text.to_owned())),
        };
        let number: u64 = digits
            .trim_end()
            .parse()
            .map_err(|_| Error::Number(text.to_owned()))?;
        let bytes = number.checked_mul(1 << shift);
        bytes.map(Bytes).ok_or(Error::TooLarge(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read() {
        let parse = |text: &str| text.parse().map(|Bytes(number)| number);
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512K"), Ok(512 << 10));
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("2GiB"), Ok(2 << 30));
        assert_eq!(parse("4T"), Ok(4 << 40));
        for bad in ["", "M", "-1", "64X", "1.5G", "99999999999G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_so_that_they_can_be_read() {
        for (bytes, text) in [
            (64 << 20, "64 MiB"),
            (3 << 30, "3 GiB"),
            (4096, "4 KiB"),
            (4097, "4097 bytes"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!("64 MiB".parse(), Ok(Bytes(64 << 20)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, shift in 0..40_u32) {
            for bytes in [Bytes(number), Bytes(number >> shift << shift)] {
                prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
                let json = serde_json::to_string(&bytes).unwrap();
                prop_assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), bytes);
            }
        }
    }
}
