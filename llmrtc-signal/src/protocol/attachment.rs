//! Images on the wire, checked on their way in.

use llmrtc_core::message::{Attachment, ImageSource};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_ATTACHMENTS_BYTES, pick,
    text::{Base64Error, decode_base64, encode_base64, split_data_uri},
};

/// Longest alternative text, in bytes. The stock client sends `camera frame`.
const MAX_ALT_BYTES: usize = 1024;
/// Longest address considered, where addresses are allowed at all.
const MAX_URL_BYTES: usize = 2048;
const MEDIA_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/webp", "image/gif"];

/// What the operator lets clients attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachmentPolicy {
    /// Accept `https:` addresses besides inline images. Off by default: whoever fetches them fetches blindly.
    pub allow_urls: bool,
}

/// Why an attachment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// Not an array of at most [`MAX_ATTACHMENTS`] objects with a string `data`.
    #[error(
        "attachments are not an array of at most {MAX_ATTACHMENTS} objects with a string `data`"
    )]
    Shape,
    /// Neither an inline image nor, where allowed, an `https:` address.
    #[error("an attachment is not an inline JPEG, PNG, WebP or GIF image")]
    Unsupported,
    /// The bytes are not what the media type says.
    #[error("an attachment's bytes do not match its media type")]
    Mismatch,
    /// Larger than [`MAX_ATTACHMENT_BYTES`], or all together than [`MAX_ATTACHMENTS_BYTES`].
    #[error("the attachments are too large")]
    TooLarge,
    /// The alternative text is too long or not a string.
    #[error("an attachment's alternative text is not a string of at most {MAX_ALT_BYTES} bytes")]
    Alt,
}

/// Reads an `attachments` array. Absent and `null` mean none.
pub(super) fn parse(
    raw: Option<&RawValue>,
    policy: AttachmentPolicy,
) -> Result<Vec<Attachment>, AttachmentError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(Vec::new());
    };
    let items = pick::items(raw.get(), MAX_ATTACHMENTS).map_err(|_| AttachmentError::Shape)?;
    let mut budget = MAX_ATTACHMENTS_BYTES;
    items
        .into_iter()
        .map(|item| parse_one(item, policy, &mut budget))
        .collect()
}

fn parse_one(
    item: &RawValue,
    policy: AttachmentPolicy,
    budget: &mut usize,
) -> Result<Attachment, AttachmentError> {
    let [data, alt] =
        pick::fields(item.get(), ["data", "alt"]).map_err(|_| AttachmentError::Shape)?;
    let data = data.and_then(pick::string).ok_or(AttachmentError::Shape)?;
    let alt = match alt.filter(|alt| alt.get() != "null") {
        None => None,
        Some(alt) => {
            let alt = pick::string(alt).filter(|alt| alt.len() <= MAX_ALT_BYTES);
            Some(alt.ok_or(AttachmentError::Alt)?.as_ref().into())
        }
    };
    let source = match split_data_uri(&data) {
        Some((declared, encoded)) => {
            let declared = MEDIA_TYPES
                .into_iter()
                .find(|media_type| media_type.eq_ignore_ascii_case(declared))
                .ok_or(AttachmentError::Unsupported)?;
            let limit = MAX_ATTACHMENT_BYTES.min(*budget);
            let data = decode_base64(encoded, limit).map_err(|error| match error {
                Base64Error::TooLarge => AttachmentError::TooLarge,
                Base64Error::Malformed => AttachmentError::Mismatch,
            })?;
            *budget -= data.len();
            let media_type = ImageSource::sniff(&data)
                .filter(|found| *found == declared)
                .ok_or(AttachmentError::Mismatch)?;
            ImageSource::Inline { media_type, data }
        }
        None if policy.allow_urls && is_https(&data) => ImageSource::Url(data.as_ref().into()),
        None => return Err(AttachmentError::Unsupported),
    };
    Ok(Attachment { source, alt })
}

fn is_https(text: &str) -> bool {
    text.len() <= MAX_URL_BYTES
        && url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.has_host())
}

/// The form in which the stock client sends an image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireAttachment<'a> {
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alt: Option<&'a str>,
}

/// What can be sent of `attachments`: released images cannot.
pub(super) fn to_wire(attachments: &[Attachment]) -> Vec<WireAttachment<'_>> {
    attachments
        .iter()
        .filter_map(|attachment| {
            let (data, mime_type) = match &attachment.source {
                ImageSource::Inline { media_type, data } => (
                    format!("data:{media_type};base64,{}", encode_base64(data)),
                    Some(*media_type),
                ),
                ImageSource::Url(url) => (url.to_string(), None),
                _ => return None,
            };
            Some(WireAttachment {
                data,
                mime_type,
                alt: attachment.alt.as_deref(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JPEG: &[u8] = &[0xFF, 0xD8, 0xFF, 0xE0, 0, 16];

    fn check(json: &str, allow_urls: bool) -> Result<Vec<Attachment>, AttachmentError> {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        parse(Some(&raw), AttachmentPolicy { allow_urls })
    }

    fn image(media_type: &str, bytes: &[u8]) -> String {
        format!(
            "{{\"data\":\"data:{media_type};base64,{}\"}}",
            encode_base64(bytes)
        )
    }

    #[test]
    fn what_the_stock_client_sends_is_accepted() {
        let parsed = check(
            r#"[{"data":"data:image\/jpeg;base64,\/9j\/4AAQ","mimeType":"image/jpeg","alt":"camera frame","x":[1]}]"#,
            false,
        )
        .unwrap();
        let ImageSource::Inline { media_type, data } = &parsed[0].source else {
            panic!("{parsed:?}");
        };
        assert_eq!((*media_type, data.as_ref()), ("image/jpeg", JPEG));
        assert_eq!(parsed[0].alt.as_deref(), Some("camera frame"));
        assert_eq!(check("[]", false), Ok(vec![]));
        assert_eq!(check("null", false), Ok(vec![]));
        assert_eq!(parse(None, AttachmentPolicy::default()), Ok(vec![]));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        use AttachmentError::*;

        let five = format!("[{}]", vec![image("image/jpeg", JPEG); 5].join(","));
        let mut large = JPEG.to_vec();
        large.resize(MAX_ATTACHMENT_BYTES + 1, 0);
        let too_large = format!("[{}]", image("image/jpeg", &large));
        large.pop();
        let largest = image("image/jpeg", &large);
        let three_of_the_largest = format!("[{largest},{largest},{largest}]");
        let alt = format!(
            "[{{\"data\":\"data:image/jpeg;base64,/9j/4AAQ\",\"alt\":\"{}\"}}]",
            "a".repeat(MAX_ALT_BYTES + 1)
        );
        for (json, error) in [
            (r#""data:image/jpeg;base64,/9j/""#, Shape),
            ("{}", Shape),
            ("[1]", Shape),
            ("[{}]", Shape),
            (r#"[{"data":7}]"#, Shape),
            (r#"[{"data":"\ud800"}]"#, Shape),
            (&five, Shape),
            (r#"[{"data":"https://example.net/a.png"}]"#, Unsupported),
            (r#"[{"data":"file:///etc/passwd"}]"#, Unsupported),
            (
                r#"[{"data":"/9j/4AAQ","mimeType":"image/jpeg"}]"#,
                Unsupported,
            ),
            (
                r#"[{"data":"data:image/svg+xml;base64,/9j/4AAQ"}]"#,
                Unsupported,
            ),
            (
                r#"[{"data":"data:text/html;base64,/9j/4AAQ"}]"#,
                Unsupported,
            ),
            (r#"[{"data":"data:image/png;base64,/9j/4AAQ"}]"#, Mismatch),
            (r#"[{"data":"data:image/jpeg;base64,AAAA"}]"#, Mismatch),
            (r#"[{"data":"data:image/jpeg;base64,"}]"#, Mismatch),
            (r#"[{"data":"data:image/jpeg;base64,%%%%"}]"#, Mismatch),
            (
                r#"[{"data":"data:image/jpeg;base64,/9j/4AAQ","alt":1}]"#,
                Alt,
            ),
            (&alt, Alt),
            (&too_large, TooLarge),
            (&three_of_the_largest, TooLarge),
        ] {
            assert_eq!(check(json, false), Err(error), "{json:.80}");
        }
        assert_eq!(
            check(&format!("[{largest},{largest}]"), false).map(|all| all.len()),
            Ok(2)
        );
    }

    #[test]
    fn addresses_need_permission_and_https() {
        let allowed = check(r#"[{"data":"https://example.net/a.png"}]"#, true).unwrap();
        assert_eq!(
            allowed[0].source,
            ImageSource::Url("https://example.net/a.png".into())
        );
        for bad in [
            "http://example.net/a.png",
            "file:///etc/passwd",
            "https://",
            "a.png",
        ] {
            let json = format!("[{{\"data\":\"{bad}\"}}]");
            assert_eq!(
                check(&json, true),
                Err(AttachmentError::Unsupported),
                "{bad}"
            );
        }
    }
}
