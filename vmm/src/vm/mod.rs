//! A VM as a whole: a [`Builder`] puts it together from a [`BuildConfig`], and [`Vm::run`] runs it
//! to its end.

mod builder;
mod error;
mod running;

pub use builder::{BuildConfig, Builder};
pub use error::Error;
pub use running::{Outputs, Stopper, Vm};
