//! Building blocks for tests: scripted providers, a scripted sink, a manual clock, a recording observer and the
//! conformance suites of the core traits. Unstable by contract.
//!
//! Everything here runs on tokio's clock, so under `start_paused` a call of a minute takes no time.

mod clock;
pub mod conformance;
mod hooks;
mod ledger;
mod llm;
mod script;
mod sink;
mod stt;
#[cfg(test)]
mod tests;
mod tts;

pub use self::{
    clock::ManualClock,
    hooks::RecordingHooks,
    ledger::{CallCounts, Ledger},
    llm::ScriptedLlm,
    script::{Fault, Script},
    sink::{OutputRecord, ScriptedSink, SinkAction},
    stt::ScriptedStt,
    tts::{ScriptedTts, Speech},
};
