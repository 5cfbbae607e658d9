//! See `vcgate::fuzz::nbss`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vcgate::fuzz::nbss(input));
