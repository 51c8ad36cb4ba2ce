//! The command line of the bare guest: words `KEY=VALUE`, separated by blanks.
//!
//! | word | meaning | where absent |
//! | --- | --- | --- |
//! | `role=NAME` | what to do, see [`Role`] | refused |
//! | `attack=NAME` | with `role=attack`: which one | refused for that role |
//! | `batch=N` | frames a burst, 1 to [`MAX_BATCH`] | 32 |
//! | `frames=N` | frames to send or to wait for; `endless` | the pcap once |
//! | `calls=N` | empty calls to make | 100000 |
//! | `input=pcap`, `input=SIZE` | the initrd, or frames of that size made up | pcap |
//! | `timer=HZ` | rate of the timer's interrupts, 0 to [`MAX_TIMER`] | 1000 |
//! | `patience=TICKS` | how long to wait with nothing moving | 5000 |
//! | `hello=on`, `hello=off` | the receiver sends beacons and the sender waits for one | on |
//! | `sleep=on`, `sleep=off` | who waits for frames has the sender told to wake it | off |
//! | `postern.nic=...` | the NIC port, see [`PortWord`] | none |
//!
//! Any other word, a word said twice and a value out of range are errors.

use core::fmt;
use core::ops::RangeInclusive;

use postern_abi::platform::CMDLINE_NIC;
use postern_abi::port_word::{PortWord, PortWordError};
use postern_abi::window::MAX_FRAME;

use postern_guest::frames::synthetic;

/// Most frames of a burst.
pub const MAX_BATCH: usize = 256;

/// Highest rate of the timer's interrupts, in hertz.
pub const MAX_TIMER: u32 = 5000;

/// The role that the guest plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Starts, and ends well.
    Hello,
    /// Makes empty calls to the service, and the same loop without them.
    Calls,
    /// Sends frames.
    Send,
    /// Receives frames and gives them to the host as a pcap file.
    Receive,
    /// Sends each frame back to where it came from.
    Echo,
    /// Sends frames to an `echo` and checks what comes back.
    Ping,
    /// Tries to break out; see [`GuestOptions::attack`].
    Attack,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 7] = [
        Role::Hello,
        Role::Calls,
        Role::Send,
        Role::Receive,
        Role::Echo,
        Role::Ping,
        Role::Attack,
    ];

    /// The role's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Hello => "hello",
            Role::Calls => "calls",
            Role::Send => "send",
            Role::Receive => "receive",
            Role::Echo => "echo",
            Role::Ping => "ping",
            Role::Attack => "attack",
        }
    }
}

/// The number of frames to send or to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// As many frames as the input has.
    Input,
    /// This many frames; the input is repeated as often as needed.
    Count(u64),
    /// Frames until the VM is ended.
    Endless,
}

/// The frames to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The frames of the pcap file in the initrd.
    Pcap,
    /// Made-up frames of this many bytes ([`synthetic`]).
    Synthetic(usize),
}

/// The words of a command line that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestOptions<'a> {
    /// `role=`: what to do.
    pub role: Role,
    /// `attack=`: the name of the attack, with [`Role::Attack`].
    pub attack: Option<&'a str>,
    /// `batch=`: the number of frames of a burst.
    pub batch: usize,
    /// `frames=`: the number of frames.
    pub frames: Frames,
    /// `calls=`: the number of empty calls.
    pub calls: u64,
    /// `input=`: the frames to send.
    pub input: Input,
    /// `timer=`: the rate of the timer's interrupts, in hertz.
    pub timer: u32,
    /// `patience=`: how long to wait while no frame moves, in ticks of the timer.
    pub patience: u64,
    /// `hello=`: whether a receiver sends beacons and a sender waits for one.
    pub hello: bool,
    /// `sleep=`: whether a role that waits for frames arms its RX queues.
    pub sleep: bool,
    /// `postern.nic=`: the NIC port.
    pub nic: Option<PortWord>,
}

/// A command line that [`GuestOptions::parse`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmdlineError<'a> {
    /// This word is not one of the guest's.
    Unknown(&'a str),
    /// The key of this word was there before.
    Twice(&'a str),
    /// There is no role.
    NoRole,
    /// There is `role=attack` without `attack=`, or the reverse.
    Attack,
    /// There is no role of this name.
    Role(&'a str),
    /// A value is no number, or out of range.
    Number {
        /// The word's key.
        key: &'static str,
        /// The word's value.
        value: &'a str,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A value is not one of the listed ones.
    Choice {
        /// The word's key.
        key: &'static str,
        /// The word's value.
        value: &'a str,
        /// The values that there are.
        choices: &'static str,
    },
    /// The description of the NIC port is wrong.
    Nic(PortWordError<'a>),
}

impl fmt::Display for CmdlineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CmdlineError::Unknown(word) => write!(f, "command line: unknown word '{word}'"),
            CmdlineError::Twice(word) => write!(f, "command line: '{word}' repeats a key"),
            CmdlineError::NoRole => {
                f.write_str("command line: no role; say one of")?;
                list_roles(f)
            }
            CmdlineError::Attack => {
                f.write_str("command line: role=attack and attack=NAME go together")
            }
            CmdlineError::Role(name) => {
                write!(f, "command line: no role '{name}'; there are")?;
                list_roles(f)
            }
            CmdlineError::Number {
                key,
                value,
                min,
                max,
            } => write!(
                f,
                "command line: {key}={value}: a number from {min} to {max} is needed"
            ),
            CmdlineError::Choice {
                key,
                value,
                choices,
            } => write!(f, "command line: {key}={value}: it can be {choices}"),
            CmdlineError::Nic(error) => write!(f, "command line: {error}"),
        }
    }
}

impl core::error::Error for CmdlineError<'_> {}

/// Writes `role=NAME` for all roles.
fn list_roles(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Role::ALL
        .iter()
        .try_for_each(|role| write!(f, " role={}", role.name()))
}

impl<'a> GuestOptions<'a> {
    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// The first word that is wrong or, if all are right, what is missing.
    pub fn parse(cmdline: &'a str) -> Result<GuestOptions<'a>, CmdlineError<'a>> {
        let mut role = None;
        let mut options = GuestOptions {
            role: Role::Hello,
            attack: None,
            batch: 32,
            frames: Frames::Input,
            calls: 100_000,
            input: Input::Pcap,
            timer: 1000,
            patience: 5000,
            hello: true,
            sleep: false,
            nic: None,
        };
        let mut seen = 0u32;
        for word in cmdline.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(CmdlineError::Unknown(word))?;
            let bit = match key {
                "role" => {
                    let found = Role::ALL.into_iter().find(|role| role.name() == value);
                    role = Some(found.ok_or(CmdlineError::Role(value))?);
                    0
                }
                "attack" => {
                    options.attack = Some(value);
                    1
                }
                "batch" => {
                    options.batch = number("batch", value, 1..=MAX_BATCH as u64)? as usize;
                    2
                }
                "frames" => {
                    options.frames = match value {
                        "endless" => Frames::Endless,
                        _ => Frames::Count(number("frames", value, 1..=u64::from(u32::MAX))?),
                    };
                    3
                }
                "calls" => {
                    options.calls = number("calls", value, 1..=u64::from(u32::MAX))?;
                    4
                }
                "input" => {
                    let sizes = synthetic::MIN_SIZE as u64..=u64::from(MAX_FRAME);
                    options.input = match value {
                        "pcap" => Input::Pcap,
                        _ => Input::Synthetic(number("input", value, sizes)? as usize),
                    };
                    5
                }
                "timer" => {
                    options.timer = number("timer", value, 0..=u64::from(MAX_TIMER))? as u32;
                    6
                }
                "patience" => {
                    options.patience = number("patience", value, 1..=u64::from(u32::MAX))?;
                    7
                }
                "hello" => {
                    options.hello = switch("hello", value)?;
                    8
                }
                "sleep" => {
                    options.sleep = switch("sleep", value)?;
                    10
                }
                _ if word.starts_with(CMDLINE_NIC) => {
                    options.nic = Some(PortWord::parse(word).map_err(CmdlineError::Nic)?);
                    9
                }
                _ => return Err(CmdlineError::Unknown(word)),
            };
            if seen & (1 << bit) != 0 {
                return Err(CmdlineError::Twice(word));
            }
            seen |= 1 << bit;
        }
        options.role = role.ok_or(CmdlineError::NoRole)?;
        if (options.role == Role::Attack) != options.attack.is_some() {
            return Err(CmdlineError::Attack);
        }
        Ok(options)
    }
}

/// Whether a word's value is `on`, not `off`.
fn switch<'a>(key: &'static str, value: &'a str) -> Result<bool, CmdlineError<'a>> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(CmdlineError::Choice {
            key,
            value,
            choices: "on or off",
        }),
    }
}

/// The number that a word's value is, of decimal digits alone.
fn number<'a>(
    key: &'static str,
    value: &'a str,
    range: RangeInclusive<u64>,
) -> Result<u64, CmdlineError<'a>> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| value.parse().ok()).flatten();
    number
        .filter(|number| range.contains(number))
        .ok_or(CmdlineError::Number {
            key,
            value,
            min: *range.start(),
            max: *range.end(),
        })
}

#[cfg(test)]
mod tests {
    use postern_abi::platform::CallPath;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_words_are_understood() {
        let options = GuestOptions::parse(
            " role=send batch=1 frames=77 calls=5 input=64 timer=0 \t patience=9 hello=off \
             sleep=on \
             postern.nic=elisa-strict,2,0xc0000000,0x5000\n",
        );
        assert_eq!(
            options,
            Ok(GuestOptions {
                role: Role::Send,
                attack: None,
                batch: 1,
                frames: Frames::Count(77),
                calls: 5,
                input: Input::Synthetic(64),
                timer: 0,
                patience: 9,
                hello: false,
                sleep: true,
                nic: Some(PortWord::parse("postern.nic=elisa-strict,2,0xc0000000,0x5000").unwrap()),
            })
        );
        assert_eq!(options.unwrap().nic.unwrap().path, CallPath::ElisaStrict);
    }

    #[test]
    fn roles_have_defaults() {
        for role in Role::ALL {
            let word = format!("role={}", role.name());
            if role == Role::Attack {
                assert_eq!(GuestOptions::parse(&word), Err(CmdlineError::Attack));
                let both = format!("{word} attack=idt");
                assert_eq!(GuestOptions::parse(&both).unwrap().attack, Some("idt"));
            } else {
                let options = GuestOptions::parse(&word).unwrap();
                assert_eq!((options.role, options.frames), (role, Frames::Input));
            }
        }
    }

    #[test]
    fn says_what_is_wrong() {
        use CmdlineError::*;
        let refused = |line| GuestOptions::parse(line).unwrap_err();
        assert_eq!(refused(""), NoRole);
        assert_eq!(refused("role=fly"), Role("fly"));
        assert_eq!(refused("quiet role=hello"), Unknown("quiet"));
        assert_eq!(refused("role=hello turbo=1"), Unknown("turbo=1"));
        assert_eq!(refused("role=hello role=hello"), Twice("role=hello"));
        assert_eq!(refused("role=hello attack=idt"), Attack);
        assert_eq!(
            refused("role=hello hello=maybe"),
            Choice {
                key: "hello",
                value: "maybe",
                choices: "on or off"
            }
        );
        assert!(matches!(
            refused("role=hello postern.nic=elisa"),
            Nic(PortWordError::Missing("port"))
        ));
        for (key, values) in [
            ("batch", ["0", "257", "", "+1", "1.5"]),
            ("frames", ["0", "4294967296", "all", "-1", "0x10"]),
            ("calls", ["0", "4294967296", " ", "1e3", "1_000"]),
            ("input", ["13", "9019", "pcapng", "Pcap", ""]),
            ("timer", ["-1", "5001", "off", "99999999999999999999", ""]),
            ("patience", ["0", "4294967296", "forever", "", "1s"]),
        ] {
            for value in values {
                let line = format!("role=hello {key}={value}");
                assert!(
                    matches!(GuestOptions::parse(&line), Err(Number { key: k, .. }) if k == key),
                    "{line}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(line in "\\PC{0,60}") {
            let _ = GuestOptions::parse(&line);
        }

        #[test]
        fn any_words_are_understood_or_refused(
            words in vec("(role|batch|frames|input|postern.nic|x)=[a-z0-9,]{0,8}", 0..6)
        ) {
            let line = words.join(" ");
            if let Err(error) = GuestOptions::parse(&line) {
                prop_assert!(error.to_string().starts_with("command line: "));
            }
        }
    }
}
