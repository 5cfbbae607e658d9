//! See `targets::uapi` in `tests/fuzz/targets.rs`.
#![no_main]

#[expect(dead_code, reason = "this target uses one of the functions")]
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::uapi(input));
