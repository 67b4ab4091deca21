//! The Silero voice detector.
