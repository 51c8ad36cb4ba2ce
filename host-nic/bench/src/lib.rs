//! The switch, and the plain copies that it is measured against.
//!
//! A [`nic::Traffic`] is a NIC in shared memory, served by the whole switch, with the harness in
//! the place of its guests. Frames were written into the TX ring before. A *step*
//!
//! 1. moves the sender's producer position over a batch of them (one store),
//! 2. calls [`postern_switch::switch::serve`] with the credentials of the sender's port, as every
//!    path does: once more, if the call ended before the batch because of the bytes that one call
//!    may copy,
//! 3. moves the `consumed` word of each receiver to its published position (a load and a store
//!    each).
//!
//! Not in a step are a guest's writing and reading of frames, the way into and out of a view, and
//! the traffic of cache lines between the cores of sender and receiver, since one thread plays
//! both. The sender's frames stay the same from one lap of the ring to the next.
//!
//! A [`floor::Floor`] moves frames of equal length from a ring of slots to rings of slots. It is no
//! switch: it checks nothing, looks up nothing and counts nothing. Its step stores the producer
//! position, copies, stores the published position of each receiver and the sender's consumer
//! position, and then each receiver's `consumed`. The length of frames is in a register, and the
//! rings are in shared memory, as those of the NIC are.
//!
//! On both sides a batch is outstanding, all of it is received before the next one, and all go
//! around their rings. The rings of the floor have as many bytes as the TX ring; lanes have their
//! default size, or more where a batch needs it. How many cache lines that makes is a matter of
//! layout: slots of short frames are few lines, but all in the same sets of the cache, and packed
//! rings are used as a whole.
//!
//! | program | result |
//! | --- | --- |
//! | `cargo bench -p postern-nic-bench --bench ratios` | the switch beside the floors, taking turns |
//! | `cargo bench -p postern-nic-bench --bench switch` | switch and floors under criterion, to compare revisions |
//! | `cargo test -p postern-nic-bench` | instructions of a frame, counted by callgrind, against their budget |

pub mod case;
pub mod exchange;
pub mod floor;
pub mod memory;
pub mod nic;
