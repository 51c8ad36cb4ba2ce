//! The switch: it takes frames from a TX ring of the calling port, and copies them into the calling
//! sender's lanes at their destinations.
//!
//! | step | functions |
//! | --- | --- |
//! | take: read a record of a TX ring once, and check it | `Call::tx_records`, `Stretch::read` |
//! | look up: find the ports that a frame goes to | `Call::cached_route`, `Call::look_up` |
//! | learn: note the port that a frame's source is behind | `Call::learn` |
//! | fan out: go from one destination to the next | `Call::fan_out` |
//! | emit: write a frame into the sender's lane at a destination | `Frame::write_alone`, `run`, `Call::deliver` |
//! | publish: tell the receivers | `Ends::publish`, `Lanes::publish` |
//! | ring: tell the caller who sleeps | `Ends::note_bell`, `Call::hand_bells` |
//!
//! The functions of `transmit` divide the frames of a request. A frame takes the *fast path*
//! (`Call::forward_fast`) where its addresses alone decide where it goes, and the *slow path*
//! (`Call::forward_slow`) where policies, VLANs, several RX queues or offloads decide too.
//!
//! Neighbouring frames of a batch mostly have the same addresses, so the fast path works in *runs*:
//! frames in a row with the same destination and source. One lookup serves a run. Each of its frames is
//! read once, checked, and copied at once to where it is received; then the run is published. A run with
//! several destinations (broadcast, multicast, unknown) is collected first and then copied to one
//! destination after the other. The slow path goes frame by frame, and publishes at the end of the
//! call, or where the fast path goes on, with one store for each lane. So frames of one sender stay in
//! order at every receiver, broadcast and unicast alike. The passes are those of VALE (Rizzo, Lettieri:
//! "VALE, a Switched Ethernet for Virtual Machines", CoNEXT 2012), for one sender at a time.
//!
//! # Invariants at every instruction
//!
//! A guest can stop its own call between any two instructions, for ever, and its other vCPUs can
//! make calls meanwhile. Therefore:
//!
//! * There is no lock and no reservation. The lanes of a sender are written by its vCPU alone.
//!   Bytes that it had filled and not published, its next call fills again.
//! * In a lane, the NIC's own copy of the published position is stored before the one in the
//!   window: bytes that a receiver may read are never written a second time. The limit of what may
//!   be written is void while a position is published that is not in front of it.
//! * A position of a lane is stored in the receiver's `latest` once. Where a call publishes it again,
//!   since one that was stopped may not have come to that, it adds to that word instead: others have
//!   perhaps published meanwhile.
//! * `latest` is exchanged, never stored: a receiver that arms it before it sleeps either sees what is new
//!   or is woken. Its bell is noted with the sender until a call hands it to its guest.
//! * In a TX queue, the NIC's own position is stored after the deliveries: a call that was stopped
//!   leads to frames sent twice, never to frames lost.
//! * The position that is published carries the tenancy of the receiver for whom the frames were
//!   meant, so that no later tenant takes them for its own.
//!
//! # Trust
//!
//! Memory safety depends on the [`Credentials`] words and on the size of the memory alone, not on
//! any content of state or windows.
//!
//! # The work of a call
//!
//! Every loop is bounded: by [`MAX_TX_FRAMES`], [`MAX_TX_COPIES`] and [`MAX_TX_BYTES`], by the number
//! of senders or by the longest frame. A call that has reached one of the three ends with
//! [`TX_MORE`], after the rest of a frame at most. On the fast path these are the frame's other
//! destinations. A frame of the slow path may be cut into many at each destination; so the call ends
//! between two of them, and the frame is *paused*: it stays at the head of its ring, with a note of
//! how far it came (`SenderState::paused`), and the next call goes on there.
//!
//! [`MAX_TX_FRAMES`]: postern_abi::service::MAX_TX_FRAMES
//! [`MAX_TX_COPIES`]: postern_abi::service::MAX_TX_COPIES
//! [`MAX_TX_BYTES`]: postern_abi::service::MAX_TX_BYTES
//! [`TX_MORE`]: postern_abi::service::TX_MORE

mod apply_policy;
mod bells;
mod call;
mod deliver;
mod destinations;
mod egress;
mod fan_out;
mod fast;
mod holder;
mod lane;
mod lanes;
mod learn;
mod lookup;
mod memory;
mod mirrors;
mod progress;
mod records;
mod run;
mod sets;
mod slow;
mod transmit;
mod tx;

use postern_abi::service::{
    ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, OP_NOP, OP_TX, TX_AVX, TX_HOLD, TX_QUEUE_SHIFT,
};

pub(crate) use self::lane::look_again;
pub use self::memory::Switch;
use self::transmit::transmit;
use crate::credentials::Credentials;
use crate::state::State;

/// Serves one request of a vCPU. Every entry into the switch ends here, whatever path a guest's
/// call takes.
///
/// `base` is the first byte of the NIC's memory, `caller` the credentials of the port that calls,
/// `vcpu` the number of the calling vCPU in its VM. `request` is the request's word, `a` and `b` are
/// its arguments, and the return value is its result, all as in [`postern_abi::service`].
///
/// A word that is not that of a request with the caller's secret is refused and counted
/// ([`PortState::refused`](crate::state::PortState::refused)), and changes nothing else. The secret
/// is compared with the host's words; the one in the window is for the guest, and is not read here.
///
/// # Safety
///
/// [`Credentials::check`] must accept `caller`. `base` must be aligned to a page and valid for
/// reads and writes of [`Credentials::size`] bytes, all of which this program may only access
/// atomically during the call. `caller` and `vcpu` must come from the host, never from the guest,
/// and no two calls of one port may have the same `vcpu` at the same time.
#[inline(always)]
pub unsafe fn serve(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    request: u64,
    a: u64,
    b: u64,
) -> u64 {
    if request == OP_NOP {
        return 0;
    }
    // SAFETY: the contract of `serve` is that of `serve_request`.
    unsafe { serve_request(base, request, a, b, caller, vcpu) }
}

/// [`serve`] for all requests but an [`OP_NOP`] without the secret, out of line so that the empty
/// request costs nothing but itself. The request's words come where most callers have them.
///
/// # Safety
///
/// The contract of [`serve`].
#[inline(never)]
unsafe fn serve_request(
    base: *mut u8,
    request: u64,
    a: u64,
    b: u64,
    caller: &Credentials,
    vcpu: u32,
) -> u64 {
    // TEST ONLY: the number of the request will do, as it would without secrets.
    let without = cfg!(feature = "attack-no-secret") && request == OP_TX;
    // SAFETY: the caller vouches for the memory, which begins with the state.
    let state = unsafe { State::at(base) };
    let is_tenant = state.tenancy(caller.port()) == caller.tenancy();
    if is_tenant && (caller.is_tx(request) || without) {
        #[cfg(feature = "attack-lock")]
        let _held = state.lock();
        // The first vCPU and the first queue exist in every port, so that there is less to compute
        // and to check for them.
        if vcpu == 0 && b & !(TX_HOLD | TX_AVX) == 0 {
            return transmit(base, caller, 0, 0, a, b);
        }
        let queues = caller.geometry().queues();
        let queue = b >> TX_QUEUE_SHIFT;
        if vcpu < queues && queue < queues.into() {
            return transmit(base, caller, vcpu, queue as u32, a, b);
        }
        return ERR_BAD_REQUEST;
    }
    if !is_tenant {
        return ERR_BAD_REQUEST;
    }
    // SAFETY: the caller vouches for the memory that the geometry of the credentials needs.
    let switch = unsafe { Switch::from_base(base, caller.geometry()) };
    serve_rarely(&switch, caller, request, a, b)
}

/// Serves the requests of a tenant that are no [`OP_TX`] with the secret.
#[cold]
#[inline(never)]
fn serve_rarely(switch: &Switch<'_>, caller: &Credentials, request: u64, a: u64, b: u64) -> u64 {
    // TEST ONLY: the number of the request will do, as it would without secrets.
    let without = cfg!(feature = "attack-no-secret") && request == OP_FEATURES;
    match caller.secret().op(request) {
        OP_NOP => 0,
        op if op == OP_FEATURES || without => switch.agree(caller.port(), a, b),
        _ => {
            switch.refuse(caller.port());
            ERR_NO_SECRET
        }
    }
}
