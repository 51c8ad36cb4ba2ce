//! How long VMFUNC, a call, VMCALL and OUT take.
#![deny(unsafe_code)]

use postern_abi::source::Source;
use postern_kvm::{Device, Right};

use super::code::{MARKS, PORT_DONE, PORT_TIMED, Work};
use super::effort::Effort;
use super::error::Error;
use super::guest::{Guest, MAX_TIMES, Stop, TIMES};
use super::report::Timing;
use super::service::Service;
use crate::kvm::Host;

/// What the time of a VMCALL is called.
pub const VMCALL: &str = "VMCALL, which KVM answers with an error";

/// What the time of a VMFUNC is called, on a vCPU with a service that is called by that right.
pub fn vmfunc_name(right: Right) -> String {
    format!("{right}: one VMFUNC, to the same view")
}

/// Times one kind of work on a VM.
fn take(
    guest: &mut Guest,
    work: Work,
    name: String,
    source: Source,
    effort: Effort,
) -> Result<Timing, Error> {
    let count = (effort.times as usize).min(MAX_TIMES);
    // Twice: the first time brings everything into the caches.
    for _ in 0..2 {
        guest.start(work, [TIMES, count as u64, 0, 0, 0])?;
        loop {
            match guest.run() {
                Stop::Out(PORT_TIMED, _) => {}
                Stop::Out(PORT_DONE, _) => break,
                stop => return Err(Error::Guest(format!("timing {name} ended with {stop:x?}"))),
            }
        }
    }
    let timing = Timing::of(name.clone(), source, guest.times(count)?);
    timing.ok_or_else(|| Error::Guest(format!("{name} was not timed")))
}

/// Times that need no view.
pub fn without_views(host: &Host, source: Source, effort: Effort) -> Result<Vec<Timing>, Error> {
    let mut guest = Guest::new(host)?;
    [
        (
            Work::TimeNothing,
            "nothing: the two readings of the counter",
        ),
        (Work::TimeVmcall, VMCALL),
        (Work::TimeOut, "OUT, which this process answers"),
    ]
    .into_iter()
    .map(|(work, name)| take(&mut guest, work, name.to_owned(), source, effort))
    .collect()
}

/// Times of VMFUNCs, and of a call by that right.
pub fn with_views(
    host: &Host,
    device: &Device,
    right: Right,
    source: Source,
    effort: Effort,
) -> Result<Vec<Timing>, Error> {
    let service = Service::new(device, right, MARKS[0])?;
    let mut guest = Guest::new(host)?;
    let _attached = service.attach(&guest)?;
    let vmfuncs = match right {
        Right::Fast => postern_abi::view::VMFUNCS_FAST,
        _ => postern_abi::view::VMFUNCS_STRICT,
    };
    [
        (Work::TimeVmfunc, vmfunc_name(right)),
        (
            Work::TimeCall,
            format!("{right}: an empty call, there and back by {vmfuncs} VMFUNCs"),
        ),
    ]
    .into_iter()
    .map(|(work, name)| take(&mut guest, work, name, source, effort))
    .collect()
}
