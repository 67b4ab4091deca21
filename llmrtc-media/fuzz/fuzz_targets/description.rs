//! Whatever a client sends as a session description, checking it never panics, the bounds hold for what is accepted, and
//! what the stack is given reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_media::peer::sdp::{CandidatePolicy, Description, MAX_SECTIONS, MAX_USED_CANDIDATES};

fuzz_target!(|sdp: &str| {
    let policy = CandidatePolicy {
        loopback: false,
        private: true,
    };
    if let Ok(description) = Description::parse(sdp, policy) {
        assert!(description.sections.len() <= MAX_SECTIONS);
        let candidates = description
            .as_str()
            .lines()
            .filter(|line| line.starts_with("a=candidate:"))
            .count();
        assert!(candidates <= MAX_USED_CANDIDATES);
        // Directions that were missing are written out, so only the bounds can be in the way.
        if let Ok(again) = Description::parse(description.as_str(), policy) {
            assert_eq!(again.sections, description.sections);
            assert_eq!(again.as_str(), description.as_str());
        }
    }
});
