//! Speech of one turn: segments are synthesised side by side and written in order.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    observe::{Stopwatch, Watched},
    spawn,
    text::{late, next_within},
};
use crate::{
    audio::{AudioFormat, EncodedAudio, PcmChunk, SampleRate},
    id::TurnId,
    playout::{AudioWriter, SegmentIndex},
    provider::{
        CallContext, ErrorKind, Phase, ProviderError, ProviderStream, StreamingTts, TtsConfig,
    },
    retry::Backoff,
    tasks::Tasks,
    turn::{Component, machine::Input},
};

/// Segments on their way to the writer; more than may ever be in flight, so handing one over never waits.
const SEGMENT_QUEUE: usize = 16;
/// Pieces of audio of a segment that wait for their turn, commonly a tenth of a second each. Full: its synthesis waits.
/// The next sentence begins without a gap as soon as one piece is there; the output's own queue is what bridges a slow
/// vendor, and each piece more would cost 5 kB for every segment in the making.
const PIECE_QUEUE: usize = 2;
/// Attempts at a segment before its first audio, by the same method (TT1).
const ATTEMPTS: u32 = 2;

/// One piece of a segment.
enum Piece {
    Audio(PcmChunk),
    Done(Result<(), ProviderError>),
}

/// The mouth of one turn.
pub(super) struct Speech {
    shared: Arc<Shared>,
    tasks: Tasks,
    cx: CallContext,
    watched: Watched,
    segments: mpsc::Sender<(SegmentIndex, mpsc::Receiver<Piece>)>,
    /// What was handed over before, for guardrails; empty without any.
    so_far: String,
}

impl Speech {
    pub(super) fn start(
        shared: Arc<Shared>,
        tasks: &Tasks,
        cancel: &CancellationToken,
        turn: TurnId,
        writer: Box<dyn AudioWriter>,
        watched: Watched,
    ) -> Self {
        let (segments, ordered) = mpsc::channel(SEGMENT_QUEUE);
        let tasks = tasks.child("speech");
        let job = write_in_order(Arc::clone(&shared), turn, ordered, writer);
        spawn(&tasks, "speech-writer", turn, shared.jobs.clone(), job);
        let cx = shared.call(turn, cancel.child_token());
        Self {
            shared,
            tasks,
            cx,
            watched,
            segments,
            so_far: String::new(),
        }
    }

    /// Synthesises a segment behind those before it.
    pub(super) fn say(&mut self, index: SegmentIndex, text: String) {
        let (pieces_in, pieces) = mpsc::channel(PIECE_QUEUE);
        // Cannot be full, see `SEGMENT_QUEUE`; closed means that the output is gone, which the writer reports.
        if self.segments.try_send((index, pieces)).is_err() {
            return;
        }
        let so_far = self.so_far.clone();
        if !self.shared.guardrails.is_empty() {
            self.so_far.push_str(&text);
            self.so_far.push(' ');
        }
        let job = synthesise(
            Arc::clone(&self.shared),
            index,
            (so_far, text),
            self.cx.clone(),
            self.watched.clone(),
            pieces_in,
        );
        spawn(
            &self.tasks,
            "tts",
            self.cx.turn_id,
            self.shared.jobs.clone(),
            job,
        );
    }
}

/// Restores the order of the segments on their way out (O4).
async fn write_in_order(
    shared: Arc<Shared>,
    turn: TurnId,
    mut segments: mpsc::Receiver<(SegmentIndex, mpsc::Receiver<Piece>)>,
    mut writer: Box<dyn AudioWriter>,
) {
    while let Some((segment, mut pieces)) = segments.recv().await {
        let result = loop {
            match pieces.recv().await {
                Some(Piece::Audio(audio)) => {
                    let duration = audio.duration();
                    if writer.write(segment, audio).await.is_err() {
                        shared.report(Input::OutputClosed { turn }).await;
                        return;
                    }
                    shared
                        .report(Input::Queued {
                            turn,
                            segment,
                            audio: duration,
                        })
                        .await;
                }
                Some(Piece::Done(result)) => break result,
                // The synthesis job is gone without a word: it panicked, and said so elsewhere.
                None => return,
            }
        };
        if writer.end_segment(segment).await.is_err() {
            shared.report(Input::OutputClosed { turn }).await;
            return;
        }
        shared
            .report(Input::SegmentDone {
                turn,
                segment,
                result,
            })
            .await;
    }
}

/// Speaks one segment: streamed with a second chance, then in one piece (TT1); never again once something was
/// delivered (TT2).
async fn synthesise(
    shared: Arc<Shared>,
    segment: SegmentIndex,
    (so_far, text): (String, String),
    cx: CallContext,
    watched: Watched,
    pieces: mpsc::Sender<Piece>,
) {
    let text = match shared.guardrails.segment(text, &so_far, &cx).await {
        Ok(text) => text,
        Err(refusal) => {
            let turn = cx.turn_id;
            shared.report(Input::Refused { turn, refusal }).await;
            return;
        }
    };
    if text.trim().is_empty() {
        // A guardrail left nothing to say.
        let _ = pieces.send(Piece::Done(Ok(()))).await;
        return;
    }
    let tts = &shared.providers.tts;
    let mut watch = watched.tts(&shared, segment, &text);
    let mut out = Pieces {
        pieces,
        delivered: false,
    };
    let mut streaming = tts.streaming().filter(|_| shared.config.streaming_tts);
    let (mut backoff, mut attempt) = (Backoff::new(ATTEMPTS), 0);
    let result = loop {
        let spoken = match streaming {
            Some(streaming) => {
                stream(
                    &shared, streaming, &text, &cx, &watched, &mut watch, &mut out,
                )
                .await
            }
            None => in_one_piece(&shared, &text, &cx, &watched, &mut watch, &mut out).await,
        };
        let Err(error) = spoken else { break Ok(()) };
        if out.delivered {
            break Err(error);
        }
        let again = shared.try_again(&mut backoff, &mut attempt, Component::Tts, error, &watched);
        match again.await {
            Ok(()) => {}
            // Streaming has had its chances: one in one piece.
            Err(_) if streaming.take().is_some() => backoff = Backoff::new(1),
            Err(error) => break Err(error),
        }
    };
    watched.tts_done(&shared, watch, &result);
    let _ = out.pieces.send(Piece::Done(result)).await;
}

struct Pieces {
    pieces: mpsc::Sender<Piece>,
    delivered: bool,
}

impl Pieces {
    async fn send(&mut self, audio: PcmChunk) {
        if !audio.is_empty() {
            self.delivered = true;
            // Closed: the turn is over and this job about to be dropped.
            let _ = self.pieces.send(Piece::Audio(audio)).await;
        }
    }
}

impl Shared {
    fn tts_config(&self) -> TtsConfig {
        TtsConfig {
            voice: self.config.voice.clone(),
            language: self.config.language.clone(),
            ..TtsConfig::default()
        }
    }
}

async fn stream(
    shared: &Shared,
    streaming: &dyn StreamingTts,
    text: &str,
    cx: &CallContext,
    watched: &Watched,
    watch: &mut Stopwatch,
    out: &mut Pieces,
) -> Result<(), ProviderError> {
    let tts = &shared.providers.tts;
    let timeouts = &shared.config.timeouts;
    let config = shared.tts_config();
    let first_by = tokio::time::Instant::now() + timeouts.tts_first;
    let opened = tokio::time::timeout_at(first_by, streaming.speak_stream(text, &config, cx)).await;
    let mut bytes: ProviderStream<Bytes> =
        opened.map_err(|_| late(tts.name(), Phase::FirstEvent))??;
    let mut samples = Samples {
        rate: streaming.pcm_rate(),
        carried: None,
    };
    loop {
        let (limit, phase) = if out.delivered {
            (timeouts.tts_idle, Phase::Idle)
        } else {
            (
                first_by.saturating_duration_since(tokio::time::Instant::now()),
                Phase::FirstEvent,
            )
        };
        let Some(piece) = next_within(&mut bytes, limit, tts.name(), phase).await? else {
            break;
        };
        let audio = samples.take(piece);
        watched.tts_chunk(shared, watch, &audio);
        out.send(audio).await;
    }
    if out.delivered {
        Ok(())
    } else {
        Err(ProviderError::new(
            ErrorKind::Protocol,
            tts.name(),
            "synthesis ended without audio",
        ))
    }
}

/// Re-aligns pieces that were cut inside a sample (TT4).
struct Samples {
    rate: SampleRate,
    carried: Option<u8>,
}

impl Samples {
    /// Takes the piece itself, so that its bytes are gone while its samples wait.
    fn take(&mut self, piece: Bytes) -> PcmChunk {
        let piece = match self.carried.take() {
            Some(half) => [&[half], &piece[..]].concat().into(),
            None => piece,
        };
        if piece.len() % 2 == 1 {
            self.carried = piece.last().copied();
        }
        PcmChunk::from_le_bytes(&piece, self.rate)
    }
}

async fn in_one_piece(
    shared: &Shared,
    text: &str,
    cx: &CallContext,
    watched: &Watched,
    watch: &mut Stopwatch,
    out: &mut Pieces,
) -> Result<(), ProviderError> {
    let tts = &shared.providers.tts;
    let config = shared.tts_config();
    let call = tts.speak(text, &config, cx);
    // Nothing comes before the whole, so the time for all of it is that of the first audio and of the rest.
    let limit = shared.config.timeouts.tts_first + shared.config.timeouts.tts_idle;
    let spoken = tokio::time::timeout(limit, call).await;
    let audio = spoken
        .map_err(|_| late(tts.name(), Phase::FirstEvent))??
        .audio;
    let mut chunks = decode(shared, audio);
    while let Some(chunk) = chunks.recv().await {
        let chunk =
            chunk.map_err(|reason| ProviderError::new(ErrorKind::Protocol, tts.name(), reason))?;
        watched.tts_chunk(shared, watch, &chunk);
        out.send(chunk).await;
    }
    if out.delivered {
        Ok(())
    } else {
        Err(ProviderError::new(
            ErrorKind::Protocol,
            tts.name(),
            "synthesis was silent",
        ))
    }
}

/// Decodes off the runtime's workers. Dropping the receiver ends it after the piece in hand.
fn decode(shared: &Shared, audio: EncodedAudio) -> mpsc::Receiver<Result<PcmChunk, String>> {
    let (out, pieces) = mpsc::channel(PIECE_QUEUE);
    if let (AudioFormat::Pcm, Some(rate)) = (audio.format, audio.rate) {
        // The queue is empty, so there is room.
        let _ = out.try_send(Ok(PcmChunk::from_le_bytes(&audio.data, rate)));
        return pieces;
    }
    let decoder = Arc::clone(&shared.decoder);
    tokio::task::spawn_blocking(move || match decoder.decode(audio) {
        Ok(chunks) => {
            for chunk in chunks {
                if out
                    .blocking_send(chunk.map_err(|error| error.to_string()))
                    .is_err()
                {
                    return;
                }
            }
        }
        Err(error) => {
            let _ = out.blocking_send(Err(error.to_string()));
        }
    });
    pieces
}
