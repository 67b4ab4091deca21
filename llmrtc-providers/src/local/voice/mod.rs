//! Speech synthesis by C libraries loaded at run time: Flite and eSpeak NG.
//!
//! [`Flite`] is small, permissively licensed, speaks American English and is part of most distributions
//! (`libflite1`). [`Espeak`] speaks more than a hundred languages and is licensed under the GPL: this crate is not
//! linked with it and does not contain it; a user who fetched the package lets it be loaded. Flite's `slt`, a
//! statistical voice made from recordings, is easier on the ear than eSpeak's formants, so it comes first where both
//! are there and the language is English.
//!
//! Both are ready in milliseconds, and on one core some fifty (Flite) or some hundreds (eSpeak) of times faster than real
//! time. A text is spoken sentence by sentence, each as a job of the [inference pool](super::pool), and arrives while it
//! is made. Neither library can do two things at once, so sessions take turns by sentence.

mod choice;
mod error;
mod espeak;
mod flite;
mod library;
mod speaker;
mod tape;

#[cfg(test)]
mod tests;

pub use self::{
    choice::{best, for_caller, is_english, is_there},
    error::VoiceError,
    espeak::Espeak,
    flite::Flite,
};
