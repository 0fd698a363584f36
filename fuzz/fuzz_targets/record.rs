//! libFuzzer's bytes for `local_daemon_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| local_daemon_fuzz::record::run(data));
