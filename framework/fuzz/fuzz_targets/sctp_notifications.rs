//! Fuzzes SCTP notifications.

#![no_main]

#[path = "../../tests/fuzz_bodies/mod.rs"]
#[allow(dead_code, reason = "one body of several")]
mod fuzz_bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::sctp_notifications(input));
