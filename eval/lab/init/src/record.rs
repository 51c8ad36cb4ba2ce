//! What comes out of the machine: a stream of records, each with a header of fixed size.
//!
//! ```text
//!   kind u32 | command u32 | name length u32 | data length u64 | name | data       (little endian)
//! ```

use std::io::{self, Write};

const KIND_MODULE_FAILED: u32 = 1;
const KIND_OUTPUT: u32 = 2;
const KIND_KERNEL_LOG: u32 = 3;
const KIND_FILE: u32 = 4;
const KIND_FILE_MISSING: u32 = 5;
const KIND_STATUS: u32 = 6;
const KIND_END: u32 = 7;

const HEADER: usize = 20;

/// One message from the machine. Commands are numbered in the order of the plan, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A module could not be loaded; nothing else is done.
    ModuleFailed {
        /// Path of the module's file in the machine.
        path: String,
        /// The reason.
        error: String,
    },
    /// Bytes that a command wrote to its standard output or error.
    Output {
        /// Number of the command in the plan.
        command: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Lines that the kernel logged up to the end of a command. What it logged while it booted and
    /// loaded modules comes with the first command.
    KernelLog {
        /// Number of the command in the plan.
        command: u32,
        /// Lines of `<priority>[seconds] text`.
        text: String,
    },
    /// A file that was asked for.
    File {
        /// Number of the command in the plan.
        command: u32,
        /// Name of the file, as in the plan.
        name: String,
        /// Content of the file.
        data: Vec<u8>,
    },
    /// A file that was asked for and could not be read.
    FileMissing {
        /// Number of the command in the plan.
        command: u32,
        /// Name of the file, as in the plan.
        name: String,
        /// The reason.
        error: String,
    },
    /// A command is over.
    Status {
        /// Number of the command in the plan.
        command: u32,
        /// Exit status, or 128 and the number of the signal that ended it; nothing if its time ran
        /// out.
        status: Option<i32>,
    },
    /// The plan is done.
    End,
}

/// The stream does not have the form of records.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No record has this kind.
    #[error("a record of kind {kind:#x} at byte {offset} of the machine's output")]
    Kind {
        /// The kind that was read.
        kind: u32,
        /// Offset of the record in the machine's output, in bytes.
        offset: usize,
    },
    /// The data of a record do not fit its kind.
    #[error("a malformed record of kind {kind:#x} at byte {offset} of the machine's output")]
    Data {
        /// The kind that was read.
        kind: u32,
        /// Offset of the record in the machine's output, in bytes.
        offset: usize,
    },
}

impl Record {
    /// Writes the record.
    ///
    /// # Errors
    ///
    /// Those of writing to `out`.
    pub fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        let status;
        let (kind, command, name, data): (u32, u32, &str, &[u8]) = match self {
            Record::ModuleFailed { path, error } => (KIND_MODULE_FAILED, 0, path, error.as_bytes()),
            Record::Output { command, data } => (KIND_OUTPUT, *command, "", data),
            Record::KernelLog { command, text } => (KIND_KERNEL_LOG, *command, "", text.as_bytes()),
            Record::File {
                command,
                name,
                data,
            } => (KIND_FILE, *command, name, data),
            Record::FileMissing {
                command,
                name,
                error,
            } => (KIND_FILE_MISSING, *command, name, error.as_bytes()),
            Record::Status {
                command,
                status: None,
            } => (KIND_STATUS, *command, "", &[]),
            Record::Status {
                command,
                status: Some(code),
            } => {
                status = code.to_le_bytes();
                (KIND_STATUS, *command, "", &status)
            }
            Record::End => (KIND_END, 0, "", &[]),
        };
        let name_len = u32::try_from(name.len()).map_err(io::Error::other)?;
        out.write_all(&kind.to_le_bytes())?;
        out.write_all(&command.to_le_bytes())?;
        out.write_all(&name_len.to_le_bytes())?;
        out.write_all(&(data.len() as u64).to_le_bytes())?;
        out.write_all(name.as_bytes())?;
        out.write_all(data)
    }
}

/// Reads all whole records of a stream. One that is cut short, as the last one is when the machine
/// dies, is left out.
///
/// # Errors
///
/// [`DecodeError`] if the stream has another form.
pub fn decode(stream: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let mut records = Vec::new();
    let mut offset = 0;
    while let Some((record, length)) = decode_one(&stream[offset..], offset)? {
        records.push(record);
        offset += length;
    }
    Ok(records)
}

fn decode_one(bytes: &[u8], offset: usize) -> Result<Option<(Record, usize)>, DecodeError> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Ok(None);
    };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let (kind, command) = (word(0), word(4));
    if !(KIND_MODULE_FAILED..=KIND_END).contains(&kind) {
        return Err(DecodeError::Kind { kind, offset });
    }
    let name_len = word(8) as usize;
    let data_len = (u64::from(word(16)) << 32 | u64::from(word(12))) as usize;
    let Some((name, rest)) = body.split_at_checked(name_len) else {
        return Ok(None);
    };
    let Some(data) = rest.get(..data_len) else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = text(name);
    let record = match kind {
        KIND_MODULE_FAILED => Record::ModuleFailed {
            path: name,
            error: text(data),
        },
        KIND_OUTPUT => Record::Output {
            command,
            data: data.to_vec(),
        },
        KIND_KERNEL_LOG => Record::KernelLog {
            command,
            text: text(data),
        },
        KIND_FILE => Record::File {
            command,
            name,
            data: data.to_vec(),
        },
        KIND_FILE_MISSING => Record::FileMissing {
            command,
            name,
            error: text(data),
        },
        KIND_STATUS if data.is_empty() => Record::Status {
            command,
            status: None,
        },
        KIND_STATUS => {
            let code = data
                .try_into()
                .map_err(|_| DecodeError::Data { kind, offset })?;
            Record::Status {
                command,
                status: Some(i32::from_le_bytes(code)),
            }
        }
        _ => Record::End,
    };
    Ok(Some((record, HEADER + name_len + data_len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        vec![
            Record::ModuleFailed {
                path: "/m/kvm.ko".into(),
                error: "Exec format error".into(),
            },
            Record::Output {
                command: 0,
                data: b"\0\xff\r\n".to_vec(),
            },
            Record::KernelLog {
                command: 1,
                text: "<4>[1.0] kvm: hello\n".into(),
            },
            Record::File {
                command: 1,
                name: "out.pcap".into(),
                data: vec![7; 5000],
            },
            Record::FileMissing {
                command: 1,
                name: "x".into(),
                error: "No such file".into(),
            },
            Record::Status {
                command: 1,
                status: Some(-1),
            },
            Record::Status {
                command: 2,
                status: None,
            },
            Record::End,
        ]
    }

    fn stream(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record.encode(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode(&stream(&samples())).unwrap(), samples());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_whole_records_before_the_cut() {
        let bytes = stream(&samples());
        for cut in 0..bytes.len() {
            let records = decode(&bytes[..cut]).unwrap();
            assert!(records.len() < samples().len());
            assert_eq!(records, samples()[..records.len()]);
        }
    }

    #[test]
    fn another_kind_is_refused() {
        let mut bytes = stream(&samples()[..1]);
        bytes.extend([0xff; HEADER]);
        assert!(matches!(
            decode(&bytes),
            Err(DecodeError::Kind { kind: u32::MAX, .. })
        ));
    }
}
