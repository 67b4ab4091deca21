//! Small wire values: timestamps echoed verbatim, base64 bytes, credentials.

use std::{borrow::Cow, fmt};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use llmrtc_core::audio::AudioFormat;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::{RawValue, to_raw_value};

use super::{MAX_TIMESTAMP_BYTES, ParseError};

/// Reads padded and unpadded text, since encoders differ; writes padded text, which every decoder takes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn encode_base64(data: &[u8]) -> String {
    BASE64.encode(data)
}

/// `None` if the text is not base64 or would decode to more than `limit` bytes; the limit is checked first.
pub(super) fn decode_base64(text: &str, limit: usize) -> Result<Bytes, Base64Error> {
    // At most two padding characters make the estimate too high.
    if base64::decoded_len_estimate(text.len()).saturating_sub(3) > limit {
        return Err(Base64Error::TooLarge);
    }
    match BASE64.decode(text) {
        Ok(data) if data.len() > limit => Err(Base64Error::TooLarge),
        Ok(data) => Ok(data.into()),
        Err(_) => Err(Base64Error::Malformed),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Base64Error {
    TooLarge,
    Malformed,
}

/// The media type and the base64 part of `data:<media type>[;parameters];base64,<data>` (RFC 2397).
pub(super) fn split_data_uri(text: &str) -> Option<(&str, &str)> {
    let scheme = text.get(..5)?;
    if !scheme.eq_ignore_ascii_case("data:") {
        return None;
    }
    let (head, data) = text[5..].split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    let media_type = head.split(';').next().unwrap_or(head);
    Some((media_type, data))
}

/// Whatever a client put into `ping.timestamp`: any JSON value of up to [`MAX_TIMESTAMP_BYTES`], echoed byte for byte.
#[derive(Clone)]
pub struct Timestamp(Box<RawValue>);

impl Timestamp {
    pub(super) fn from_raw(raw: &RawValue) -> Result<Self, ParseError> {
        if raw.get().len() > MAX_TIMESTAMP_BYTES {
            return Err(ParseError::Timestamp);
        }
        Ok(Self(raw.to_owned()))
    }

    /// Milliseconds since the Unix epoch, if that is what it is.
    pub fn millis(&self) -> Option<u64> {
        self.0.get().parse().ok()
    }
}

impl From<u64> for Timestamp {
    fn from(millis: u64) -> Self {
        Self(to_raw_value(&millis).expect("an integer is JSON"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.millis() {
            Some(millis) => write!(f, "Timestamp({millis})"),
            None => write!(f, "Timestamp([{} bytes])", self.0.get().len()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    /// Through a value rather than raw text: a tagged enum buffers its fields.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        to_raw_value(&value).map(Self).map_err(D::Error::custom)
    }
}

/// `#[serde(with)]` for bytes that travel as base64.
pub(super) mod base64_bytes {
    use super::*;

    pub(in crate::protocol) fn serialize<S: Serializer>(
        data: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode_base64(data))
    }

    pub(in crate::protocol) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        decode_base64(&text, usize::MAX).map_err(|_| D::Error::custom("not base64"))
    }
}

/// `#[serde(with)]` for audio formats, which travel by name.
pub(super) mod audio_format {
    use super::*;

    const ALL: [AudioFormat; 7] = [
        AudioFormat::Wav,
        AudioFormat::Mp3,
        AudioFormat::Ogg,
        AudioFormat::WebM,
        AudioFormat::Mp4,
        AudioFormat::Flac,
        AudioFormat::Pcm,
    ];

    pub(in crate::protocol) fn serialize<S: Serializer>(
        format: &AudioFormat,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(format.name())
    }

    pub(in crate::protocol) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<AudioFormat, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        ALL.into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| D::Error::custom("unknown audio format"))
    }
}

/// `serialize_with` for credentials, the one place that writes them out.
pub(super) mod exposed {
    use llmrtc_core::redact::Secret;

    use super::*;

    pub(in crate::protocol) fn serialize<S: Serializer>(
        secret: &Secret,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub(in crate::protocol) fn serialize_some<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_bounded_before_it_is_decoded() {
        assert_eq!(decode_base64("AAEC", 3).unwrap(), [0, 1, 2].as_slice());
        assert_eq!(decode_base64("AAE=", 2).unwrap(), [0, 1].as_slice());
        assert_eq!(decode_base64("AAE", 2).unwrap(), [0, 1].as_slice());
        assert_eq!(decode_base64("", 0).unwrap(), [].as_slice());
        assert_eq!(decode_base64("AAEC", 2), Err(Base64Error::TooLarge));
        assert_eq!(
            decode_base64(&"!".repeat(400), 2),
            Err(Base64Error::TooLarge)
        );
        assert_eq!(decode_base64("AA EC", 9), Err(Base64Error::Malformed));
        assert_eq!(decode_base64("A", 9), Err(Base64Error::Malformed));
    }

    #[test]
    fn data_uris_split_into_media_type_and_data() {
        for (uri, parts) in [
            ("data:image/png;base64,AAAA", Some(("image/png", "AAAA"))),
            (
                "DATA:audio/webm;codecs=opus;base64,AA",
                Some(("audio/webm", "AA")),
            ),
            ("data:;base64,", Some(("", ""))),
            ("data:image/png,AAAA", None),
            ("data:image/png;base64", None),
            ("https://example.net/a.png", None),
            ("dätä:", None),
            ("", None),
        ] {
            assert_eq!(split_data_uri(uri), parts, "{uri}");
        }
    }
}
