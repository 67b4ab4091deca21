//! Files and texts that become the caller's speech, and the file that keeps what was heard.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    playout::AudioDecoder,
    provider::{CallContext, TtsConfig, TtsProvider},
};
use llmrtc_media::{
    codec::{
        decode::FileDecoder,
        wav::{WavReader, WavWriter},
    },
    pipeline::ReceivedFrame,
};
use tokio::time::timeout;

use super::meter::last_voice;

/// Longest pause that a recording shows in full; more is a lost network.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long the caller's voice may take for one line.
const SYNTHESIS_WITHIN: Duration = Duration::from_secs(60);
/// What is kept after the last audible sample of a synthesised line, so that it does not end in a click. The rest of the
/// silence is cut: pauses are the script's.
const TAIL: Duration = Duration::from_millis(40);

/// Reads what is to be played.
pub(super) fn read(path: &Path) -> anyhow::Result<PcmChunk> {
    let name = path.display();
    let file = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let wav = WavReader::new(Bytes::from(file)).with_context(|| format!("cannot use {name}"))?;
    let recording = wav.read_all();
    if recording.is_empty() {
        bail!("{name} holds no audio");
    }
    Ok(recording)
}

/// Speaks a line with the caller's voice.
pub(super) async fn synthesise(voice: &dyn TtsProvider, text: &str) -> anyhow::Result<PcmChunk> {
    let spoken = timeout(SYNTHESIS_WITHIN, pcm(voice, text))
        .await
        .context("it took too long")??;
    let end = last_voice(&spoken);
    if end.is_zero() {
        bail!("it stays silent");
    }
    let keep = spoken.rate().samples_in(end + TAIL);
    let samples = spoken.samples();
    Ok(PcmChunk::new(
        &samples[..keep.min(samples.len())],
        spoken.rate(),
    ))
}

async fn pcm(voice: &dyn TtsProvider, text: &str) -> anyhow::Result<PcmChunk> {
    let (config, context) = (TtsConfig::default(), CallContext::detached());
    if let Some(streaming) = voice.streaming() {
        let pieces = streaming.speak_stream(text, &config, &context).await?;
        // A piece may end within a sample; all of them together do not.
        let bytes = pieces
            .try_fold(BytesMut::new(), async |mut bytes, piece| {
                bytes.extend_from_slice(&piece);
                Ok(bytes)
            })
            .await?;
        return Ok(PcmChunk::from_le_bytes(&bytes, streaming.pcm_rate()));
    }
    let spoken = voice.speak(text, &config, &context).await?;
    let mut samples = Vec::new();
    let mut rate = SampleRate::HZ_24000;
    for piece in FileDecoder.decode(spoken.audio)? {
        let piece = piece?;
        rate = piece.rate();
        samples.extend_from_slice(piece.samples());
    }
    Ok(PcmChunk::new(samples, rate))
}

/// What was heard, in real time: a silent server sends few packets, so pauses are filled in.
pub(super) struct Reply {
    file: WavWriter<BufWriter<File>>,
    /// Where the next frame belongs.
    until: Option<Instant>,
}

impl Reply {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let file = WavWriter::new(BufWriter::new(file), SampleRate::HZ_48000)?;
        Ok(Self { file, until: None })
    }

    pub(super) fn write(&mut self, frame: &ReceivedFrame) -> io::Result<()> {
        let gap = self.until.map_or(Duration::ZERO, |until| {
            frame.at.saturating_duration_since(until)
        });
        // Below that it is jitter, which the next frames make up for.
        if gap > frame.pcm.duration() {
            let silence = vec![0i16; frame.pcm.rate().samples_in(gap.min(MAX_PAUSE))];
            self.file.write(&PcmChunk::new(silence, frame.pcm.rate()))?;
            self.until = None;
        }
        self.until = Some(self.until.unwrap_or(frame.at) + frame.pcm.duration());
        self.file.write(&frame.pcm)
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.file.finish()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use llmrtc_core::{
        audio::{AudioFormat, EncodedAudio},
        provider::{ProviderError, TtsResult},
    };
    use llmrtc_providers::echo::{EchoConfig, EchoTts};

    use super::*;

    /// Speaks in one piece, as headerless samples, with this level between two silences.
    struct Plain(i16);

    #[async_trait]
    impl TtsProvider for Plain {
        fn name(&self) -> &str {
            "plain"
        }

        async fn speak(
            &self,
            _text: &str,
            _config: &TtsConfig,
            _cx: &CallContext,
        ) -> Result<TtsResult, ProviderError> {
            let silence = vec![0; 16_000];
            let voice: Vec<i16> = [self.0, -self.0].repeat(8_000);
            let pcm = PcmChunk::new(
                [silence.clone(), voice, silence].concat(),
                SampleRate::HZ_16000,
            );
            Ok(TtsResult {
                audio: EncodedAudio {
                    data: pcm.to_le_bytes(),
                    format: AudioFormat::Pcm,
                    rate: Some(pcm.rate()),
                },
            })
        }
    }

    #[tokio::test]
    async fn a_line_ends_where_its_voice_ends() {
        let spoken = synthesise(&Plain(8_000), "a").await.unwrap();
        assert_eq!(spoken.duration(), Duration::from_secs(2) + TAIL);
        let streamed = synthesise(&EchoTts::new(EchoConfig::default()), "Hello there.")
            .await
            .unwrap();
        assert_eq!(streamed.rate(), SampleRate::HZ_24000);
        assert!(last_voice(&streamed) > Duration::from_millis(300));
        let silent = synthesise(&Plain(0), "a").await.unwrap_err();
        assert_eq!(silent.to_string(), "it stays silent");
    }
}
