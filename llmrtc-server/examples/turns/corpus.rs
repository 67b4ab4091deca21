//! Calls that are made up: who says what, over which noise, and what should come of it.

use std::{collections::HashMap, ops::Range, time::Duration};

use anyhow::Context;

use crate::{
    noise,
    random::Random,
    texts,
    voice::{self, RATE, VOICES, Voice, samples},
};

/// Which half of texts and which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// For choosing rules and thresholds.
    Training,
    /// For the figures.
    Test,
}

impl Part {
    fn seed(self) -> u64 {
        match self {
            Self::Training => 0x7261_696e,
            Self::Test => 0x7465_7374,
        }
    }

    /// Every other text.
    fn of(self, texts: &'static [&'static str]) -> impl Iterator<Item = &'static str> + Clone {
        let first = usize::from(self == Self::Test);
        texts.iter().skip(first).step_by(2).copied()
    }
}

/// What is behind the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scene {
    Quiet,
    Room20,
    Room10,
    Babble20,
    Babble10,
}

impl Scene {
    pub(crate) const ALL: [Self; 5] = [
        Self::Quiet,
        Self::Room20,
        Self::Room10,
        Self::Babble20,
        Self::Babble10,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet room, 45 dB",
            Self::Room20 => "fan, 20 dB",
            Self::Room10 => "fan, 10 dB",
            Self::Babble20 => "babble, 20 dB",
            Self::Babble10 => "babble, 10 dB",
        }
    }
}

/// How a turn goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    Complete,
    Incomplete,
    Hesitant,
    Digits,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [
        Self::Complete,
        Self::Incomplete,
        Self::Hesitant,
        Self::Digits,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "without a pause",
            Self::Incomplete => "pause in mid-sentence",
            Self::Hesitant => "“um” with pauses",
            Self::Digits => "digits in groups",
        }
    }

    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Complete => texts::COMPLETE,
            Self::Incomplete => texts::INCOMPLETE,
            Self::Hesitant => texts::HESITANT,
            Self::Digits => texts::DIGITS,
        }
    }
}

/// One turn of a caller, with silence around it.
pub(crate) struct Turn {
    pub(crate) shape: Shape,
    pub(crate) scene: Scene,
    pub(crate) audio: Vec<i16>,
    /// Where the caller really is done.
    pub(crate) end: Duration,
    /// The pauses before.
    pub(crate) pauses: Vec<Duration>,
}

/// What happens while the assistant speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sound {
    /// A sentence that takes the floor.
    Interruption,
    /// A word that does.
    Command,
    Backchannel,
    Cough,
    Typing,
    Music,
    Babble,
}

impl Sound {
    pub(crate) const ALL: [Self; 7] = [
        Self::Interruption,
        Self::Command,
        Self::Backchannel,
        Self::Cough,
        Self::Typing,
        Self::Music,
        Self::Babble,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interruption => "interruption, a sentence",
            Self::Command => "interruption, one word",
            Self::Backchannel => "backchannel",
            Self::Cough => "coughs",
            Self::Typing => "typing",
            Self::Music => "music",
            Self::Babble => "voices in the background",
        }
    }

    /// Whether the assistant should stop.
    pub(crate) fn wants_floor(self) -> bool {
        matches!(self, Self::Interruption | Self::Command)
    }
}

/// Something heard over the assistant's speech, in a call in which the caller has spoken before.
pub(crate) struct Over {
    pub(crate) sound: Sound,
    /// How far below the caller's voice, or the background below it.
    pub(crate) snr_db: i32,
    pub(crate) audio: Vec<i16>,
    /// From when on the assistant speaks.
    pub(crate) assistant: Duration,
    pub(crate) at: Range<Duration>,
}

/// Speech that was synthesised already.
pub(crate) struct Studio(HashMap<(String, String), Vec<i16>>);

impl Studio {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    fn say(&mut self, voice: Voice, text: &str) -> anyhow::Result<Vec<i16>> {
        let key = (voice.name(), text.to_owned());
        if let Some(audio) = self.0.get(&key) {
            return Ok(audio.clone());
        }
        let audio = voice.say(text)?;
        self.0.insert(key, audio.clone());
        Ok(audio)
    }

    /// Sentences of several speakers, for the background.
    fn crowd(&mut self, part: Part) -> anyhow::Result<Vec<Vec<i16>>> {
        VOICES
            .iter()
            .zip(part.of(texts::INTERRUPTIONS).cycle())
            .map(|(voice, text)| self.say(*voice, text))
            .collect()
    }
}

/// Before the first word.
const LEAD: Duration = Duration::from_millis(1_000);
/// After the last.
const TAIL: Duration = Duration::from_millis(4_500);
/// A silence that the synthesiser made for a comma; the stops of "p", "t" and "k" are shorter.
const COMMA: Duration = Duration::from_millis(110);

/// All turns of a part: every text by every voice, the scenes by turns.
pub(crate) fn turns(part: Part, studio: &mut Studio) -> anyhow::Result<Vec<Turn>> {
    let crowd = studio.crowd(part)?;
    let mut random = Random::new(part.seed());
    let mut turns = Vec::new();
    for shape in Shape::ALL {
        for text in part.of(shape.texts()) {
            for voice in VOICES {
                let spoken = studio.say(voice, text)?;
                let (speech, pauses) = stretch(&mut random, &spoken, shape);
                if shape != Shape::Complete && pauses.is_empty() {
                    // This voice does not pause at this comma.
                    continue;
                }
                let scene = Scene::ALL[turns.len() % Scene::ALL.len()];
                let mut audio = vec![0; samples(LEAD)];
                audio.extend(speech);
                let end = RATE.duration_of(audio.len());
                audio.resize(audio.len() + samples(TAIL), 0);
                furnish(&mut audio, scene, &crowd, &mut random);
                turns.push(Turn {
                    shape,
                    scene,
                    audio,
                    end,
                    pauses,
                });
            }
        }
    }
    Ok(turns)
}

/// Makes the caller think at each comma: pauses around 450 ms, some up to 1.8 s, as in spontaneous speech.
fn stretch(random: &mut Random, spoken: &[i16], shape: Shape) -> (Vec<i16>, Vec<Duration>) {
    if shape == Shape::Complete {
        return (spoken.to_vec(), Vec::new());
    }
    let (mut audio, mut pauses, mut from) = (Vec::new(), Vec::new(), 0);
    for gap in voice::breaks(spoken) {
        if gap.len() < samples(COMMA) {
            continue;
        }
        let seconds = (0.45f32.ln() + 0.5 * random.normal())
            .exp()
            .clamp(0.25, 1.8);
        let pause = Duration::from_secs_f32(seconds);
        audio.extend(&spoken[from..gap.start]);
        audio.resize(audio.len() + samples(pause), 0);
        pauses.push(pause);
        from = gap.end;
    }
    audio.extend(&spoken[from..]);
    (audio, pauses)
}

fn furnish(audio: &mut [i16], scene: Scene, crowd: &[Vec<i16>], random: &mut Random) {
    let seconds = audio.len() as f32 / 16_000.0;
    let (sound, snr_db) = match scene {
        Scene::Quiet => (noise::room(random, 3.0), 45.0),
        Scene::Room20 => (noise::room(random, 3.0), 20.0),
        Scene::Room10 => (noise::room(random, 3.0), 10.0),
        Scene::Babble20 => (noise::babble(random, crowd, 5, seconds), 20.0),
        Scene::Babble10 => (noise::babble(random, crowd, 5, seconds), 10.0),
    };
    noise::mix(audio, &sound, snr_db);
}

/// What is longer is not what a listener says in passing; some voices drawl.
const LONGEST_BACKCHANNEL: Duration = Duration::from_millis(550);

/// Everything that is heard over the assistant's speech, of a part.
pub(crate) fn overs(part: Part, studio: &mut Studio) -> anyhow::Result<Vec<Over>> {
    let crowd = studio.crowd(part)?;
    let mut random = Random::new(part.seed() ^ 0x6f76_6572);
    let mut overs = Vec::new();
    for sound in Sound::ALL {
        let spoken: Vec<&str> = match sound {
            Sound::Interruption => part.of(texts::INTERRUPTIONS).collect(),
            Sound::Command => part.of(texts::COMMANDS).collect(),
            Sound::Backchannel => part.of(texts::BACKCHANNELS).collect(),
            _ => vec![""; 8],
        };
        let levels: &[i32] = match sound {
            Sound::Typing | Sound::Music | Sound::Babble => &[20, 15, 10, 5],
            _ => &[45, 20, 10],
        };
        for text in spoken {
            for voice in VOICES {
                for &snr_db in levels {
                    let heard = match sound {
                        Sound::Interruption | Sound::Command | Sound::Backchannel => {
                            studio.say(voice, text)?
                        }
                        Sound::Cough => noise::coughs(&mut random),
                        Sound::Typing => noise::typing(&mut random, 3.0),
                        Sound::Music => noise::music(&mut random, 3.0),
                        Sound::Babble => {
                            let speakers = 1 + random.below(4);
                            noise::babble(&mut random, &crowd, speakers, 3.0)
                        }
                    };
                    if sound == Sound::Backchannel
                        && RATE.duration_of(heard.len()) > LONGEST_BACKCHANNEL
                    {
                        continue;
                    }
                    let earlier =
                        studio.say(voice, part.of(texts::COMPLETE).next().context("no text")?)?;
                    overs.push(over(sound, snr_db, &earlier, &heard, &mut random));
                }
            }
        }
    }
    Ok(overs)
}

fn over(sound: Sound, snr_db: i32, earlier: &[i16], heard: &[i16], random: &mut Random) -> Over {
    let mut audio = vec![0; samples(LEAD)];
    audio.extend(earlier);
    audio.resize(audio.len() + samples(Duration::from_millis(1_700)), 0);
    let assistant = RATE.duration_of(audio.len());
    audio.resize(
        audio.len() + samples(Duration::from_secs_f32(random.between(1.0, 2.0))),
        0,
    );
    let begun = audio.len();
    audio.resize(
        begun + heard.len() + samples(Duration::from_millis(2_500)),
        0,
    );
    let room = noise::room(random, 3.0);
    let lasting = matches!(sound, Sound::Typing | Sound::Music | Sound::Babble);
    if lasting {
        noise::mix(&mut audio, &room, 45.0);
        // Half of it was there before, half begins now.
        let from = if random.below(2) == 0 { 0 } else { begun };
        noise::mix(&mut audio[from..begun + heard.len()], heard, snr_db as f32);
    } else {
        noise::mix(&mut audio, &room, snr_db as f32);
        // Callers raise their voice to interrupt, listeners lower it, coughs are what they are.
        let below = match sound {
            Sound::Backchannel => random.between(0.0, 6.0),
            Sound::Cough => random.between(-6.0, 6.0),
            _ => random.between(-2.0, 3.0),
        };
        noise::mix(&mut audio[begun..begun + heard.len()], heard, below);
    }
    let at = RATE.duration_of(begun)..RATE.duration_of(begun + heard.len());
    Over {
        sound,
        snr_db,
        audio,
        assistant,
        at,
    }
}
