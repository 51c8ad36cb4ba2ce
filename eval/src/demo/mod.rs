//! The main job of the runner: the same frames from one VM to another on each path, proved and counted.

pub mod stats;
