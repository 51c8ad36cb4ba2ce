//! Confinement of what tests start: by the filters that an owner has, so that a call that is missing
//! in the table fails the test.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::OnceLock;
use std::thread::JoinHandle;

use postern_confine::{Kind, spawn_prepared, turn_on};
use postern_nic_owner::server::{Server, ServerEvent};

/// The status that the tests' process ends with when a confined thread makes a call that it may not.
pub const REFUSED: u8 = 99;

/// Has the threads of captures, uplinks and clocks that are started from now on confined.
pub fn on() {
    static ON: OnceLock<()> = OnceLock::new();
    ON.get_or_init(|| {
        shrink_an_arena();
        turn_on(REFUSED).unwrap();
    });
}

/// glibc's allocator opens a file when it shrinks the memory of a thread for the first time. A program
/// that confines itself before it has threads has no such memory; this one has, and gets it over
/// with.
fn shrink_an_arena() {
    let grow = || {
        // Below what is mapped by itself.
        let pieces: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 64 << 10]).collect();
        assert_eq!(pieces.len(), 64);
    };
    std::thread::spawn(grow).join().unwrap();
}

/// Serves on a confined thread, as `postern nic` does, until the server is stopped.
pub fn serve(server: Server) -> JoinHandle<()> {
    serve_and_tell(server, |_| ())
}

/// The same, with one who hears of the server's events.
pub fn serve_and_tell(
    mut server: Server,
    observer: impl FnMut(ServerEvent) + Send + 'static,
) -> JoinHandle<()> {
    let run = move |()| {
        server.run(observer).unwrap();
    };
    spawn_prepared(Kind::NicServer, "nic", || (), run).unwrap()
}
