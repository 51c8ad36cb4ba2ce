//! virtio-blk: disks of raw images and block devices ("Block Device").
//!
//! | module | object |
//! | --- | --- |
//! | `config` | a disk as people describe it |
//! | `image` | the file or block device, opened, checked and locked |
//! | `lock` | that lock |
//! | `request` | what a driver asks for, and the status that it gets |
//! | `worker` | the thread that serves a queue |
//! | `device` | the device, as the transport sees it |
mod config;
mod device;
mod image;
mod lock;
mod request;
mod worker;

pub use config::{DiskConfig, DiskConfigError};
pub use device::Blk;
pub use image::Error;

#[cfg(test)]
mod tests;
