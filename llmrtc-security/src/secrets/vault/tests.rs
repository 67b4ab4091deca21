use super::*;
use crate::secrets::{Managers, fake::FakeManager};

const SECRET: &str = r#"{"data":{"data":{"openai":"sk-1"},"metadata":{"version":4,"deletion_time":"","destroyed":false}}}"#;
const LOGIN: &str =
    r#"{"auth":{"client_token":"CANARY-token-1","lease_duration":90,"renewable":true}}"#;
const SECOND_LOGIN: &str =
    r#"{"auth":{"client_token":"CANARY-token-2","lease_duration":0,"renewable":false}}"#;
const FOREVER: &str = r#"{"data":{"ttl":0,"renewable":false}}"#;
const DENIED: &str = r#"{"errors":["permission denied"]}"#;

fn source(fake: &FakeManager, login: Login, reference: &str) -> Arc<dyn SecretSource> {
    let vault = Vault::new(&fake.address, Some("team/a"), login).unwrap();
    let managers = Managers {
        vault: Some(Arc::new(vault)),
        ..Managers::default()
    };
    managers.source(&reference.parse().unwrap()).unwrap()
}

fn approle() -> Login {
    Login::AppRole {
        mount: "approle".to_owned(),
        role_id: "role".to_owned(),
        secret_id: Secret::new("CANARY-secret-id"),
    }
}

/// The request lines, with the token that each carried.
fn lines(fake: &FakeManager) -> Vec<String> {
    let asked = fake.asked();
    asked
        .iter()
        .map(|asked| {
            assert_eq!(asked.header("x-vault-namespace"), Some("team/a"));
            assert_eq!(asked.header("x-vault-request"), Some("true"));
            match asked.header("x-vault-token") {
                Some(token) => format!("{} {token}", asked.line()),
                None => asked.line(),
            }
        })
        .collect()
}

#[tokio::test]
async fn a2_a_token_reads_the_object_and_its_version() {
    let fake = FakeManager::start([(200, FOREVER), (200, SECRET), (200, SECRET)]).await;
    let token = Login::Token(Secret::new("CANARY-t"));
    let source = source(&fake, token, "vault://secret/prod/llm#openai?version=4");
    for _ in 0..2 {
        let fetched = source.fetch().await.unwrap();
        assert_eq!(fetched.value.expose(), "sk-1");
        assert_eq!(fetched.version.as_deref(), Some("4"));
    }
    assert_eq!(
        lines(&fake),
        [
            "GET /v1/auth/token/lookup-self CANARY-t",
            "GET /v1/secret/data/prod/llm?version=4 CANARY-t",
            "GET /v1/secret/data/prod/llm?version=4 CANARY-t",
        ]
    );
}

#[tokio::test]
async fn a2_a_token_that_may_not_look_itself_up_is_good_nevertheless() {
    let fake = FakeManager::start([(403, DENIED), (200, SECRET)]).await;
    let token = Login::Token(Secret::new("CANARY-t"));
    let source = source(&fake, token, "vault://secret/llm#openai");
    assert_eq!(source.fetch().await.unwrap().value.expose(), "sk-1");
}

#[tokio::test]
async fn a2_an_approle_logs_in_renews_its_lease_and_logs_in_again() {
    let renewed =
        r#"{"auth":{"client_token":"CANARY-token-1","lease_duration":90,"renewable":true}}"#;
    let fake = FakeManager::start([(200, LOGIN), (200, SECRET)]).await;
    let source = source(&fake, approle(), "vault://secret/llm#openai");
    source.fetch().await.unwrap();
    let asked = fake.asked();
    assert_eq!(asked[0].line(), "POST /v1/auth/approle/login");
    assert_eq!(
        asked[0].json(),
        json!({"role_id": "role", "secret_id": "CANARY-secret-id"})
    );
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::time::resume();
    };
    later().await;
    fake.then([(200, renewed), (200, SECRET)]);
    source.fetch().await.unwrap();
    // A renewal that fails is a reason to log in.
    later().await;
    fake.then([(403, DENIED), (200, SECOND_LOGIN), (200, SECRET)]);
    source.fetch().await.unwrap();
    assert_eq!(
        lines(&fake),
        [
            "POST /v1/auth/token/renew-self CANARY-token-1",
            "GET /v1/secret/data/llm CANARY-token-1",
            "POST /v1/auth/token/renew-self CANARY-token-1",
            "POST /v1/auth/approle/login",
            "GET /v1/secret/data/llm CANARY-token-2",
        ]
    );
}

#[tokio::test]
async fn a2_a_revoked_token_is_replaced_once() {
    let fake = FakeManager::start([
        (200, LOGIN),
        (403, DENIED),
        (200, SECOND_LOGIN),
        (200, SECRET),
        (403, DENIED),
        (200, LOGIN),
        (403, DENIED),
    ])
    .await;
    let source = source(&fake, approle(), "vault://secret/llm#openai");
    source.fetch().await.unwrap();
    let error = source.fetch().await.unwrap_err();
    assert_eq!(*error.kind(), SecretErrorKind::Denied);
    assert_eq!(lines(&fake).len(), 7);
}

#[tokio::test]
async fn a2_a_pod_logs_in_with_the_token_that_is_mounted_now() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "jwt-1\n").unwrap();
    let fake = FakeManager::start([(200, SECOND_LOGIN), (200, SECRET)]).await;
    let login = Login::Kubernetes {
        mount: "clusters/one".to_owned(),
        role: "llmrtc".to_owned(),
        token_file,
    };
    source(&fake, login, "vault://secret/llm#openai")
        .fetch()
        .await
        .unwrap();
    let asked = fake.asked();
    assert_eq!(asked[0].line(), "POST /v1/auth/clusters/one/login");
    assert_eq!(asked[0].json(), json!({"role": "llmrtc", "jwt": "jwt-1"}));
}

#[tokio::test]
async fn a2_failures_are_typed_and_show_nothing() {
    use SecretErrorKind::*;
    let gone = |metadata: &str| {
        format!(r#"{{"data":{{"data":null,"metadata":{{"version":4,{metadata}}}}}}}"#)
    };
    let table = [
        (404, r#"{"errors":[]}"#.to_owned(), NotFound),
        (
            404,
            gone(r#""deletion_time":"2026-01-01T00:00:00Z","destroyed":false"#),
            Deleted,
        ),
        (404, gone(r#""deletion_time":"","destroyed":true"#), Deleted),
        (403, DENIED.to_owned(), Denied),
        (412, DENIED.to_owned(), Unavailable),
        (429, "CANARY".to_owned(), RateLimited(None)),
        (
            503,
            r#"{"errors":["Vault is sealed"]}"#.to_owned(),
            Unavailable,
        ),
        (400, "CANARY".to_owned(), Refused(400)),
        (
            200,
            r#"{"data":{"openai":"CANARY"}}"#.to_owned(),
            Protocol("it has no `data.data`; is the engine version 2?"),
        ),
        (
            200,
            SECRET.replace("openai", "other").replace("sk-1", "CANARY"),
            NoKey("openai".to_owned()),
        ),
        (200, SECRET.replace("sk-1", " "), Blank),
    ];
    for (status, body, expected) in table {
        let fake = FakeManager::start([(200, FOREVER), (status, &body)]).await;
        let token = Login::Token(Secret::new("CANARY-t"));
        let error = source(&fake, token, "vault://secret/llm#openai")
            .fetch()
            .await
            .unwrap_err();
        assert_eq!(*error.kind(), expected, "{status} {body}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("CANARY"), "{text}");
    }
    for (status, body, expected) in [
        (400, "invalid secret id CANARY", Denied),
        (500, "CANARY", Unavailable),
        (200, "CANARY", Protocol("it is not a login")),
    ] {
        let fake = FakeManager::start([(status, body)]).await;
        let source = source(&fake, approle(), "vault://secret/llm#openai");
        let error = source.fetch().await.unwrap_err();
        assert_eq!(*error.kind(), expected, "{status} {body}");
        let text = format!("{error} {error:?} {source:?}");
        assert!(!text.contains("CANARY"), "{text}");
    }
}

#[test]
fn a2_one_way_to_log_in_is_needed() {
    let configured = |variables: &[(&str, &str)]| {
        Vault::configured(&VaultConfig::default(), &|name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some((*value).to_owned())
        })
    };
    let address = ("VAULT_ADDR", "https://vault.example:8200");
    assert!(configured(&[("VAULT_TOKEN", "t")]).unwrap().is_none());
    assert_eq!(
        *configured(&[address]).unwrap_err().kind(),
        SecretErrorKind::NotSet
    );
    let login = |more: &[(&str, &str)]| {
        let variables: Vec<_> = more.iter().copied().chain([address]).collect();
        configured(&variables).unwrap().unwrap().login
    };
    assert!(matches!(
        login(&[("VAULT_TOKEN", "t"), ("VAULT_K8S_ROLE", "r")]),
        Login::Token(_)
    ));
    assert!(matches!(
        login(&[("VAULT_ROLE_ID", "r"), ("VAULT_SECRET_ID", "s")]),
        Login::AppRole { .. }
    ));
    assert!(matches!(
        login(&[("VAULT_K8S_ROLE", "r")]),
        Login::Kubernetes { .. }
    ));
    assert!(configured(&[("VAULT_ADDR", "http://vault:8200"), ("VAULT_TOKEN", "t")]).is_err());
}
