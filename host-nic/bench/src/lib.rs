//! What frames cost in the switch and on their whole way through the guest library, and the plain
//! copies that this is measured against.
//!
//! A *step* sends a batch and receives it, all of it before the next one. What is in a step depends on
//! the scope:
//!
//! | scope | with the switch | the floor |
//! | --- | --- | --- |
//! | `switch` | [`traffic`]: the producer position is moved over frames that are in the TX ring, one call as the guest library makes it, each receiver's `consumed` is moved | [`floor`]: copies from ring to ring, with the same words stored |
//! | `whole` | [`exchange`]: `tx_burst` and, for each receiver, `rx_burst` with a copy of each frame, of the guest library | copies into the ring, from ring to ring, and out of the ring |
//!
//! The switch is called in two builds: `native`, as part of this program, and `view`, the very
//! [`image`] that a NIC view maps. The way into and out of a view is in no figure, nor is the traffic of
//! cache lines between the cores of sender and receiver, since one thread plays both.
//!
//! The floor's rings are packed as the NIC's are, records of header and frame behind each other, and
//! have the default size of its TX rings. Floor and NIC have shared memory of their own, and all go around
//! their rings.
//!
//! | program | result |
//! | --- | --- |
//! | `cargo bench -p postern-nic-bench` | times, beside those of the floor; all take turns |
//! | `cargo test -p postern-nic-bench` | instructions of a frame, counted by callgrind, against their limits |

pub mod case;
pub mod exchange;
pub mod floor;
pub mod image;
pub mod memory;
pub mod traffic;
