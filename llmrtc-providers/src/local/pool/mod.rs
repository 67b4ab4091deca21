//! The inference threads that all models and sessions share.
