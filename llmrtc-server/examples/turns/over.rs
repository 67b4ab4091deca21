//! Does it take the floor?

use std::{collections::BTreeSet, time::Duration};

use llmrtc_core::speech::SpeechEvent;
use llmrtc_media::config::MediaConfig;
use serde_json::{Value, json};

use crate::{
    corpus::{Over, Sound},
    listener::{Minds, listen},
    table::{Share, align, millis, quantile},
    turn::spread,
};

/// Within this time of its first sound an interruption must have been understood.
const IN_TIME: Duration = Duration::from_millis(500);

/// What a sound did to the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    sound: Sound,
    snr_db: i32,
    /// From its beginning to the end of the answer; `None`: the answer went on.
    yielded: Option<Duration>,
    /// From its beginning to the moment from which the answer was held.
    held: Option<Duration>,
    /// How long the answer stood still before it went on, in all.
    pause: Duration,
}

/// A rule and what it made of all sounds.
pub(crate) struct Score {
    name: &'static str,
    effects: Vec<Effect>,
}

fn run(over: &Over, config: &MediaConfig, minds: &Minds) -> Effect {
    let events = listen(&over.audio, Some(over.assistant), config, minds);
    let mut effect = Effect {
        sound: over.sound,
        snr_db: over.snr_db,
        yielded: None,
        held: None,
        pause: Duration::ZERO,
    };
    let mut since = None;
    for (at, event) in events.iter().filter(|(at, _)| *at >= over.assistant) {
        let after = at.saturating_sub(over.at.start);
        match event {
            SpeechEvent::Onset { .. } => {
                since = Some(*at);
                effect.held.get_or_insert(after);
            }
            SpeechEvent::Misfire => {
                effect.pause += since.take().map_or(Duration::ZERO, |since| *at - since);
            }
            SpeechEvent::Confirmed => {
                effect.yielded = Some(after);
                break;
            }
            _ => {}
        }
    }
    effect
}

/// The rule of one step: every confirmed voice ends the answer, however short, soft or far.
fn one_step() -> MediaConfig {
    let mut config = MediaConfig::default();
    config.vad.backchannel = Duration::ZERO;
    config.vad.interrupt_above_room_db = 0.0;
    config.vad.interrupt_below_voice_db = 60.0;
    config
}

/// The rules beside each other.
pub(crate) fn score(overs: &[Over], minds: &Minds) -> Vec<Score> {
    let deaf = Minds {
        turn: minds.turn.clone(),
        floor: None,
    };
    let mut rules = vec![
        ("any voice", one_step(), &deaf),
        ("two steps", MediaConfig::default(), &deaf),
    ];
    if minds.floor.is_some() {
        rules.push(("two steps, words", MediaConfig::default(), minds));
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
    Share::of(effects.map(|effect| match effect.yielded {
        Some(after) => effect.sound.wants_floor() && after <= IN_TIME,
        None => !effect.sound.wants_floor(),
    }))
}

pub(crate) fn report(scores: &[Score]) -> String {
    let head = [
        "Rule",
        "Sound",
        "n",
        "Rightly yielded or ignored",
        "Held after p50",
        "Yielded after p50",
        "p95",
        "Answer paused p50",
        "p95",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for Score { name, effects } in scores {
        for sound in Sound::ALL {
            let of_sound = || effects.iter().filter(move |effect| effect.sound == sound);
            let yields: Vec<_> = of_sound().filter_map(|effect| effect.yielded).collect();
            let holds: Vec<_> = of_sound().filter_map(|effect| effect.held).collect();
            let ignored = of_sound().filter(|effect| effect.yielded.is_none());
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
                (*name).to_owned(),
                sound.name().to_owned(),
                share.of.to_string(),
                share.percent(),
                only(true, millis(quantile(&holds, 0.5))),
                only(true, millis(quantile(&yields, 0.5))),
                only(true, millis(quantile(&yields, 0.95))),
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
                        "yielded_ms": effect.yielded.map(|after| after.as_millis()),
                        "held_ms": effect.held.map(|after| after.as_millis()),
                        "paused_ms": effect.pause.as_millis(),
                    })
                })
                .collect();
            rule.insert(sound.name().to_owned(), rows.into());
        }
        all.insert((*name).to_owned(), rule.into());
    }
    all.into()
}

/// Lengths and loudness against each other.
pub(crate) fn sweep(overs: &[Over], minds: &Minds) -> String {
    let ms = Duration::from_millis;
    let mut head = ["Rule", "Sentences", "Interruptions", "Others", "Kinds"]
        .map(str::to_owned)
        .to_vec();
    head.extend(Sound::ALL.iter().map(|sound| sound.name().to_owned()));
    head.extend(["p50", "p95", "paused p50"].map(str::to_owned));
    let mut rows = vec![head];
    let mut add =
        |name: String, config: &MediaConfig, minds: &Minds| {
            let effects = spread(overs, |over| run(over, config, minds));
            let mut row = total(&name, &effects);
            row.extend(Sound::ALL.iter().map(|sound| {
                right(effects.iter().filter(|effect| effect.sound == *sound)).percent()
            }));
            let sentences = effects
                .iter()
                .filter(|effect| effect.sound == Sound::Interruption);
            let yields: Vec<_> = sentences.filter_map(|effect| effect.yielded).collect();
            row.extend([0.5, 0.95].map(|share| millis(quantile(&yields, share))));
            let listened = effects
                .iter()
                .filter(|effect| effect.sound == Sound::Backchannel);
            let pauses: Vec<_> = listened.map(|effect| effect.pause).collect();
            row.push(millis(quantile(&pauses, 0.5)));
            rows.push(row);
        };
    let deaf = Minds {
        floor: None,
        ..minds.clone()
    };
    add("any voice".to_owned(), &one_step(), &deaf);
    for backchannel in [240, 304, 336, 368, 400, 432, 480] {
        for silence in [160, 208, 304] {
            let mut config = MediaConfig::default();
            config.vad.backchannel = ms(backchannel);
            config.vad.backchannel_silence = ms(silence);
            add(format!("{backchannel}/{silence}"), &config, &deaf);
            if minds.floor.is_some() {
                add(format!("{backchannel}/{silence}, words"), &config, minds);
            }
        }
    }
    for (room, voice) in [
        (0.0, 60.0),
        (3.0, 20.0),
        (6.0, 20.0),
        (6.0, 12.0),
        (8.0, 15.0),
        (10.0, 12.0),
    ] {
        let mut config = MediaConfig::default();
        config.vad.interrupt_above_room_db = room;
        config.vad.interrupt_below_voice_db = voice;
        add(format!("room {room} dB, voice {voice} dB"), &config, &deaf);
    }
    align(&rows)
}
