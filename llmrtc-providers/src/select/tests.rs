use std::{collections::HashMap, io::Write, sync::Arc};

use super::*;
use crate::echo::{EchoConfig, EchoLlm, EchoStt};

/// A variable and its value.
type Pair = (&'static str, &'static str);

fn select(pairs: &[(&str, &str)]) -> Result<Selection, SelectError> {
    let map: HashMap<&str, &str> = pairs.iter().copied().collect();
    from_env(&|name| map.get(name).map(|value| (*value).to_owned()))
}

/// The three names, or the problems.
fn outcome(pairs: &[(&str, &str)]) -> Result<[&'static str; 3], Vec<String>> {
    match select(pairs) {
        Ok(Selection { names, .. }) => Ok([names.llm, names.stt, names.tts]),
        Err(error) => Err(error.problems),
    }
}

const OPENAI: (&str, &str) = ("OPENAI_API_KEY", "sk-CANARY-select");
const ROUTER: [(&str, &str); 2] = [("OPENROUTER_API_KEY", "k"), ("OPENROUTER_MODEL", "v/m")];

#[test]
fn what_is_chosen_from_what_is_set() {
    let local = ("LOCAL_ONLY", "yes");
    let table: &[(&[Pair], [&str; 3])] = &[
        (&[], ["echo"; 3]),
        (&[("OPENAI_API_KEY", "  ")], ["echo"; 3]),
        (&[OPENAI], ["openai"; 3]),
        (&[("GROQ_API_KEY", "k")], ["groq", "groq", "echo"]),
        (&[("MISTRAL_API_KEY", "k")], ["mistral", "echo", "echo"]),
        (&[("ZAI_API_KEY", "k")], ["zai", "echo", "echo"]),
        (
            &[ROUTER[0], ROUTER[1], OPENAI],
            ["openrouter", "openai", "openai"],
        ),
        (&[OPENAI, ("GROQ_API_KEY", "k")], ["openai"; 3]),
        (
            &[OPENAI, ("LLM_PROVIDER", " OLLAMA ")],
            ["ollama", "openai", "openai"],
        ),
        (
            &[("ZAI_API_KEY", "k"), ("LLM_PROVIDER", "glm")],
            ["zai", "echo", "echo"],
        ),
        (
            &[("LLM_PROVIDER", "lmstudio")],
            ["lmstudio", "echo", "echo"],
        ),
        (
            &[("LLM_PROVIDER", "llamacpp")],
            ["llamacpp", "echo", "echo"],
        ),
        (
            &[
                ("LLM_PROVIDER", "vllm"),
                ("OPENAI_COMPAT_BASE_URL", "http://localhost:8000/v1"),
            ],
            ["vllm", "echo", "echo"],
        ),
        (
            &[
                ("LLM_PROVIDER", "openai-compat"),
                ("STT_PROVIDER", "openai-compat"),
                ("TTS_PROVIDER", "openai-compat"),
                ("OPENAI_COMPAT_BASE_URL", "http://localhost:8000/v1"),
            ],
            ["openai-compat"; 3],
        ),
        (
            &[OPENAI, ("TTS_PROVIDER", "echo"), ("STT_PROVIDER", "echo")],
            ["openai", "echo", "echo"],
        ),
        (
            &[
                local,
                OPENAI,
                ("STT_PROVIDER", "echo"),
                ("TTS_PROVIDER", "echo"),
            ],
            ["ollama", "echo", "echo"],
        ),
        // Keys of providers that do not exist here yet must not stop the server.
        (
            &[
                ("ANTHROPIC_API_KEY", "k"),
                ("ELEVENLABS_API_KEY", "k"),
                OPENAI,
            ],
            ["openai"; 3],
        ),
        (
            &[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "k")],
            ["echo"; 3],
        ),
        (
            &[
                ("LLM_PROVIDER", "opanai"),
                ("LLMRTC_LENIENT", "true"),
                OPENAI,
            ],
            ["openai"; 3],
        ),
    ];
    for (pairs, expected) in table {
        assert_eq!(outcome(pairs), Ok(*expected), "{pairs:?}");
    }
}

#[test]
fn what_is_wrong_is_said_with_the_variable_and_a_way_out() {
    let table: &[(&[Pair], &[&str])] = &[
        (
            &[("LLM_PROVIDER", "opanai")],
            &["LLM_PROVIDER=opanai: unknown; did you mean `openai`?"],
        ),
        (
            &[("LLM_PROVIDER", "zzz")],
            &["choose one of openai, openrouter"],
        ),
        (
            &[("LLM_PROVIDER", "anthropic")],
            &["LLM_PROVIDER=anthropic: not available in this version"],
        ),
        (
            &[("STT_PROVIDER", "scribe")],
            &["STT_PROVIDER=scribe: not available"],
        ),
        (
            &[("LLM_PROVIDER", "openai")],
            &["OPENAI_API_KEY (or OPENAI_API_KEY_FILE) is not set"],
        ),
        (&[ROUTER[0]], &["OPENROUTER_MODEL is not set"]),
        (
            &[("LLM_PROVIDER", "vllm")],
            &["OPENAI_COMPAT_BASE_URL is not set"],
        ),
        (
            &[OPENAI, ("OPENAI_BASE_URL", "api.openai.com")],
            &["base URL"],
        ),
        (
            &[OPENAI, ("OPENAI_REASONING", "much")],
            &["OPENAI_REASONING=much: expected off"],
        ),
        (
            &[OPENAI, ("OPENAI_API", "responses")],
            &["OPENAI_API=responses: not available"],
        ),
        (
            &[OPENAI, ("OPENAI_TTS_SPEED", "9")],
            &["OPENAI_TTS_SPEED=9: expected"],
        ),
        (
            &[("OPENAI_API_KEY", "aws-sm://x#y")],
            &["OPENAI_API_KEY: aws-sm://"],
        ),
        (
            &[("LOCAL_ONLY", "maybe")],
            &["LOCAL_ONLY=maybe: use true or false"],
        ),
        (
            &[("EMBEDDED_NEIGHBOURS", "maybe"), ("EMBEDDED_THREADS", "0")],
            &[
                "EMBEDDED_NEIGHBOURS=maybe: use true or false",
                "EMBEDDED_THREADS=0: expected a whole number, 1 or more",
            ],
        ),
        (
            &[("LOCAL_ONLY", "true")],
            &[
                "the speech to text in this process was asked for, but",
                "the text to speech in this process was asked for, but",
            ],
        ),
        (
            &[
                ("LOCAL_ONLY", "embedded"),
                ("STT_PROVIDER", "echo"),
                ("TTS_PROVIDER", "echo"),
            ],
            &["the language model in this process was asked for, but"],
        ),
        (
            &[("VISION_PROVIDER", "ollama")],
            &["VISION_PROVIDER=ollama: not available"],
        ),
        (
            &[("REALTIME_PROVIDER", "openai")],
            &["REALTIME_PROVIDER=openai: not available"],
        ),
        (
            &[("EMBEDDED_FALLBACK", "false")],
            &[
                "no language model is configured; looked for LLM_PROVIDER, OPENROUTER_API_KEY",
                "no speech to text",
                "no text to speech",
            ],
        ),
        // Everything at once.
        (
            &[
                ("LLM_PROVIDER", "nonsense"),
                ("STT_PROVIDER", "piper"),
                ("TTS_PROVIDER", "openai"),
            ],
            &[
                "LLM_PROVIDER=nonsense",
                "STT_PROVIDER=piper",
                "OPENAI_API_KEY",
            ],
        ),
    ];
    for (pairs, expected) in table {
        let problems = outcome(pairs).expect_err(&format!("{pairs:?}"));
        for part in *expected {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{part}: {problems:?}"
            );
        }
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
    }
}

#[test]
fn a_server_without_any_key_starts_and_says_what_stands_in() {
    let selection = select(&[]).unwrap();
    assert_eq!(selection.providers.llm.name(), "echo-llm");
    assert_eq!(selection.notices.len(), 3);
    assert!(
        selection.notices[0].contains("OPENAI_API_KEY"),
        "{:?}",
        selection.notices
    );
}

/// Models in this process, or rather something that stands in for them.
fn in_process() -> InProcess {
    let config = EchoConfig::default;
    InProcess {
        llm: Ok(Arc::new(EchoLlm::new(config()))),
        stt: Ok(Arc::new(EchoStt::new(config()))),
        tts: Err("no voice was found".to_owned()),
    }
}

#[test]
fn models_in_this_process_answer_where_nothing_else_is_configured() {
    let select = |pairs: &[Pair]| {
        let map: HashMap<&str, &str> = pairs.iter().copied().collect();
        let env = |name: &str| map.get(name).map(|value| (*value).to_owned());
        let names = |selection: Selection| {
            let SelectedNames { llm, stt, tts } = selection.names;
            ([llm, stt, tts], selection.notices)
        };
        (
            wanted(&env, &|_| None),
            from_env_with(&env, &|_| None, &in_process()).map(names),
        )
    };
    let all = Wanted {
        llm: true,
        stt: true,
        tts: true,
        named_llm: false,
        neighbours: true,
        threads: None,
    };
    let (wanted, chosen) = select(&[]);
    assert_eq!(wanted, all);
    let (names, notices) = chosen.unwrap();
    assert_eq!(names, ["embedded", "embedded", "echo"]);
    assert!(
        notices[2].contains("and no voice was found; the built-in echo stands in"),
        "{notices:?}"
    );

    let (wanted, chosen) = select(&[OPENAI]);
    assert!(!wanted.any() && wanted.named_llm);
    assert_eq!(chosen.unwrap().0, ["openai"; 3]);

    let (wanted, chosen) = select(&[OPENAI, ("STT_PROVIDER", "moonshine")]);
    assert_eq!((wanted.llm, wanted.stt, wanted.tts), (false, true, false));
    assert_eq!(chosen.unwrap().0, ["openai", "embedded", "openai"]);

    let (wanted, chosen) = select(&[("LOCAL_ONLY", "embedded"), OPENAI]);
    assert_eq!(
        wanted,
        Wanted {
            named_llm: true,
            ..all
        }
    );
    assert_eq!(
        chosen.unwrap_err().problems,
        ["the text to speech in this process was asked for, but no voice was found"]
    );

    let alone = [("EMBEDDED_NEIGHBOURS", "Off"), ("EMBEDDED_THREADS", " 3 ")];
    let (wanted, chosen) = select(&alone);
    assert_eq!(
        (wanted.neighbours, wanted.threads),
        (false, NonZeroUsize::new(3))
    );
    assert_eq!(wanted.without_providers().threads, wanted.threads);
    assert!(chosen.is_ok());

    let (wanted, chosen) = select(&[("EMBEDDED_FALLBACK", "no")]);
    assert!(!wanted.any());
    assert_eq!(chosen.unwrap_err().problems.len(), 3);
}

#[test]
fn rules_from_a_file_need_the_file() {
    let scripted = |rules: Option<&str>| {
        let mut pairs = vec![("LLM_PROVIDER", "scripted")];
        pairs.extend(rules.map(|rules| ("SCRIPTED_RULES", rules)));
        outcome(&pairs)
    };
    for rules in [None, Some("/no/such/rules.toml")] {
        let [problem] = scripted(rules).unwrap_err().try_into().unwrap();
        assert!(
            problem.contains("SCRIPTED_RULES") || problem.contains("feature `local`"),
            "{problem}"
        );
    }
}

#[test]
fn local_only_reports_or_refuses_what_leaves_the_machine() {
    let mut pairs = vec![
        OPENAI,
        ("LOCAL_ONLY", "1"),
        ("LLM_PROVIDER", "openai"),
        ("STT_PROVIDER", "echo"),
        ("TTS_PROVIDER", "echo"),
    ];
    let notices = select(&pairs).unwrap().notices;
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("not on this machine")),
        "{notices:?}"
    );
    pairs.push(("LOCAL_ONLY_STRICT", "true"));
    assert!(outcome(&pairs).unwrap_err()[0].contains("not on this machine"));
    pairs.push(("OPENAI_LLM_BASE_URL", "http://127.0.0.1:9/v1"));
    assert!(outcome(&pairs).is_ok());
}

#[test]
fn keys_may_come_from_files() {
    let path = std::env::temp_dir().join(format!("llmrtc-select-key-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "  sk-from-a-file").unwrap();
    let path_text = path.to_str().unwrap();
    assert_eq!(
        outcome(&[("OPENAI_API_KEY_FILE", path_text)]),
        Ok(["openai"; 3])
    );
    let both = outcome(&[OPENAI, ("OPENAI_API_KEY_FILE", path_text)]).unwrap_err();
    assert_eq!(both.len(), 1);
    assert!(both[0].contains("both set"), "{both:?}");
    std::fs::write(&path, " \n").unwrap();
    assert!(outcome(&[("OPENAI_API_KEY_FILE", path_text)]).unwrap_err()[0].contains("is empty"));
    std::fs::remove_file(&path).unwrap();
    let gone = outcome(&[("OPENAI_API_KEY_FILE", path_text)]).unwrap_err();
    assert_eq!(gone.len(), 1);
    assert!(gone[0].contains("cannot be read"), "{gone:?}");
}

#[test]
fn models_that_are_about_to_retire_are_named() {
    let notices = select(&[OPENAI, ("OPENAI_MODEL", "gpt-4o-mini")])
        .unwrap()
        .notices;
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("gpt-4o-mini on 2027-01-14")),
        "{notices:?}"
    );
}

#[test]
fn secrets_appear_nowhere() {
    let good = select(&[OPENAI, ("OPENAI_ORG_ID", "org-CANARY")]).unwrap();
    let bad = select(&[OPENAI, ("TTS_PROVIDER", "nonsense")]).unwrap_err();
    let broken = select(&[("OPENAI_API_KEY", "sk-CANARY\u{1}")]).unwrap_err();
    assert!(!format!("{good:?} {bad:?} {bad} {broken} {broken:?}").contains("CANARY"));
}
