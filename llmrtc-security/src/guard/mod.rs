//! Screens text for instructions that its author had no right to give.
