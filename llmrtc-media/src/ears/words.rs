/// What listeners say to say that they listen. English; other languages are left to the length of the voice.
const BACKCHANNELS: [&str; 36] = [
    "ah", "aha", "ahh", "alright", "cool", "good", "great", "hm", "hmm", "huh", "i", "see", "mhm",
    "mhmm", "mm", "mmhm", "mmhmm", "mmm", "nice", "oh", "ok", "okay", "really", "right", "sure",
    "true", "uh", "uhhuh", "um", "wow", "yea", "yeah", "yep", "yes", "yup", "exactly",
];

/// Whether words spoken over the assistant's speech want the floor: any that is no backchannel does. Empty text does not.
pub fn wants_floor(text: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
        .map(|word| word.replace(['-', '\''], "").to_lowercase())
        .filter(|word| !word.is_empty())
        .any(|word| !BACKCHANNELS.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_is_not_claiming() {
        for text in [
            "",
            "…",
            "Mm-hm.",
            "Yeah, yeah",
            "Okay!",
            "I see.",
            "uh-huh, right",
            "Oh, really?",
        ] {
            assert!(!wants_floor(text), "{text:?}");
        }
        for text in [
            "Stop.",
            "Wait",
            "No!",
            "Yeah, but",
            "I want",
            "okay stop",
            "halt",
        ] {
            assert!(wants_floor(text), "{text:?}");
        }
    }
}
