//! When is the caller done?

use std::time::Duration;

use llmrtc_core::speech::SpeechEvent;
use llmrtc_media::config::{EndpointConfig, MediaConfig, PolicyKind};
use serde_json::{Value, json};

use crate::{
    corpus::{Scene, Shape, Turn},
    listener::{Minds, listen},
    table::{Share, align, millis, quantile},
};

/// What became of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    shape: Shape,
    scene: Scene,
    /// It was ended before the caller was done.
    cut: bool,
    /// Pauses of the turn, and how many of them ended it.
    pauses: usize,
    cuts: usize,
    /// From the last sound to the decision; `None` where there was none in four seconds.
    delay: Option<Duration>,
}

/// A policy and what it made of all turns.
pub(crate) struct Score {
    name: String,
    endings: Vec<Ending>,
}

fn run(turn: &Turn, config: &MediaConfig, minds: &Minds) -> Ending {
    let events = listen(&turn.audio, None, config, minds);
    let ended = |event: &SpeechEvent| matches!(event, SpeechEvent::Ended { .. });
    let ends = events.iter().filter(|(_, event)| ended(event));
    let (early, late): (Vec<_>, Vec<_>) = ends.map(|(at, _)| *at).partition(|at| *at < turn.end);
    Ending {
        shape: turn.shape,
        scene: turn.scene,
        cut: !early.is_empty(),
        pauses: turn.pauses.len(),
        cuts: early.len().min(turn.pauses.len()),
        delay: late.first().map(|at| *at - turn.end),
    }
}

/// On all cores: each turn stands alone.
pub(crate) fn spread<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(run).collect::<Vec<R>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("scoring does not panic"))
            .collect()
    })
}

fn fixed(silence: Duration) -> MediaConfig {
    MediaConfig {
        endpoint: EndpointConfig {
            policy: PolicyKind::Silence,
            silence,
            extended_silence: silence,
            ..EndpointConfig::default()
        },
        ..MediaConfig::default()
    }
}

/// The policies beside each other.
pub(crate) fn score(turns: &[Turn], minds: &Minds) -> Vec<Score> {
    let silence = EndpointConfig::default().silence;
    let mut policies = vec![
        (
            "fixed 1.6 s".to_owned(),
            fixed(Duration::from_millis(1_600)),
        ),
        (
            format!("silence, {} ms", silence.as_millis()),
            fixed(silence),
        ),
    ];
    if minds.turn.is_some() {
        policies.push(("semantic".to_owned(), MediaConfig::default()));
    }
    policies
        .into_iter()
        .map(|(name, config)| Score {
            name,
            endings: spread(turns, |turn| run(turn, &config, minds)),
        })
        .collect()
}

struct Figures {
    cut: Share,
    delays: Vec<Duration>,
    never: usize,
}

fn figures<'a>(endings: impl Iterator<Item = &'a Ending> + Clone) -> Figures {
    Figures {
        cut: Share::of(endings.clone().map(|ending| ending.cut)),
        delays: endings.clone().filter_map(|ending| ending.delay).collect(),
        never: endings.filter(|ending| ending.delay.is_none()).count(),
    }
}

pub(crate) fn report(turns: &[Turn], scores: &[Score]) -> String {
    let mut head = vec!["Policy".to_owned(), "Turns cut off".to_owned()];
    head.extend(Shape::ALL.iter().map(|shape| shape.name().to_owned()));
    head.extend(["Delay p50", "p90", "No end"].map(str::to_owned));
    let mut rows = vec![head];
    for Score { name, endings } in scores {
        let all = figures(endings.iter());
        let mut row = vec![name.clone(), all.cut.percent()];
        row.extend(Shape::ALL.iter().map(|shape| {
            let of_shape = endings.iter().filter(|ending| ending.shape == *shape);
            figures(of_shape).cut.percent()
        }));
        row.push(millis(quantile(&all.delays, 0.5)));
        row.push(millis(quantile(&all.delays, 0.9)));
        row.push(all.never.to_string());
        rows.push(row);
    }
    let mut scenes = vec![vec!["Background".to_owned(), "Turns".to_owned()]];
    for Score { name, .. } in scores {
        scenes[0].extend([format!("{name}: cut off"), "p50".to_owned()]);
    }
    for scene in Scene::ALL {
        let count = turns.iter().filter(|turn| turn.scene == scene).count();
        let mut row = vec![scene.name().to_owned(), count.to_string()];
        for Score { endings, .. } in scores {
            let here = figures(endings.iter().filter(|ending| ending.scene == scene));
            row.push(here.cut.percent());
            row.push(millis(quantile(&here.delays, 0.5)));
        }
        scenes.push(row);
    }
    let pauses: Vec<Duration> = turns.iter().flat_map(|turn| turn.pauses.clone()).collect();
    format!(
        "{} turns, {} pauses within them (p50 {}, p90 {}).\n\n{}\n\n{}",
        turns.len(),
        pauses.len(),
        millis(quantile(&pauses, 0.5)),
        millis(quantile(&pauses, 0.9)),
        align(&rows),
        align(&scenes),
    )
}

pub(crate) fn json(scores: &[Score]) -> Value {
    let mut all = serde_json::Map::new();
    for Score { name, endings } in scores {
        let mut policy = serde_json::Map::new();
        for shape in Shape::ALL {
            for scene in Scene::ALL {
                let here = endings
                    .iter()
                    .filter(|ending| ending.shape == shape && ending.scene == scene);
                let sum = |count: fn(&Ending) -> usize| here.clone().map(count).sum::<usize>();
                let (pauses, cuts) = (sum(|ending| ending.pauses), sum(|ending| ending.cuts));
                let figures = figures(here.clone());
                let figures = json!({
                    "turns": figures.cut.of,
                    "cut_off": figures.cut.part,
                    "pauses": pauses,
                    "pauses_that_ended_a_turn": cuts,
                    "without_end": figures.never,
                    "delays_ms": figures.delays.iter().map(Duration::as_millis).collect::<Vec<_>>(),
                });
                policy.insert(format!("{}, {}", shape.name(), scene.name()), figures);
            }
        }
        all.insert(name.clone(), policy.into());
    }
    all.into()
}

/// Thresholds and times against each other.
pub(crate) fn sweep(turns: &[Turn], minds: &Minds) -> String {
    let ms = Duration::from_millis;
    let mut rows = vec![
        [
            "Policy",
            "cut off",
            "complete",
            "incomplete",
            "hesitant",
            "digits",
            "p50",
            "p90",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut add = |name: String, config: &MediaConfig| {
        let endings = spread(turns, |turn| run(turn, config, minds));
        let all = figures(endings.iter());
        let mut row = vec![name, all.cut.percent()];
        row.extend(Shape::ALL.iter().map(|shape| {
            figures(endings.iter().filter(|ending| ending.shape == *shape))
                .cut
                .percent()
        }));
        row.push(millis(quantile(&all.delays, 0.5)));
        row.push(millis(quantile(&all.delays, 0.9)));
        rows.push(row);
    };
    for silence in [300, 400, 500, 600, 800, 1_000, 1_200, 1_600] {
        add(format!("silence {silence}"), &fixed(ms(silence)));
    }
    if minds.turn.is_some() {
        for after in [96, 144, 192, 256] {
            for threshold in [0.3, 0.5, 0.7, 0.8, 0.9, 0.95] {
                let mut config = MediaConfig::default();
                config.endpoint.semantic.judge_after = ms(after);
                config.endpoint.semantic.threshold = threshold;
                add(format!("semantic {after} ms ≥ {threshold}"), &config);
            }
        }
        for hold in [1_000, 1_500, 2_000, 3_000] {
            let mut config = MediaConfig::default();
            config.endpoint.semantic.hold = ms(hold);
            add(format!("semantic, hold {hold}"), &config);
        }
    }
    align(&rows)
}
