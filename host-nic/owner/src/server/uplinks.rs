//! Ports joined to interfaces, live.

use super::Server;
use super::admin::Denial;
use super::native::{NativeError, UplinkPort};

impl Server {
    pub(super) fn add_uplink(
        &mut self,
        number: u32,
        interface: &str,
        busy: bool,
    ) -> Result<(), Denial> {
        let port = self.ports.vacant(number)?;
        let device = UplinkPort::open(interface).map_err(NativeError::from)?;
        let notes = &mut self.ports.books.notes;
        notes.uplinks.insert(number, (interface.to_owned(), busy));
        let taken = self.ports.take(port).map_err(Denial::from);
        let started = taken.and_then(|()| {
            let memory = &self.ports.memory;
            Ok(UplinkPort::start(memory, port, interface, device, busy)?)
        });
        match started {
            Ok(uplink) => {
                self.uplinks.insert(number, uplink);
                Ok(())
            }
            Err(denial) => {
                self.ports.books.notes.uplinks.remove(&number);
                self.ports.vacate(port);
                self.save()?;
                Err(denial)
            }
        }
    }

    pub(super) fn remove_uplink(&mut self, number: u32) -> Result<(), Denial> {
        let port = self.ports.port(number)?;
        let Some(uplink) = self.uplinks.remove(&number) else {
            return Err(Denial::bad(format!("port {number} is no uplink")));
        };
        drop(uplink);
        self.ports.books.notes.uplinks.remove(&number);
        self.ports.vacate(port);
        self.save()
    }

    /// Notices uplinks that have come to an end. Nothing goes to their ports any more; they stay in the list
    /// until somebody removes them.
    pub(super) fn check_uplinks(&mut self) {
        for (number, uplink) in &mut self.uplinks {
            if uplink.check()
                && let Ok(port) = self.ports.port(*number)
            {
                self.ports.memory.switch().evict(port);
                let info = uplink.info(*number);
                let why = info.failure.unwrap_or_default();
                let text = format!("the uplink of port {number} has ended: {why}");
                self.warnings.push(text);
            }
        }
    }
}
