//! libFuzzer's bytes for `local_daemon_fuzz::origin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| local_daemon_fuzz::origin::run(data));
