//! An abort, as the tracepoint tells it.
#![deny(unsafe_code)]

use std::fmt::Write;

use postern_vmm::run_report::reason_name;
use serde_json::json;

use super::symbols::Symbols;

/// Fields of the tracepoint that this module takes from its lines.
pub const FIELDS: [&str; 6] = ["vcpu", "view", "exit_reason", "gpa", "gva", "rip"];

/// Basic exit reasons with a guest-physical address (SDM volume 3, "VMX Basic Exit Reasons").
const EPT_VIOLATION: u32 = 48;
const EPT_MISCONFIGURATION: u32 = 49;

/// An abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The vCPU's thread.
    pub thread: u32,
    vcpu: u32,
    view: u32,
    reason: u32,
    /// The guest-physical address of the fault, of exits that have one.
    gpa: Option<u64>,
    /// The guest-virtual one.
    gva: Option<u64>,
    rip: u64,
}

impl Abort {
    /// Takes a line of `trace_pipe` apart: `NAME-TID [CPU] FLAGS TIME: kvm_ept_view_abort: vcpu N view
    /// 0xN exit_reason 0xN gpa 0xN gva 0xN rip 0xN`.
    pub fn parse(line: &str) -> Option<Abort> {
        let (before, words) = line.split_once(": kvm_ept_view_abort: ")?;
        // Names of threads may have blanks and hyphens.
        let (task, _) = before.split_once(" [")?;
        let (_, thread) = task.trim_end().rsplit_once('-')?;
        let words: Vec<&str> = words.split_whitespace().collect();
        if words.len() != 2 * FIELDS.len() {
            return None;
        }
        let mut pairs = words.chunks_exact(2).zip(FIELDS);
        if !pairs.all(|(pair, field)| pair[0] == field) {
            return None;
        }
        let hex = |index: usize| {
            let digits = words.get(2 * index + 1)?.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        };
        let reason = hex(2)?.try_into().ok()?;
        let (gpa, gva) = (hex(3)?, hex(4)?);
        Some(Abort {
            thread: thread.parse().ok()?,
            vcpu: words.get(1)?.parse().ok()?,
            view: hex(1)?.try_into().ok()?,
            reason,
            gpa: matches!(reason, EPT_VIOLATION | EPT_MISCONFIGURATION).then_some(gpa),
            gva: (reason == EPT_VIOLATION && gva != 0).then_some(gva),
            rip: hex(5)?,
        })
    }

    /// A line for people.
    pub fn text(&self, vm: &str, symbols: &Symbols) -> String {
        let &Abort {
            vcpu,
            view,
            reason,
            rip,
            ..
        } = self;
        let mut line = format!(
            "VM {vm}, vCPU {vcpu}: view {view}, exit reason {reason} ({})",
            reason_name(reason)
        );
        for (name, address) in [("GPA", self.gpa), ("GVA", self.gva), ("RIP", Some(rip))] {
            if let Some(address) = address {
                // Writing to a string does not fail.
                let _ = write!(line, ", {name} {address:#x}");
            }
        }
        if let Some(function) = symbols.find(view, rip) {
            let _ = write!(line, " ({function})");
        }
        line + "\n"
    }

    /// A line of JSON; addresses that the abort does not have are null.
    pub fn json(&self, vm: &str, symbols: &Symbols) -> String {
        let line = json!({
            "vm": vm,
            "vcpu": self.vcpu,
            "view": self.view,
            "exit_reason": self.reason,
            "reason": reason_name(self.reason),
            "gpa": self.gpa,
            "gva": self.gva,
            "rip": self.rip,
            "function": symbols.find(self.view, self.rip),
        });
        format!("{line}\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use serde_json::Value;

    use super::*;

    const LINE: &str = "           vcpu0 -x-1234    [000] d..1.   123.456789: kvm_ept_view_abort: \
                        vcpu 1 view 0xcc exit_reason 0x30 gpa 0x4000003000 gva 0x100050000010 \
                        rip 0x100000012";

    fn symbols() -> Symbols {
        Symbols::new([(0x1_0000_0000, 0x20, "serve".to_owned())])
    }

    #[test]
    fn lines_of_the_tracepoint() {
        let abort = Abort::parse(LINE).unwrap();
        let expected = Abort {
            thread: 1234,
            vcpu: 1,
            view: 0xcc,
            reason: EPT_VIOLATION,
            gpa: Some(0x40_0000_3000),
            gva: Some(0x1000_5000_0010),
            rip: 0x1_0000_0012,
        };
        assert_eq!(abort, expected);
        let (cut, _) = LINE.split_once(" rip").unwrap();
        for line in [
            "",
            "CPU:0 [LOST 3 EVENTS]",
            &LINE.replace("0xcc", "cc"),
            &LINE.replace("gpa", "gap"),
            &LINE.replace("vcpu 1", "vcpu 0x1"),
            cut,
            &format!("{LINE} more 0x1"),
        ] {
            assert_eq!(Abort::parse(line), None, "{line}");
        }
    }

    #[test]
    fn people_and_programs_see_all_of_it() {
        let abort = Abort::parse(LINE).unwrap();
        assert_eq!(
            abort.text("a", &symbols()),
            "VM a, vCPU 1: view 204, exit reason 48 (EPT violation), GPA 0x4000003000, \
             GVA 0x100050000010, RIP 0x100000012 (serve+0x12)\n"
        );
        let json: Value = serde_json::from_str(&abort.json("a", &symbols())).unwrap();
        let expected = json!({
            "vm": "a",
            "vcpu": 1,
            "view": 204,
            "exit_reason": 48,
            "reason": "EPT violation",
            "gpa": 0x40_0000_3000_u64,
            "gva": 0x1000_5000_0010_u64,
            "rip": 0x1_0000_0012_u64,
            "function": "serve+0x12",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn addresses_that_an_exit_does_not_have_are_not_shown() {
        let zeros = LINE
            .replace("0x4000003000", "0x0")
            .replace("0x100050000010", "0x0");
        // Reason, and whether there are a GPA and a GVA where the line has them.
        for (reason, gpa, gva) in [(0x30, true, true), (0x31, true, false), (0, false, false)] {
            for (line, has_gva) in [(LINE, gva), (&zeros, false)] {
                let line = line.replace("0x30 gpa", &format!("{reason:#x} gpa"));
                let abort = Abort::parse(&line).unwrap();
                let text = abort.text("a", &symbols());
                assert_eq!(text.contains("GPA"), gpa, "{text}");
                assert_eq!(text.contains("GVA"), has_gva, "{text}");
                let json: Value = serde_json::from_str(&abort.json("a", &symbols())).unwrap();
                assert_eq!(json["gpa"].is_null(), !gpa, "{json}");
                assert_eq!(json["gva"].is_null(), !has_gva, "{json}");
            }
        }
    }
}
