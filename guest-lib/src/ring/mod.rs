//! The guest's ends of the rings in its window.
//!
//! | type | object |
//! | --- | --- |
//! | [`Window`] | a window that is mapped in this address space |
//! | [`TxQueue`] | the producer of one TX ring |
//! | [`RxQueue`] | the consumer of the lanes of one RX queue, each from one sender of the NIC |
//! | [`Frame`] | a frame in a lane, while [`RxQueue::receive`] shows it |
//!
//! The layout, the meaning of positions and the orderings are those of [`postern_abi::window`].
//! A byte of a ring belongs to the guest or to the NIC, and a position passes it on:
//!
//! ```text
//!   TX ring    consumer (NIC writes) .. producer (guest writes)   the NIC's: records to be taken
//!              producer .. consumer + size                        the guest's: room
//!   lane       consumed (guest writes) .. published (NIC writes)  the guest's: records to be read
//!              published .. consumed + size                       the NIC's: room
//! ```
//!
//! A position that the host writes is checked against the guest's own; the guest's own is kept
//! outside of the window and never read back from it.

mod copy;
mod rx;
mod tx;
mod window;

pub use rx::{Frame, Received, RxQueue};
pub use tx::{Reserved, TxError, TxQueue};
pub use window::{Window, touch};
