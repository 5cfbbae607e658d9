//! See `vcgate::fuzz::smb1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vcgate::fuzz::smb1(input));
