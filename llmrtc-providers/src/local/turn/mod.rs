//! The end-of-turn model, smart-turn.
