//! Capture files. Input: the file.
#![forbid(unsafe_code)]

use std::path::Path;

use postern_nic_owner::capture::Recording;

/// Runs an input.
pub fn run(data: &[u8]) {
    match Recording::parse(Path::new("input"), data.to_vec()) {
        Ok(recording) => {
            let frames: usize = recording.frames().map(|frame| frame.data.len()).sum();
            assert!(frames <= data.len(), "no more than the file has");
            assert_eq!(recording.frames().count(), recording.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
