//! Both ends over loopback.

mod greeting;
mod harness;
mod hostile;
mod signalling;
