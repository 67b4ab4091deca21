//! Where keys come from, and how they change without a restart.
