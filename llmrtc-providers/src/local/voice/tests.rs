//! With the real libraries: Flite where the system has it, eSpeak NG where `LLMRTC_MODEL_DIR` has it. Otherwise they
//! say that they were skipped.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use llmrtc_core::{
    audio::{AudioFormat, PcmChunk},
    provider::{CallContext, ErrorKind, ProviderError, TtsConfig, TtsProvider},
};

use super::*;
use crate::local::{models::Store, pool::InferencePool};

const SENTENCES: &str =
    "What is the weather in Paris tomorrow? Please book a table for four people.";

fn pool() -> InferencePool {
    InferencePool::new(NonZeroUsize::new(2)).unwrap()
}

fn flite() -> Option<Flite> {
    match Flite::load(&[], pool()) {
        Ok(flite) => Some(flite),
        Err(error @ VoiceError::Library { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn store() -> Option<Store> {
    let dir = std::env::var_os("LLMRTC_MODEL_DIR");
    if dir.is_none() {
        println!("skipped: LLMRTC_MODEL_DIR is not set");
    }
    dir.map(Store::new)
}

fn espeak_files() -> Option<(PathBuf, PathBuf)> {
    let dir = store()?.dir().join("espeak-ng");
    let (library, data) = (dir.join("libespeak-ng.so.1"), dir.join("espeak-ng-data"));
    if !library.exists() {
        println!("skipped: LLMRTC_MODEL_DIR has no eSpeak NG");
        return None;
    }
    Some((library, data))
}

fn espeak() -> Option<Espeak> {
    let (library, data) = espeak_files()?;
    Some(Espeak::load(&library, Some(&data), pool()).unwrap())
}

/// The voices of this machine.
fn all() -> Vec<Box<dyn TtsProvider>> {
    let flite = flite().map(|voice| Box::new(voice) as Box<dyn TtsProvider>);
    let espeak = espeak().map(|voice| Box::new(voice) as Box<dyn TtsProvider>);
    flite.into_iter().chain(espeak).collect()
}

async fn speak_as(
    voice: &dyn TtsProvider,
    text: &str,
    config: &TtsConfig,
) -> Result<PcmChunk, ProviderError> {
    let streaming = voice.streaming().unwrap();
    let cx = CallContext::detached();
    let pieces = streaming.speak_stream(text, config, &cx).await?;
    let bytes = pieces
        .try_fold(BytesMut::new(), async |mut bytes, piece| {
            bytes.extend_from_slice(&piece);
            Ok(bytes)
        })
        .await?;
    Ok(PcmChunk::from_le_bytes(&bytes, streaming.pcm_rate()))
}

async fn speak(voice: &dyn TtsProvider, text: &str) -> PcmChunk {
    let spoken = speak_as(voice, text, &TtsConfig::default()).await;
    spoken.unwrap()
}

/// The root mean square of the samples, of 32768.
fn loudness(spoken: &PcmChunk) -> f64 {
    let squares = spoken.samples().iter().map(|s| f64::from(*s).powi(2));
    (squares.sum::<f64>() / spoken.samples().len().max(1) as f64).sqrt()
}

/// Speech as long and as loud as speech of `words` words is.
fn check_is_speech(spoken: &PcmChunk, words: f64) {
    let (seconds, loudness) = (spoken.duration().as_secs_f64(), loudness(spoken));
    let pace = seconds / words;
    assert!((0.15..1.2).contains(&pace), "{seconds} s for {words} words");
    assert!((300.0..12_000.0).contains(&loudness), "{loudness}");
}

/// Whether two are the same words in the same voice. Samples differ: both libraries excite with noise in part, and
/// eSpeak's periods begin where the last utterance ended.
fn is_same(one: &PcmChunk, other: &PcmChunk) -> bool {
    let length = one.samples().len() as f64 / other.samples().len() as f64;
    let loudness = loudness(one) / loudness(other);
    (0.98..1.02).contains(&length) && (0.97..1.03).contains(&loudness)
}

#[track_caller]
fn check_same(one: &PcmChunk, other: &PcmChunk, why: &str) {
    assert!(is_same(one, other), "{why}: {one:?} and {other:?}");
}

#[tokio::test]
async fn text_becomes_speech_in_pieces() {
    for voice in all() {
        let begun = Instant::now();
        let streaming = voice.streaming().unwrap();
        let (config, cx) = (TtsConfig::default(), CallContext::detached());
        let pieces = streaming.speak_stream(SENTENCES, &config, &cx);
        let mut pieces = pieces.await.unwrap();
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&pieces.next().await.unwrap().unwrap());
        let (first, first_bytes) = (begun.elapsed(), bytes.len());
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        let spoken = PcmChunk::from_le_bytes(&bytes, streaming.pcm_rate());
        println!(
            "{}: first {first_bytes} bytes after {first:?}, all {:?} after {:?}",
            voice.name(),
            spoken.duration(),
            begun.elapsed()
        );
        assert!(first_bytes < bytes.len(), "not in one piece");
        check_is_speech(&spoken, 14.0);
    }
}

#[tokio::test]
async fn speech_in_one_piece_is_the_same_as_wav() {
    for voice in all() {
        let (config, cx) = (TtsConfig::default(), CallContext::detached());
        let spoken = voice.speak(SENTENCES, &config, &cx).await.unwrap().audio;
        assert_eq!(spoken.format, AudioFormat::Wav);
        assert_eq!(AudioFormat::sniff(&spoken.data), Some(AudioFormat::Wav));
        let streamed = speak(&*voice, SENTENCES).await;
        assert_eq!(spoken.rate, Some(streamed.rate()));
        // The header has 44 bytes.
        let whole = PcmChunk::from_le_bytes(&spoken.data[44..], streamed.rate());
        check_same(&whole, &streamed, voice.name());
    }
}

#[tokio::test]
async fn voices_and_speeds_differ_and_wrong_ones_are_named() {
    let config = |voice: Option<&str>, language: Option<&str>, speed| TtsConfig {
        voice: voice.map(str::to_owned),
        language: language.map(str::to_owned),
        speed,
        ..TtsConfig::default()
    };
    let text = "Good morning to all of you.";
    let mut voices: Vec<(Box<dyn TtsProvider>, Vec<String>)> = Vec::new();
    if let Some(flite) = flite() {
        let names = flite.voices().iter().map(|name| (*name).to_owned());
        voices.push((Box::new(flite.clone()), names.collect()));
    }
    if let Some(espeak) = espeak() {
        let names = ["en-us", "en-gb-scotland", "+f2", "en-gb+m3", "gmw/de"];
        voices.push((Box::new(espeak), names.map(str::to_owned).into()));
    }
    for (voice, names) in voices {
        let mut heard: Vec<PcmChunk> = Vec::new();
        for name in &names {
            let spoken = speak_as(&*voice, text, &config(Some(name), None, None)).await;
            let spoken = spoken.unwrap();
            check_is_speech(&spoken, 6.0);
            let known = heard.iter().any(|other| is_same(other, &spoken));
            assert!(!known, "{name} is another voice");
            heard.push(spoken);
        }
        let [slow, fast] = [0.7, 1.6].map(|speed| config(None, Some("en-US"), Some(speed)));
        let slow = speak_as(&*voice, text, &slow).await.unwrap();
        let fast = speak_as(&*voice, text, &fast).await.unwrap();
        let ratio = slow.duration().as_secs_f64() / fast.duration().as_secs_f64();
        assert!((1.5..3.5).contains(&ratio), "{ratio}");
        let table = [
            (config(Some("alloy"), None, None), ErrorKind::NotFound),
            (config(Some("+../x"), None, None), ErrorKind::NotFound),
            (config(None, Some("tlh"), None), ErrorKind::InvalidInput),
            (config(None, None, Some(9.0)), ErrorKind::InvalidInput),
            (config(None, None, Some(f32::NAN)), ErrorKind::InvalidInput),
        ];
        for (config, kind) in table {
            let error = speak_as(&*voice, text, &config).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{config:?}: {error}");
        }
    }
}

#[tokio::test]
async fn defaults_yield_to_what_a_call_says() {
    let named = |voice: &str| TtsConfig {
        voice: Some(voice.to_owned()),
        ..TtsConfig::default()
    };
    let text = "Guten Morgen.";
    if let Some(flite) = flite()
        && flite.voices().len() > 1
    {
        let [first, second] = [flite.voices()[0], flite.voices()[1]];
        let other = flite.clone().with_defaults(named(second)).unwrap();
        let expected = speak_as(&flite, text, &named(second)).await.unwrap();
        check_same(&speak(&other, text).await, &expected, "the default");
        let back = speak_as(&other, text, &named(first)).await.unwrap();
        check_same(&back, &speak(&flite, text).await, "named");
        assert!(flite.with_defaults(named("alloy")).is_err());
    }
    if let Some(espeak) = espeak() {
        let german = TtsConfig {
            language: Some("de-DE".into()),
            ..TtsConfig::default()
        };
        let as_german = espeak.clone().with_defaults(german.clone()).unwrap();
        let expected = speak_as(&espeak, text, &german).await.unwrap();
        check_same(&speak(&as_german, text).await, &expected, "the default");
        let scots = espeak.clone().with_defaults(named("en-gb-scotland"));
        let spoken = speak_as(&scots.unwrap(), text, &german).await.unwrap();
        check_same(&spoken, &expected, "the call's language is stronger");
        let woman = espeak.clone().with_defaults(named("+f2")).unwrap();
        let spoken = speak_as(&woman, text, &german).await.unwrap();
        let expected = speak_as(&espeak, text, &named("de+f2")).await.unwrap();
        check_same(&spoken, &expected, "a variant goes with any language");
    }
}

#[tokio::test]
async fn text_without_words_is_silence_and_odd_text_is_spoken() {
    for voice in all() {
        for text in ["…", "  \n\t ", "!?", "🎉"] {
            assert!(speak(&*voice, text).await.is_empty(), "{text:?}");
        }
        let odd = [
            "A NUL\0 and an escape \u{1b}[31m in between.".to_owned(),
            "<speak>one</speak> [[h@l'oU]] & two".to_owned(),
            "Привет, my name is Bob. 你好 Alice!".to_owned(),
            "3.14159265358979 and 100000000000000000000000000000".to_owned(),
            "a".repeat(1_000),
            "Dr. Smith paid $5.50 at 7:30pm on 2024-02-30.".to_owned(),
        ];
        for text in odd {
            let spoken = speak(&*voice, &text).await;
            assert!(loudness(&spoken) > 100.0, "{text:?}");
        }
        let long = "word ".repeat(4_000);
        let error = speak_as(&*voice, &long, &TtsConfig::default()).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge);
    }
}

#[tokio::test]
async fn a_dropped_stream_leaves_the_voice_to_others() {
    for voice in all() {
        let expected = speak(&*voice, "Hello.").await;
        // Clause after clause without a full stop: long sentences that nobody wants to hear to their end.
        let long = "and then they went on and on, ".repeat(400);
        let (config, cx) = (TtsConfig::default(), CallContext::detached());
        for _ in 0..20 {
            let streaming = voice.streaming().unwrap();
            let pieces = streaming.speak_stream(&long, &config, &cx).await;
            let first = pieces.unwrap().next().await;
            assert!(!first.unwrap().unwrap().is_empty());
            // Dropped before it has begun, too.
            let waiting = streaming.speak_stream(&long, &config, &cx);
            // eSpeak may even be ready by then.
            drop(futures_util::poll!(Box::pin(waiting)));
        }
        let again = speak(&*voice, "Hello.").await;
        check_same(&again, &expected, "nothing is mixed in");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_at_once_hear_what_they_would_hear_alone() {
    for voice in all() {
        let mut texts = Vec::new();
        for number in 0..8 {
            let text = format!("This is session {number}. It has a second sentence.");
            let alone = speak(&*voice, &text).await;
            texts.push((text, alone));
        }
        let all = texts.iter().map(|(text, _)| speak(&*voice, text));
        let together = futures_util::future::join_all(all).await;
        for ((text, alone), together) in texts.iter().zip(together) {
            check_same(alone, &together, text);
        }
    }
}

#[tokio::test]
async fn espeak_speaks_many_languages() {
    let Some(espeak) = espeak() else { return };
    assert!(espeak.languages().len() > 100);
    for (language, text, words) in [
        ("de-CH", "Guten Morgen, wie geht es Ihnen?", 6.0),
        ("fr", "Bonjour, comment allez-vous aujourd'hui ?", 5.0),
        ("zh-Hans", "你好,今天天气怎么样?", 5.0),
        ("pt_BR", "Bom dia, tudo bem com você?", 6.0),
    ] {
        let config = TtsConfig {
            language: Some(language.into()),
            ..TtsConfig::default()
        };
        let spoken = speak_as(&espeak, text, &config).await.unwrap();
        check_is_speech(&spoken, words);
    }
}

/// In a process of its own under nextest; under `cargo test` another test may have loaded the library.
#[test]
fn wrong_data_is_told_and_right_data_works_afterwards() {
    let Some((library, data)) = espeak_files() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (empty, long) = (dir.path().join("empty"), dir.path().join("x".repeat(150)));
    std::fs::create_dir(&empty).unwrap();
    for (data, expected) in [(&empty, "does not hold the data"), (&long, "too long")] {
        let error = Espeak::load(&library, Some(data), pool()).unwrap_err();
        let words = error.to_string();
        let in_use = matches!(error, VoiceError::InUse { .. });
        assert!(in_use || words.contains(expected), "{words}");
    }
    let espeak = Espeak::load(&library, Some(&data), pool()).unwrap();
    assert!(!espeak.languages().is_empty());
    let error = Espeak::load(&library, Some(&empty), pool()).unwrap_err();
    assert!(matches!(error, VoiceError::InUse { .. }), "{error}");
}

#[test]
fn damaged_data_is_told_before_the_library_reads_it() {
    let Some((library, data)) = espeak_files() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("espeak-ng");
    copy(&data, &home.join("espeak-ng-data"));
    std::fs::copy(&library, home.join("libespeak-ng.so.1")).unwrap();
    let table = home.join("espeak-ng-data/phontab");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[..4000].fill(0);
    std::fs::write(&table, bytes).unwrap();
    let store = Store::new(dir.path());
    // Flite is no answer to this language.
    let error = best(&store, Some("de"), &pool()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let words = error.to_string();
    assert!(words.contains("damaged"), "{words}");
    assert!(words.contains("llmrtc models fetch espeak-ng"), "{words}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn caller_and_server_have_voices_of_their_own() {
    let Some(store) = store() else { return };
    let pool = pool();
    let text = "Is this me or you?";
    let server = best(&store, None, &pool).unwrap();
    let caller = for_caller(&store, &pool).unwrap();
    let [one, other] = [speak(&*server, text).await, speak(&*caller, text).await];
    check_is_speech(&one, 5.0);
    check_is_speech(&other, 5.0);
    assert!(!is_same(&one, &other));
    let german = best(&store, Some("de"), &pool).unwrap();
    assert_eq!(german.name(), "espeak-ng");
    assert!(is_there(&store, None) && is_there(&store, Some("de")));
    assert!(!is_there(&store, Some("tlh")));
    let error = best(&store, Some("tlh"), &pool).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
