//! F2.1: two forms of a text. The *output* form is what may be stored, sent and spoken: without the characters that
//! carry instructions past a reader, everything else byte for byte as it came. The *matching* form ([`Folded`]) is
//! what the rules read: compatibility forms, accents, look-alikes, digits for letters and letter-spacing undone.
//!
//! Everything here is pure, and linear in the text.

mod decode;
mod fold;
mod invisible;
mod letters;
mod script;

pub use self::{
    decode::{Hidden, HiddenIn},
    fold::{Folded, Place, Token},
    invisible::Concealment,
};

use super::rules::lexicon::Lexicon;

/// Longest text that is read in full, bytes. What follows is normalised too, but not searched for instructions:
/// [`length`](super::length) has to cut a text before it comes here.
pub const MAX_READ_BYTES: usize = 64 * 1024;

/// A text in both forms.
#[derive(Clone, Debug)]
pub struct Normalised {
    /// What may be stored and sent.
    pub output: String,
    /// What the rules read.
    pub folded: Folded,
    /// How much was hidden, by kind of hiding.
    pub concealment: Concealment,
    /// Texts that were inside the text: payloads of invisible characters, decoded and commented-out parts.
    pub hidden: Vec<Hidden>,
}

/// Brings a text into both forms.
pub fn normalise(text: &str) -> Normalised {
    let lexicon = Lexicon::shared();
    let cleaned = invisible::clean(text);
    let mut concealment = cleaned.concealment;
    let read = prefix(&cleaned.output, MAX_READ_BYTES);
    let folded = fold::fold(read, lexicon, &mut concealment);
    let mut hidden = cleaned.hidden;
    decode::find(read, &folded, lexicon, &mut hidden);
    Normalised {
        output: cleaned.output,
        folded,
        concealment,
        hidden,
    }
}

/// The output form alone, for text that nobody screens.
pub fn output(text: &str) -> String {
    invisible::clean(text).output
}

/// The matching form of a text that was found inside another one.
pub(super) fn fold_hidden(text: &str) -> Folded {
    let cleaned = invisible::clean(text);
    fold::fold(
        prefix(&cleaned.output, MAX_READ_BYTES),
        Lexicon::shared(),
        &mut Concealment::default(),
    )
}

/// At most `limit` bytes, cut at a character.
fn prefix(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests;
