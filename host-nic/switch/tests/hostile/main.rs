//! Guests that do everything wrong, none of which reaches any other guest.
//!
//! Each test is a known attack on switches of this kind, made on each build of the switch.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod budget;
mod noise;
mod positions;
mod racing;
mod receivers;
mod records;
mod secrets;
mod stations;
mod tenants;
mod vcpus;

use common::build::Build;
use common::{Guest, LARGE, TestNic, frame, geometry, mac};

/// Makes each function a test of each build.
macro_rules! attacks {
    ($($name:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $name() { super::$name(crate::common::build::Build::Native) })*
        }
        mod kernel_object {
            $(#[test] fn $name() { super::$name(crate::common::build::Build::KernelObject) })*
        }
        mod image {
            $(#[test] fn $name() { super::$name(crate::common::build::Build::Image) })*
        }
    };
}
pub(crate) use attacks;

/// A NIC of three ports with rings for frames of any length.
fn three(build: Build) -> TestNic {
    TestNic::new(build, geometry(3, 1, LARGE, LARGE))
}

/// Guests of tenancy 1, one at each port.
fn attach_all(nic: &TestNic) -> Vec<Guest<'_>> {
    (0..nic.geometry().ports())
        .map(|port| Guest::attach(nic, port, 1))
        .collect()
}

/// Sends a frame between the ports' own stations: it arrives, and nothing else with it.
fn exchange(from: &mut Guest<'_>, to: &mut Guest<'_>, seed: u64) {
    let bytes = frame(to.mac(), from.mac(), 100 + seed as usize % 900, seed);
    from.send(&bytes);
    assert_eq!(from.call(1, true), 1);
    assert_eq!(to.receive(from.number(), usize::MAX), [bytes]);
}

/// The address of a station that no port has for its own.
fn station(number: u8) -> [u8; 6] {
    let mut address = mac(number);
    address[1] = 0xbb;
    address
}
