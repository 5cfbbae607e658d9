//! See `vcgate_test_support::fuzz::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vcgate_test_support::fuzz::dns(input));
