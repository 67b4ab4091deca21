mod probe;

use std::path::PathBuf;

use self::probe::settings;
use super::{
    load::{Environment, Loaded, Overrides, load},
    *,
};

#[derive(Default)]
struct Fake {
    variables: Vec<(String, String)>,
    directory: Option<tempfile::TempDir>,
}

impl Environment for Fake {
    fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }

    fn directory(&self) -> PathBuf {
        let nowhere = || PathBuf::from("no-such-directory");
        self.directory
            .as_ref()
            .map_or_else(nowhere, |directory| directory.path().to_owned())
    }
}

fn variables(pairs: &[(&str, &str)]) -> Fake {
    let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    Fake {
        variables: pairs.iter().map(own).collect(),
        directory: None,
    }
}

fn files(files: &[(&str, &str)]) -> Fake {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    Fake {
        directory: Some(directory),
        variables: Vec::new(),
    }
}

fn read(environment: &Fake) -> Loaded {
    load(environment, Overrides::default()).unwrap()
}

fn problems(environment: &Fake) -> Vec<String> {
    let error = load(environment, Overrides::default()).unwrap_err();
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_at_all_is_the_default_configuration() {
    let loaded = read(&Fake::default());
    assert_eq!(
        format!("{:?}", loaded.config),
        format!("{:?}", Config::default())
    );
    assert_eq!(loaded.file, None);
    assert!(loaded.notices.is_empty());
}

#[test]
fn each_layer_beats_the_one_below() {
    let file = "[server]\nport = 1000\nhost = 'localhost'\n[turn]\nhistory_limit = 1\nvoice = 'file'\nsystem_prompt = 'file'";
    let mut environment = files(&[
        ("llmrtc.toml", file),
        (
            ".env",
            "PORT=2000\nHISTORY_LIMIT=2\nLLMRTC_TURN__VOICE=dotenv",
        ),
    ]);
    environment.variables = vec![
        ("PORT".into(), "3000".into()),
        // The full name beats the familiar one, blank is absent.
        ("LLMRTC_TURN__HISTORY_LIMIT".into(), "3".into()),
        ("SYSTEM_PROMPT".into(), "  ".into()),
    ];
    let overrides = Overrides {
        port: Some(4000),
        log_level: Some("debug".into()),
        ..Overrides::default()
    };
    let loaded = load(&environment, overrides).unwrap();
    let config = &loaded.config;
    assert_eq!(config.server.port, 4000);
    assert_eq!(config.server.host, "localhost");
    assert_eq!(config.turn.history_limit, 3);
    assert_eq!(config.turn.voice.as_deref(), Some("dotenv"));
    assert_eq!(config.turn.system_prompt, "file");
    assert_eq!(config.log.level, "debug");
    assert_eq!(
        loaded.file,
        Some(environment.directory().join("llmrtc.toml"))
    );
    assert_eq!(read(&environment).config.server.port, 3000);
}

#[test]
fn a_named_file_replaces_the_usual_one_and_must_exist() {
    let port = |port| format!("[server]\nport = {port}");
    let mut environment = files(&[
        ("llmrtc.toml", &port(1)),
        ("two.toml", &port(2)),
        ("three.toml", &port(3)),
    ]);
    environment.variables = vec![("LLMRTC_CONFIG".into(), "two.toml".into())];
    assert_eq!(read(&environment).config.server.port, 2);
    let overrides = |file: &str| Overrides {
        file: Some(file.into()),
        ..Overrides::default()
    };
    assert_eq!(
        load(&environment, overrides("three.toml"))
            .unwrap()
            .config
            .server
            .port,
        3
    );
    let error = load(&environment, overrides("four.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot read") && error.contains("four.toml") && error.contains("--config"),
        "{error}"
    );
}

/// The value at a path of the printed configuration.
fn printed(loaded: &Loaded, path: &str) -> toml::Value {
    let table: toml::Table = loaded.to_toml().parse().unwrap();
    let mut keys = path.split('.');
    let mut value = table[keys.next().unwrap()].clone();
    for key in keys {
        value = value
            .get(key)
            .unwrap_or_else(|| panic!("no {key} of {path}"))
            .clone();
    }
    value
}

#[test]
fn every_variable_of_the_reference_implementation_works() {
    let text = |text: &str| toml::Value::from(text);
    let secret = || text("[secret]");
    let cases: &[(&str, &str, &str, toml::Value)] = &[
        ("PORT", "9000", "server.port", 9000.into()),
        ("HOST", "localhost", "server.host", text("localhost")),
        ("SYSTEM_PROMPT", "42", "turn.system_prompt", text("42")),
        ("HISTORY_LIMIT", "4", "turn.history_limit", 4.into()),
        ("STREAMING_TTS", "false", "turn.streaming_tts", false.into()),
        ("STREAMING_TTS", "no", "turn.streaming_tts", true.into()),
        ("STREAMING_STT", "true", "turn.streaming_stt", true.into()),
        ("STREAMING_STT", "yes", "turn.streaming_stt", false.into()),
        (
            "METERED_APP_NAME",
            "app",
            "ice.metered.app_name",
            text("app"),
        ),
        ("METERED_API_KEY", "k", "ice.metered.api_key", secret()),
        (
            "METERED_REGION",
            "europe",
            "ice.metered.region",
            text("europe"),
        ),
        ("LOCAL_ONLY", "true", "providers.local_only", text("true")),
        ("LLM_PROVIDER", "openai", "providers.llm", text("openai")),
        (
            "STT_PROVIDER",
            "realtime",
            "providers.stt",
            text("realtime"),
        ),
        ("TTS_PROVIDER", "piper", "providers.tts", text("piper")),
        ("OPENAI_API_KEY", "k", "providers.openai.api_key", secret()),
        (
            "OPENAI_BASE_URL",
            "http://h/v1",
            "providers.openai.base_url",
            text("http://h/v1"),
        ),
        ("OPENAI_MODEL", "m", "providers.openai.model", text("m")),
        (
            "OPENAI_STT_MODEL",
            "m",
            "providers.openai.stt_model",
            text("m"),
        ),
        (
            "OPENAI_TTS_MODEL",
            "m",
            "providers.openai.tts_model",
            text("m"),
        ),
        (
            "OPENAI_TTS_VOICE",
            "nova",
            "providers.openai.tts_voice",
            text("nova"),
        ),
        (
            "OPENAI_TTS_INSTRUCTIONS",
            "i",
            "providers.openai.tts_instructions",
            text("i"),
        ),
        (
            "ANTHROPIC_API_KEY",
            "k",
            "providers.anthropic.api_key",
            secret(),
        ),
        (
            "ANTHROPIC_MODEL",
            "m",
            "providers.anthropic.model",
            text("m"),
        ),
        (
            "ANTHROPIC_PROMPT_CACHING",
            "true",
            "providers.anthropic.prompt_caching",
            text("true"),
        ),
        ("GOOGLE_API_KEY", "k", "providers.google.api_key", secret()),
        ("GOOGLE_MODEL", "m", "providers.google.model", text("m")),
        (
            "AWS_REGION",
            "eu-west-1",
            "providers.aws.region",
            text("eu-west-1"),
        ),
        (
            "AWS_ACCESS_KEY_ID",
            "k",
            "providers.aws.access_key_id",
            secret(),
        ),
        (
            "AWS_SECRET_ACCESS_KEY",
            "k",
            "providers.aws.secret_access_key",
            secret(),
        ),
        ("BEDROCK_MODEL", "m", "providers.bedrock.model", text("m")),
        (
            "OPENROUTER_API_KEY",
            "k",
            "providers.openrouter.api_key",
            secret(),
        ),
        (
            "OPENROUTER_MODEL",
            "m",
            "providers.openrouter.model",
            text("m"),
        ),
        ("ZAI_API_KEY", "k", "providers.zai.api_key", secret()),
        ("ZAI_MODEL", "m", "providers.zai.model", text("m")),
        (
            "LMSTUDIO_BASE_URL",
            "http://h",
            "providers.lmstudio.base_url",
            text("http://h"),
        ),
        ("LMSTUDIO_MODEL", "m", "providers.lmstudio.model", text("m")),
        (
            "OLLAMA_BASE_URL",
            "http://h",
            "providers.ollama.base_url",
            text("http://h"),
        ),
        ("OLLAMA_MODEL", "m", "providers.ollama.model", text("m")),
        (
            "OLLAMA_VISION_MODEL",
            "m",
            "providers.ollama.vision_model",
            text("m"),
        ),
        (
            "FASTER_WHISPER_URL",
            "http://h",
            "providers.faster_whisper.url",
            text("http://h"),
        ),
        (
            "PIPER_URL",
            "http://h",
            "providers.piper.url",
            text("http://h"),
        ),
        (
            "ELEVENLABS_API_KEY",
            "k",
            "providers.elevenlabs.api_key",
            secret(),
        ),
        (
            "ELEVENLABS_STT_MODEL",
            "m",
            "providers.elevenlabs.stt_model",
            text("m"),
        ),
    ];
    for (name, value, path, expected) in cases {
        let loaded = read(&variables(&[(name, value)]));
        assert_eq!(&printed(&loaded, path), expected, "{name}={value}");
        if path.starts_with("providers.") {
            assert_eq!(
                loaded.config.providers.lookup(name).as_deref(),
                Some(*value),
                "{name}"
            );
        }
    }
    let ice = r#"[{"urls":"stun:a"},{"urls":["turn:b","turns:c"],"username":"u","credential":"canary","x":null}]"#;
    let ice = ice.replace(r#","x":null"#, "");
    let loaded = read(&variables(&[
        ("ICE_SERVERS", &ice),
        ("LLMRTC_SKIP_NODE_CHECK", "1"),
    ]));
    let servers = &loaded.config.ice.servers;
    assert_eq!(servers[0].urls, ["stun:a"]);
    assert_eq!(servers[1].urls, ["turn:b", "turns:c"]);
    assert_eq!(servers[1].credential.as_ref().unwrap().expose(), "canary");
    assert!(!loaded.to_toml().contains("canary"));
    assert!(loaded.notices.is_empty());
}

#[test]
fn full_names_reach_every_kind_of_value() {
    let loaded = read(&variables(&[
        ("LLMRTC_MEDIA__VAD__THRESHOLD", "0.6"),
        ("LLMRTC_MEDIA__ENDPOINT__SILENCE", "700ms"),
        (
            "LLMRTC_SERVER__ALLOWED_ORIGINS",
            "https://a.example, https://b.example",
        ),
        ("LLMRTC_TURN__HINTS", r#"["Zoë, the cat","x"]"#),
        ("LLMRTC_TURN__TEMPERATURE", "0"),
        ("LLMRTC_SERVER__PLAYGROUND", "off"),
        ("LLMRTC_SERVER__METRICS_BIND", "127.0.0.1:9464"),
        ("LLMRTC_LOG__FORMAT", "json"),
        ("LLMRTC_PROVIDERS__OPENAI__API_KEY", "k"),
        ("LLMRTC_MEDIA__PEER__UDP_PORT_RANGE", "40000,40999"),
        ("LLMRTC_PORT", "1"),
    ]));
    let config = &loaded.config;
    assert_eq!(config.media.vad.threshold, 0.6);
    assert_eq!(config.media.endpoint.silence, Duration::from_millis(700));
    assert_eq!(
        config.server.allowed_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.turn.hints, ["Zoë, the cat", "x"]);
    assert_eq!(config.turn.temperature, Some(0.0));
    assert_eq!(config.media.peer.udp_port_range, Some((40_000, 40_999)));
    assert!(!config.server.playground);
    assert_eq!(
        config.server.metrics_bind,
        Some("127.0.0.1:9464".parse().unwrap())
    );
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(
        config.providers.lookup("OPENAI_API_KEY").as_deref(),
        Some("k")
    );
    assert_eq!(loaded.notices.len(), 1, "{:?}", loaded.notices);
    assert!(loaded.notices[0].contains("LLMRTC_PORT"));
}

#[test]
fn everything_wrong_is_said_at_once_with_key_and_origin() {
    let file = r#"
        colour = "blue"
        [server]
        prot = 1
        allowed_origins = ["*", "https://ok.example", "app.example"]
        [media.vad]
        threshold = "loud"
        [turn]
        tts_lookahead = 9
        timeouts = { stt = "5" }
        [providers]
        colour = 1
        [providers.openai]
        modle = "x"
        [ice]
        servers = [{ urls = "stun:ok" }, { urls = "turn:x", username = "u" }, { url = "stun:x" }]
        [shutdown]
        grace = "1h"
    "#;
    let mut environment = files(&[("llmrtc.toml", file)]);
    environment.variables = [
        ("PORT", "99999"),
        ("LLMRTC_TURN__STREAMING_TTS", "perhaps"),
        ("LLMRTC_MEDIA__VADD__X", "1"),
        ("LLMRTC_TURN__HINTS", "[1"),
        ("HOST", "0.0.0.0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let found = problems(&environment);
    let expected = [
        (
            "colour: unknown field `colour`, expected one of",
            "llmrtc.toml)",
        ),
        ("ice.servers[2].url: unknown field `url`", "llmrtc.toml)"),
        (
            "media.vad.threshold: invalid type: string \"loud\", expected f32",
            "llmrtc.toml)",
        ),
        ("media.vadd: unknown field `vadd`", ""),
        ("providers.colour: unknown setting `colour`", "llmrtc.toml)"),
        (
            "providers.openai.modle: unknown setting `modle`",
            "llmrtc.toml)",
        ),
        ("server.allowed_origins: `*` is not a URL", "llmrtc.toml)"),
        (
            "server.host: refusing to listen on 0.0.0.0",
            "(HOST in the environment)",
        ),
        (
            "server.port: expected a whole number from 0 to 65535",
            "(PORT in the environment)",
        ),
        ("server.prot: unknown field `prot`", "llmrtc.toml)"),
        ("shutdown.grace: must be at most 10m", "llmrtc.toml)"),
        (
            "turn.hints: is not a JSON array",
            "(LLMRTC_TURN__HINTS in the environment)",
        ),
        (
            "turn.streaming_tts: expected true or false",
            "(LLMRTC_TURN__STREAMING_TTS in the environment)",
        ),
        ("turn.timeouts.stt: `5` is not a duration", "llmrtc.toml)"),
        ("turn.tts_lookahead: must be from 1 to 8", "llmrtc.toml)"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (problem, (start, end)) in found.iter().zip(expected) {
        assert!(
            problem.starts_with(start) && problem.ends_with(end),
            "{problem}\nshould be\n{start} … {end}"
        );
    }
    // With the misspelt entry gone, the list is read, and its second entry is what is wrong.
    let turn = r#"[{"urls":"stun:ok"},{"urls":"turn:x","username":"u"}]"#;
    assert_eq!(
        problems(&variables(&[("ICE_SERVERS", turn)])),
        ["ice.servers[1]: `turn:x` needs username and credential (ICE_SERVERS in the environment)"]
    );
}

#[test]
fn files_that_are_no_configuration_are_named_with_their_line_and_without_their_text() {
    let broken = files(&[(
        "llmrtc.toml",
        "[server]\nport = 1\n[providers.openai]\napi_key = sk-canary\n",
    )]);
    let found = problems(&broken).join("\n");
    assert!(
        found.contains("line 4") && found.contains("llmrtc.toml") && !found.contains("canary"),
        "{found}"
    );
    let broken = files(&[(".env", "A=1\nOPENAI_API_KEY sk-canary")]);
    let found = problems(&broken).join("\n");
    assert!(
        found.contains("line 2") && found.contains(".env") && !found.contains("canary"),
        "{found}"
    );
}

#[test]
fn open_servers_need_consent_and_names_are_judged_later() {
    let consent = Overrides {
        insecure_no_auth: true,
        ..Overrides::default()
    };
    assert!(load(&variables(&[("HOST", "0.0.0.0")]), consent).is_ok());
    for host in ["127.0.0.2", "::1", "localhost", "voice.example"] {
        assert!(
            load(&variables(&[("HOST", host)]), Overrides::default()).is_ok(),
            "{host}"
        );
    }
    for host in ["http://x", "a b", "-x", ""] {
        let environment = variables(&[("LLMRTC_SERVER__HOST", host)]);
        assert_eq!(
            load(&environment, Overrides::default()).is_err(),
            !host.is_empty(),
            "{host:?}"
        );
    }
}

#[test]
fn printed_configurations_hide_every_secret_and_load_again() {
    let mut environment = variables(&[
        ("OPENAI_API_KEY", "canary"),
        ("AWS_SECRET_ACCESS_KEY", "canary"),
        ("AWS_SESSION_TOKEN", "canary"),
        ("AWS_BEARER_TOKEN_BEDROCK", "canary"),
        ("ANTHROPIC_AUTH_TOKEN", "canary"),
        ("AZURE_SPEECH_KEY", "canary"),
        ("METERED_API_KEY", "canary"),
        ("OPENAI_BASE_URL", "https://user:canary@proxy.example/v1"),
        (
            "ICE_SERVERS",
            r#"[{"urls":"turn:t","username":"u","credential":"canary"}]"#,
        ),
        ("OPENAI_MODEL", "kept"),
        ("OPENAI_API_KEY_FILE", "kept.txt"),
        ("LLMRTC_TURN__MAX_TOKENS", "400"),
        ("LLMRTC_TURN__TEMPERATURE", "0.5"),
        ("LLMRTC_SERVER__ALLOWED_ORIGINS", "https://a.example"),
    ]);
    let loaded = read(&environment);
    let text = loaded.to_toml();
    assert!(!text.contains("canary"), "{text}");
    assert!(!format!("{loaded:?}").contains("canary"), "{loaded:?}");
    assert!(
        text.contains("kept\"") && text.contains("kept.txt") && text.contains("max_tokens = 400"),
        "{text}"
    );
    environment = files(&[("llmrtc.toml", &text)]);
    let again = read(&environment).config;
    assert_eq!(again.turn, loaded.config.turn);
    assert_eq!(again.server, loaded.config.server);
    assert_eq!(
        again.providers.lookup("OPENAI_MODEL").as_deref(),
        Some("kept")
    );
}

/// The reference configuration with its examples switched on.
fn with_examples() -> toml::Table {
    let example = |line: &str| {
        let uncommented = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|char: char| char.is_ascii_lowercase()));
        uncommented.unwrap_or(line).to_owned()
    };
    let lines: Vec<&str> = REFERENCE.lines().collect();
    let key = |line: &str| line.split(" = ").next().map(str::to_owned);
    let text: Vec<String> = lines
        .iter()
        .enumerate()
        // An example takes the place of the default above it.
        .filter(|(at, line)| {
            let below = lines.get(at + 1).and_then(|line| line.strip_prefix('#'));
            below.is_none_or(|below| !line.contains(" = ") || key(below) != key(line))
        })
        .map(|(_, line)| example(line))
        .collect();
    text.join("\n").parse().unwrap()
}

#[test]
fn the_reference_configuration_says_what_the_code_does() {
    let loaded = read(&files(&[("llmrtc.toml", REFERENCE)]));
    let (reference, code) = (
        format!("{:#?}", loaded.config),
        format!("{:#?}", Config::default()),
    );
    let differences: Vec<_> = reference
        .lines()
        .zip(code.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert!(
        reference == code,
        "reference.toml and the code disagree: {differences:#?}"
    );
    let examples = toml::to_string(&with_examples()).unwrap();
    read(&files(&[("llmrtc.toml", &examples)]));
}

#[test]
fn the_reference_configuration_names_every_setting() {
    let documented = with_examples();
    let has = |path: &str| {
        let mut keys = path.split('.');
        let first = documented.get(keys.next().unwrap());
        keys.try_fold(first, |value, key| Some(Some(value?.get(key)?)))
            .flatten()
            .is_some()
    };
    // Stands in a comment beside what it excludes.
    let alternative = "vault.keyring";
    let missing = settings()
        .into_iter()
        .filter(|path| !has(path) && path != alternative);
    let missing: Vec<String> = missing.collect();
    assert!(missing.is_empty(), "add to reference.toml: {missing:?}");
}

#[test]
fn the_probe_sees_nested_and_optional_settings() {
    let settings = settings();
    for path in [
        "server.metrics_bind",
        "media.vad.threshold",
        "turn.timeouts.stt",
        "turn.temperature",
        "providers",
    ] {
        assert!(settings.contains(path), "{settings:?}");
    }
}

#[test]
fn sections_turn_into_what_the_crates_want() {
    let loopback: std::net::IpAddr = "127.0.0.1".parse().unwrap();
    let mut config = Config::default();
    assert_eq!(config.exposure(loopback), Ok(Exposure::Loopback));
    assert_eq!(
        config.resume(Exposure::Loopback).binding,
        Binding::HandleOnly
    );
    assert_eq!(
        config.resume(Exposure::OpenToNetwork).binding,
        Binding::Identity
    );
    assert!(
        config
            .server
            .origin_policy(loopback)
            .check([b"http://localhost:5173".as_slice()], None)
            .is_ok()
    );
    config.server.allowed_origins = vec!["https://a.example".into()];
    config.server.allow_missing_origin = false;
    let policy = config.server.origin_policy(loopback);
    assert!(
        policy
            .check([b"https://a.example".as_slice()], None)
            .is_ok()
    );
    assert!(
        policy
            .check([b"http://localhost:5173".as_slice()], None)
            .is_err()
    );
    assert!(policy.check([], None).is_err());
}

#[test]
fn the_file_for_deployments_is_a_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deploy/llmrtc.toml");
    let overrides = Overrides {
        file: Some(file.into()),
        ..Overrides::default()
    };
    let loaded = load(&Fake::default(), overrides).unwrap();
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    assert_eq!(loaded.config.auth.issuers.len(), 1);
    assert!(!loaded.config.server.playground);
}
