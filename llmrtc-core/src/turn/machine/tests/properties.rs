//! Whatever happens in whatever order: what the machine says is well-formed, and it always comes to rest.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};

use super::*;

/// Something that may happen, if it can happen now.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// Time passes until the machine wants to be told.
    Tick,
    Speech(u8),
    Stt(Index, Option<&'static str>),
    Interim(Index),
    Words(&'static str),
    Call {
        id: u8,
        malformed: bool,
    },
    End(StopReason),
    LlmFails(ErrorKind),
    ToolStarts(Index),
    ToolEnds(Index, bool),
    Audio(u64),
    SegmentDone(bool),
    Play(u8),
    Drained,
    OutputClosed,
    Crash,
    Text(&'static str, bool),
    Upload,
    Images,
    Interrupt,
    SourceLost,
    /// News of a turn that is over.
    Stale(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let words = prop::sample::select(vec![
        "Yes. ",
        "A whole sentence is here. ",
        "half a ",
        "你好。",
        "é",
        "🎉",
        "\n",
        "3.",
        "```",
    ]);
    let heard = prop::sample::select(vec![Some("words"), Some(" "), Some("更多"), None]);
    let typed = prop::sample::select(vec!["typed", " "]);
    let reason = prop::sample::select(vec![
        StopReason::EndTurn,
        StopReason::EndTurn,
        StopReason::ToolUse,
        StopReason::MaxTokens,
        StopReason::Refusal,
        StopReason::ContentFilter,
        StopReason::PauseTurn,
        StopReason::ContextOverflow,
    ]);
    let kind = prop::sample::select(vec![ErrorKind::Unavailable, ErrorKind::ContextOverflow]);
    prop_oneof![
        2 => (0..2_000_u64).prop_map(Step::Wait),
        2 => Just(Step::Tick),
        3 => any::<u8>().prop_map(Step::Speech),
        4 => (any::<Index>(), heard).prop_map(|(job, text)| Step::Stt(job, text)),
        1 => any::<Index>().prop_map(Step::Interim),
        10 => words.prop_map(Step::Words),
        4 => (0..6_u8, prop::bool::weighted(0.2)).prop_map(|(id, malformed)| Step::Call { id, malformed }),
        4 => reason.prop_map(Step::End),
        1 => kind.prop_map(Step::LlmFails),
        5 => any::<Index>().prop_map(Step::ToolStarts),
        5 => (any::<Index>(), any::<bool>()).prop_map(|(tool, ok)| Step::ToolEnds(tool, ok)),
        4 => (1..3_000_u64).prop_map(Step::Audio),
        4 => prop::bool::weighted(0.8).prop_map(Step::SegmentDone),
        2 => any::<u8>().prop_map(Step::Play),
        2 => Just(Step::Drained),
        1 => Just(Step::OutputClosed),
        1 => Just(Step::Crash),
        2 => (typed, any::<bool>()).prop_map(|(text, queue)| Step::Text(text, queue)),
        1 => Just(Step::Upload),
        1 => Just(Step::Images),
        1 => Just(Step::Interrupt),
        1 => Just(Step::SourceLost),
        1 => any::<u8>().prop_map(Step::Stale),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Voice {
    Quiet,
    Onset,
    Speaking { paused: bool },
}

/// What is known of a turn from what was said of it.
#[derive(Debug, Default)]
struct Told {
    ended: bool,
    asked: bool,
    answered: bool,
    text_done: bool,
    /// Opened and closed.
    speech: (u32, u32),
    audio: bool,
    tools: BTreeMap<String, (u32, u32)>,
    output: bool,
    held: bool,
    segments: u32,
}

/// Plays caller, vendors and output, and checks every action.
struct World {
    bench: Bench,
    lookahead: u32,
    turns: BTreeMap<TurnId, Told>,
    voice: Voice,
    speaking: bool,
    jobs: Vec<SttJob>,
    stale_jobs: Vec<SttJob>,
    asked: Option<TurnId>,
    tools: Vec<(TurnId, ToolCall, bool)>,
    segments: Vec<(TurnId, SegmentIndex)>,
    finished: Option<TurnId>,
}

impl World {
    fn new(config: TurnConfig) -> Self {
        Self {
            lookahead: config.tts_lookahead as u32,
            bench: Bench::with(config),
            turns: BTreeMap::new(),
            voice: Voice::Quiet,
            speaking: false,
            jobs: Vec::new(),
            stale_jobs: Vec::new(),
            asked: None,
            tools: Vec::new(),
            segments: Vec::new(),
            finished: None,
        }
    }

    fn give(&mut self, input: Input) {
        for action in self.bench.give(input) {
            self.check(action);
        }
        let open: Vec<_> = self
            .turns
            .iter()
            .filter(|(_, told)| told.asked && !told.ended)
            .collect();
        assert!(open.len() <= 1, "one answer at a time: {open:?}");
        assert!(self.jobs.len() <= 4, "{:?}", self.jobs);
        let deadline = self.bench.machine.deadline();
        assert!(deadline.is_none() || self.bench.machine.active.is_some());
    }

    /// A turn that something is said about, which must be open.
    #[track_caller]
    fn open(&mut self, turn: TurnId) -> &mut Told {
        let told = self.turns.get_mut(&turn).expect("the turn was announced");
        assert!(!told.ended, "turn {turn} is over");
        told
    }

    fn check(&mut self, action: Action) {
        match action {
            Action::Emit(event) => self.check_event(event),
            Action::Transcribe { job, turn, .. } => {
                self.open(turn);
                self.jobs.push(job);
            }
            // Begins before its turn does.
            Action::OpenLive { job, .. } => self.jobs.push(job),
            Action::FinishLive { job } => assert!(self.jobs.contains(&job)),
            Action::DropTranscription { job } => {
                self.jobs.retain(|running| *running != job);
                self.stale_jobs.push(job);
            }
            Action::Ask { turn, request } => {
                self.open(turn).asked = true;
                assert_eq!(self.asked.replace(turn), None, "one request at a time");
                check_request(&request.messages);
            }
            Action::RunTools { turn, calls } => {
                self.open(turn);
                assert!(calls.iter().all(|call| call.parse_error.is_none()));
                self.tools
                    .extend(calls.into_iter().map(|call| (turn, call, false)));
            }
            Action::OpenOutput { turn } => {
                assert!(!std::mem::replace(&mut self.open(turn).output, true));
                self.bench.played = Some(Played::default());
            }
            Action::Synthesise { turn, index, text } => {
                let told = self.open(turn);
                assert!(told.output && told.segments == index);
                told.segments += 1;
                assert!(text.chars().any(char::is_alphanumeric), "{text:?}");
                self.segments.push((turn, index));
                assert!(self.segments.len() as u32 <= self.lookahead);
            }
            Action::FinishOutput { turn } => {
                assert!(self.open(turn).audio && self.segments.is_empty());
                assert_eq!(self.finished.replace(turn), None);
            }
            Action::Hold { turn } => {
                let told = self.open(turn);
                assert!(told.output && !std::mem::replace(&mut told.held, true));
            }
            Action::Release { turn } => {
                let told = self.open(turn);
                assert!(told.output && std::mem::replace(&mut told.held, false));
            }
            Action::Abandon { turn } => {
                self.asked.take_if(|asked| *asked == turn);
                self.finished.take_if(|finished| *finished == turn);
                self.tools.retain(|(owner, ..)| *owner != turn);
                self.segments.retain(|(owner, _)| *owner != turn);
                self.bench.played = None;
            }
        }
    }

    fn check_event(&mut self, event: TurnEvent) {
        match event {
            TurnEvent::UserSpeechStarted => assert!(!std::mem::replace(&mut self.speaking, true)),
            TurnEvent::UserSpeechEnded => assert!(std::mem::replace(&mut self.speaking, false)),
            TurnEvent::TurnStarted { turn } => {
                let last = self.turns.keys().next_back();
                assert!(
                    last.is_none_or(|last| *last < turn),
                    "later turns have larger ids"
                );
                self.turns.insert(turn, Told::default());
            }
            TurnEvent::Transcript { turn, .. } => {
                assert!(!self.open(turn).answered, "O1");
            }
            TurnEvent::LlmDelta { turn, .. } => {
                let told = self.open(turn);
                assert!(told.asked && !told.text_done);
                told.answered = true;
            }
            TurnEvent::LlmDone { turn, .. } => {
                assert!(!std::mem::replace(&mut self.open(turn).text_done, true));
            }
            TurnEvent::SpeechStarted { turn } => {
                let told = self.open(turn);
                told.speech.0 += 1;
                assert_eq!(told.speech, (1, 0), "O2");
            }
            TurnEvent::SpeechEnded { turn } | TurnEvent::SpeechCancelled { turn, .. } => {
                let told = self.open(turn);
                told.speech.1 += 1;
                assert_eq!(told.speech, (1, 1), "O3");
            }
            TurnEvent::ToolStarted { turn, call } => {
                let pair = self.open(turn).tools.entry(call.call_id.to_string());
                let (started, ended) = pair.or_default();
                *started += 1;
                assert_eq!(*started, *ended + 1, "O5");
            }
            TurnEvent::ToolEnded { turn, call, .. } => {
                let pair = self.open(turn).tools.entry(call.call_id.to_string());
                let (started, ended) = pair.or_default();
                *ended += 1;
                assert_eq!(started, ended, "O5");
            }
            TurnEvent::StageChanged { .. } => {}
            TurnEvent::TurnEnded { turn, timing, .. } => {
                let now = self.bench.now;
                let told = self.open(turn);
                assert_eq!(told.speech.0, told.speech.1, "O3");
                assert_eq!(told.audio, told.speech.0 == 1, "O2");
                assert!(
                    told.tools.values().all(|(started, ended)| started == ended),
                    "O5"
                );
                assert_eq!(timing.ended, Some(now));
                told.ended = true;
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Wait(ms) => self.bench.wait(Duration::from_millis(ms)),
            Step::Tick => self.tick(),
            Step::Speech(choice) => self.speech(choice),
            Step::Stt(pick, text) => {
                let known: Vec<_> = self.jobs.iter().chain(&self.stale_jobs).copied().collect();
                if !known.is_empty() {
                    self.transcribed(*pick.get(&known), text);
                }
            }
            Step::Interim(pick) => {
                let known: Vec<_> = self.jobs.iter().chain(&self.stale_jobs).copied().collect();
                if !known.is_empty() {
                    let (job, text) = (*pick.get(&known), "so far".into());
                    self.give(Input::Interim { job, text });
                }
            }
            Step::Words(text) => self.chunk(LlmChunk::Text(text.into())),
            Step::Call { id, malformed } => self.chunk(LlmChunk::ToolCall(ToolCall {
                parse_error: malformed.then(|| "no JSON".into()),
                ..call(&format!("call-{id}"))
            })),
            Step::End(reason) => self.chunk(LlmChunk::End(reason)),
            Step::LlmFails(kind) => {
                if let Some(turn) = self.asked.take() {
                    let error = ProviderError::new(kind, "vendor", "failed");
                    self.give(Input::LlmFailed { turn, error });
                }
            }
            Step::ToolStarts(pick) => {
                let waiting: Vec<_> = (0..self.tools.len())
                    .filter(|at| !self.tools[*at].2)
                    .collect();
                if !waiting.is_empty() {
                    self.tool_starts(*pick.get(&waiting));
                }
            }
            Step::ToolEnds(pick, ok) => {
                let running: Vec<_> = (0..self.tools.len())
                    .filter(|at| self.tools[*at].2)
                    .collect();
                if !running.is_empty() {
                    self.tool_ends(*pick.get(&running), ok);
                }
            }
            Step::Audio(ms) => self.audio(Duration::from_millis(ms)),
            Step::SegmentDone(ok) => self.segment_done(ok),
            Step::Play(part) => {
                if let Some(played) = &mut self.bench.played {
                    played.segment = u32::from(part >> 6).max(played.segment);
                    played.within += Duration::from_millis(u64::from(part & 63) * 20);
                }
            }
            Step::Drained => self.drained(),
            Step::OutputClosed => {
                if let Some(turn) = self.speaker() {
                    self.give(Input::OutputClosed { turn });
                }
            }
            Step::Crash => {
                if let Some(turn) = self.asked {
                    let message = "llm panicked".into();
                    self.give(Input::Crashed { turn, message });
                }
            }
            Step::Text(text, queue) => {
                let policy = if queue {
                    TextPolicy::Queue
                } else {
                    TextPolicy::Interrupt
                };
                self.give(typed(text, policy));
            }
            Step::Upload => self.give(uploaded()),
            Step::Images => self.give(Input::Images(vec![image("view")])),
            Step::Interrupt => self.give(Input::Interrupt),
            Step::SourceLost => {
                self.voice = Voice::Quiet;
                self.give(Input::SourceLost);
            }
            Step::Stale(choice) => self.stale(choice),
        }
    }

    /// A turn with an open output.
    fn speaker(&self) -> Option<TurnId> {
        let mut open = self
            .turns
            .iter()
            .filter(|(_, told)| told.output && !told.ended);
        open.next().map(|(turn, _)| *turn)
    }

    fn tick(&mut self) {
        if let Some(deadline) = self.bench.machine.deadline() {
            self.bench.now = self.bench.now.max(deadline);
        }
        self.give(Input::Tick);
        let next = self.bench.machine.deadline();
        assert!(
            next.is_none_or(|next| next > self.bench.now),
            "a tick must not be due again"
        );
    }

    fn speech(&mut self, choice: u8) {
        let at = self.bench.now;
        let (voice, event) = match self.voice {
            Voice::Quiet => (Voice::Onset, SpeechEvent::Onset { at }),
            Voice::Onset if choice.is_multiple_of(3) => (Voice::Quiet, SpeechEvent::Misfire),
            Voice::Onset => (Voice::Speaking { paused: false }, SpeechEvent::Confirmed),
            Voice::Speaking { .. } if choice.is_multiple_of(2) => (Voice::Quiet, ended(at)),
            Voice::Speaking { paused: true } => {
                (Voice::Speaking { paused: false }, SpeechEvent::Resumed)
            }
            Voice::Speaking { paused: false } => (
                Voice::Speaking { paused: true },
                SpeechEvent::Paused {
                    utterance: utterance(),
                },
            ),
        };
        self.voice = voice;
        self.give(Input::Speech(event));
    }

    fn transcribed(&mut self, job: SttJob, text: Option<&str>) {
        self.jobs.retain(|running| *running != job);
        if !self.stale_jobs.contains(&job) {
            self.stale_jobs.push(job);
        }
        let result = match text {
            Some(text) => Ok((text.into(), None)),
            None => Err(failure()),
        };
        self.give(Input::Transcribed { job, result });
    }

    fn chunk(&mut self, chunk: LlmChunk) {
        if let Some(turn) = self.asked {
            if matches!(chunk, LlmChunk::End(_)) {
                self.asked = None;
            }
            self.give(Input::Llm { turn, chunk });
        }
    }

    fn tool_starts(&mut self, at: usize) {
        self.tools[at].2 = true;
        let (turn, call, _) = self.tools[at].clone();
        self.give(Input::ToolStarted { turn, call });
    }

    fn tool_ends(&mut self, at: usize, ok: bool) {
        let (turn, call, _) = self.tools.remove(at);
        let failure = crate::tool::ToolFailure::new(crate::tool::FailureCategory::Handler, "no");
        self.give(Input::ToolDone {
            turn,
            call,
            result: if ok { Ok(Value::Null) } else { Err(failure) },
            duration: Duration::ZERO,
        });
    }

    /// Audio of the segment whose turn it is.
    fn audio(&mut self, audio: Duration) {
        if let Some((turn, segment)) = self.segments.first().copied() {
            self.open(turn).audio = true;
            self.give(Input::Queued {
                turn,
                segment,
                audio,
            });
        }
    }

    fn segment_done(&mut self, ok: bool) {
        if !self.segments.is_empty() {
            let (turn, segment) = self.segments.remove(0);
            self.give(Input::SegmentDone {
                turn,
                segment,
                result: if ok { Ok(()) } else { Err(failure()) },
            });
        }
    }

    fn drained(&mut self) {
        let held = self.speaker().is_some_and(|turn| self.turns[&turn].held);
        if let Some(turn) = self.finished.take_if(|_| !held) {
            let at = self.bench.now;
            self.give(Input::Playout(PlayoutEvent::Drained { turn, at }));
        }
    }

    fn stale(&mut self, choice: u8) {
        let over: Vec<_> = self.turns.iter().filter(|(_, told)| told.ended).collect();
        let Some((turn, _)) = over.get(usize::from(choice) % over.len().max(1)) else {
            return;
        };
        let turn = **turn;
        let (segment, at) = (0, self.bench.now);
        let news = [
            chunk(turn.0, LlmChunk::Text("late".into())),
            chunk(turn.0, LlmChunk::End(StopReason::EndTurn)),
            Input::ToolStarted {
                turn,
                call: call("call-0"),
            },
            Input::Queued {
                turn,
                segment,
                audio: Duration::from_secs(1),
            },
            Input::SegmentDone {
                turn,
                segment,
                result: Err(failure()),
            },
            Input::Playout(PlayoutEvent::Drained { turn, at }),
            Input::OutputClosed { turn },
            Input::Crashed {
                turn,
                message: String::new(),
            },
        ];
        for input in news {
            assert!(
                self.bench.give(input).is_empty(),
                "news of a turn that is over"
            );
        }
    }

    /// Everybody does their part, until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            if self.voice != Voice::Quiet {
                self.speech(0);
            } else if let Some(job) = self.jobs.first().copied() {
                self.transcribed(job, Some("words"));
            } else if self.asked.is_some() {
                self.chunk(LlmChunk::End(StopReason::EndTurn));
            } else if let Some((.., running)) = self.tools.first() {
                if *running {
                    self.tool_ends(0, true);
                } else {
                    self.tool_starts(0);
                }
            } else if !self.segments.is_empty() {
                self.audio(Duration::from_secs(1));
                self.segment_done(true);
            } else if self.finished.is_some() {
                self.drained();
            } else if self.bench.machine.active.is_some() {
                self.tick();
            } else {
                let machine = &self.bench.machine;
                assert!(machine.queued.is_empty() && machine.transcribing.is_empty());
                assert!(self.turns.values().all(|told| told.ended));
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn close(mut self) {
        self.give(Input::Close);
        assert!(self.turns.values().all(|told| told.ended), "O6");
        assert!(!self.speaking && self.jobs.is_empty());
        let machine = &self.bench.machine;
        assert!(!machine.is_answering() && machine.queued.is_empty());
        assert!(machine.carried.is_none() && machine.deadline().is_none());
        let stored: Vec<_> = machine.snapshot().messages().cloned().collect();
        check_request(&stored);
    }
}

/// What every model accepts: a person begins, and every call has exactly one result, right after it.
fn check_request(messages: &[Message]) {
    let mut spoken = messages
        .iter()
        .skip_while(|message| matches!(message, Message::System { .. }));
    assert!(matches!(spoken.next(), None | Some(Message::User { .. })));
    let mut open = BTreeSet::new();
    for message in messages {
        match message {
            Message::Tool { call_id, .. } => assert!(open.remove(call_id), "a result of no call"),
            Message::Assistant { tool_calls, .. } => {
                assert!(open.is_empty());
                open.extend(tool_calls.iter().map(|call| call.call_id.clone()));
            }
            _ => assert!(open.is_empty(), "a call without a result"),
        }
    }
    assert!(open.is_empty());
}

fn config() -> impl Strategy<Value = TurnConfig> {
    (
        any::<bool>(),
        prop::bool::weighted(0.8),
        1..4_usize,
        any::<bool>(),
        0..9_usize,
    )
        .prop_map(
            |(streaming_stt, streaming_tts, tts_lookahead, speculative_stt, history_limit)| {
                TurnConfig {
                    streaming_stt,
                    streaming_tts,
                    tts_lookahead,
                    speculative_stt,
                    history_limit,
                    max_tool_rounds: 2,
                    ..TurnConfig::default()
                }
            },
        )
}

proptest! {
    #[test]
    fn a_conversation_is_always_well_formed_and_ends_well(
        config in config(),
        steps in prop::collection::vec(step(), 0..150),
        settles in any::<bool>(),
    ) {
        let mut world = World::new(config);
        for step in steps {
            world.take(step);
        }
        if settles {
            world.settle();
        }
        world.close();
    }
}
