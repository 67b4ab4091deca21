//! What becomes of a picture before anybody else sees it (H5): metadata goes, bounds hold, and what is named by address is
//! fetched here, so that no vendor is ever given an address by a caller.

use llmrtc_core::message::{Attachment, ImageSource};
use llmrtc_security::net::image;

use crate::security::Security;

/// Makes pictures harmless. Those that cannot be are left out; their alternative texts with them, since a text about a
/// picture that nobody checked is only a text.
///
/// # Cancel safety
/// Cancel safe.
pub(super) async fn prepare(security: &Security, attachments: Vec<Attachment>) -> Vec<Attachment> {
    let prepared = attachments.into_iter().map(async |attachment| {
        let Attachment { source, alt } = attachment;
        let source = match source {
            ImageSource::Inline { data, .. } => image::sanitise(&data).map_err(Into::into),
            ImageSource::Url(url) => match &security.images {
                Some(images) => images.fetch(&url).await.map_err(anyhow::Error::from),
                None => Err(anyhow::anyhow!("addresses are not fetched")),
            },
            released => {
                let source = released;
                return Some(Attachment { source, alt });
            }
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
