//! The lanes that a call fills: one for each RX queue that its frames go to, published together at the end.

use postern_abi::window::PortId;

use super::call::Call;
use super::lane::Lane;
use super::sets::{RxQueueNumber, RxQueueSet};

/// Number of lanes that a call keeps open, a power of two.
const OPEN_LANES: usize = 16;

/// The lanes that a call fills.
#[derive(Default)]
pub struct Lanes<'a> {
    open: [Option<Lane<'a>>; OPEN_LANES],
    /// Whether the call has left any lane for another.
    left_any: bool,
    /// The RX queues of the lanes that the call has left, filled and not published.
    left: RxQueueSet,
}

impl<'a> Lanes<'a> {
    /// The lane to an RX queue of a port.
    #[inline]
    pub fn open(&mut self, call: &Call<'a>, port: PortId, queue: u32) -> &mut Lane<'a> {
        let number = call.caller.geometry().rx_queue(port, queue);
        let place = &mut self.open[number as usize & (OPEN_LANES - 1)];
        let mut begun = false;
        if let Some(lane) = place
            && lane.number() != number
        {
            lane.leave();
            self.left_any = true;
            self.left.add(RxQueueNumber(lane.number() as u8));
            begun = self.left.has(RxQueueNumber(number as u8));
            *place = None;
        }
        place.get_or_insert_with(|| Lane::open(call, port, queue, begun))
    }

    /// Publishes what was filled in all of them.
    pub fn publish(&mut self, call: &Call<'a>) {
        for lane in self.open.iter().flatten() {
            lane.publish(call);
            self.left.remove(RxQueueNumber(lane.number() as u8));
        }
        if self.left_any {
            self.publish_left(call);
        }
    }

    #[inline(never)]
    fn publish_left(&mut self, call: &Call<'a>) {
        let queues = call.caller.geometry().queues();
        // There is no division in the kernel's build of this; numbers come in order, so one walk over the ports
        // serves all of them.
        let (mut port, mut first) = (0, 0);
        while let Some(number) = self.left.pop() {
            let number = u32::from(number.0);
            while number - first >= queues {
                (port, first) = (port + 1, first + queues);
            }
            let queue = number - first;
            Lane::open(call, PortId::from_number(port), queue, true).publish(call);
        }
    }
}
