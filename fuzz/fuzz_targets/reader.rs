//! libFuzzer's bytes for `local_daemon_fuzz::reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| local_daemon_fuzz::reader::run(data));
