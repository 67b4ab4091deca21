use super::*;
use crate::secrets::{Managers, fake::FakeManager};

const TOKEN: &str = r#"{"access_token":"CANARY-access","expires_in":3599,"token_type":"Bearer"}"#;

/// A version with this content, whose checksum is off by `error`.
fn version(content: &[u8], error: u32) -> String {
    let data = BASE64_STANDARD.encode(content);
    let sum = crc32c::crc32c(content).wrapping_add(error);
    format!(
        r#"{{"name":"projects/1/secrets/llm/versions/5","payload":{{"data":"{data}","dataCrc32c":"{sum}"}}}}"#
    )
}

fn source(fake: &FakeManager, reference: &str) -> Arc<dyn SecretSource> {
    let gcp = SecretManager::with_metadata(&fake.address, &fake.address).unwrap();
    let managers = Managers {
        gcp: Some(Arc::new(gcp)),
        ..Managers::default()
    };
    managers.source(&reference.parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a2_a_version_is_accessed_with_the_machines_token() {
    let object = version(br#"{"openai":"sk-1"}"#, 0);
    let fake = FakeManager::start([(200, TOKEN), (200, &object), (200, &object)]).await;
    let source = source(&fake, "gcp-sm://projects/p-1/secrets/llm#openai");
    for _ in 0..2 {
        let fetched = source.fetch().await.unwrap();
        assert_eq!(fetched.value.expose(), "sk-1");
        assert_eq!(fetched.version.as_deref(), Some("5"));
    }
    let asked = fake.asked();
    assert_eq!(asked.len(), 3, "the token is kept");
    assert_eq!(
        asked[0].line(),
        "GET /computeMetadata/v1/instance/service-accounts/default/token"
    );
    assert_eq!(asked[0].header("metadata-flavor"), Some("Google"));
    assert_eq!(
        asked[1].line(),
        "GET /v1/projects/p-1/secrets/llm/versions/latest:access"
    );
    assert_eq!(
        asked[1].header("authorization"),
        Some("Bearer CANARY-access")
    );
}

#[tokio::test]
async fn a2_a_refused_token_is_asked_for_anew() {
    let plain = version(b"sk-1\n", 0);
    let fake = FakeManager::start([(200, TOKEN), (401, "{}"), (200, TOKEN), (200, &plain)]).await;
    let source = source(&fake, "gcp-sm://projects/p/secrets/llm/versions/5");
    let error = source.fetch().await.unwrap_err();
    assert_eq!(*error.kind(), SecretErrorKind::Denied);
    assert_eq!(source.fetch().await.unwrap().value.expose(), "sk-1");
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn a2_failures_are_typed_and_show_nothing() {
    use SecretErrorKind::*;
    let checksum = Protocol("the checksum is missing or wrong");
    let unchecked = r#"{"name":"n","payload":{"data":"Q0FOQVJZ"}}"#.to_owned();
    let table = [
        (200, version(b"CANARY", 1), checksum.clone()),
        (200, unchecked, checksum),
        (
            200,
            r#"{"name":"n","payload":{"data":"CANARY!"}}"#.to_owned(),
            Protocol("it is not base64"),
        ),
        (
            200,
            "CANARY".to_owned(),
            Protocol("it is not a secret version"),
        ),
        (200, version(b"CANARY\xff", 0), NotText),
        (200, version(b"CANARY", 0), NoKey("k".to_owned())),
        (
            400,
            r#"{"error":{"status":"FAILED_PRECONDITION","message":"CANARY is in DESTROYED state"}}"#
                .to_owned(),
            Deleted,
        ),
        (403, "CANARY".to_owned(), Denied),
        (404, "CANARY".to_owned(), NotFound),
        (429, "CANARY".to_owned(), RateLimited(None)),
        (500, "CANARY".to_owned(), Unavailable),
    ];
    for (status, body, expected) in table {
        let fake = FakeManager::start([(200, TOKEN), (status, &body)]).await;
        let source = source(&fake, "gcp-sm://projects/p/secrets/s#k");
        let error = source.fetch().await.unwrap_err();
        assert_eq!(*error.kind(), expected, "{status} {body}");
        let text = format!("{error} {error:?} {source:?}");
        assert!(!text.contains("CANARY"), "{text}");
    }
    let fake = FakeManager::start([(404, "CANARY")]).await;
    let error = source(&fake, "gcp-sm://projects/p/secrets/s")
        .fetch()
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), NotFound);
}
