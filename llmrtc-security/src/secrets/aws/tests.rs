use llmrtc_core::redact::Secret;

use super::*;
use crate::secrets::{Managers, fake::FakeManager};

fn credentials(session_token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: Secret::new("CANARY-secret-access-key"),
        session_token: session_token.map(Secret::new),
    }
}

/// Asks for what `reference` names, where the manager answers like this.
async fn fetch(
    reference: &str,
    status: u16,
    body: &str,
) -> (Result<Versioned<Secret>, SecretError>, serde_json::Value) {
    let fake = FakeManager::start([(status, body)]).await;
    let aws = SecretsManager::new(
        "eu-central-1",
        credentials(Some("CANARY-session")),
        Some(&fake.address),
    );
    let managers = Managers {
        aws: Some(Arc::new(aws.unwrap())),
        ..Managers::default()
    };
    let source = managers.source(&reference.parse().unwrap()).unwrap();
    let fetched = source.fetch().await;
    let [asked] = &fake.asked()[..] else {
        panic!("one question, one answer");
    };
    assert_eq!(asked.line(), "POST /");
    assert_eq!(
        asked.header("x-amz-target"),
        Some("secretsmanager.GetSecretValue")
    );
    assert_eq!(asked.header("x-amz-security-token"), Some("CANARY-session"));
    let authorization = asked.header("authorization").unwrap();
    let names = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
            && authorization.contains("/eu-central-1/secretsmanager/aws4_request")
            && authorization.contains(names),
        "{authorization}"
    );
    // What was signed is what arrived.
    let headers: BTreeMap<&str, &str> = names["SignedHeaders=".len()..]
        .split(';')
        .map(|name| (name, asked.header(name).unwrap()))
        .collect();
    let scope = sigv4::Scope {
        region: "eu-central-1",
        service: SERVICE,
    };
    let date = asked.header("x-amz-date").unwrap();
    let body = asked.body.as_bytes();
    let again = sigv4::authorization(scope, &credentials(None), "POST", &headers, body, date);
    assert_eq!(authorization, again);
    (fetched, asked.json())
}

#[tokio::test]
async fn a2_secrets_are_text_objects_or_bytes_of_one_version() {
    let check = async |reference, body, value, asked: serde_json::Value| {
        let (fetched, request) = fetch(reference, 200, body).await;
        let fetched = fetched.unwrap();
        assert_eq!(fetched.value.expose(), value, "{reference}");
        assert_eq!(fetched.version.as_deref(), Some("v-1"));
        assert_eq!(request, asked);
    };
    check(
        "aws-sm://prod/key",
        r#"{"SecretString":"sk-1\n","VersionId":"v-1"}"#,
        "sk-1",
        json!({"SecretId": "prod/key"}),
    )
    .await;
    check(
        "aws-sm://prod/llm#openai.key?stage=AWSPREVIOUS",
        r#"{"SecretString":"{\"openai\":{\"key\":\"sk-2\"}}","VersionId":"v-1"}"#,
        "sk-2",
        json!({"SecretId": "prod/llm", "VersionStage": "AWSPREVIOUS"}),
    )
    .await;
    check(
        "aws-sm://prod/llm?version=v-1",
        r#"{"SecretBinary":"c2stMw==","VersionId":"v-1"}"#,
        "sk-3",
        json!({"SecretId": "prod/llm", "VersionId": "v-1"}),
    )
    .await;
}

#[tokio::test]
async fn a2_failures_are_typed_and_show_nothing() {
    use SecretErrorKind::*;
    let wrong = |name: &str| {
        format!(
            r#"{{"__type":"com.amazonaws.secretsmanager#{name}","Message":"CANARY marked for deletion"}}"#
        )
    };
    let table = [
        (400, wrong("ResourceNotFoundException"), NotFound),
        (400, wrong("InvalidRequestException"), Deleted),
        (400, wrong("AccessDeniedException"), Denied),
        (400, wrong("DecryptionFailure"), Denied),
        (400, wrong("UnrecognizedClientException"), Denied),
        (400, wrong("ThrottlingException"), RateLimited(None)),
        (500, wrong("InternalServiceError"), Unavailable),
        (400, wrong("InvalidParameterException"), Refused(400)),
        (403, "CANARY".to_owned(), Denied),
        (404, "CANARY".to_owned(), NotFound),
        (429, "CANARY".to_owned(), RateLimited(None)),
        (503, "CANARY".to_owned(), Unavailable),
        (302, "CANARY".to_owned(), Refused(302)),
        (
            200,
            "CANARY".to_owned(),
            Protocol("it is not a secret value"),
        ),
        (200, r#"{"VersionId":"v"}"#.to_owned(), Blank),
        (
            200,
            r#"{"SecretString":" \n"}"#.to_owned(),
            NoKey("k".to_owned()),
        ),
        (200, r#"{"SecretString":"{\"k\":\" \"}"}"#.to_owned(), Blank),
        (
            200,
            r#"{"SecretString":"{\"other\":\"CANARY\"}"}"#.to_owned(),
            NoKey("k".to_owned()),
        ),
        (
            200,
            format!(r#"{{"SecretString":"{}"}}"#, "x".repeat(200_000)),
            TooLarge,
        ),
    ];
    for (status, body, expected) in table {
        let (fetched, _) = fetch("aws-sm://prod/llm#k", status, &body).await;
        let error = fetched.unwrap_err();
        assert_eq!(*error.kind(), expected, "{status} {error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("CANARY"), "{text}");
    }
}

#[tokio::test]
async fn a2_a_manager_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let aws = SecretsManager::new("eu-central-1", credentials(None), Some(&address)).unwrap();
    let error = Arc::new(aws)
        .secret("x", None, None)
        .fetch()
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), SecretErrorKind::Unavailable);
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}

/// A certificate that nobody vouches for is refused.
#[tokio::test]
async fn a2_tls_is_verified() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let aws = SecretsManager::new("eu-central-1", credentials(None), Some(&address)).unwrap();
    let source = Arc::new(aws).secret("x", None, None);
    let serve = async {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            assert!(
                acceptor.accept(socket).await.is_err(),
                "the client must not go on"
            );
        }
    };
    let error = tokio::select! {
        fetched = source.fetch() => fetched.unwrap_err(),
        () = serve => unreachable!("serves for ever"),
    };
    assert_eq!(*error.kind(), SecretErrorKind::Unavailable);
}

#[test]
fn a2_settings_come_from_the_configuration_before_the_environment() {
    let environment = |name: &str| {
        let value = match name {
            "AWS_REGION" => "us-east-1",
            "AWS_ACCESS_KEY_ID" => "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY" => "CANARY-secret",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let nothing = |_: &str| None;
    let configured = |config: &AwsConfig, environment: &Environment<'_>| {
        SecretsManager::configured(config, environment)
    };
    let none = AwsConfig::default();
    assert!(configured(&none, &nothing).unwrap().is_none());
    let role = |name: &str| (name == "AWS_REGION").then(|| "us-east-1".to_owned());
    let manager = configured(&none, &role).unwrap().unwrap();
    assert!(matches!(manager.keys, Keys::Role(_)));
    let manager = configured(&none, &environment).unwrap().unwrap();
    assert_eq!(
        manager.endpoint.as_str(),
        "https://secretsmanager.us-east-1.amazonaws.com/"
    );
    assert!(!format!("{manager:?}").contains("CANARY"));
    let region = AwsConfig {
        region: Some("eu-west-1".to_owned()),
        ..AwsConfig::default()
    };
    let manager = configured(&region, &environment).unwrap().unwrap();
    assert_eq!(manager.region, "eu-west-1");
    let evil = AwsConfig {
        region: Some("evil.example/".to_owned()),
        ..AwsConfig::default()
    };
    assert!(configured(&evil, &environment).is_err());
    let half = |name: &str| environment(name).filter(|_| name != "AWS_SECRET_ACCESS_KEY");
    let error = configured(&none, &half).unwrap_err();
    assert_eq!(error.to_string(), "AWS_SECRET_ACCESS_KEY: not set");
}

/// Against moto, an independent implementation of AWS (`pip install 'moto[server]'`, then `moto_server -p 5000`, and a
/// secret `llmrtc/test` = `{"key":"from-moto"}`, and a secret `llmrtc/deleted` that was deleted).
#[tokio::test]
#[ignore = "deploy group: needs moto"]
async fn a2_moto_answers_like_aws() {
    let credentials = Credentials {
        access_key_id: "testing".to_owned(),
        secret_access_key: Secret::new("testing"),
        session_token: None,
    };
    let aws = SecretsManager::new("us-east-1", credentials, Some("http://127.0.0.1:5000"));
    let aws = Arc::new(aws.unwrap());
    let source = Arc::clone(&aws).secret("llmrtc/test", Some("key"), None);
    let fetched = source.fetch().await.unwrap();
    assert_eq!(fetched.value.expose(), "from-moto");
    let version = AwsVersion::Id(fetched.version.unwrap());
    let pinned = Arc::clone(&aws).secret("llmrtc/test", Some("key"), Some(version));
    assert_eq!(pinned.fetch().await.unwrap().value.expose(), "from-moto");
    let refused = async |id: &str| {
        let fetched = Arc::clone(&aws).secret(id, None, None).fetch().await;
        fetched.unwrap_err().kind().clone()
    };
    assert_eq!(refused("llmrtc/none").await, SecretErrorKind::NotFound);
    assert_eq!(refused("llmrtc/deleted").await, SecretErrorKind::Deleted);
}
