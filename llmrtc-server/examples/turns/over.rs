//! Does it take the floor?

use std::{collections::BTreeSet, time::Duration};

use llmrtc_core::speech::SpeechEvent;
use llmrtc_media::config::{DetectorKind, MediaConfig};
use serde_json::{Value, json};

use crate::{
    corpus::{Over, Sound},
    listener::{Minds, listen},
    table::{Share, align, millis, quantile},
    turn::spread,
};

/// Within this time of its first sound an interruption must have silenced the answer for good.
const IN_TIME: Duration = Duration::from_millis(500);

/// What a sound did to the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    sound: Sound,
    snr_db: i32,
    /// The end of the answer; `None`: it went on.
    end: Option<End>,
    /// How long the answer stood still before it went on, in all.
    pause: Duration,
}

/// How an answer ended, from the first sound of what ended it.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Until the answer was silent for good: it was held, and did not go on before the decision.
    silent: Duration,
    /// Until the decision.
    decided: Duration,
    /// It had ended before that sound began.
    premature: bool,
}

/// A rule and what it made of all sounds.
pub(crate) struct Score {
    name: String,
    effects: Vec<Effect>,
}

fn run(over: &Over, config: &MediaConfig, minds: &Minds) -> Effect {
    let events = listen(&over.audio, Some(over.assistant), config, minds);
    let mut effect = Effect {
        sound: over.sound,
        snr_db: over.snr_db,
        end: None,
        pause: Duration::ZERO,
    };
    let mut held = None;
    for (at, event) in events.iter().filter(|(at, _)| *at >= over.assistant) {
        match event {
            SpeechEvent::Onset { .. } => held = Some(*at),
            SpeechEvent::Misfire => {
                effect.pause += held.take().map_or(Duration::ZERO, |since| *at - since);
            }
            SpeechEvent::Confirmed => {
                effect.end = Some(End {
                    silent: held.unwrap_or(*at).saturating_sub(over.at.start),
                    decided: at.saturating_sub(over.at.start),
                    premature: *at < over.at.start,
                });
                break;
            }
            _ => {}
        }
    }
    effect
}

/// The reference's rule: one frame that the detector takes for voice.
fn one_frame() -> MediaConfig {
    let mut config = one_step();
    config.vad.interrupt = Duration::from_millis(16);
    config.vad.interrupt_threshold = config.vad.threshold;
    config
}

/// The rule of one step: every confirmed voice ends the answer, however short, soft or far.
fn one_step() -> MediaConfig {
    let mut config = MediaConfig::default();
    config.vad.backchannel = Duration::ZERO;
    config.vad.interrupt_above_room_db = 0.0;
    config.vad.interrupt_below_voice_db = 60.0;
    config
}

/// The rules beside each other, and configurations of one's own.
pub(crate) fn score(overs: &[Over], minds: &Minds, own: &[(String, MediaConfig)]) -> Vec<Score> {
    // Live transcription is not in it: the judge of words is asked sooner.
    let minds = &Minds {
        text: None,
        ..minds.clone()
    };
    let deaf = Minds {
        floor: None,
        ..minds.clone()
    };
    let mut rules = vec![
        ("one frame".to_owned(), one_frame(), &deaf),
        ("any voice".to_owned(), one_step(), &deaf),
        ("two steps".to_owned(), MediaConfig::default(), &deaf),
    ];
    if minds.floor.is_some() {
        rules.push(("two steps, words".to_owned(), MediaConfig::default(), minds));
    }
    if minds.silero.is_some() {
        let mut config = MediaConfig::default();
        config.vad.detector = DetectorKind::Silero;
        rules.push(("two steps, Silero".to_owned(), config, &deaf));
    }
    for (name, config) in own {
        rules.push((name.clone(), config.clone(), &deaf));
        if minds.floor.is_some() {
            rules.push((format!("{name}, words"), config.clone(), minds));
        }
    }
    rules
        .into_iter()
        .map(|(name, config, minds)| Score {
            name,
            effects: spread(overs, |over| run(over, &config, minds)),
        })
        .collect()
}

/// Sounds that were treated as they should be.
fn right<'a>(effects: impl Iterator<Item = &'a Effect>) -> Share {
    Share::of(effects.map(|effect| match effect.end {
        Some(end) => effect.sound.wants_floor() && end.silent <= IN_TIME && !end.premature,
        None => !effect.sound.wants_floor(),
    }))
}

pub(crate) fn report(scores: &[Score], minds: &Minds) -> String {
    let head = [
        "Rule",
        "Sound",
        "n",
        "Rightly yielded or ignored",
        "Silent after p50",
        "p95",
        "Decided after p50",
        "p95",
        "Answer paused p50",
        "p95",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for Score { name, effects } in scores {
        for sound in Sound::ALL {
            let of_sound = || effects.iter().filter(move |effect| effect.sound == sound);
            let ends = || of_sound().filter_map(|effect| effect.end);
            let silent: Vec<_> = ends().map(|end| end.silent).collect();
            let decided: Vec<_> = ends().map(|end| end.decided).collect();
            let ignored = of_sound().filter(|effect| effect.end.is_none());
            let pauses: Vec<_> = ignored.map(|effect| effect.pause).collect();
            let share = right(of_sound());
            let only = |wanted: bool, value: String| {
                if sound.wants_floor() == wanted {
                    value
                } else {
                    "–".to_owned()
                }
            };
            rows.push(vec![
                name.clone(),
                sound.name().to_owned(),
                share.of.to_string(),
                share.percent(),
                only(true, millis(quantile(&silent, 0.5))),
                only(true, millis(quantile(&silent, 0.95))),
                only(true, millis(quantile(&decided, 0.5))),
                only(true, millis(quantile(&decided, 0.95))),
                only(false, millis(quantile(&pauses, 0.5))),
                only(false, millis(quantile(&pauses, 0.95))),
            ]);
        }
    }
    let mut totals = vec![
        [
            "Rule",
            "Sentences yielded to",
            "All interruptions",
            "All others ignored",
            "Kinds ignored, mean",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for Score { name, effects } in scores {
        totals.push(total(name, effects));
    }
    if minds.floor.is_none() {
        let mut row = vec!["–".to_owned(); totals[0].len()];
        (row[0], row[1]) = ("two steps, words".to_owned(), "not available".to_owned());
        totals.push(row);
    }
    let mut levels = vec![vec![
        "Sound".to_owned(),
        "Below the voice".to_owned(),
        "n".to_owned(),
    ]];
    levels[0].extend(scores.iter().map(|score| score.name.to_owned()));
    for sound in Sound::ALL {
        let all = scores.iter().flat_map(|score| &score.effects);
        let of_sound = all.filter(|effect| effect.sound == sound);
        let snrs: BTreeSet<i32> = of_sound.map(|effect| -effect.snr_db).collect();
        for snr in snrs {
            let here = |score: &Score| {
                let effects = score.effects.iter();
                right(effects.filter(|effect| effect.sound == sound && effect.snr_db == -snr))
            };
            let mut row = vec![sound.name().to_owned(), format!("{} dB", -snr)];
            row.push(scores.first().map_or(0, |score| here(score).of).to_string());
            row.extend(scores.iter().map(|score| here(score).percent()));
            levels.push(row);
        }
    }
    format!(
        "{}\n\n{}\n\n{}",
        align(&totals),
        align(&rows),
        align(&levels)
    )
}

/// Sentences, all interruptions, and everything else; the last also with every kind counting the same.
fn total(name: &str, effects: &[Effect]) -> Vec<String> {
    let of = |wanted: &dyn Fn(Sound) -> bool| {
        right(effects.iter().filter(|effect| wanted(effect.sound)))
    };
    let others: Vec<Sound> = Sound::ALL
        .into_iter()
        .filter(|sound| !sound.wants_floor())
        .collect();
    let kinds = others
        .iter()
        .map(|kind| of(&|sound| sound == *kind).ratio());
    let mean = kinds.sum::<f64>() / others.len() as f64;
    vec![
        name.to_owned(),
        of(&|sound| sound == Sound::Interruption).percent(),
        of(&Sound::wants_floor).percent(),
        of(&|sound| !sound.wants_floor()).percent(),
        format!("{:.1} %", 100.0 * mean),
    ]
}

pub(crate) fn json(scores: &[Score]) -> Value {
    let mut all = serde_json::Map::new();
    for Score { name, effects } in scores {
        let mut rule = serde_json::Map::new();
        for sound in Sound::ALL {
            let of_sound = effects.iter().filter(|effect| effect.sound == sound);
            let rows: Vec<Value> = of_sound
                .map(|effect| {
                    json!({
                        "snr_db": effect.snr_db,
                        "silent_ms": effect.end.map(|end| end.silent.as_millis()),
                        "decided_ms": effect.end.map(|end| end.decided.as_millis()),
                        "paused_ms": effect.pause.as_millis(),
                    })
                })
                .collect();
            rule.insert(sound.name().to_owned(), rows.into());
        }
        all.insert(name.clone(), rule.into());
    }
    all.into()
}
