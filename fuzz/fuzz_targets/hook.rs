//! See `vcgate::fuzz::hook`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vcgate::fuzz::hook(input));
