use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::script::lock;
use crate::{
    audio::PcmChunk,
    id::TurnId,
    playout::{
        AudioSink, AudioWriter, OUTPUT_QUEUE, OutputClosed, OutputControl, Played, PlayoutEvent,
        SegmentIndex, TurnOutput,
    },
    tasks::Tasks,
};

/// Playout advances in steps of this, as RTP does.
const FRAME: Duration = Duration::from_millis(20);

/// A sink that plays on tokio's clock, frame by frame and in real time, and keeps a record of everything.
#[derive(Clone, Debug)]
pub struct ScriptedSink {
    outputs: Arc<Mutex<Vec<Arc<Output>>>>,
    tasks: Arc<Tasks>,
}

/// What was done with an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkAction {
    /// Playout was paused.
    Hold,
    /// Playout went on.
    Release,
    /// Everything was written.
    Finish,
    /// The rest was dropped.
    Cancel(Played),
}

/// What became of one turn's output.
#[derive(Clone, Debug)]
pub struct OutputRecord {
    /// Whose output.
    pub turn: TurnId,
    /// The audio written, in order.
    pub written: Vec<(SegmentIndex, PcmChunk)>,
    /// The segments that were ended.
    pub ended: Vec<SegmentIndex>,
    /// How far playout came.
    pub played: Played,
    /// What was done with it, and when. Repetitions without effect are not listed.
    pub actions: Vec<(Instant, SinkAction)>,
}

impl OutputRecord {
    /// How much audio of a segment was written.
    pub fn written_duration(&self, segment: SegmentIndex) -> Duration {
        self.written
            .iter()
            .filter(|(index, _)| *index == segment)
            .map(|(_, audio)| audio.duration())
            .sum()
    }
}

#[derive(Debug)]
struct Output {
    turn: TurnId,
    state: Mutex<State>,
    /// Wakes the player and the writer after every change.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    written: Vec<(SegmentIndex, PcmChunk)>,
    ended: Vec<SegmentIndex>,
    actions: Vec<(Instant, SinkAction)>,
    /// Audio not yet played: the rest of each piece.
    queue: VecDeque<(SegmentIndex, Duration)>,
    queued: Duration,
    played: BTreeMap<SegmentIndex, Duration>,
    held: bool,
    finished: bool,
    drained: bool,
    cancelled: bool,
}

impl State {
    fn played(&self) -> Played {
        self.played
            .last_key_value()
            .map(|(segment, within)| Played {
                segment: *segment,
                within: *within,
            })
            .unwrap_or_default()
    }

    fn act(&mut self, action: SinkAction) {
        self.actions.push((Instant::now(), action));
    }

    /// Plays one frame, across pieces and segments.
    fn play_frame(&mut self) {
        let mut room = FRAME;
        while let Some((segment, rest)) = self.queue.front_mut() {
            let now = room.min(*rest);
            *self.played.entry(*segment).or_default() += now;
            self.queued = self.queued.saturating_sub(now);
            room -= now;
            *rest -= now;
            if !rest.is_zero() {
                break;
            }
            self.queue.pop_front();
            if room.is_zero() {
                break;
            }
        }
    }
}

impl ScriptedSink {
    /// A sink without outputs.
    pub fn new() -> Self {
        Self {
            outputs: Arc::default(),
            tasks: Arc::new(Tasks::root("scripted-sink")),
        }
    }

    /// The outputs so far, oldest first.
    pub fn outputs(&self) -> Vec<OutputRecord> {
        lock(&self.outputs)
            .iter()
            .map(|output| {
                let state = lock(&output.state);
                OutputRecord {
                    turn: output.turn,
                    written: state.written.clone(),
                    ended: state.ended.clone(),
                    played: state.played(),
                    actions: state.actions.clone(),
                }
            })
            .collect()
    }

    /// The latest output of a turn.
    pub fn output(&self, turn: TurnId) -> Option<OutputRecord> {
        self.outputs()
            .into_iter()
            .rev()
            .find(|output| output.turn == turn)
    }
}

impl Default for ScriptedSink {
    fn default() -> Self {
        Self::new()
    }
}

impl AudioSink for ScriptedSink {
    fn open(&self, turn: TurnId, notify: mpsc::Sender<PlayoutEvent>) -> TurnOutput {
        let output = Arc::new(Output {
            turn,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let previous = {
            let mut outputs = lock(&self.outputs);
            let previous = outputs.last().cloned();
            outputs.push(Arc::clone(&output));
            previous
        };
        if let Some(previous) = previous {
            previous.cancel();
        }
        let player = Arc::clone(&output);
        self.tasks
            .spawn("playout", |_| async move { player.play(notify).await })
            .detach();
        TurnOutput {
            writer: Box::new(Writer(Arc::clone(&output))),
            control: output,
        }
    }
}

/// What the player does next.
enum Next {
    Played { first: bool },
    Wait { underrun: bool },
    Drained,
    Cancelled,
}

impl Output {
    async fn play(&self, notify: mpsc::Sender<PlayoutEvent>) {
        let turn = self.turn;
        let mut started = false;
        let mut dry = false;
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut state = lock(&self.state);
                if state.cancelled {
                    Next::Cancelled
                } else if state.held {
                    Next::Wait { underrun: false }
                } else if !state.queue.is_empty() {
                    state.play_frame();
                    dry = false;
                    Next::Played {
                        first: !std::mem::replace(&mut started, true),
                    }
                } else if state.finished {
                    state.drained = true;
                    Next::Drained
                } else {
                    let mid_segment = started && !state.ended.contains(&state.played().segment);
                    Next::Wait {
                        underrun: mid_segment && !std::mem::replace(&mut dry, mid_segment),
                    }
                }
            };
            let at = Instant::now().into_std();
            // A full channel loses news, as the contract says.
            match next {
                Next::Cancelled => return,
                Next::Drained => {
                    let _ = notify.try_send(PlayoutEvent::Drained { turn, at });
                    return;
                }
                Next::Wait { underrun } => {
                    if underrun {
                        let _ = notify.try_send(PlayoutEvent::Underrun { turn });
                    }
                    changed.await;
                }
                Next::Played { first } => {
                    if first {
                        let _ = notify.try_send(PlayoutEvent::Started { turn, at });
                    }
                    self.changed.notify_waiters();
                    tokio::time::sleep(FRAME).await;
                }
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_waiters();
    }
}

impl OutputControl for Output {
    fn hold(&self) {
        self.change(|state| {
            if !std::mem::replace(&mut state.held, true) {
                state.act(SinkAction::Hold);
            }
        });
    }

    fn release(&self) {
        self.change(|state| {
            if std::mem::replace(&mut state.held, false) {
                state.act(SinkAction::Release);
            }
        });
    }

    fn finish(&self) {
        self.change(|state| {
            if !std::mem::replace(&mut state.finished, true) {
                state.act(SinkAction::Finish);
            }
        });
    }

    fn cancel(&self) -> Played {
        self.change(|state| {
            if !std::mem::replace(&mut state.cancelled, true) && !state.drained {
                let played = state.played();
                state.act(SinkAction::Cancel(played));
                state.queue.clear();
                state.queued = Duration::ZERO;
            }
        });
        self.played()
    }

    fn played(&self) -> Played {
        lock(&self.state).played()
    }
}

struct Writer(Arc<Output>);

#[async_trait]
impl AudioWriter for Writer {
    async fn write(&mut self, segment: SegmentIndex, audio: PcmChunk) -> Result<(), OutputClosed> {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut state = lock(&self.0.state);
                if state.cancelled {
                    return Err(OutputClosed);
                }
                if state.queued < OUTPUT_QUEUE {
                    if !audio.is_empty() {
                        state.queue.push_back((segment, audio.duration()));
                        state.queued += audio.duration();
                        state.written.push((segment, audio));
                    }
                    break;
                }
            }
            changed.await;
        }
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn end_segment(&mut self, segment: SegmentIndex) -> Result<(), OutputClosed> {
        let mut open = true;
        self.0.change(|state| {
            open = !state.cancelled;
            if open {
                state.ended.push(segment);
            }
        });
        if open { Ok(()) } else { Err(OutputClosed) }
    }
}
