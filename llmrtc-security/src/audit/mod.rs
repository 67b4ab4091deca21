//! Who did what, when and with what outcome, in a chain that shows tampering.
