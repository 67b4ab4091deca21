//! Model packages: what they hold, how they are fetched, checked and unpacked.
