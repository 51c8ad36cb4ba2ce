//! The mirrors of a frame: the ports that get a copy of it.

use crate::sync::Ordering::Relaxed;

use postern_abi::window::PortId;

use super::call::Call;
use super::progress::Progress;
use super::sets::PortSet;
use crate::policy::acl::{Direction, Verdict};
use crate::policy::headers::Headers;
use crate::state::PortState;

impl Call<'_> {
    /// Goes on with a frame that was paused: the mirrors that are still to get a copy, and those that
    /// have got the frame otherwise, as far as that does not depend on what has changed since. `reached`
    /// has the ports that the frame has passed, and then the mirrors among them that have got it.
    #[cold]
    #[inline(never)]
    pub fn resume(
        &self,
        sender: &PortState,
        headers: &Headers,
        progress: &Progress,
        mirrors: &mut PortSet,
        reached: &mut PortSet,
    ) {
        // SAFETY: `serve` compared the number of the queue with that of queues, or it is 0.
        let queue = unsafe { self.sender_of(progress.queue) };
        let [a, b, c, d] = &queue.paused_mirrors;
        let noted = [a, b, c, d].map(|word| word.load(Relaxed));
        // Those of then may be no mirrors any more.
        let present = self.present_mirrors();
        *mirrors = PortSet::from_words(noted).and(present);
        let mut left = reached.and(present);
        *reached = left;
        while let Some(port) = left.pop() {
            let receiver = self.port_state(port);
            let decision = receiver.acl.decide(headers, Direction::Egress);
            let is_open = self.tagging(sender, receiver, port, headers).is_some();
            if !is_open || decision.verdict == Verdict::Deny {
                reached.remove(port);
            }
        }
    }

    /// The mirrors that ports have now. Those of a frame that was paused may be none any more.
    #[cold]
    #[inline(never)]
    fn present_mirrors(&self) -> PortSet {
        let mut mirrors = PortSet::default();
        for port in self.caller.geometry().all_ports() {
            self.add_mirror(&mut mirrors, self.port_state(port));
        }
        mirrors
    }

    /// Adds a port's mirror to the set of mirrors, if it has one with a tenant.
    pub fn add_mirror(&self, mirrors: &mut PortSet, port: &PortState) {
        let mirror = port.mirror.load(Relaxed);
        if let Some(to) = mirror.checked_sub(1).and_then(PortId::new)
            && self.attached(to)
        {
            mirrors.add(to);
        }
    }
}
