//! Codecs: Opus on the wire, and the containers that speech services return.

pub mod decode;
pub mod opus;
pub mod wav;
