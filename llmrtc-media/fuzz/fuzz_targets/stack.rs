//! What passes our checks does not make the stack panic while it takes an offer. In production such a panic ends one
//! peer; here it is a finding to report upstream.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use llmrtc_media::peer::sdp::{CandidatePolicy, Description};
use rtc::peer_connection::{RTCPeerConnectionBuilder, sdp::RTCSessionDescription};

fuzz_target!(|sdp: &str| {
    let policy = CandidatePolicy {
        loopback: false,
        private: true,
    };
    let Ok(description) = Description::parse(sdp, policy) else {
        return;
    };
    let Ok(offer) = RTCSessionDescription::offer(description.as_str().to_owned()) else {
        return;
    };
    let now = Instant::now();
    let Ok(mut stack) = RTCPeerConnectionBuilder::new().build(now) else {
        return;
    };
    if stack.set_remote_description(now, offer).is_ok()
        && let Ok(answer) = stack.create_answer(None)
    {
        let _ = stack.set_local_description(now, answer);
    }
});
