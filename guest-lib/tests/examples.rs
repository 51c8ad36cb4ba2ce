//! Runs the examples, which check their own results.
#![allow(
    missing_docs,
    reason = "the examples' own documentation is in their files"
)]

#[path = "../examples/service_of_ones_own.rs"]
mod service_of_ones_own;
#[path = "../examples/tx_rx.rs"]
mod tx_rx;

#[test]
fn tx_rx_delivers_all_frames() {
    tx_rx::main().expect("the example runs");
}

#[test]
fn a_service_of_ones_own_answers() {
    service_of_ones_own::main();
}
