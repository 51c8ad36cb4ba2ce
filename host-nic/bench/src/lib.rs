//! What is measured, and what it is measured against.
//!
//! A [`nic::Traffic`] is a NIC with everything compiled in, in shared memory, and the harness in the place of its
//! guests. Frames were written into the TX ring before; a step
//!
//! 1. moves the sender's producer position over a batch of them (one store),
//! 2. calls [`postern_switch::switch::serve`] with the caller's words, as each place's entry does: again, if the
//!    call ended before the batch did because of the bytes that one call may copy,
//! 3. moves the `consumed` word of each receiver to what was published for it (a load and a store for each).
//!
//! So what is *not* in it: a guest's writing and reading of frames, the way into and out of a view, and
//! the traffic of cache lines between the cores of sender and receiver, since one thread plays
//! both. The sender's frames stay the same from one lap of the ring to the next.
//!
//! A [`floor::Floor`] moves the same frames from a ring of slots to rings of slots, as a switch that checks
//! nothing, looks up nothing and counts nothing would have to: it is no switch. Its step stores the producer
//! position, copies, stores what is published for each receiver and the sender's consumer position,
//! and then each receiver's `consumed`. The length of frames is in a register, and the rings are in shared memory as
//! those of the NIC are.
//!
//! On both sides a batch is outstanding, everything is received before the next one, and all go around their
//! rings, of which those of the floor and the TX ring have the same number of bytes, and lanes what they have
//! by default, or more where a batch needs it. How many cache lines that makes is a matter of layout: slots
//! of short frames are few lines, but all in the same sets of the cache, and packed rings are used as a whole.
//!
//! | program | what it says |
//! | --- | --- |
//! | `cargo bench -p postern-nic-bench --bench ratios` | the switch beside the floors, taking turns |
//! | `cargo bench -p postern-nic-bench --bench switch` | the same under criterion, to compare revisions |
//! | `cargo test -p postern-nic-bench` | instructions of a packet, under callgrind, against what they may be |

pub mod case;
pub mod floor;
pub mod memory;
pub mod nic;
