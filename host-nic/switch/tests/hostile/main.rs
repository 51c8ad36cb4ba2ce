//! Guests that do everything wrong: none of it reaches anybody else.
//!
//! Known attacks on switches of this kind, each by its name, against each place that the core is compiled for.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod noise;
mod positions;
mod racing;
mod receivers;
mod records;
mod stations;
mod tenants;
mod vcpus;

use common::place::Place;
use common::{Guest, LARGE, Nic, frame, geometry, mac};

/// Each function as a test in each place.
macro_rules! attacks {
    ($($name:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $name() { super::$name(crate::common::place::Place::Native) })*
        }
        mod kernel_object {
            $(#[test] fn $name() { super::$name(crate::common::place::Place::KernelObject) })*
        }
        mod image {
            $(#[test] fn $name() { super::$name(crate::common::place::Place::Image) })*
        }
    };
}
pub(crate) use attacks;

/// A NIC of three ports with rings for frames of any length.
fn three(place: Place) -> Nic {
    Nic::new(place, geometry(3, 1, LARGE, LARGE))
}

/// A guest at each port, of tenancy 1.
fn attach_all(nic: &Nic) -> Vec<Guest<'_>> {
    (0..nic.geometry().ports())
        .map(|port| Guest::attach(nic, port, 1))
        .collect()
}

/// A frame between the ports' own stations arrives, and nothing else with it.
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
