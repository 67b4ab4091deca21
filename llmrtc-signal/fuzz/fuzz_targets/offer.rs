//! The bounds on session descriptions hold for every accepted text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_signal::connection::check_offer;

fuzz_target!(|sdp: &str| {
    if check_offer(sdp).is_ok() {
        assert!(sdp.len() <= 64 * 1024);
        let sections = sdp.lines().filter(|line| line.starts_with("m=")).count();
        assert!((1..=32).contains(&sections));
        let candidates = sdp.lines().filter(|line| line.starts_with("a=candidate:")).count();
        assert!(candidates <= 64);
    }
});
