//! What a conversation is about to collect.

/// What the conversation is about to collect.
#[derive(Clone, Debug, Default)]
pub struct DialogueState {}
