//! Events as numbers.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    ErrorContext, HookEvent, HookResult, Hooks, ProviderCall, ServerEvent, Timing, TurnContext,
};
use crate::{
    message::ToolCall,
    provider::{LlmResult, StopReason},
    telemetry::{self as names, Metrics},
    tool::FailureCategory,
    turn::Outcome,
};

/// The label of a model that the session did not choose.
const DEFAULT_MODEL: &str = "default";

/// Derives metrics from events: our own and, beside them, those of the reference implementation.
///
/// Active sessions, reconnections and queue losses have no events; whoever owns them counts them.
#[derive(Debug)]
pub struct MetricsObserver {
    metrics: Metrics,
    /// Open connections by transport.
    connections: Mutex<HashMap<&'static str, u64>>,
}

impl MetricsObserver {
    /// Numbers go to `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            connections: Mutex::default(),
        }
    }

    fn turn_event(&self, cx: &TurnContext, event: &HookEvent) {
        let metrics = &self.metrics;
        match event {
            HookEvent::SttEnd { call, timing, .. } => self.stt_end(call, timing.duration),
            HookEvent::LlmChunk {
                call,
                index: 0,
                elapsed,
                ..
            } => {
                let labels = [("provider", &*call.provider), ("model", model(call))];
                metrics.timing(names::LLM_FIRST_CHUNK, *elapsed, &labels);
                let [provider, model] = labels;
                let round = ("round", round(call));
                metrics.timing(names::LLM_TTFT, *elapsed, &[provider, model, round]);
            }
            HookEvent::LlmEnd {
                call,
                result,
                timing,
            } => self.llm_end(call, result, timing.duration),
            HookEvent::TtsChunk {
                call,
                index: 0,
                elapsed,
                ..
            } => metrics.timing(
                names::TTS_FIRST_AUDIO,
                *elapsed,
                &[("provider", &call.provider), ("model", model(call))],
            ),
            HookEvent::TtsEnd { call, timing } => metrics.timing(
                names::TTS_DURATION,
                timing.duration,
                &[("provider", &call.provider), ("model", model(call))],
            ),
            HookEvent::ToolEnd { call, timing, .. } => self.tool(call, None, *timing),
            HookEvent::ToolError {
                call,
                error,
                timing,
            } => self.tool(call, Some(error.category), *timing),
            HookEvent::PlayoutStarted { response } => {
                let mode = ("mode", cx.input.label());
                metrics.timing(names::TURN_RESPONSE, *response, &[mode]);
            }
            HookEvent::PlayoutUnderrun => metrics.increment(names::TTS_UNDERRUNS, 1, &[]),
            HookEvent::BargeIn {
                reaction: Some(reaction),
                ..
            } => metrics.timing(names::TURN_BARGE_IN, *reaction, &[]),
            HookEvent::BargeInResumed => metrics.increment(names::BARGE_IN_RESUMED, 1, &[]),
            HookEvent::Retry { component, .. } => {
                metrics.increment(names::RETRIES, 1, &[("component", component.label())]);
            }
            HookEvent::TurnEnd {
                outcome, timing, ..
            } => self.turn_end(cx, outcome, timing.duration),
            _ => {}
        }
    }

    fn stt_end(&self, call: &ProviderCall, duration: Duration) {
        let provider = ("provider", &*call.provider);
        let mode = ("mode", call.mode.label());
        self.metrics
            .timing(names::STT_FINAL, duration, &[provider, mode]);
        self.metrics.timing(
            names::STT_DURATION,
            duration,
            &[provider, ("model", model(call)), mode],
        );
    }

    fn llm_end(&self, call: &ProviderCall, result: &LlmResult, duration: Duration) {
        let provider = ("provider", &*call.provider);
        let model = ("model", model(call));
        self.metrics.timing(
            names::LLM_DURATION,
            duration,
            &[
                provider,
                model,
                ("round", round(call)),
                ("stop_reason", stop_reason(result.stop_reason.as_ref())),
            ],
        );
        let usage = &result.usage;
        let kinds = [
            ("input", usage.input),
            ("output", usage.output),
            ("cached_input", usage.cached_input),
            ("reasoning", usage.reasoning),
            ("audio_input", usage.audio_input),
            ("audio_output", usage.audio_output),
        ];
        for (kind, tokens) in kinds {
            if let Some(tokens) = tokens {
                self.metrics.increment(
                    names::LLM_TOKENS,
                    tokens,
                    &[provider, model, ("kind", kind)],
                );
            }
        }
    }

    fn tool(&self, call: &ToolCall, failure: Option<FailureCategory>, timing: Timing) {
        let tool = match failure {
            // These come before the name was found in the registry: it is the model's, and no closed set (MT1).
            Some(
                FailureCategory::Cancelled
                | FailureCategory::MalformedArguments
                | FailureCategory::NotFound
                | FailureCategory::Skipped,
            ) => ("tool", "unknown"),
            _ => ("tool", call.name.as_str()),
        };
        let category = ("category", failure.map_or("success", FailureCategory::name));
        self.metrics
            .timing(names::TOOL_DURATION, timing.duration, &[tool]);
        self.metrics
            .increment(names::TOOL_CALLS, 1, &[tool, category]);
        if failure.is_some() {
            self.metrics
                .increment(names::TOOL_ERRORS, 1, &[tool, category]);
        }
    }

    fn turn_end(&self, cx: &TurnContext, outcome: &Outcome, duration: Duration) {
        let labels = [("outcome", outcome.label()), ("mode", cx.input.label())];
        self.metrics.timing(names::TURN_DURATION, duration, &labels);
        self.metrics.increment(names::TURN_OUTCOMES, 1, &labels);
        if let Outcome::Blocked { by } = outcome {
            self.metrics
                .increment(names::GUARDRAIL_BLOCKS, 1, &[("guardrail", by)]);
        }
    }

    fn server_event(&self, event: &ServerEvent) {
        match event {
            ServerEvent::Connection { transport, .. } => {
                self.connections(transport, |open| open + 1);
            }
            ServerEvent::Disconnect {
                transport,
                timing,
                turns,
                ..
            } => {
                self.connections(transport, |open| open.saturating_sub(1));
                self.metrics
                    .timing(names::SESSION_DURATION, timing.duration, &[]);
                self.metrics
                    .histogram(names::SESSION_TURNS, *turns as f64, &[]);
            }
            ServerEvent::Error { context, .. } => self.error(context),
            ServerEvent::SpeechStart { .. } | ServerEvent::SpeechEnd { .. } => {}
        }
    }

    fn connections(&self, transport: &'static str, change: impl FnOnce(u64) -> u64) {
        let open = {
            let mut connections = self
                .connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let open = connections.entry(transport).or_default();
            *open = change(*open);
            *open
        };
        self.metrics.gauge(
            names::CONNECTIONS_ACTIVE,
            open as f64,
            &[("transport", transport)],
        );
    }

    fn error(&self, context: &ErrorContext) {
        self.metrics.increment(
            names::ERRORS,
            1,
            &[
                ("component", context.component.label()),
                ("code", context.code),
                ("provider", context.provider.as_deref().unwrap_or("none")),
            ],
        );
    }
}

#[async_trait]
impl Hooks for MetricsObserver {
    fn name(&self) -> &'static str {
        "metrics"
    }

    async fn on_event(&self, cx: &TurnContext, event: &HookEvent) -> HookResult {
        self.turn_event(cx, event);
        Ok(())
    }

    async fn on_server_event(&self, event: &ServerEvent) -> HookResult {
        self.server_event(event);
        Ok(())
    }
}

fn model(call: &ProviderCall) -> &str {
    call.model.as_deref().unwrap_or(DEFAULT_MODEL)
}

/// The round as a label; rounds past the ninth are rare and look alike.
fn round(call: &ProviderCall) -> &'static str {
    const ROUNDS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    usize::try_from(call.round)
        .ok()
        .and_then(|round| ROUNDS.get(round).copied())
        .unwrap_or("10+")
}

fn stop_reason(reason: Option<&StopReason>) -> &'static str {
    match reason {
        None => "none",
        Some(StopReason::EndTurn) => "end_turn",
        Some(StopReason::StopSequence) => "stop_sequence",
        Some(StopReason::ToolUse) => "tool_use",
        Some(StopReason::MaxTokens) => "max_tokens",
        Some(StopReason::Refusal) => "refusal",
        Some(StopReason::ContentFilter) => "content_filter",
        Some(StopReason::PauseTurn) => "pause_turn",
        Some(StopReason::ContextOverflow) => "context_overflow",
        Some(StopReason::Truncated) => "truncated",
        Some(StopReason::Unknown(_)) => "unknown",
    }
}
