//! How a service may be called.
#![forbid(unsafe_code)]

use std::fmt;

use postern_abi::kvm::{RIGHT_FAST, RIGHT_HYPERCALL, RIGHT_STRICT};

/// One way to call a service. The paths `elisa`, `elisa-strict` and `exit-kernel` are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Three VMFUNCs a call; code of the view is as good as root on the host. A template with it
    /// needs `CAP_SYS_RAWIO`.
    Fast,
    /// Four VMFUNCs a call; code of the view reaches the view's memory only.
    Strict,
    /// A VMCALL: the module serves the template's data itself, in the host's kernel. A template
    /// with it needs `CAP_SYS_RAWIO` and the module's parameter `ept_views_hypercall`.
    Hypercall,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 3] = [Right::Fast, Right::Strict, Right::Hypercall];

    /// The kernel's bit.
    pub const fn bit(self) -> u32 {
        match self {
            Right::Fast => RIGHT_FAST,
            Right::Strict => RIGHT_STRICT,
            Right::Hypercall => RIGHT_HYPERCALL,
        }
    }

    /// Whether only a process with `CAP_SYS_RAWIO` can make a template with it.
    pub const fn is_privileged(self) -> bool {
        !matches!(self, Right::Strict)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Fast => "fast",
            Right::Strict => "strict",
            Right::Hypercall => "hypercall",
        })
    }
}

/// A set of [`Right`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u32);

impl Rights {
    /// None.
    pub const NONE: Rights = Rights(0);

    /// Those in the kernel's bits that this program knows.
    pub const fn from_bits(bits: u32) -> Rights {
        Rights(bits & (RIGHT_FAST | RIGHT_STRICT | RIGHT_HYPERCALL))
    }

    /// The kernel's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether a right is among them.
    pub const fn contains(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and another one.
    #[must_use]
    pub const fn with(self, right: Right) -> Rights {
        Rights(self.0 | right.bit())
    }

    /// These without one.
    #[must_use]
    pub const fn without(self, right: Right) -> Rights {
        Rights(self.0 & !right.bit())
    }

    /// Those that are also among others.
    #[must_use]
    pub const fn intersection(self, others: Rights) -> Rights {
        Rights(self.0 & others.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        let all = Right::ALL.into_iter();
        all.filter(move |right| self.contains(*right))
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Rights {
        Rights(right.bit())
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        rights.into_iter().fold(Rights::NONE, Rights::with)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, right) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{right}")?;
        }
        if self.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_a_set() {
        let some: Rights = [Right::Strict, Right::Hypercall].into_iter().collect();
        assert!(some.contains(Right::Strict) && !some.contains(Right::Fast));
        assert_eq!(some.to_string(), "strict, hypercall");
        assert_eq!(some.without(Right::Hypercall), Right::Strict.into());
        assert_eq!(
            some.intersection(Right::Fast.into()).to_string(),
            Rights::NONE.to_string()
        );
        assert_eq!(Rights::from_bits(u32::MAX).iter().count(), Right::ALL.len());
        assert_eq!(Rights::from_bits(1 << 20), Rights::NONE);
    }
}
