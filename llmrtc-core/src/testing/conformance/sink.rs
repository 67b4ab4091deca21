//! Checks of [`AudioSink`](crate::playout::AudioSink).

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

use super::{SinkFixture, soon};
use crate::{
    audio::{PcmChunk, SampleRate},
    id::TurnId,
    playout::{OUTPUT_QUEUE, OutputClosed, Played, PlayoutEvent, TurnOutput},
};

/// How long nothing must happen to count as nothing.
const QUIET: Duration = Duration::from_millis(200);
/// The play head may be off by a frame and a fade.
const TOLERANCE: Duration = Duration::from_millis(40);
const FIRST: TurnId = TurnId(1);
const SECOND: TurnId = TurnId(2);

fn audio(duration: Duration) -> PcmChunk {
    let rate = SampleRate::HZ_24000;
    PcmChunk::new(vec![1_000; rate.samples_in(duration)], rate)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn open<F: SinkFixture>(
    fixture: &F,
    turn: TurnId,
) -> (TurnOutput, mpsc::Receiver<PlayoutEvent>) {
    let (notify, events) = mpsc::channel(16);
    (fixture.sink().open(turn, notify), events)
}

async fn started(events: &mut mpsc::Receiver<PlayoutEvent>) {
    let event = soon("the start", events.recv()).await;
    assert!(
        matches!(event, Some(PlayoutEvent::Started { .. })),
        "{event:?}"
    );
}

/// Waits for the end; underruns on the way are the business of the machine it runs on.
async fn drained(events: &mut mpsc::Receiver<PlayoutEvent>) {
    loop {
        match soon("the end", events.recv()).await {
            Some(PlayoutEvent::Underrun { .. }) => {}
            Some(PlayoutEvent::Drained { .. }) => return,
            other => panic!("{other:?}"),
        }
    }
}

async fn quiet(events: &mut mpsc::Receiver<PlayoutEvent>) {
    if let Ok(Some(event)) = timeout(QUIET, events.recv()).await {
        panic!("{event:?} where nothing was to happen");
    }
}

fn check_played(played: Played, segment: u32, within: Duration) {
    assert_eq!(played.segment, segment);
    assert!(
        played.within.abs_diff(within) <= TOLERANCE,
        "{:?} of segment {segment} instead of {within:?}",
        played.within
    );
}

/// Two segments: one start, one end, and the play head at the end of the second.
pub async fn what_is_written_is_played_and_drains<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut output, mut events) = open(&fixture, FIRST).await;
    for segment in 0..2 {
        for _ in 0..2 {
            let write = output.writer.write(segment, audio(ms(60)));
            write.await.expect("the output is open");
        }
        let end = output.writer.end_segment(segment);
        end.await.expect("the output is open");
    }
    output.control.finish();
    output.control.finish();
    started(&mut events).await;
    drained(&mut events).await;
    check_played(output.control.played(), 1, ms(120));
    quiet(&mut events).await;
}

/// A turn without audio still ends.
pub async fn nothing_written_drains_without_a_start<F: SinkFixture>() {
    let fixture = F::start().await;
    let (output, mut events) = open(&fixture, FIRST).await;
    output.control.finish();
    drained(&mut events).await;
}

/// Held, the position stays; released, playout goes on from there.
pub async fn a_held_output_stays_where_it_is<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut output, mut events) = open(&fixture, FIRST).await;
    output.control.hold();
    output.control.hold();
    let write = output.writer.write(0, audio(ms(300)));
    write.await.expect("the output is open");
    output.writer.end_segment(0).await.expect("still open");
    output.control.finish();
    quiet(&mut events).await;
    assert_eq!(output.control.played(), Played::default());
    output.control.release();
    started(&mut events).await;
    output.control.hold();
    // A fade may still be playing.
    quiet(&mut events).await;
    let held = output.control.played();
    quiet(&mut events).await;
    assert_eq!(output.control.played(), held);
    output.control.release();
    drained(&mut events).await;
    check_played(output.control.played(), 0, ms(300));
}

/// Cancelled, the output refuses audio and never drains.
pub async fn a_cancelled_output_is_closed_and_silent<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut output, mut events) = open(&fixture, FIRST).await;
    let write = output.writer.write(0, audio(ms(5_000)));
    write.await.expect("the output is open");
    output.control.finish();
    started(&mut events).await;
    let played = output.control.cancel();
    assert!(played.within < ms(5_000), "{played:?}");
    assert_eq!(output.control.cancel(), played);
    assert_eq!(output.control.played(), played);
    assert_eq!(
        output.writer.write(0, audio(ms(20))).await,
        Err(OutputClosed)
    );
    assert_eq!(output.writer.end_segment(0).await, Err(OutputClosed));
    quiet(&mut events).await;
}

/// One output at a time.
pub async fn the_next_output_cancels_the_previous_one<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut first, mut first_events) = open(&fixture, FIRST).await;
    let write = first.writer.write(0, audio(ms(5_000)));
    write.await.expect("the output is open");
    started(&mut first_events).await;
    let (mut second, mut events) = open(&fixture, SECOND).await;
    assert_eq!(
        first.writer.write(0, audio(ms(20))).await,
        Err(OutputClosed)
    );
    quiet(&mut first_events).await;
    let write = second.writer.write(0, audio(ms(60)));
    write.await.expect("the output is open");
    second.writer.end_segment(0).await.expect("still open");
    second.control.finish();
    let event = soon("the start", events.recv()).await;
    assert_eq!(event.map(|event| event.turn()), Some(SECOND));
    drained(&mut events).await;
}

/// The queue is bounded by duration, and cancelling frees a waiting writer.
pub async fn a_full_output_makes_the_writer_wait<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut output, _events) = open(&fixture, FIRST).await;
    output.control.hold();
    let piece = ms(1_000);
    let mut accepted = Duration::ZERO;
    let TurnOutput { writer, control } = &mut output;
    while let Ok(written) = timeout(QUIET, writer.write(0, audio(piece))).await {
        written.expect("the output is open");
        accepted += piece;
        assert!(accepted <= OUTPUT_QUEUE + piece * 2, "no bound");
    }
    assert!(accepted + piece * 2 >= OUTPUT_QUEUE, "{accepted:?}");
    let waiting = writer.write(0, audio(piece));
    let (written, _) = tokio::join!(soon("the refusal", waiting), async { control.cancel() });
    assert_eq!(written, Err(OutputClosed));
}

/// A segment whose audio comes too late is reported, and goes on.
pub async fn a_gap_inside_a_segment_is_an_underrun<F: SinkFixture>() {
    let fixture = F::start().await;
    let (mut output, mut events) = open(&fixture, FIRST).await;
    let write = output.writer.write(0, audio(ms(60)));
    write.await.expect("the output is open");
    started(&mut events).await;
    let event = soon("the underrun", events.recv()).await;
    assert_eq!(event, Some(PlayoutEvent::Underrun { turn: FIRST }));
    let write = output.writer.write(0, audio(ms(60)));
    write.await.expect("still open");
    output.writer.end_segment(0).await.expect("still open");
    output.control.finish();
    drained(&mut events).await;
    check_played(output.control.played(), 0, ms(120));
}
