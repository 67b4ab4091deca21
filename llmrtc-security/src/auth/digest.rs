//! What is kept instead of credentials and identities: SHA-256, compared in constant time.

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use llmrtc_core::redact::Secret;
use subtle::ConstantTimeEq;

use crate::auth::{Principal, PrincipalKind, origin::Origin};

/// Random bytes of a handle or token.
const CREDENTIAL_BYTES: usize = 32;

pub(super) type Digest = [u8; 32];

/// A new credential and its digest.
pub(super) fn credential() -> (Secret, Digest) {
    let mut bytes = [0; CREDENTIAL_BYTES];
    rand::fill(&mut bytes).expect("AWS-LC ends the process rather than return without randomness");
    let text = URL_SAFE_NO_PAD.encode(bytes);
    let digest = sha256(text.as_bytes());
    (Secret::new(text), digest)
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    finish(|context| context.update(bytes))
}

fn finish(feed: impl FnOnce(&mut digest::Context)) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    feed(&mut context);
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Lengths before contents, so that no two identities have the same digest.
fn identity(context: &mut digest::Context, principal: &Principal) {
    let kind: &[u8] = match principal.kind {
        PrincipalKind::Anonymous => b"anonymous",
        PrincipalKind::User => b"user",
        PrincipalKind::Service => b"service",
    };
    field(context, Some(kind));
    field(context, principal.tenant.as_deref().map(str::as_bytes));
    field(context, Some(principal.subject.as_bytes()));
}

fn field(context: &mut digest::Context, value: Option<&[u8]>) {
    context.update(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        context.update(&(value.len() as u64).to_be_bytes());
        context.update(value);
    }
}

pub(super) fn owner_digest(principal: &Principal, origin: Option<&Origin>) -> Digest {
    finish(|context| {
        identity(context, principal);
        field(context, origin.map(|origin| origin.as_str().as_bytes()));
    })
}

pub(super) fn principal_digest(principal: &Principal) -> Option<Digest> {
    (principal.kind != PrincipalKind::Anonymous)
        .then(|| finish(|context| identity(context, principal)))
}

pub(super) fn same(a: &Digest, b: &Digest) -> bool {
    a.ct_eq(b).into()
}
