//! The caller's end of the microphone: speech when there is something to say, silence otherwise.

use std::{sync::Arc, time::Duration};

use llmrtc_core::{
    audio::{PcmChunk, SampleRate},
    id::TurnId,
    playout::{AudioSink, AudioWriter, PlayoutEvent, TurnOutput},
};
use tokio::sync::mpsc;

use super::Call;

/// Pieces in which speech and silence are handed over.
const PIECE: Duration = Duration::from_millis(100);

/// Speaks line after line. In between it sends silence, as a microphone in a quiet room does.
pub(super) struct Mouth {
    microphone: Arc<dyn AudioSink>,
    /// Outputs so far. Each replaces the one before.
    outputs: u64,
}

impl Mouth {
    pub(super) fn new(microphone: Arc<dyn AudioSink>) -> Self {
        Self {
            microphone,
            outputs: 0,
        }
    }

    /// Speaks at once, in real time. The events say when the line began and ended.
    pub(super) fn speak(&mut self, recording: PcmChunk) -> mpsc::Receiver<PlayoutEvent> {
        let (output, events) = self.open();
        speak(output, recording);
        events
    }

    /// Sends silence until the next line.
    pub(super) fn hush(&mut self) {
        let (output, _) = self.open();
        hush(output.writer);
    }

    fn open(&mut self) -> (TurnOutput, mpsc::Receiver<PlayoutEvent>) {
        self.outputs += 1;
        let (notify, events) = mpsc::channel(4);
        (self.microphone.open(TurnId(self.outputs), notify), events)
    }
}

/// Plays a recording into the microphone, in real time. The events say when it began and ended.
pub fn play(call: &Call, recording: PcmChunk) -> mpsc::Receiver<PlayoutEvent> {
    Mouth::new(call.microphone()).speak(recording)
}

fn speak(output: TurnOutput, recording: PcmChunk) {
    let (mut writer, control) = (output.writer, output.control);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the recording or with the call"
    )]
    tokio::spawn(async move {
        let piece = recording.rate().samples_in(PIECE);
        for samples in recording.samples().chunks(piece) {
            if writer
                .write(0, PcmChunk::new(samples, recording.rate()))
                .await
                .is_err()
            {
                return;
            }
        }
        if writer.end_segment(0).await.is_ok() {
            control.finish();
        }
    });
}

fn hush(mut writer: Box<dyn AudioWriter>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the next line or with the call"
    )]
    tokio::spawn(async move {
        let rate = SampleRate::HZ_48000;
        let silence = PcmChunk::new(vec![0; rate.samples_in(PIECE)], rate);
        while writer.write(0, silence.clone()).await.is_ok() {}
    });
}
