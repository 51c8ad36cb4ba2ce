//! The verdict on an attack: repelled or succeeded.
#![deny(unsafe_code)]

use core::fmt::{self, Write};

use postern_abi::guest_words::{REPELLED, SUCCEEDED};

use super::attacker::Attacker;

/// Whether an attack was repelled, and what was seen.
pub struct Verdict {
    repelled: bool,
    detail: Text,
}

/// Says that an attack was repelled, with a text as for `format!`.
macro_rules! repelled {
    ($($argument:tt)*) => {
        $crate::program::attacks::verdict::Verdict::new(true, format_args!($($argument)*))
    };
}
pub(crate) use repelled;

/// Says that an attack succeeded, with a text as for `format!`.
macro_rules! succeeded {
    ($($argument:tt)*) => {
        $crate::program::attacks::verdict::Verdict::new(false, format_args!($($argument)*))
    };
}
pub(crate) use succeeded;

impl Verdict {
    /// A verdict with a text of up to 200 bytes; [`repelled`] and [`succeeded`] are short forms.
    pub fn new(repelled: bool, detail: fmt::Arguments<'_>) -> Verdict {
        let mut text = Text {
            bytes: [0; 200],
            len: 0,
        };
        // A text that is longer is cut.
        let _ = text.write_fmt(detail);
        Verdict {
            repelled,
            detail: text,
        }
    }

    /// Whether the attack was repelled.
    pub fn repelled(&self) -> bool {
        self.repelled
    }

    /// The same verdict, unless a repelled attack has left the gate out of order: then it
    /// succeeded.
    pub fn and_still_works(self, attacker: &mut Attacker) -> Verdict {
        if !self.repelled || !attacker.has_gate() {
            return self;
        }
        if attacker.entry_is_armed() {
            return succeeded!("the service's entry is left armed");
        }
        match attacker.call() {
            Ok(0) => self,
            Ok(answer) => succeeded!("a call answers {answer:#x} afterwards"),
            Err(exception) => succeeded!("a call fails afterwards: {exception}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.repelled { REPELLED } else { SUCCEEDED };
        let detail = &self.detail.bytes[..self.detail.len];
        write!(f, "{verdict}: {}", str::from_utf8(detail).unwrap_or("?"))
    }
}

/// A short text.
struct Text {
    bytes: [u8; 200],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len());
        let room = room.ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}
