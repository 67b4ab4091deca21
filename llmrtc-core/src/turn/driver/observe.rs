//! Tells observers what a conversation does. Nothing here decides anything, and nothing waits (HK3).

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::Shared;
use crate::{
    audio::{EncodedAudio, PcmChunk},
    hooks::{CallMode, HookEvent, InputKind, ProviderCall, ServerEvent, Timing, TurnContext},
    id::{SessionId, TurnId},
    playout::{PlayoutEvent, SegmentIndex},
    provider::{LlmRequest, LlmResult, ProviderError, SttResult},
    speech::SpeechEvent,
    turn::{Component, Outcome, TurnError, TurnEvent},
};

/// Turns whose context is remembered: the active one, two in transcription, one being spoken.
const MAX_CONTEXTS: usize = 8;

/// What the conversation itself sees.
pub(super) struct Watch {
    session_id: SessionId,
    contexts: Vec<TurnContext>,
    /// When the last voice began.
    onset: Option<Instant>,
    /// What the next turn begins with.
    next_input: InputKind,
    /// The turn that began last.
    started: TurnId,
    /// The turn that is being spoken.
    speaking: Option<TurnId>,
    utterance: Duration,
    /// The running answer, for `on_barge_in`.
    generated: String,
    /// The caller's last voice, or the arrival of the text.
    asked_at: Option<Instant>,
    speech: Option<(Arc<str>, SystemTime, Instant)>,
}

/// What a job sees: the turn it works for.
#[derive(Clone)]
pub(super) struct Watched(TurnContext);

/// Measures one provider call.
pub(super) struct Stopwatch {
    call: ProviderCall,
    segment: SegmentIndex,
    started_at: SystemTime,
    started: Instant,
    pieces: u64,
}

impl Stopwatch {
    fn timing(&self, shared: &Shared) -> Timing {
        Timing {
            started_at: self.started_at,
            duration: self.elapsed(shared),
        }
    }

    /// What came before does not count.
    pub(super) fn restart(&mut self, shared: &Shared) {
        self.started_at = shared.clock.wall();
        self.started = shared.clock.now();
    }

    fn elapsed(&self, shared: &Shared) -> Duration {
        shared.clock.now().saturating_duration_since(self.started)
    }

    fn next_piece(&mut self) -> u64 {
        self.pieces += 1;
        self.pieces - 1
    }
}

impl Watch {
    pub(super) fn new(session_id: SessionId) -> Self {
        Self {
            session_id,
            contexts: Vec::new(),
            onset: None,
            next_input: InputKind::Text,
            started: TurnId::default(),
            speaking: None,
            utterance: Duration::ZERO,
            generated: String::new(),
            asked_at: None,
            speech: None,
        }
    }

    pub(super) fn speech(&mut self, event: &SpeechEvent) {
        match event {
            SpeechEvent::Onset { at } => self.onset = Some(*at),
            SpeechEvent::Misfire => {
                self.onset = None;
                // The turn that was expected did not begin; another may take its number.
                self.contexts.retain(|cx| cx.turn_id <= self.started);
            }
            SpeechEvent::Confirmed => {
                self.next_input = InputKind::Utterance {
                    bytes: 0,
                    duration: Duration::ZERO,
                };
            }
            SpeechEvent::Ended {
                utterance,
                last_voice,
                ..
            } => {
                self.utterance = utterance.duration().unwrap_or_default();
                self.asked_at = Some(*last_voice);
                self.onset = None;
                let input = InputKind::Utterance {
                    bytes: utterance.size_bytes(),
                    duration: self.utterance,
                };
                let speaking = self.speaking.take();
                let context = self
                    .contexts
                    .iter_mut()
                    .find(|cx| Some(cx.turn_id) == speaking);
                if let Some(cx) = context
                    && cx.input != InputKind::Live
                {
                    cx.input = input;
                }
            }
            _ => {}
        }
    }

    /// A recording begins the next turn.
    pub(super) fn upload(&mut self, audio: &EncodedAudio) {
        self.next_input = InputKind::Utterance {
            bytes: audio.data.len(),
            duration: Duration::ZERO,
        };
    }

    /// The context of a turn that is transcribed live, which begins before the turn does.
    pub(super) fn live_context(&mut self, shared: &Shared, turn_id: TurnId) -> Watched {
        self.next_input = InputKind::Live;
        let watched = self.context(shared, turn_id);
        self.next_input = InputKind::Text;
        watched
    }

    /// The context of a turn, made when it is first asked for.
    pub(super) fn context(&mut self, shared: &Shared, turn_id: TurnId) -> Watched {
        if let Some(cx) = self.contexts.iter().find(|cx| cx.turn_id == turn_id) {
            return Watched(cx.clone());
        }
        let cx = TurnContext {
            session_id: self.session_id,
            turn_id,
            started_at: shared.clock.wall(),
            input: self.next_input,
        };
        if self.contexts.len() == MAX_CONTEXTS {
            self.contexts.remove(0);
        }
        self.contexts.push(cx.clone());
        Watched(cx)
    }

    pub(super) fn event(&mut self, shared: &Shared, event: &TurnEvent) {
        let session_id = self.session_id;
        match event {
            TurnEvent::TurnStarted { turn } => {
                let cx = self.context(shared, *turn).0;
                self.next_input = InputKind::Text;
                self.started = *turn;
                self.generated.clear();
                if matches!(cx.input, InputKind::Text) {
                    self.asked_at = Some(shared.clock.now());
                }
                shared.observers.emit(&cx, HookEvent::TurnStart);
            }
            TurnEvent::UserSpeechStarted => {
                self.speaking = Some(self.started);
                shared.observers.emit_server(|| ServerEvent::SpeechStart {
                    session_id,
                    at: shared.clock.wall(),
                })
            }
            TurnEvent::UserSpeechEnded => {
                let audio = self.utterance;
                shared.observers.emit_server(|| ServerEvent::SpeechEnd {
                    session_id,
                    at: shared.clock.wall(),
                    audio,
                });
            }
            TurnEvent::LlmDelta { text, .. } if !shared.observers.is_empty() => {
                self.generated.push_str(text);
            }
            TurnEvent::ToolStarted { turn, call } => {
                let cx = self.context(shared, *turn).0;
                shared.observers.emit_with(&cx, || HookEvent::ToolStart {
                    call: Arc::new(call.clone()),
                });
            }
            TurnEvent::ToolEnded {
                turn,
                call,
                result,
                duration,
            } => {
                let cx = self.context(shared, *turn).0;
                let call = Arc::new(call.clone());
                let timing = Timing {
                    started_at: shared.clock.wall() - *duration,
                    duration: *duration,
                };
                shared.observers.emit_with(&cx, || match result {
                    Ok(value) => HookEvent::ToolEnd {
                        call,
                        result: Arc::new(value.clone()),
                        timing,
                    },
                    Err(error) => HookEvent::ToolError {
                        call,
                        error: Arc::new(error.clone()),
                        timing,
                    },
                });
            }
            TurnEvent::TurnEnded {
                turn,
                outcome,
                timing: stages,
            } => {
                let cx = self.context(shared, *turn).0;
                if let Outcome::Interrupted { heard } = outcome {
                    let reaction = self
                        .onset
                        .map(|onset| shared.clock.now().saturating_duration_since(onset));
                    let generated = std::mem::take(&mut self.generated);
                    shared.observers.emit_with(&cx, || HookEvent::BargeIn {
                        heard: Arc::clone(heard),
                        generated: generated.into(),
                        reaction,
                    });
                }
                shared.observers.emit_with(&cx, || HookEvent::TurnEnd {
                    outcome: outcome.clone(),
                    stages: *stages,
                    timing: Timing::between(cx.started_at, shared.clock.wall()),
                });
                self.contexts.retain(|cx| cx.turn_id != *turn);
            }
            _ => {}
        }
    }

    pub(super) fn playout(&mut self, shared: &Shared, event: &PlayoutEvent) {
        let Some(cx) = self.contexts.iter().find(|cx| cx.turn_id == event.turn()) else {
            return;
        };
        match event {
            PlayoutEvent::Started { at, .. } => {
                if let Some(asked_at) = self.asked_at {
                    let response = at.saturating_duration_since(asked_at);
                    shared
                        .observers
                        .emit(cx, HookEvent::PlayoutStarted { response });
                }
            }
            PlayoutEvent::Underrun { .. } => shared.observers.emit(cx, HookEvent::PlayoutUnderrun),
            PlayoutEvent::Drained { .. } => {}
        }
    }

    /// The interruption was noise.
    pub(super) fn resumed(&mut self, shared: &Shared, turn: TurnId) {
        let cx = self.context(shared, turn).0;
        shared.observers.emit(&cx, HookEvent::BargeInResumed);
    }

    /// All speech of the turn is synthesised.
    pub(super) fn synthesised(&mut self, shared: &Shared, turn: TurnId) {
        let cx = self.context(shared, turn).0;
        if let Some((provider, started_at, started)) = self.speech.take() {
            shared.observers.emit_with(&cx, || HookEvent::TtsEnd {
                call: ProviderCall::new(provider, tts_mode(shared)),
                timing: Timing {
                    started_at,
                    duration: shared.clock.now().saturating_duration_since(started),
                },
            });
        }
    }

    /// The first segment of a turn goes to synthesis.
    pub(super) fn synthesising(&mut self, shared: &Shared) {
        let provider = Arc::from(shared.providers.tts.name());
        self.speech = Some((provider, shared.clock.wall(), shared.clock.now()));
    }
}

fn tts_mode(shared: &Shared) -> CallMode {
    if shared.config.streaming_tts && shared.providers.tts.streaming().is_some() {
        CallMode::Streaming
    } else {
        CallMode::Buffered
    }
}

fn failed(component: Component, error: &ProviderError) -> Arc<TurnError> {
    Arc::new(TurnError::Provider {
        component,
        source: error.restated(),
    })
}

impl Watched {
    fn start(&self, shared: &Shared, call: ProviderCall, segment: SegmentIndex) -> Stopwatch {
        Stopwatch {
            call,
            segment,
            started_at: shared.clock.wall(),
            started: shared.clock.now(),
            pieces: 0,
        }
    }

    pub(super) fn retry(
        &self,
        shared: &Shared,
        component: Component,
        attempt: u32,
        wait: Duration,
        error: ProviderError,
    ) {
        tracing::debug!(component = component.label(), %error, ?wait, "trying again");
        let error = Arc::new(error);
        shared.observers.emit(
            &self.0,
            HookEvent::Retry {
                component,
                attempt,
                wait,
                error,
            },
        );
    }

    pub(super) fn stt(&self, shared: &Shared, provider: &str, mode: CallMode) -> Stopwatch {
        let watch = self.start(shared, ProviderCall::new(provider, mode), 0);
        let call = watch.call.clone();
        shared.observers.emit(&self.0, HookEvent::SttStart { call });
        watch
    }

    pub(super) fn stt_done(
        &self,
        shared: &Shared,
        watch: Stopwatch,
        result: &Result<SttResult, ProviderError>,
    ) {
        let timing = watch.timing(shared);
        let call = watch.call;
        shared.observers.emit_with(&self.0, || match result {
            Ok(result) => HookEvent::SttEnd {
                call,
                result: Arc::new(result.clone()),
                timing,
            },
            Err(error) => HookEvent::SttError {
                call,
                error: failed(Component::Stt, error),
            },
        });
    }

    pub(super) fn llm(
        &self,
        shared: &Shared,
        provider: &str,
        round: u32,
        request: &LlmRequest,
    ) -> Stopwatch {
        let call = ProviderCall {
            round,
            ..ProviderCall::new(provider, CallMode::Streaming)
        };
        let watch = self.start(shared, call.clone(), 0);
        shared.observers.emit_with(&self.0, || HookEvent::LlmStart {
            call,
            request: Arc::new(request.clone()),
        });
        watch
    }

    pub(super) fn llm_chunk(&self, shared: &Shared, watch: &mut Stopwatch, text: &str) {
        let index = watch.next_piece();
        shared.observers.emit_with(&self.0, || HookEvent::LlmChunk {
            call: watch.call.clone(),
            text: text.into(),
            index,
            elapsed: watch.elapsed(shared),
        });
    }

    pub(super) fn llm_done(&self, shared: &Shared, watch: &Stopwatch, result: LlmResult) {
        shared.observers.emit_with(&self.0, || HookEvent::LlmEnd {
            call: watch.call.clone(),
            result: Arc::new(result),
            timing: watch.timing(shared),
        });
    }

    pub(super) fn llm_failed(&self, shared: &Shared, watch: Stopwatch, error: &ProviderError) {
        shared.observers.emit_with(&self.0, || HookEvent::LlmError {
            call: watch.call,
            error: failed(Component::Llm, error),
        });
    }

    pub(super) fn tts(&self, shared: &Shared, segment: SegmentIndex, text: &str) -> Stopwatch {
        let call = ProviderCall::new(shared.providers.tts.name(), tts_mode(shared));
        let watch = self.start(shared, call, segment);
        let text: Arc<str> = text.into();
        if segment == 0 {
            let (call, text) = (watch.call.clone(), Arc::clone(&text));
            shared
                .observers
                .emit(&self.0, HookEvent::TtsStart { call, text });
        }
        let call = watch.call.clone();
        shared.observers.emit(
            &self.0,
            HookEvent::SegmentStart {
                call,
                segment,
                text,
            },
        );
        watch
    }

    pub(super) fn tts_chunk(&self, shared: &Shared, watch: &mut Stopwatch, audio: &PcmChunk) {
        if audio.is_empty() {
            return;
        }
        let index = watch.next_piece();
        shared.observers.emit_with(&self.0, || HookEvent::TtsChunk {
            call: watch.call.clone(),
            segment: watch.segment,
            index,
            audio: audio.clone(),
            elapsed: watch.elapsed(shared),
        });
    }

    pub(super) fn tts_done(
        &self,
        shared: &Shared,
        watch: Stopwatch,
        result: &Result<(), ProviderError>,
    ) {
        let (timing, segment) = (watch.timing(shared), watch.segment);
        let call = watch.call;
        shared.observers.emit_with(&self.0, || match result {
            Ok(()) => HookEvent::SegmentEnd {
                call,
                segment,
                timing,
            },
            Err(error) => HookEvent::TtsError {
                call,
                error: failed(Component::Tts, error),
            },
        });
    }
}
