//! Sealing records: keys, envelopes, rotation, shredding.
