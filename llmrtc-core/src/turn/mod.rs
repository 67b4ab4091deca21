//! Turns of conversation: events, outcomes, the pure decision machine and its driver.

mod config;
mod driver;
mod event;
pub mod machine;
pub mod sentence;

pub use self::{
    config::{Timeouts, TurnConfig},
    driver::{Conversation, ConversationParts, QueueFull},
    event::{Component, Outcome, TurnError, TurnEvent, TurnTiming},
    machine::TextPolicy,
};
