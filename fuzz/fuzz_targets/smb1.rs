//! See `vcgate_test_support::fuzz::smb1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vcgate_test_support::fuzz::smb1(input));
