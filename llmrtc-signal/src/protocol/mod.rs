//! The messages of wire protocol v1: one enum per direction, parsed and written here and nowhere else.
//!
//! Everything a stranger sends is bounded before it is allocated: [`ClientMessage::parse`] checks the total size, scans
//! the nesting depth without recursion, picks the known top-level fields as borrowed text, applies the limit of the
//! message's type, and only then decodes.

mod attachment;
mod client;
mod error_code;
mod ice;
mod pick;
mod server;
#[cfg(test)]
mod tests;
mod text;

pub use self::{
    attachment::{AttachmentError, AttachmentPolicy},
    client::{ClientMessage, ParseError, Presented},
    error_code::ErrorCode,
    ice::{IceServer, InvalidIceServer},
    server::{InvalidServerMessage, Mode, ServerMessage},
    text::Timestamp,
};

/// The version that `ready` announces. The client warns when it differs.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest message on the WebSocket unless configured otherwise: a complete utterance in `audio`.
pub const MAX_WEBSOCKET_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest message on the data channel: [`MAX_ATTACHMENTS_BYTES`] in base64 (10.7 MiB) and its JSON around it. The
/// media side caps reassembly lower, at the `a=max-message-size` it answered.
pub const MAX_DATA_MESSAGE_BYTES: usize = 12 * 1024 * 1024;
/// Largest message of every type that carries neither audio nor images.
pub const MAX_SMALL_MESSAGE_BYTES: usize = 64 * 1024;
/// Deepest nesting of arrays and objects. The protocol itself needs four.
pub const MAX_DEPTH: usize = 32;
/// Most images in one message. The stock client sends one or two.
pub const MAX_ATTACHMENTS: usize = 4;
/// Largest image, decoded.
pub const MAX_ATTACHMENT_BYTES: usize = 4 * 1024 * 1024;
/// Largest sum of the images of one message, decoded.
pub const MAX_ATTACHMENTS_BYTES: usize = 8 * 1024 * 1024;
/// Longest session handle or resume token considered. Ours have 43 characters, the reference's ids 36.
pub const MAX_CREDENTIAL_BYTES: usize = 256;
/// Most bytes of an `auth` message: a token with generous claims.
pub const MAX_AUTH_MESSAGE_BYTES: usize = 8 * 1024;
/// Most bytes of a `text` message: more than anybody types in one go, less than a model reads for nothing.
pub const MAX_TEXT_MESSAGE_BYTES: usize = 16 * 1024;
/// Longest `ping.timestamp`, in bytes of JSON. It is sent back, so a longer one would let a client that does not read
/// fill our memory with its own words.
pub const MAX_TIMESTAMP_BYTES: usize = 256;

/// Which of a call's two channels a message travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The WebSocket: signalling, heartbeats, `audio`, and payload while no data channel is open.
    WebSocket,
    /// The WebRTC data channel `data`: `attachments` from the client, payload to it.
    Data,
}
