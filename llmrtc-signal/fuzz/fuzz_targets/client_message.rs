//! Whatever a client sends, parsing it never panics, and what was understood says the same when written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_signal::protocol::{AttachmentPolicy, Channel, ClientMessage};

fuzz_target!(|text: &str| {
    let policy = AttachmentPolicy { allow_urls: true };
    for channel in [Channel::WebSocket, Channel::Data] {
        if let Ok(Some(message)) = ClientMessage::parse(text, channel, policy) {
            let written = message.to_json();
            let read = ClientMessage::parse(&written, channel, policy);
            // Escapes may make the written form longer than the limit that the original just kept.
            if let Ok(Some(read)) = read {
                assert_eq!(read.to_json(), written);
            } else {
                assert!(written.len() > text.len());
            }
        }
    }
});
