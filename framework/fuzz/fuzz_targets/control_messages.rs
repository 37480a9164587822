//! Fuzzes control messages, as the kernel writes them beside a datagram.

#![no_main]

#[path = "../../tests/fuzz_bodies/mod.rs"]
#[allow(dead_code, reason = "one body of several")]
mod fuzz_bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::control_messages(input));
