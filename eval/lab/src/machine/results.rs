//! Outcomes of jobs, made of the records that a machine sends, and the reason if these end early.

use std::time::Duration;

use postern_init::Record;

use super::error::MachineError;
use crate::diagnosis;
use crate::job::JobOutcome;

/// Sorts records by job. The last element is the job that was not finished, often an empty one.
pub fn collect(records: Vec<Record>) -> Vec<JobOutcome> {
    let mut finished = Vec::new();
    let mut current = JobOutcome::default();
    for record in records {
        match record {
            Record::Output { data, .. } => current.output.extend(data),
            Record::KernelLog { text, .. } => current.kernel_log.push_str(&text),
            Record::File { name, data, .. } => {
                current.files.insert(name, data);
            }
            Record::FileMissing { name, error, .. } => {
                current.missing.insert(name, error);
            }
            Record::Status { status, .. } => {
                current.status = status;
                finished.push(std::mem::take(&mut current));
            }
            Record::ModuleFailed { .. } | Record::End => {}
        }
    }
    finished.push(current);
    finished
}

/// Why a machine ended without [`Record::End`]. `timed_out` is the time after which it was given
/// up, if it was.
pub fn cause_of_death(
    records: &[Record],
    text: &str,
    log: &str,
    timed_out: Option<Duration>,
) -> MachineError {
    let tail = diagnosis::tail(text);
    if let Some(Record::ModuleFailed { path, error }) = records.last() {
        let kernel_log: String = records
            .iter()
            .filter_map(|record| match record {
                Record::KernelLog { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let tail = diagnosis::tail(&kernel_log);
        return MachineError::Module {
            module: path.clone(),
            error: error.clone(),
            tail,
        };
    }
    if let Some(line) = diagnosis::kernel_panic(text) {
        return MachineError::KernelPanic {
            line: line.to_owned(),
            tail,
        };
    }
    if let Some(after) = timed_out {
        return MachineError::Timeout { after, tail };
    }
    match diagnosis::emulator_panic(log) {
        Some(line) => MachineError::Emulator {
            line: line.to_owned(),
            tail,
        },
        None => MachineError::Ended { tail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(command: u32, status: Option<i32>) -> Record {
        Record::Status { command, status }
    }

    #[test]
    fn records_are_sorted_by_job() {
        let jobs = collect(vec![
            Record::Output {
                command: 0,
                data: b"a".to_vec(),
            },
            Record::Output {
                command: 0,
                data: b"b".to_vec(),
            },
            Record::File {
                command: 0,
                name: "x".into(),
                data: vec![1],
            },
            status(0, Some(0)),
            Record::Output {
                command: 1,
                data: b"c".to_vec(),
            },
        ]);
        assert_eq!(jobs.len(), 2);
        assert_eq!(
            (jobs[0].output.as_slice(), jobs[0].status),
            (&b"ab"[..], Some(0))
        );
        assert_eq!(jobs[0].files["x"], [1]);
        assert_eq!(
            (jobs[1].output.as_slice(), jobs[1].status),
            (&b"c"[..], None)
        );
    }
}
