//! Takes personal data and credentials out of text, whole or as it streams.
