//! What the program for Linux guests consists of that runs anywhere: its frames and the proof that
//! they arrived.
#![deny(unsafe_code)]

pub mod proof;
pub mod stamped;
