//! Servers to test against. Unstable by contract.
//!
//! [`scripted`] follows a script byte by byte and breaks the protocol on demand; [`FakeOpenAi`] is a well-behaved
//! OpenAI-compatible upstream whose answers come at once, for end-to-end tests and benchmarks.

mod fake_openai;
pub mod scripted;

pub use self::fake_openai::{ChatReply, FakeOpenAi, FakeOpenAiOptions};
pub use self::scripted::{Recorded, Script, ScriptedServer};
