//! The contracts of the core traits as tests that every implementation runs.
//!
//! An implementation writes one fixture and one line per trait:
//!
//! ```ignore
//! llmrtc_core::llm_provider_conformance!(my_vendor: MyFixture);
//! ```
//!
//! which makes a module `my_vendor` with the tests of the suite.

pub mod llm;
pub mod sink;
pub mod stt;
pub mod tts;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    playout::AudioSink,
    provider::{ErrorKind, ProviderError, Retry},
};

/// What a fixture's language model answers, in at least two pieces, and its transcription understands.
pub const ANSWER: &str = "Hello there. How are you?";

/// The longest a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the backend behind a provider under test behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behaviour {
    /// Answers: the language model says [`ANSWER`], transcription understands it, synthesis speaks any text.
    Answer,
    /// Takes the request and never answers.
    Silent,
    /// Begins to answer, delivers at least one piece, and then nothing more.
    Stall,
    /// As `Stall`, then closes the connection without the end of the answer.
    Break,
    /// Refuses the request with the vendor's way of saying this.
    Refuse(ErrorKind),
}

/// A provider with a backend under the test's control: a local server, or a script.
#[async_trait]
pub trait ProviderFixture<P: ?Sized>: Sized + Send + Sync {
    /// Sets up a backend and a provider that uses it.
    async fn start(behaviour: Behaviour) -> Self;

    /// The provider.
    fn provider(&self) -> Arc<P>;

    /// Waits until the backend has a request.
    async fn received(&self);

    /// Waits until the backend has noticed that a request was cancelled.
    async fn cancelled(&self);
}

/// A sink under test. It must play in real time.
#[async_trait]
pub trait SinkFixture: Sized + Send + Sync {
    /// Sets up a sink.
    async fn start() -> Self;

    /// The sink.
    fn sink(&self) -> Arc<dyn AudioSink>;
}

/// The refusals that every vendor has.
const REFUSALS: [ErrorKind; 4] = [
    ErrorKind::Authentication,
    ErrorKind::RateLimited,
    ErrorKind::Unavailable,
    ErrorKind::InvalidRequest,
];

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Starts a call, waits until the backend has it, drops it and waits until the backend has noticed.
async fn check_dropping_cancels<P: ?Sized, F: ProviderFixture<P>, T>(
    fixture: &F,
    call: impl Future<Output = T>,
) {
    soon("the request", async {
        tokio::select! {
            () = fixture.received() => {}
            _ = call => panic!("a silent backend cannot have answered"),
        }
    })
    .await;
    soon("the cancellation", fixture.cancelled()).await;
}

fn check_refusal<T>(kind: ErrorKind, result: Result<T, ProviderError>) {
    let Err(error) = result else {
        panic!("a refused call succeeded: {kind:?}");
    };
    assert_eq!(error.kind(), kind, "{error}");
    let again = matches!(error.retry(), Retry::After(_));
    let expected = matches!(kind, ErrorKind::RateLimited | ErrorKind::Unavailable);
    assert_eq!(again, expected, "whether {kind:?} is worth another attempt");
}

/// Makes one test per check of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_suite {
    ($name:ident, $suite:ident, $fixture:ty, $runtime:tt, [$($check:ident),* $(,)?]) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test $runtime]
                async fn $check() {
                    $crate::testing::conformance::$suite::$check::<$fixture>().await;
                }
            )*
        }
    };
}

/// The suite of [`LlmProvider`](crate::provider::LlmProvider), for a
/// [`ProviderFixture`](crate::testing::conformance::ProviderFixture).
#[macro_export]
macro_rules! llm_provider_conformance {
    ($name:ident: $fixture:ty $(, $($runtime:tt)*)?) => {
        $crate::__conformance_suite!($name, llm, $fixture, ($($($runtime)*)?), [
            text_arrives_in_order_and_ends_once,
            complete_is_the_folded_stream,
            dropping_the_request_cancels_it,
            dropping_the_stream_cancels_it,
            refusals_are_classified,
            a_broken_stream_does_not_look_complete,
        ]);
    };
}

/// The suite of [`SttProvider`](crate::provider::SttProvider), for a
/// [`ProviderFixture`](crate::testing::conformance::ProviderFixture).
#[macro_export]
macro_rules! stt_provider_conformance {
    ($name:ident: $fixture:ty $(, $($runtime:tt)*)?) => {
        $crate::__conformance_suite!($name, stt, $fixture, ($($($runtime)*)?), [
            an_utterance_becomes_one_final_transcript,
            dropping_the_request_cancels_it,
            refusals_are_classified,
            live_frames_become_final_transcripts,
            no_frames_are_no_transcript,
            a_broken_live_connection_is_an_error,
            dropping_the_live_stream_cancels_it,
        ]);
    };
}

/// The suite of [`TtsProvider`](crate::provider::TtsProvider), for a
/// [`ProviderFixture`](crate::testing::conformance::ProviderFixture).
#[macro_export]
macro_rules! tts_provider_conformance {
    ($name:ident: $fixture:ty $(, $($runtime:tt)*)?) => {
        $crate::__conformance_suite!($name, tts, $fixture, ($($($runtime)*)?), [
            a_text_becomes_audio,
            a_text_becomes_streamed_audio,
            dropping_the_request_cancels_it,
            dropping_the_stream_cancels_it,
            refusals_are_classified,
            a_broken_stream_is_an_error,
        ]);
    };
}

/// The suite of [`AudioSink`](crate::playout::AudioSink), for a
/// [`SinkFixture`](crate::testing::conformance::SinkFixture).
#[macro_export]
macro_rules! audio_sink_conformance {
    ($name:ident: $fixture:ty $(, $($runtime:tt)*)?) => {
        $crate::__conformance_suite!($name, sink, $fixture, ($($($runtime)*)?), [
            what_is_written_is_played_and_drains,
            nothing_written_drains_without_a_start,
            a_held_output_stays_where_it_is,
            a_cancelled_output_is_closed_and_silent,
            the_next_output_cancels_the_previous_one,
            a_full_output_makes_the_writer_wait,
            a_gap_inside_a_segment_is_an_underrun,
        ]);
    };
}
