//! Turns of conversation: events, outcomes, the pure decision machine and its driver.

mod config;
mod event;

pub use self::{
    config::{Timeouts, TurnConfig},
    event::{Component, Outcome, TurnError, TurnEvent, TurnTiming},
};
