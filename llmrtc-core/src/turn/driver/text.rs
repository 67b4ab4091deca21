//! The jobs around text: transcription, the model, tools. Each retries as §2.9 says and reports in the end.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Shared,
    observe::{Stopwatch, Watched},
};
use crate::{
    audio::{PcmChunk, Utterance},
    guardrail::{ChainFilter, Refusal, ResponseFilter},
    hooks::CallMode,
    message::{Attachment, ImageSource, Message, ToolCall},
    provider::{
        CallContext, ErrorKind, LlmChunk, LlmRequest, LlmResult, Phase, ProviderError, SttConfig,
        SttResult, VisionRequest,
    },
    retry::Backoff,
    tool::{FailureCategory, ToolFailure, ToolRunner},
    turn::{
        Component,
        machine::{Input, SttJob},
    },
};

/// Attempts at a buffered transcription (RT2).
const STT_ATTEMPTS: u32 = 2;
/// A caller does not wait longer than this in silence; a vendor that asks for more has failed.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Asked of a vision provider on behalf of a model that cannot see.
const DESCRIBE: &str = "Describe what these images show in at most three sentences.";

impl Shared {
    fn stt_config(&self) -> SttConfig {
        SttConfig {
            language: self.config.language.clone(),
            model: None,
            hints: self.config.hints.clone(),
        }
    }

    /// Waits before another attempt, or says that there is none.
    pub(super) async fn try_again(
        &self,
        backoff: &mut Backoff,
        attempt: &mut u32,
        component: Component,
        error: ProviderError,
        watched: &Watched,
    ) -> Result<(), ProviderError> {
        *attempt += 1;
        match backoff.next_wait(error.retry(), rand::random(), Some(MAX_WAIT)) {
            Some(wait) => {
                watched.retry(self, component, *attempt, wait, error);
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// Transcribes a complete utterance.
pub(super) async fn transcribe(
    shared: Arc<Shared>,
    job: SttJob,
    utterance: Utterance,
    cx: CallContext,
    watched: Watched,
) {
    let stt = &shared.providers.stt;
    let config = shared.stt_config();
    let (mut backoff, mut attempt) = (Backoff::new(STT_ATTEMPTS), 0);
    let watch = watched.stt(&shared, stt.name(), CallMode::Buffered);
    let result = loop {
        let call = stt.transcribe(utterance.clone(), &config, &cx);
        let error = match timeout(shared.config.timeouts.stt, call).await {
            Ok(Ok(result)) => break Ok(result),
            Ok(Err(error)) => error,
            Err(_) => break Err(late(stt.name(), Phase::Total)),
        };
        match shared
            .try_again(&mut backoff, &mut attempt, Component::Stt, error, &watched)
            .await
        {
            Ok(()) => {}
            Err(error) => break Err(error),
        }
    };
    finish_transcription(&shared, job, result, watch, &watched, &cx).await;
}

/// Transcribes while the caller speaks. The end of `frames` is the end of the utterance, and `ended` comes with it:
/// from there on time counts (ST2), even for a vendor that never reads as far.
pub(super) async fn transcribe_live(
    shared: Arc<Shared>,
    job: SttJob,
    frames: mpsc::Receiver<PcmChunk>,
    ended: oneshot::Receiver<()>,
    cx: CallContext,
    watched: Watched,
) {
    let Some(stt) = shared.providers.stt.streaming() else {
        return;
    };
    let name = shared.providers.stt.name();
    let frames = ReceiverStream::new(frames);
    let config = shared.stt_config();
    let mut watch = watched.stt(&shared, name, CallMode::Streaming);
    let transcription = async {
        let mut results = stt.transcribe_stream(frames.boxed(), &config, &cx).await?;
        let mut text = LiveText::default();
        while let Some(result) = results.next().await {
            let cumulative = text.add(result?);
            shared
                .report(Input::Interim {
                    job,
                    text: cumulative.into(),
                })
                .await;
        }
        Ok(text.into_result())
    };
    let limit = async {
        // Dropped and never sent to.
        let _ = ended.await;
        watch.restart(&shared);
        tokio::time::sleep(shared.config.timeouts.stt_final).await;
    };
    let result = tokio::select! {
        biased;
        () = limit => Err(late(name, Phase::Total)),
        result = transcription => result,
    };
    finish_transcription(&shared, job, result, watch, &watched, &cx).await;
}

async fn finish_transcription(
    shared: &Shared,
    job: SttJob,
    result: Result<SttResult, ProviderError>,
    watch: Stopwatch,
    watched: &Watched,
    cx: &CallContext,
) {
    watched.stt_done(shared, watch, &result);
    let result = match result {
        Ok(result) => match shared.guardrails.input(result.text.into(), cx).await {
            Ok(text) => Ok((text, result.confidence)),
            Err(refusal) => {
                let input = Input::TranscriptRefused { job, refusal };
                shared.report(input).await;
                return;
            }
        },
        Err(error) => Err(error),
    };
    shared.report(Input::Transcribed { job, result }).await;
}

/// Joins the segments of live transcription (§2.7).
#[derive(Default)]
struct LiveText {
    finals: String,
    interim: String,
    confidence: Option<f32>,
    language: Option<String>,
}

impl LiveText {
    /// Takes one result and returns the text so far.
    fn add(&mut self, result: SttResult) -> String {
        self.language = result.language.or(self.language.take());
        if result.is_final {
            self.finals = join_segments(&self.finals, &result.text);
            self.interim.clear();
            self.confidence = result.confidence;
        } else {
            self.interim = result.text;
        }
        join_segments(&self.finals, &self.interim)
    }

    /// Interim text without a final is better than a lost utterance; its confidence is unknown.
    fn into_result(self) -> SttResult {
        SttResult {
            text: join_segments(&self.finals, &self.interim),
            is_final: true,
            confidence: if self.interim.is_empty() {
                self.confidence
            } else {
                None
            },
            language: self.language,
        }
    }
}

/// One space between segments, none where a script has no spaces.
fn join_segments(left: &str, right: &str) -> String {
    let (left, right) = (left.trim(), right.trim());
    let unspaced = |c: char| matches!(c, '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF00}'..='\u{FFEF}');
    let glued = left.chars().next_back().is_some_and(unspaced)
        && right.chars().next().is_some_and(unspaced);
    let separator = if left.is_empty() || right.is_empty() || glued {
        ""
    } else {
        " "
    };
    format!("{left}{separator}{right}")
}

/// Asks the model; retries only while nothing was delivered (RT1).
pub(super) async fn ask(
    shared: Arc<Shared>,
    mut request: LlmRequest,
    cx: CallContext,
    watched: Watched,
    round: u32,
) {
    let llm = &shared.providers.llm;
    if !llm.capabilities().vision {
        replace_images(&shared, &mut request, &cx).await;
    }
    if let Err(refusal) = shared.guardrails.request(&mut request, &cx).await {
        let turn = cx.turn_id;
        shared.report(Input::Refused { turn, refusal }).await;
        return;
    }
    let (mut backoff, mut attempt) = (Backoff::new(shared.config.llm_attempts), 0);
    let mut watch = watched.llm(&shared, llm.name(), round, &request);
    loop {
        let mut delivered = false;
        let response = respond(
            &shared,
            request.clone(),
            &cx,
            &watched,
            &mut watch,
            &mut delivered,
        )
        .await;
        let Err(error) = response else { return };
        let again = if delivered {
            Err(error)
        } else {
            shared
                .try_again(&mut backoff, &mut attempt, Component::Llm, error, &watched)
                .await
        };
        if let Err(error) = again {
            watched.llm_failed(&shared, watch, &error);
            shared
                .report(Input::LlmFailed {
                    turn: cx.turn_id,
                    error,
                })
                .await;
            return;
        }
    }
}

async fn respond(
    shared: &Shared,
    request: LlmRequest,
    cx: &CallContext,
    watched: &Watched,
    watch: &mut Stopwatch,
    delivered: &mut bool,
) -> Result<(), ProviderError> {
    let llm = &shared.providers.llm;
    let timeouts = &shared.config.timeouts;
    let first_by = tokio::time::Instant::now() + timeouts.llm_first;
    let opened = tokio::time::timeout_at(first_by, llm.stream(request, cx)).await;
    let mut chunks = opened.map_err(|_| late(llm.name(), Phase::FirstEvent))??;
    let mut result = LlmResult::default();
    let mut filter = shared.guardrails.response_filter(cx);
    let mut first = true;
    loop {
        let next = if first {
            let next = tokio::time::timeout_at(first_by, chunks.next()).await;
            next.map_err(|_| late(llm.name(), Phase::FirstEvent))?
        } else {
            let next = timeout(timeouts.llm_idle, chunks.next()).await;
            next.map_err(|_| late(llm.name(), Phase::Idle))?
        };
        first = false;
        let Some(chunk) = next else {
            let message = "response ended without an end marker";
            return Err(ProviderError::new(ErrorKind::Protocol, llm.name(), message));
        };
        let chunk = match filtered(&mut filter, chunk?, shared, cx, &mut result).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => {
                *delivered = true;
                continue;
            }
            Err(refusal) => {
                let turn = cx.turn_id;
                shared.report(Input::Refused { turn, refusal }).await;
                return Ok(());
            }
        };
        match &chunk {
            LlmChunk::Text(text) => {
                *delivered = true;
                result.text.push_str(text);
                watched.llm_chunk(shared, watch, text);
            }
            LlmChunk::ToolCall(call) => {
                *delivered = true;
                result.tool_calls.push(call.clone());
            }
            LlmChunk::ToolCallBegun { .. } => *delivered = true,
            LlmChunk::Usage(usage) => result.usage = *usage,
            LlmChunk::End(reason) => result.stop_reason = Some(reason.clone()),
            LlmChunk::Reasoning(_) => {}
        }
        let is_end = matches!(chunk, LlmChunk::End(_));
        if is_end {
            watched.llm_done(shared, watch, std::mem::take(&mut result));
        }
        shared
            .report(Input::Llm {
                turn: cx.turn_id,
                chunk,
            })
            .await;
        if is_end {
            return Ok(());
        }
    }
}

/// Passes text through the filter. At the end, what it held back goes out first and the whole is checked.
async fn filtered(
    filter: &mut ChainFilter,
    chunk: LlmChunk,
    shared: &Shared,
    cx: &CallContext,
    result: &mut LlmResult,
) -> Result<Option<LlmChunk>, Refusal> {
    match chunk {
        LlmChunk::Text(text) if !filter.is_empty() => {
            let text = filter.push(&text)?;
            Ok((!text.is_empty()).then_some(LlmChunk::Text(text)))
        }
        LlmChunk::End(_) if !shared.guardrails.is_empty() => {
            let rest = filter.finish()?;
            if !rest.is_empty() {
                result.text.push_str(&rest);
                let (turn, chunk) = (cx.turn_id, LlmChunk::Text(rest));
                shared.report(Input::Llm { turn, chunk }).await;
            }
            shared.guardrails.response(result, cx).await?;
            Ok(Some(chunk))
        }
        chunk => Ok(Some(chunk)),
    }
}

/// For a model that cannot see: what another provider says of the images, else their alternative texts (V1).
async fn replace_images(shared: &Shared, request: &mut LlmRequest, cx: &CallContext) {
    for message in &mut request.messages {
        let Message::User { text, attachments } = message else {
            continue;
        };
        if attachments.is_empty() {
            continue;
        }
        let words = match describe(shared, attachments, cx).await {
            Some(description) => format!("[images: {description}]"),
            None => attachments
                .iter()
                .map(|image| {
                    format!(
                        "[image: {}]",
                        image.alt.as_deref().unwrap_or("no description")
                    )
                })
                .collect::<Vec<_>>()
                .join(" "),
        };
        *message = Message::user(format!("{words}\n{text}"));
    }
}

async fn describe(shared: &Shared, images: &[Attachment], cx: &CallContext) -> Option<String> {
    let vision = shared.providers.vision.as_ref()?;
    let attachments: Vec<_> = images
        .iter()
        .filter(|image| !matches!(image.source, ImageSource::Released))
        .cloned()
        .collect();
    if attachments.is_empty() {
        return None;
    }
    let request = VisionRequest {
        prompt: DESCRIBE.into(),
        attachments,
    };
    match timeout(
        shared.config.timeouts.llm_first,
        vision.describe(request, cx),
    )
    .await
    {
        Ok(Ok(result)) => Some(result.content),
        Ok(Err(error)) => {
            tracing::warn!(%error, "image description failed");
            None
        }
        Err(_) => None,
    }
}

/// Runs one tool call within its time.
pub(super) async fn run_tool(
    shared: Arc<Shared>,
    tools: Arc<dyn ToolRunner>,
    call: ToolCall,
    cx: CallContext,
) {
    let turn = cx.turn_id;
    shared
        .report(Input::ToolStarted {
            turn,
            call: call.clone(),
        })
        .await;
    let started = shared.clock.now();
    let limit = shared.config.timeouts.tool;
    let run =
        std::panic::AssertUnwindSafe(guarded_run(&shared, &*tools, &call, &cx)).catch_unwind();
    let result = match timeout(limit, run).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ToolFailure::new(
            FailureCategory::Handler,
            "the tool failed",
        )),
        Err(_) => Err(ToolFailure::new(
            FailureCategory::Timeout,
            format!(
                "the tool took longer than {}",
                humantime::format_duration(limit)
            ),
        )),
    };
    cx.cancel.cancel();
    let duration = shared.clock.now().saturating_duration_since(started);
    shared
        .report(Input::ToolDone {
            turn,
            call,
            result,
            duration,
        })
        .await;
}

async fn guarded_run(
    shared: &Shared,
    tools: &dyn ToolRunner,
    call: &ToolCall,
    cx: &CallContext,
) -> Result<Value, ToolFailure> {
    let mut checked = call.clone();
    shared.guardrails.tool_call(&mut checked, cx).await?;
    let mut value = tools.run(&checked, cx).await?;
    shared
        .guardrails
        .tool_result(&checked, &mut value, cx)
        .await?;
    Ok(value)
}

pub(super) fn late(provider: &str, phase: Phase) -> ProviderError {
    let message = match phase {
        Phase::Connect => "no connection in time",
        Phase::FirstEvent => "no answer in time",
        Phase::Idle => "the answer stalled",
        Phase::Total => "not done in time",
    };
    ProviderError::new(ErrorKind::Timeout(phase), provider, message)
}

/// The next item of a stream, with a deadline on it.
pub(super) async fn next_within<T>(
    stream: impl Stream<Item = Result<T, ProviderError>> + Unpin,
    limit: Duration,
    provider: &str,
    phase: Phase,
) -> Result<Option<T>, ProviderError> {
    let mut stream = pin!(stream);
    match timeout(limit, stream.next()).await {
        Ok(item) => item.transpose(),
        Err(_) => Err(late(provider, phase)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_join_with_one_space_and_with_none_between_unspaced_scripts() {
        let table = [
            ("", "Hello", "Hello"),
            (" Hello ", " there ", "Hello there"),
            ("你好", "世界", "你好世界"),
            ("你好", "world", "你好 world"),
        ];
        for (left, right, expected) in table {
            assert_eq!(join_segments(left, right), expected);
        }
    }
}
