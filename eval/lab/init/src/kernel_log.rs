//! The kernel's log, read as it grows.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The kernel's log, with a position up to which it has been read.
pub struct KernelLog(File);

impl KernelLog {
    /// Opens the log, at its beginning.
    ///
    /// # Errors
    ///
    /// Those of opening `/dev/kmsg`.
    pub fn open() -> io::Result<Self> {
        let mut options = File::options();
        options
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32);
        Ok(Self(options.open("/dev/kmsg")?))
    }

    /// Reads what was logged since the last call: lines of `<priority>[seconds] text`.
    pub fn read_new(&mut self) -> String {
        let mut text = String::new();
        // One read returns one record, and the kernel's limit for it is below this.
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return text,
                Ok(length) => push_record(&mut text, &String::from_utf8_lossy(&record[..length])),
                // Records were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    text.push_str("<4>[lost] records of the kernel log were overwritten\n");
                }
                Err(_) => return text,
            }
        }
    }
}

/// Appends a record of `/dev/kmsg`: `priority,sequence,microseconds,flags;text`, then lines of
/// properties that begin with a blank.
fn push_record(text: &mut String, record: &str) {
    let Some((prefix, message)) = record.split_once(';') else {
        return;
    };
    let mut fields = prefix
        .split(',')
        .map(|field| field.parse::<u64>().unwrap_or(0));
    let priority = fields.next().unwrap_or(0) & 7;
    let micros = fields.nth(1).unwrap_or(0);
    let message = message.lines().next().unwrap_or("");
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let _ = writeln!(text, "<{priority}>[{seconds}.{micros:06}] {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_line() {
        let mut text = String::new();
        push_record(
            &mut text,
            "12,339,5140900,-;kvm: hello; world\n SUBSYSTEM=x\n",
        );
        assert_eq!(text, "<4>[5.140900] kvm: hello; world\n");
    }
}
