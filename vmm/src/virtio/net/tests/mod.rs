//! Queues of hostile and of well-behaved drivers, with a socket in the place of the TAP.

mod driver;
mod queues;
mod tap;
mod threads;
