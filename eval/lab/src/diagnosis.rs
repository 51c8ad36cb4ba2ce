//! Signs of trouble in text: in the kernel's log, on the console and in the emulator's log.

/// Parts of kernel messages which mean that something is wrong with the kernel, or with what a VMM
/// asked of it.
const WARNINGS: [&str; 16] = [
    "BUG:",
    "Oops:",
    "WARNING:",
    "general protection fault",
    "kernel BUG at",
    "INFO: possible",
    "INFO: task",
    "INFO: rcu",
    "rcu: INFO",
    "unable to handle",
    "Unhandled",
    "unhandled",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "vmwrite failed",
];

/// Beginning of the last line that a kernel prints before it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// Lines of a kernel log which mean that something is wrong, as `WARNINGS` lists them.
pub fn kernel_warnings(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| WARNINGS.iter().any(|what| line.contains(what)))
        .collect()
}

/// The line with which the kernel gave up, if it did.
pub fn kernel_panic(console: &str) -> Option<&str> {
    console
        .lines()
        .find(|line| line.contains(PANIC))
        .map(str::trim_end)
}

/// Message of the emulator when it gave up, if it did.
pub fn emulator_panic(log: &str) -> Option<&str> {
    let (_, message) = log.lines().find_map(|line| line.split_once(">>PANIC<< "))?;
    let message = message.trim_end();
    (!message.starts_with("Shutdown port")).then_some(message)
}

/// The last lines of a text, indented, for messages.
pub fn tail(text: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..]
        .iter()
        .map(|line| format!("    {}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_from_chatter() {
        let log = "<4>[0.1] [Firmware Bug]: TSC_DEADLINE disabled\n<6>[0.2] kvm: hello\n\
                   <4>[1.0] WARNING: CPU: 0 PID: 9 at arch/x86/kvm/x86.c:1\n\
                   <1>[2.0] BUG: kernel NULL pointer dereference\n\
                   <3>[3.0] kvm [7]: vcpu0, guest rIP: 0x0 unhandled rdmsr: 0x10\n";
        let found = kernel_warnings(log);
        assert_eq!(found.len(), 3);
        assert!(found[0].contains("WARNING") && found[2].contains("unhandled"));
    }

    #[test]
    fn ends_of_kernel_and_emulator() {
        assert_eq!(
            kernel_panic("[1] ok\r\n[2] Kernel panic - not syncing: x\r\n"),
            Some("[2] Kernel panic - not syncing: x")
        );
        assert_eq!(kernel_panic("[1] ok\n"), None);
        let log = "00p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution\n";
        assert_eq!(
            emulator_panic(log),
            Some("exception(): 3rd (13) exception with no resolution")
        );
        assert_eq!(
            emulator_panic("00p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested\n"),
            None
        );
    }

    #[test]
    fn the_tail_is_the_end() {
        let text: String = (0..100).map(|n| format!("{n}\r\n")).collect();
        let tail = tail(&text);
        assert_eq!(tail.lines().count(), 25);
        assert!(tail.ends_with("    99\n"));
    }
}
