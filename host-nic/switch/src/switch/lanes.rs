//! The lanes that the slow path fills: one for each RX queue that its frames go to. They are published
//! together, at the end of the call or where the fast path goes on.
#![forbid(unsafe_code)]
use postern_abi::window::PortId;

use super::call::Call;
use super::lane::Lane;
use super::sets::{RxQueueNumber, RxQueueSet};
use crate::state::Cause;

/// Number of lanes that a call keeps open, a power of two.
const OPEN_LANES: usize = 16;

/// The lanes that a call fills. The number of the RX queue, modulo [`OPEN_LANES`], chooses the
/// element of an open lane.
#[derive(Default)]
pub struct Lanes<'a> {
    open: [Option<Lane<'a>>; OPEN_LANES],
    /// Whether the call has left any lane for another one.
    left_any: bool,
    /// The RX queues of the lanes that the call has left, filled and not published.
    left: RxQueueSet,
}

impl<'a> Lanes<'a> {
    /// The lane from the calling sender to an RX queue of a port, opened where it is not open.
    ///
    /// # Errors
    ///
    /// [`Cause::NoLane`]: all lanes of the queue are other senders'.
    #[inline]
    pub fn open(
        &mut self,
        call: &Call<'a>,
        port: PortId,
        queue: u32,
    ) -> Result<&mut Lane<'a>, Cause> {
        let number = call.caller.geometry().rx_queue(port, queue);
        let element = &mut self.open[number as usize & (OPEN_LANES - 1)];
        let mut begun = false;
        if let Some(lane) = element
            && lane.number() != number
        {
            lane.leave();
            self.left_any = true;
            self.left.add(RxQueueNumber(lane.number() as u8));
            begun = self.left.has(RxQueueNumber(number as u8));
            *element = None;
        }
        if element.is_none() {
            *element = Lane::open(call, port, queue, begun);
        }
        element.as_mut().ok_or(Cause::NoLane)
    }

    /// Publishes all lanes that the call has filled.
    pub fn publish(&mut self, call: &Call<'a>) {
        for lane in self.open.iter().flatten() {
            lane.publish(call);
            self.left.remove(RxQueueNumber(lane.number() as u8));
        }
        if self.left_any {
            self.publish_left(call);
        }
    }

    /// Publishes the lanes that the call has left for others.
    #[inline(never)]
    fn publish_left(&mut self, call: &Call<'a>) {
        let queues = call.caller.geometry().queues();
        // The build for the host's kernel has no division. Numbers come in order, so one walk over
        // the ports serves all of them.
        let (mut port, mut first) = (0, 0);
        while let Some(number) = self.left.pop() {
            let number = u32::from(number.0);
            while number - first >= queues {
                (port, first) = (port + 1, first + queues);
            }
            let queue = number - first;
            if let Some(lane) = Lane::open(call, PortId::from_number(port), queue, true) {
                lane.publish(call);
            }
        }
    }
}
