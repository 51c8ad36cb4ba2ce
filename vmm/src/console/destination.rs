//! Where a console goes, as people write it.
#![deny(unsafe_code)]

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a VM's console goes: a file, or one of the words of [`Destination::HELP`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `-`: standard output, and standard input.
    Stdio,
    /// A file, which is made anew, a pipe or a device: output only.
    File(PathBuf),
    /// `pty`: a new pseudo-terminal.
    Pty,
    /// `unix:PATH`: a socket that `postern console` joins.
    Unix(PathBuf),
    /// `none`: nowhere.
    Null,
}

impl Destination {
    /// The words, for help texts.
    pub const HELP: &str = "a file, - for standard output and input, pty for a new \
                            pseudo-terminal, unix:PATH for a socket that postern console joins, or \
                            none";

    /// As the command line takes it.
    pub fn to_os_string(&self) -> OsString {
        match self {
            // Such a name is none of the words.
            Destination::File(file) if file.to_str().is_none() => file.clone().into(),
            Destination::Unix(socket) => {
                let mut text = OsString::from("unix:");
                text.push(socket);
                text
            }
            other => other.to_string().into(),
        }
    }

    /// The same, with a relative name taken as relative to `directory`.
    #[must_use]
    pub fn within(self, directory: &Path) -> Destination {
        match self {
            Destination::File(file) => Destination::File(directory.join(file)),
            Destination::Unix(socket) => Destination::Unix(directory.join(socket)),
            other => other,
        }
    }
}

impl FromStr for Destination {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Destination, Infallible> {
        Ok(match text {
            "-" => Destination::Stdio,
            "pty" => Destination::Pty,
            "none" => Destination::Null,
            other => match other.strip_prefix("unix:") {
                Some(socket) => Destination::Unix(socket.into()),
                None => Destination::File(other.into()),
            },
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Stdio => f.write_str("-"),
            Destination::Pty => f.write_str("pty"),
            Destination::Null => f.write_str("none"),
            Destination::Unix(socket) => write!(f, "unix:{}", socket.display()),
            // A file whose name is one of the words.
            Destination::File(file) => match file.to_str().map(str::parse) {
                Some(Ok(Destination::File(_))) | None => write!(f, "{}", file.display()),
                Some(_) => write!(f, "./{}", file.display()),
            },
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Destination::File(path) | Destination::Unix(path) = self
            && path.to_str().is_none()
        {
            return Err(serde::ser::Error::custom("a file name is not Unicode"));
        }
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Destination, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(destination) => Ok(destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_files_and_sockets() {
        for (text, destination) in [
            ("-", Destination::Stdio),
            ("pty", Destination::Pty),
            ("none", Destination::Null),
            ("unix:/s", Destination::Unix("/s".into())),
            ("a.log", Destination::File("a.log".into())),
            ("./none", Destination::File("./none".into())),
        ] {
            assert_eq!(text.parse(), Ok(destination.clone()));
            assert_eq!(destination.to_string(), text);
        }
        let odd = Destination::File("pty".into());
        assert_eq!(odd.to_string(), "./pty");
    }

    #[test]
    fn names_are_relative_to_a_directory() {
        let within = |text: &str| match text.parse::<Destination>() {
            Ok(destination) => destination.within(Path::new("/d")).to_string(),
        };
        assert_eq!(within("a.log"), "/d/a.log");
        assert_eq!(within("unix:s"), "unix:/d/s");
        assert_eq!(within("unix:/s"), "unix:/s");
        assert_eq!(within("-"), "-");
    }
}
