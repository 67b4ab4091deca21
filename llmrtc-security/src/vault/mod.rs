//! Conversations at rest: sealed, kept no longer than wanted, erased on demand.
