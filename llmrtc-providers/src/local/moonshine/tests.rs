use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{future::join_all, poll, stream};
use llmrtc_core::audio::{AudioFormat, EncodedAudio, SampleRate};

use super::*;
use crate::local::{
    runtime::tests::{model_dir, runtime},
    testing::{FRAME, SPOKEN, key_words, speech, speech_file},
};

const RATE: SampleRate = SampleRate::HZ_16000;
const SECOND: usize = 16_000;

/// Understands a word in every half second, and writes down how much it heard.
#[derive(Default)]
struct Fake {
    heard: Mutex<Vec<usize>>,
    behaviour: Behaviour,
}

#[derive(Default)]
enum Behaviour {
    #[default]
    Answer,
    Fail,
    /// Works until it is stopped.
    Work,
}

impl Fake {
    fn heard(&self) -> Vec<usize> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

fn words(samples: usize) -> String {
    let words: Vec<String> = (1..=samples / (SECOND / 2))
        .map(|word| format!("w{word}"))
        .collect();
    format!("{}.", words.join(" "))
}

impl Recognise for Fake {
    fn recognise(&self, audio: &[f32], stop: &Stop) -> Result<Option<Heard>, ProviderError> {
        self.heard.lock().unwrap().push(audio.len());
        match self.behaviour {
            Behaviour::Answer => Ok(Some(Heard {
                text: words(audio.len()),
                confidence: Some(0.9),
            })),
            Behaviour::Fail => Err(ProviderError::new(ErrorKind::Other, NAME, "on purpose")),
            Behaviour::Work => {
                while !stop.is_set() {
                    std::thread::yield_now();
                }
                Ok(None)
            }
        }
    }
}

fn one_thread() -> InferencePool {
    InferencePool::new(NonZeroUsize::new(1)).unwrap()
}

fn fake(behaviour: Behaviour) -> (Moonshine, Arc<Fake>) {
    let fake = Arc::new(Fake {
        behaviour,
        ..Fake::default()
    });
    let recogniser: Arc<dyn Recognise> = fake.clone();
    let pool = one_thread();
    (Moonshine(Engine { recogniser, pool }), fake)
}

fn tone(samples: usize) -> Vec<i16> {
    (0..samples)
        .map(|n| ((n as f32 * 0.2).sin() * 6_000.0) as i16)
        .collect()
}

fn utterance(samples: &[i16]) -> Utterance {
    Utterance::Pcm(PcmChunk::new(samples, RATE))
}

fn frames(samples: &[i16]) -> Vec<PcmChunk> {
    samples
        .chunks(FRAME)
        .map(|frame| PcmChunk::new(frame, RATE))
        .collect()
}

/// Frames that come no faster than they can be recognised: before each, the pool finishes what it has to do.
fn paced(samples: &[i16], pool: &InferencePool) -> BoxStream<'static, PcmChunk> {
    let pool = pool.clone();
    stream::iter(frames(samples))
        .then(move |frame| {
            let pool = pool.clone();
            async move {
                pool.run(Priority::Token, || ()).await.unwrap();
                frame
            }
        })
        .boxed()
}

async fn transcript(stt: &Moonshine, samples: &[i16]) -> SttResult {
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let result = stt.transcribe(utterance(samples), &config, &cx).await;
    result.unwrap()
}

async fn live(
    stt: &Moonshine,
    frames: BoxStream<'static, PcmChunk>,
) -> Vec<Result<SttResult, ProviderError>> {
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let results = stt.transcribe_stream(frames, &config, &cx).await.unwrap();
    results.collect().await
}

/// The interim texts of the first segment, and the final texts of all.
fn split(results: Vec<Result<SttResult, ProviderError>>) -> (Vec<String>, Vec<String>) {
    let results: Vec<SttResult> = results.into_iter().map(Result::unwrap).collect();
    let interim = results
        .iter()
        .take_while(|result| !result.is_final)
        .map(|result| result.text.clone());
    let last = results.iter().filter(|result| result.is_final);
    (
        interim.collect(),
        last.map(|result| result.text.clone()).collect(),
    )
}

#[tokio::test]
async fn interim_text_grows_and_the_final_text_is_the_whole() {
    let (stt, _) = fake(Behaviour::Answer);
    let audio = tone(5 * SECOND);
    let results = live(&stt, paced(&audio, &stt.0.pool)).await;
    let (interim, last) = split(results);
    assert!(!interim.is_empty());
    assert!(
        interim
            .windows(2)
            .all(|pair| pair[1].starts_with(&pair[0]) && pair[1].len() > pair[0].len()),
        "{interim:?}"
    );
    assert_eq!(last, [words(audio.len())]);
}

#[tokio::test]
async fn frames_that_come_all_at_once_need_no_more_than_their_final_text() {
    let (stt, _) = fake(Behaviour::Answer);
    let audio = tone(5 * SECOND);
    let (_, last) = split(live(&stt, stream::iter(frames(&audio)).boxed()).await);
    assert_eq!(last, [words(audio.len())]);
}

#[tokio::test]
async fn what_was_understood_before_the_end_is_not_recognised_again() {
    let (stt, fake) = fake(Behaviour::Answer);
    let mut audio = tone(2 * SECOND);
    audio.resize(4 * SECOND, 0);
    let (_, last) = split(live(&stt, paced(&audio, &stt.0.pool)).await);
    assert_eq!(last.len(), 1);
    let whole = fake.heard().into_iter().filter(|&n| n == audio.len());
    assert_eq!(whole.count(), 0);
}

#[tokio::test]
async fn silence_is_an_empty_transcript() {
    let (stt, fake) = fake(Behaviour::Answer);
    for silence in [vec![0; 20 * SECOND], vec![12_000; 3 * SECOND]] {
        let result = transcript(&stt, &silence).await;
        assert_eq!((result.text.as_str(), result.is_final), ("", true));
        let results = live(&stt, stream::iter(frames(&silence)).boxed()).await;
        assert_eq!(split(results), (vec![], vec![String::new()]));
    }
    assert!(live(&stt, stream::empty().boxed()).await.is_empty());
    assert!(fake.heard().is_empty());
}

#[tokio::test]
async fn ten_minutes_are_recognised_piece_by_piece() {
    let (stt, fake) = fake(Behaviour::Answer);
    let audio = tone(600 * SECOND);
    let result = transcript(&stt, &audio).await;
    assert!(!result.text.is_empty());
    let pieces = fake.heard();
    assert_eq!(pieces.iter().sum::<usize>(), audio.len());
    assert!(pieces.iter().all(|&n| n <= audio::LONGEST), "{pieces:?}");

    let (_, last) = split(live(&stt, stream::iter(frames(&audio)).boxed()).await);
    assert!(last.len() >= 50, "{}", last.len());
    assert!(fake.heard().iter().all(|&n| n <= audio::LONGEST));
}

#[tokio::test]
async fn half_an_hour_without_a_pause_is_refused_and_so_are_other_rates() {
    let (stt, _) = fake(Behaviour::Answer);
    let minute = PcmChunk::new(vec![0; 60 * SECOND], RATE);
    let results = live(&stt, stream::iter(vec![minute; 31]).boxed()).await;
    let error = results.last().unwrap().as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);

    let frame = PcmChunk::new(vec![0; 960], SampleRate::HZ_48000);
    let results = live(&stt, stream::iter([frame]).boxed()).await;
    let error = results[0].as_ref().unwrap_err();
    assert_eq!((error.kind(), results.len()), (ErrorKind::InvalidInput, 1));
}

#[tokio::test]
async fn a_failure_is_an_error_and_ends_the_stream() {
    let (stt, _) = fake(Behaviour::Fail);
    let audio = tone(2 * SECOND);
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let buffered = stt.transcribe(utterance(&audio), &config, &cx).await;
    assert_eq!(buffered.unwrap_err().kind(), ErrorKind::Other);
    let results = live(&stt, paced(&audio, &stt.0.pool)).await;
    assert_eq!(results.len(), 1);
    assert!(results[0].is_err());
}

#[tokio::test]
async fn dropping_the_transcript_stops_the_recognition() {
    let (stt, fake) = fake(Behaviour::Work);
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let audio = tone(2 * SECOND);
    {
        let mut call = stt.transcribe(utterance(&audio), &config, &cx);
        while fake.heard().is_empty() {
            assert!(poll!(&mut call).is_pending());
            tokio::task::yield_now().await;
        }
    }
    {
        let frames = stream::iter(frames(&audio)).chain(stream::pending());
        let results = stt.transcribe_stream(frames.boxed(), &config, &cx);
        let mut results = results.await.unwrap();
        while fake.heard().len() < 2 {
            assert!(poll!(results.next()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    // The thread is free again.
    stt.0.pool.run(Priority::Token, || ()).await.unwrap();
}

#[tokio::test]
async fn two_callers_on_one_thread_both_get_their_words() {
    let (stt, _) = fake(Behaviour::Answer);
    let lengths = [3 * SECOND, 4 * SECOND];
    let calls = lengths.map(|length| live(&stt, stream::iter(frames(&tone(length))).boxed()));
    for (results, length) in join_all(calls).await.into_iter().zip(lengths) {
        assert_eq!(split(results).1, [words(length)]);
    }
}

#[tokio::test]
async fn languages_other_than_english_are_refused() {
    let (stt, _) = fake(Behaviour::Answer);
    let cx = CallContext::detached();
    for (language, understood) in [("en", true), ("EN-gb", true), ("de", false), ("eng", false)] {
        let config = SttConfig {
            language: Some(language.to_owned()),
            ..SttConfig::default()
        };
        let result = stt.transcribe(utterance(&tone(SECOND)), &config, &cx).await;
        assert_eq!(result.is_ok(), understood, "{language}");
    }
}

/// The model with its weights, where this machine has them.
fn real(pool: InferencePool) -> Option<Moonshine> {
    let models = model_dir()?;
    let dir = models.join("moonshine-tiny-en");
    Some(Moonshine::load(&runtime(&models), &dir, pool).unwrap())
}

#[tokio::test]
async fn speech_is_understood() {
    let Some(stt) = real(one_thread()) else {
        return;
    };
    let result = transcript(&stt, &speech()).await;
    assert_eq!(key_words(&result.text), SPOKEN);
    assert!(result.confidence.unwrap() > 0.7, "{:?}", result.confidence);

    let file = EncodedAudio {
        data: Bytes::from(speech_file()),
        format: AudioFormat::Wav,
        rate: None,
    };
    let (config, cx) = (SttConfig::default(), CallContext::detached());
    let result = stt.transcribe(Utterance::Encoded(file), &config, &cx).await;
    assert_eq!(key_words(&result.unwrap().text), SPOKEN);
}

#[tokio::test]
async fn bad_audio_is_understood_too() {
    let Some(stt) = real(one_thread()) else {
        return;
    };
    let louder = |sample: &i16| (i32::from(*sample) * 8).clamp(-32_768, 32_767) as i16;
    let clipped: Vec<i16> = speech().iter().map(louder).collect();
    let shifted: Vec<i16> = speech().iter().map(|s| s.saturating_add(9_000)).collect();
    let faint: Vec<i16> = speech().iter().map(|s| s / 32).collect();
    for (what, audio) in [("clipped", clipped), ("shifted", shifted), ("faint", faint)] {
        let result = transcript(&stt, &audio).await;
        assert_eq!(key_words(&result.text), SPOKEN, "{what}");
    }
}

#[tokio::test]
async fn noise_and_silence_say_nothing() {
    let Some(stt) = real(one_thread()) else {
        return;
    };
    let mut state = 1u32;
    let mut noise = |amplitude: i32| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) as i32 - 32_768) * amplitude / 32_768
        };
        (0..3 * SECOND).map(|_| next() as i16).collect::<Vec<_>>()
    };
    for audio in [vec![0; 3 * SECOND], noise(30), noise(500)] {
        assert_eq!(transcript(&stt, &audio).await.text, "");
    }
}

#[tokio::test]
async fn speech_is_understood_while_it_is_spoken() {
    let Some(stt) = real(one_thread()) else {
        return;
    };
    let mut audio = speech();
    audio.resize(audio.len() + SECOND, 0);
    // Two callers, one thread.
    let calls = [0, 1].map(|_| live(&stt, paced(&audio, &stt.0.pool)));
    for results in join_all(calls).await {
        let (interim, last) = split(results);
        assert_eq!(key_words(&last.join(" ")), SPOKEN);
        // How many there are depends on how busy the machine is.
        for text in interim {
            assert!(SPOKEN.starts_with(&key_words(&text)), "{text}");
        }
    }
}

#[tokio::test]
async fn long_speech_is_understood_to_its_end() {
    let Some(stt) = real(one_thread()) else {
        return;
    };
    let mut audio = Vec::new();
    for _ in 0..8 {
        audio.extend(speech());
        audio.resize(audio.len() + SECOND / 2, 0);
    }
    let result = transcript(&stt, &audio).await;
    let times = key_words(&result.text).matches("worst of times").count();
    assert_eq!(times, 8, "{}", result.text);
}

#[test]
fn missing_and_damaged_files_are_named() {
    let Some(models) = model_dir() else { return };
    let load = |dir: &Path| Moonshine::load(&runtime(&models), dir, one_thread()).unwrap_err();
    let error = load(&models);
    assert!(
        matches!(error, RuntimeError::MissingModel { .. }),
        "{error:?}"
    );

    let dir = std::env::temp_dir().join(format!("moonshine-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (file, cut) in [
        ("tokenizer.bin", 0),
        ("tokenizer.bin", 1_000),
        ("encoder_model.ort", 1_000),
        ("decoder_model_merged.ort", 1_000),
    ] {
        for part in [
            "tokenizer.bin",
            "encoder_model.ort",
            "decoder_model_merged.ort",
        ] {
            let mut whole = std::fs::read(models.join("moonshine-tiny-en").join(part)).unwrap();
            if part == file {
                whole.truncate(cut);
            }
            std::fs::write(dir.join(part), whole).unwrap();
        }
        let error = load(&dir);
        let RuntimeError::Model { path, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(path.ends_with(file), "{error}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
