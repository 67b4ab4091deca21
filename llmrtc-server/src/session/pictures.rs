//! What becomes of a picture before anybody else sees it (H5): metadata goes, bounds hold, and what is named by address is
//! fetched here, so that no vendor is ever given an address by a caller.

use llmrtc_core::message::{Attachment, ImageSource};
use llmrtc_security::net::{fetch::ImageFetcher, image};

/// Makes pictures harmless. Those that cannot be are left out; their alternative texts with them, since a text about a
/// picture that nobody checked is only a text. Without `fetcher` no address is followed.
///
/// # Cancel safety
/// Cancel safe.
pub(super) async fn prepare(
    fetcher: Option<&ImageFetcher>,
    attachments: Vec<Attachment>,
) -> Vec<Attachment> {
    let prepared = attachments.into_iter().map(async |attachment| {
        let Attachment { source, alt } = attachment;
        let source = match source {
            ImageSource::Inline { data, .. } => image::sanitise(&data).map_err(Into::into),
            ImageSource::Url(url) => match fetcher {
                Some(images) => images.fetch(&url).await.map_err(anyhow::Error::from),
                None => Err(anyhow::anyhow!("addresses are not fetched")),
            },
            source => return Some(Attachment { source, alt }),
        };
        match source {
            Ok(picture) => Some(Attachment {
                source: ImageSource::Inline {
                    media_type: picture.format.media_type(),
                    data: picture.data,
                },
                alt,
            }),
            Err(error) => {
                tracing::info!(
                    error = &*error as &dyn std::error::Error,
                    "picture left out"
                );
                None
            }
        }
    });
    let prepared = futures_util::future::join_all(prepared).await;
    prepared.into_iter().flatten().collect()
}

/// Whether [`prepare`] has to wait for anything.
pub(super) fn takes_time(attachments: &[Attachment]) -> bool {
    let mut sources = attachments.iter().map(|attachment| &attachment.source);
    sources.any(|source| matches!(source, ImageSource::Url(_)))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use bytes::Bytes;

    use super::*;

    /// One pixel, with a comment that nobody needs to know.
    const GIF: &str = "R0lGODlhAQABAIAAAAAAAP///yH+BXdoZXJlACwAAAAAAQABAAACAkQBADs=";

    fn inline(data: impl Into<Bytes>) -> Attachment {
        Attachment {
            source: ImageSource::Inline {
                media_type: "image/gif",
                data: data.into(),
            },
            alt: Some("a dot".into()),
        }
    }

    fn named(url: &str) -> Attachment {
        Attachment {
            source: ImageSource::Url(url.into()),
            alt: Some("somewhere".into()),
        }
    }

    #[tokio::test]
    async fn h5_pictures_lose_their_metadata_and_what_is_no_picture_is_left_out() {
        let gif = base64::prelude::BASE64_STANDARD.decode(GIF).unwrap();
        assert!(gif.windows(5).any(|bytes| bytes == b"where"));
        let broken = inline(&b"<svg onload=alert(1)>"[..]);
        let prepared = prepare(None, vec![broken, inline(gif)]).await;
        let [picture] = prepared.try_into().unwrap();
        let ImageSource::Inline { media_type, data } = picture.source else {
            panic!("an inline picture stays one");
        };
        assert_eq!(media_type, "image/gif");
        assert!(!data.windows(5).any(|bytes| bytes == b"where"));
        assert_eq!(picture.alt.as_deref(), Some("a dot"));
    }

    #[tokio::test]
    async fn h5_addresses_are_not_followed_unless_hosts_are_named() {
        let attachments = vec![named("https://images.example/cat.png")];
        assert!(takes_time(&attachments));
        assert!(prepare(None, attachments).await.is_empty());
    }
}
