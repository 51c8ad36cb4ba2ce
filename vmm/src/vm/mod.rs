//! A VM as a whole: a [`Builder`] puts it together from a [`BuildConfig`], and [`Vm::run`] runs it
//! to its end.

mod builder;
mod devices;
mod error;
mod event;
mod guest;
mod on_reboot;
mod reset;
mod running;
mod vcpu_thread;

pub use builder::{BuildConfig, Builder};
pub use error::Error;
pub use on_reboot::{OnReboot, UnknownAction};
pub use running::{Outputs, Stopper, Vm};
