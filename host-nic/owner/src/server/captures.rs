//! Captures of ports, live; and what another owner had begun.

use std::path::Path;

use postern_abi::window::PortId;
use serde_json::Value;

use super::Server;
use super::admin::Denial;
use super::native::{CapturePort, NativeError, successor};
use super::notes::CaptureNote;
use crate::capture::Capture;

/// Longest name of a file, in bytes (PATH_MAX).
const NAME: usize = 4096;

impl Server {
    pub(super) fn add_capture(
        &mut self,
        via: Option<u32>,
        note: CaptureNote,
    ) -> Result<(), Denial> {
        if !note.file.is_absolute() || note.file.as_os_str().len() > NAME {
            return Err(Denial::bad(format!(
                "{} is no absolute name of a file",
                note.file.display()
            )));
        }
        if let Some(number) = note.port {
            self.ports.port(number)?;
        }
        let via = self.via(via, note.port)?;
        self.refuse_second_capture(&note, via)?;
        let capture = CapturePort::create(&note).map_err(NativeError::from)?;
        let begun = self.begin_capture(via, &note, capture);
        if begun.is_err() {
            let _ = self.drop_capture(via);
            // It was made here, a moment ago.
            let _ = std::fs::remove_file(&note.file);
        }
        begun
    }

    /// The port through which copies are to come: that one, or the last one that nobody has.
    fn via(&self, wanted: Option<u32>, captured: Option<u32>) -> Result<PortId, Denial> {
        let found = match wanted {
            Some(number) => Some(self.ports.vacant(number)?),
            None => {
                let mut ports = (0..self.ports.memory.geometry().ports()).rev();
                ports.find_map(|number| self.ports.vacant(number).ok())
            }
        };
        match found {
            Some(via) if Some(via.number()) == captured => Err(Denial::bad(format!(
                "port {via} is captured and cannot be the capture's own; name another with --via"
            ))),
            Some(via) => Ok(via),
            None => Err(Denial::bad(
                "a capture needs a port that nobody has, for the copies; there is none",
            )),
        }
    }

    fn refuse_second_capture(&self, note: &CaptureNote, via: PortId) -> Result<(), Denial> {
        let geometry = self.ports.memory.geometry();
        let captured =
            |port: &PortId| *port != via && note.port.is_none_or(|number| number == port.number());
        for port in geometry.all_ports().filter(captured) {
            let number = port.number();
            if self.captures.contains_key(&number) && note.port.is_some() {
                return Err(Denial::bad(format!("port {number} is a capture's own")));
            }
            if let Some(other) = self.capture_of(number) {
                return Err(Denial::bad(format!(
                    "port {number} is captured already, through port {other}; end that capture first"
                )));
            }
            if let Some(mirror) = self.policy(port).mirror {
                return Err(Denial::bad(format!(
                    "port {number} has port {mirror} as its mirror, and a port has one; take that out of its policy"
                )));
            }
        }
        Ok(())
    }

    fn begin_capture(
        &mut self,
        via: PortId,
        note: &CaptureNote,
        capture: Capture,
    ) -> Result<(), Denial> {
        let notes = &mut self.ports.books.notes;
        notes.captures.insert(via.number(), note.clone());
        // First closed for all that is no copy, then let.
        self.apply_all()?;
        self.ports.take(via)?;
        let started = CapturePort::start(&self.ports.memory, via, note, capture)?;
        self.captures.insert(via.number(), started);
        Ok(())
    }

    /// Undoes what [`Server::begin_capture`] did.
    fn drop_capture(&mut self, via: PortId) -> Result<(), Denial> {
        self.ports.books.notes.captures.remove(&via.number());
        self.ports.vacate(via);
        self.apply_all()?;
        self.save()
    }

    pub(super) fn remove_capture(&mut self, file: &Path) -> Result<Value, Denial> {
        let mut captures = self.captures.iter();
        let found = captures.find(|(_, capture)| capture.file() == file);
        let Some(number) = found.map(|(number, _)| *number) else {
            return Err(Denial::bad(format!(
                "there is no capture into {}; postern nic show lists those that there are",
                file.display()
            )));
        };
        let via = self.ports.port(number)?;
        // While the port still gets nothing but copies.
        let capture = self.captures.remove(&number);
        let info = capture.map(|capture| capture.finish(number));
        self.drop_capture(via)?;
        Ok(serde_json::to_value(info)?)
    }

    /// Begins uplinks and captures again that ended with another owner.
    pub(super) fn resume_natives(&mut self) {
        let notes = &mut self.ports.books.notes;
        let (uplinks, captures) = (
            std::mem::take(&mut notes.uplinks),
            std::mem::take(&mut notes.captures),
        );
        for (number, (interface, busy)) in uplinks {
            if let Err(denial) = self.add_uplink(number, &interface, busy) {
                self.warnings
                    .push(format!("port {number} is no uplink any more: {denial}"));
            }
        }
        for (number, mut note) in captures {
            let former = note.file.clone();
            note.file = successor(&former);
            let said = match self.add_capture(Some(number), note.clone()) {
                Ok(()) => format!("goes on in {}", note.file.display()),
                Err(denial) => format!("has ended: {denial}"),
            };
            self.warnings
                .push(format!("the capture into {} {said}", former.display()));
        }
        let applied = self.apply_all().and_then(|()| self.save());
        if let Err(denial) = applied {
            self.warnings
                .push(format!("policies cannot be resumed: {denial}"));
        }
    }
}
