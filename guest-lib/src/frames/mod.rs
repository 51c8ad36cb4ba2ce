//! Frames that test guests send to each other, whatever they run on.
#![deny(unsafe_code)]

pub mod beacon;
pub mod synthetic;
