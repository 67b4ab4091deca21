//! Watching from outside: observers of turns and of the server.
//!
//! [`Hooks`] observes, it cannot veto; what may change a turn is a guardrail. Each observer has its own bounded queue
//! and task ([`Observers`]), so a slow or broken one costs nobody anything but itself.

mod context;
mod event;
mod logging;
mod metrics;
mod observers;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use serde_json::Value;

pub use self::{
    context::{CallMode, ErrorContext, InputKind, ProviderCall, Timing, TurnContext},
    event::{HookEvent, ServerEvent, SharedError},
    logging::{LoggingObserver, Scrub},
    metrics::MetricsObserver,
    observers::{EVENT_QUEUE, Observers},
};
use crate::{
    audio::PcmChunk,
    id::SessionId,
    message::ToolCall,
    playout::SegmentIndex,
    provider::{BoxError, LlmRequest, LlmResult, ProviderError, SttResult},
    tool::ToolFailure,
    turn::{Component, Outcome, TurnError, TurnTiming},
};

/// What a hook returns. An error is logged, rate-limited, and has no other effect (HK4).
pub type HookResult = Result<(), BoxError>;

/// An observer. Every hook defaults to nothing; override those of interest, or [`on_event`](Self::on_event) and
/// [`on_server_event`](Self::on_server_event) to see everything in one place.
///
/// Hooks of one observer are called one at a time, in order. Each call has 5 s; blocking the thread is not allowed.
/// See [`HookEvent`] and [`ServerEvent`] for the arguments.
#[async_trait]
#[expect(unused_variables, reason = "the defaults ignore what they are told")]
pub trait Hooks: Send + Sync + 'static {
    /// Names the observer in logs and as a metric label.
    fn name(&self) -> &'static str {
        "observer"
    }

    /// Hands an event to its hook.
    async fn on_event(&self, cx: &TurnContext, event: &HookEvent) -> HookResult {
        match event {
            HookEvent::TurnStart => self.on_turn_start(cx).await,
            HookEvent::SttStart { call } => self.on_stt_start(cx, call).await,
            HookEvent::SttEnd {
                call,
                result,
                timing,
            } => self.on_stt_end(cx, call, result, *timing).await,
            HookEvent::SttError { call, error } => self.on_stt_error(cx, call, error).await,
            HookEvent::LlmStart { call, request } => self.on_llm_start(cx, call, request).await,
            HookEvent::LlmChunk {
                call, text, index, ..
            } => self.on_llm_chunk(cx, call, text, *index).await,
            HookEvent::LlmEnd {
                call,
                result,
                timing,
            } => self.on_llm_end(cx, call, result, *timing).await,
            HookEvent::LlmError { call, error } => self.on_llm_error(cx, call, error).await,
            HookEvent::TtsStart { call, text } => self.on_tts_start(cx, call, text).await,
            HookEvent::SegmentStart {
                call,
                segment,
                text,
            } => self.on_segment_start(cx, call, *segment, text).await,
            HookEvent::TtsChunk {
                call,
                segment,
                index,
                audio,
                ..
            } => self.on_tts_chunk(cx, call, *segment, *index, audio).await,
            HookEvent::SegmentEnd {
                call,
                segment,
                timing,
            } => self.on_segment_end(cx, call, *segment, *timing).await,
            HookEvent::TtsEnd { call, timing } => self.on_tts_end(cx, call, *timing).await,
            HookEvent::TtsError { call, error } => self.on_tts_error(cx, call, error).await,
            HookEvent::ToolStart { call } => self.on_tool_start(cx, call).await,
            HookEvent::ToolEnd {
                call,
                result,
                timing,
            } => self.on_tool_end(cx, call, result, *timing).await,
            HookEvent::ToolError {
                call,
                error,
                timing,
            } => self.on_tool_error(cx, call, error, *timing).await,
            HookEvent::PlayoutStarted { response } => self.on_playout_started(cx, *response).await,
            HookEvent::PlayoutUnderrun => self.on_playout_underrun(cx).await,
            HookEvent::BargeIn {
                heard, generated, ..
            } => self.on_barge_in(cx, heard, generated).await,
            HookEvent::BargeInResumed => self.on_barge_in_resumed(cx).await,
            HookEvent::Retry {
                component,
                attempt,
                error,
                ..
            } => self.on_retry(cx, *component, *attempt, error).await,
            HookEvent::TurnEnd {
                outcome,
                stages,
                timing,
            } => self.on_turn_end(cx, outcome, stages, *timing).await,
        }
    }

    /// Hands a server event to its hook.
    async fn on_server_event(&self, event: &ServerEvent) -> HookResult {
        match event {
            ServerEvent::Connection {
                session_id,
                connection_id,
                ..
            } => self.on_connection(*session_id, connection_id).await,
            ServerEvent::Disconnect {
                session_id, timing, ..
            } => self.on_disconnect(*session_id, *timing).await,
            ServerEvent::SpeechStart { session_id, at } => {
                self.on_speech_start(*session_id, *at).await
            }
            ServerEvent::SpeechEnd {
                session_id,
                at,
                audio,
            } => self.on_speech_end(*session_id, *at, *audio).await,
            ServerEvent::Error { context, error } => self.on_error(error, context).await,
        }
    }

    /// A turn began.
    async fn on_turn_start(&self, cx: &TurnContext) -> HookResult {
        Ok(())
    }

    /// Transcription began.
    async fn on_stt_start(&self, cx: &TurnContext, call: &ProviderCall) -> HookResult {
        Ok(())
    }

    /// The final transcript is there.
    async fn on_stt_end(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        result: &Arc<SttResult>,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// Transcription failed.
    async fn on_stt_error(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        error: &Arc<TurnError>,
    ) -> HookResult {
        Ok(())
    }

    /// The model is asked.
    async fn on_llm_start(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        request: &Arc<LlmRequest>,
    ) -> HookResult {
        Ok(())
    }

    /// A piece of text arrived; `index` counts from 0.
    async fn on_llm_chunk(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        text: &Arc<str>,
        index: u64,
    ) -> HookResult {
        Ok(())
    }

    /// A response is complete.
    async fn on_llm_end(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        result: &Arc<LlmResult>,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// The model failed.
    async fn on_llm_error(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        error: &Arc<TurnError>,
    ) -> HookResult {
        Ok(())
    }

    /// The first segment of the turn goes to synthesis.
    async fn on_tts_start(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        text: &Arc<str>,
    ) -> HookResult {
        Ok(())
    }

    /// A segment goes to synthesis.
    async fn on_segment_start(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        segment: SegmentIndex,
        text: &Arc<str>,
    ) -> HookResult {
        Ok(())
    }

    /// A piece of audio arrived; `index` counts from 0 in each segment.
    async fn on_tts_chunk(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        segment: SegmentIndex,
        index: u64,
        audio: &PcmChunk,
    ) -> HookResult {
        Ok(())
    }

    /// A segment is synthesised.
    async fn on_segment_end(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        segment: SegmentIndex,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// All speech of the turn is synthesised.
    async fn on_tts_end(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// Synthesis of a segment failed.
    async fn on_tts_error(
        &self,
        cx: &TurnContext,
        call: &ProviderCall,
        error: &Arc<TurnError>,
    ) -> HookResult {
        Ok(())
    }

    /// A tool begins to run.
    async fn on_tool_start(&self, cx: &TurnContext, call: &Arc<ToolCall>) -> HookResult {
        Ok(())
    }

    /// A tool returned.
    async fn on_tool_end(
        &self,
        cx: &TurnContext,
        call: &Arc<ToolCall>,
        result: &Arc<Value>,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// A tool did not return a value.
    async fn on_tool_error(
        &self,
        cx: &TurnContext,
        call: &Arc<ToolCall>,
        error: &Arc<ToolFailure>,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// The first sample of the answer left, this long after the caller's last.
    async fn on_playout_started(&self, cx: &TurnContext, response: Duration) -> HookResult {
        Ok(())
    }

    /// Playout ran dry in the middle of a segment.
    async fn on_playout_underrun(&self, cx: &TurnContext) -> HookResult {
        Ok(())
    }

    /// The caller spoke over the answer, which was cut.
    async fn on_barge_in(
        &self,
        cx: &TurnContext,
        heard: &Arc<str>,
        generated: &Arc<str>,
    ) -> HookResult {
        Ok(())
    }

    /// The interruption was noise: the answer goes on.
    async fn on_barge_in_resumed(&self, cx: &TurnContext) -> HookResult {
        Ok(())
    }

    /// A provider call failed and is tried again; `attempt` is the failed one, from 1.
    async fn on_retry(
        &self,
        cx: &TurnContext,
        component: Component,
        attempt: u32,
        error: &Arc<ProviderError>,
    ) -> HookResult {
        Ok(())
    }

    /// A turn is over: always called, whatever the outcome.
    async fn on_turn_end(
        &self,
        cx: &TurnContext,
        outcome: &Outcome,
        stages: &TurnTiming,
        timing: Timing,
    ) -> HookResult {
        Ok(())
    }

    /// A client connected.
    async fn on_connection(&self, session_id: SessionId, connection_id: &Arc<str>) -> HookResult {
        Ok(())
    }

    /// A client is gone.
    async fn on_disconnect(&self, session_id: SessionId, timing: Timing) -> HookResult {
        Ok(())
    }

    /// The caller began to speak.
    async fn on_speech_start(&self, session_id: SessionId, at: SystemTime) -> HookResult {
        Ok(())
    }

    /// The caller stopped; `audio` is the length of the utterance.
    async fn on_speech_end(
        &self,
        session_id: SessionId,
        at: SystemTime,
        audio: Duration,
    ) -> HookResult {
        Ok(())
    }

    /// Something failed: once for every failure of every component, inside and outside of turns (HK1).
    async fn on_error(&self, error: &SharedError, context: &ErrorContext) -> HookResult {
        Ok(())
    }
}
