//! Runs a [`Machine`]: performs its actions with real providers and feeds back what happens.

mod observe;
mod speech;
mod text;

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Instant,
};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{observe::Watch, speech::Speech};
use super::{
    TurnConfig, TurnEvent,
    machine::{
        Action, ChunkerFactory, Input, MAX_QUEUED_TEXTS, Machine, Moment, SttJob, TextPolicy,
    },
};
use crate::{
    audio::{EncodedAudio, PcmChunk},
    clock::Clock,
    guardrail::Guardrails,
    history::HistorySnapshot,
    hooks::Observers,
    id::{SessionId, TurnId},
    message::Attachment,
    playout::{AudioDecoder, AudioSink, OutputControl, PlayoutEvent},
    provider::{CallContext, ErrorKind, ProviderError, Providers},
    speech::SpeechEvent,
    tasks::{Task, Tasks},
    tool::{NoTools, ToolRunner},
};

/// Jobs → conversation. Full: the job waits, which is back-pressure to the vendor and to nobody else.
const JOB_QUEUE: usize = 64;
/// Playout → conversation. A turn has two events that matter; underruns in excess are lost.
const PLAYOUT_QUEUE: usize = 16;
/// Live frames waiting for transcription: 30 s of 20 ms frames. Full: the frame is lost, stale audio has no value.
const LIVE_QUEUE: usize = 1_500;

/// What a conversation is made of.
pub struct ConversationParts {
    /// Names the session in spans and hooks.
    pub session_id: SessionId,
    /// How it talks.
    pub config: Arc<TurnConfig>,
    /// Who understands, thinks and speaks.
    pub providers: Providers,
    /// Where speech goes.
    pub sink: Arc<dyn AudioSink>,
    /// Decodes one-shot synthesis.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Who watches.
    pub observers: Observers,
    /// What the model may call.
    pub tools: Option<Arc<dyn ToolRunner>>,
    /// Cuts answers into sentences; `None` takes the built-in chunker.
    pub chunkers: Option<ChunkerFactory>,
    /// The conversation so far, when a call is resumed.
    pub history: Option<HistorySnapshot>,
    /// What may stop or change a turn.
    pub guardrails: Guardrails,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ConversationParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConversationParts")
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

/// The queue of waiting texts is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many texts are waiting")]
pub struct QueueFull;

/// One session's conversation. One task owns it, gives it input and takes its events (CC1):
///
/// ```ignore
/// loop {
///     tokio::select! {
///         event = conversation.next() => tell_the_client(event),
///         heard = ears.recv() => conversation.speech(heard),
///     }
/// }
/// ```
///
/// Input methods return at once. Dropping the conversation cancels everything it has in flight.
pub struct Conversation {
    machine: Machine,
    shared: Arc<Shared>,
    sink: Arc<dyn AudioSink>,
    tools: Option<Arc<dyn ToolRunner>>,
    tasks: Tasks,
    jobs: mpsc::Receiver<Input>,
    playout: mpsc::Receiver<PlayoutEvent>,
    playout_in: mpsc::Sender<PlayoutEvent>,
    transcriptions: HashMap<SttJob, Task<()>>,
    /// Typed texts that the guardrails have not seen yet, oldest first, and the job that shows them one.
    screening: VecDeque<(Arc<str>, Vec<Attachment>, TextPolicy)>,
    screener: Option<Task<()>>,
    live: Option<Live>,
    work: Option<Work>,
    watch: Watch,
    events: VecDeque<TurnEvent>,
}

/// Live transcription on its way to the vendor. Dropping it ends the utterance.
struct Live {
    job: SttJob,
    frames: mpsc::Sender<PcmChunk>,
    /// Tells the job that no more frames come, whether or not the vendor reads those that did.
    _ended: oneshot::Sender<()>,
}

/// What every job needs.
struct Shared {
    session_id: SessionId,
    config: Arc<TurnConfig>,
    providers: Providers,
    decoder: Arc<dyn AudioDecoder>,
    observers: Observers,
    guardrails: Guardrails,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Sender<Input>,
}

/// What runs for the turn past transcription. Dropping it stops all of it.
struct Work {
    turn: TurnId,
    cancel: CancellationToken,
    tasks: Tasks,
    /// Model requests so far.
    rounds: u32,
    speech: Option<Speech>,
    output: Option<Arc<dyn OutputControl>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(output) = &self.output {
            output.cancel();
        }
    }
}

impl Conversation {
    /// Begins or continues a conversation. Its jobs run below `tasks`.
    pub fn new(tasks: &Tasks, parts: ConversationParts) -> Self {
        let (jobs_in, jobs) = mpsc::channel(JOB_QUEUE);
        let (playout_in, playout) = mpsc::channel(PLAYOUT_QUEUE);
        let live = parts.providers.stt.streaming().is_some();
        let machine = Machine::new(
            Arc::clone(&parts.config),
            parts.providers.llm.capabilities(),
            live,
            parts.chunkers,
            parts.history,
        );
        Self {
            machine,
            watch: Watch::new(parts.session_id),
            shared: Arc::new(Shared {
                session_id: parts.session_id,
                config: parts.config,
                providers: parts.providers,
                decoder: parts.decoder,
                observers: parts.observers,
                guardrails: parts.guardrails,
                clock: parts.clock,
                jobs: jobs_in,
            }),
            sink: parts.sink,
            tools: parts.tools,
            tasks: tasks.child("conversation"),
            jobs,
            playout,
            playout_in,
            transcriptions: HashMap::new(),
            screening: VecDeque::new(),
            screener: None,
            live: None,
            work: None,
            events: VecDeque::new(),
        }
    }

    /// Whether [`SpeechEvent::Audio`] is wanted: live transcription is configured and available.
    pub fn wants_live_audio(&self) -> bool {
        self.shared.config.streaming_stt && self.shared.providers.stt.streaming().is_some()
    }

    /// Whether an answer is being prepared or spoken.
    pub fn is_answering(&self) -> bool {
        self.machine.is_answering()
    }

    /// The caller's voice.
    pub fn speech(&mut self, event: SpeechEvent) {
        match event {
            SpeechEvent::Audio(frame) => {
                if let Some(live) = &self.live {
                    // A full or closed queue: see `LIVE_QUEUE`; the whole utterance comes again at its end.
                    let _ = live.frames.try_send(frame);
                }
            }
            event => {
                self.watch.speech(&event);
                self.handle(Input::Speech(event));
            }
        }
    }

    /// A typed message.
    ///
    /// # Errors
    /// [`QueueFull`] under [`TextPolicy::Queue`] when too many are waiting.
    pub fn text(
        &mut self,
        text: impl Into<Arc<str>>,
        attachments: Vec<Attachment>,
        policy: TextPolicy,
    ) -> Result<(), QueueFull> {
        if policy == TextPolicy::Queue && self.machine.would_queue() && self.machine.queue_is_full()
        {
            return Err(QueueFull);
        }
        let text = text.into();
        if self.shared.guardrails.is_empty() || text.trim().is_empty() {
            self.handle(Input::Text {
                text,
                attachments,
                policy,
            });
            return Ok(());
        }
        if self.screening.len() >= MAX_QUEUED_TEXTS {
            return Err(QueueFull);
        }
        // One at a time, so that texts keep their order.
        self.screening.push_back((text, attachments, policy));
        self.screen_next();
        Ok(())
    }

    /// Lets the guardrails look at the oldest typed text, unless they look at one already.
    fn screen_next(&mut self) {
        if self
            .screener
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let Some((text, attachments, policy)) = self.screening.pop_front() else {
            self.screener = None;
            return;
        };
        let shared = Arc::clone(&self.shared);
        let cx = shared.call(TurnId::default(), self.tasks.token().child_token());
        self.screener = Some(self.tasks.spawn("screen", |_| async move {
            let input = match shared.guardrails.input(text, &cx).await {
                Ok(text) => Input::Text {
                    text,
                    attachments,
                    policy,
                },
                Err(refusal) => Input::TextRefused(refusal),
            };
            shared.report(input).await;
        }));
    }

    /// A complete recorded utterance.
    pub fn upload(&mut self, audio: EncodedAudio, attachments: Vec<Attachment>) {
        self.watch.upload(&audio);
        self.handle(Input::Upload { audio, attachments });
    }

    /// Images for the utterance being spoken.
    pub fn images(&mut self, attachments: Vec<Attachment>) {
        self.handle(Input::Images(attachments));
    }

    /// Stops the running answer.
    pub fn interrupt(&mut self) {
        self.handle(Input::Interrupt);
    }

    /// The peer is gone: nobody speaks and nobody listens until the next one comes.
    pub fn source_lost(&mut self) {
        self.handle(Input::SourceLost);
    }

    /// Where the speech of the next turns goes.
    pub fn set_sink(&mut self, sink: Arc<dyn AudioSink>) {
        self.sink = sink;
    }

    /// What was said so far, without the turn in progress (H7).
    pub fn snapshot(&self) -> HistorySnapshot {
        self.machine.snapshot()
    }

    /// Settles everything in flight and returns the conversation for a later connection, with the events that are
    /// still to be told.
    pub fn close(mut self) -> (HistorySnapshot, Vec<TurnEvent>) {
        self.handle(Input::Close);
        (self.machine.snapshot(), self.events.drain(..).collect())
    }

    /// The next event for the client. Waits for ever while nothing happens.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> TurnEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let deadline = self.machine.deadline();
            let input = tokio::select! {
                biased;
                Some(event) = self.playout.recv() => {
                    self.watch.playout(&self.shared, &event);
                    Input::Playout(event)
                }
                Some(input) = self.jobs.recv() => {
                    if matches!(input, Input::Text { .. } | Input::TextRefused(_)) {
                        // Only the screening reports those, as its last act.
                        self.screener = None;
                        self.screen_next();
                    }
                    input
                }
                () = until(deadline) => Input::Tick,
            };
            self.handle(input);
        }
    }

    fn handle(&mut self, input: Input) {
        let played = self
            .work
            .as_ref()
            .and_then(|work| work.output.as_ref())
            .map(|output| output.played());
        let at = Moment {
            now: self.shared.clock.now(),
            played,
        };
        let mut actions = Vec::new();
        self.machine.handle(input, at, &mut actions);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Emit(event) => {
                self.watch.event(&self.shared, &event);
                self.events.push_back(event);
            }
            Action::Transcribe {
                job,
                turn,
                utterance,
            } => {
                let cx = self.shared.call(turn, self.tasks.token().child_token());
                let watched = self.watch.context(&self.shared, turn);
                let shared = Arc::clone(&self.shared);
                let work = text::transcribe(shared, job, utterance, cx, watched);
                self.start_transcription(job, "stt", work);
            }
            Action::OpenLive { job, turn } => {
                let (frames_in, frames) = mpsc::channel(LIVE_QUEUE);
                let (ended_in, ended) = oneshot::channel();
                self.live = Some(Live {
                    job,
                    frames: frames_in,
                    _ended: ended_in,
                });
                let cx = self.shared.call(turn, self.tasks.token().child_token());
                let watched = self.watch.live_context(&self.shared, turn);
                let shared = Arc::clone(&self.shared);
                let work = text::transcribe_live(shared, job, frames, ended, cx, watched);
                self.start_transcription(job, "stt-live", work);
            }
            Action::FinishLive { job } => {
                self.live.take_if(|live| live.job == job);
            }
            Action::DropTranscription { job } => {
                self.live.take_if(|live| live.job == job);
                if let Some(task) = self.transcriptions.remove(&job) {
                    task.abort();
                }
            }
            Action::Ask { turn, mut request } => {
                if let Some(tools) = &self.tools {
                    request.tools = tools.definitions();
                }
                let watched = self.watch.context(&self.shared, turn);
                let shared = Arc::clone(&self.shared);
                let work = self.work(turn);
                let round = work.rounds;
                work.rounds += 1;
                let cx = shared.call(turn, work.cancel.child_token());
                let job = text::ask(Arc::clone(&shared), request, cx, watched, round);
                spawn(&work.tasks, "llm", turn, shared.jobs.clone(), job);
            }
            Action::RunTools { turn, calls } => {
                // Without tools the model made the names up, and is told so.
                let tools = self.tools.clone().unwrap_or_else(|| Arc::new(NoTools));
                let shared = Arc::clone(&self.shared);
                let work = self.work(turn);
                for call in calls {
                    let cx = shared.call(turn, work.cancel.child_token());
                    let job = text::run_tool(Arc::clone(&shared), Arc::clone(&tools), call, cx);
                    spawn(&work.tasks, "tool", turn, shared.jobs.clone(), job);
                }
            }
            Action::OpenOutput { turn } => {
                let output = self.sink.open(turn, self.playout_in.clone());
                let shared = Arc::clone(&self.shared);
                let watched = self.watch.context(&self.shared, turn);
                self.watch.synthesising(&self.shared);
                let work = self.work(turn);
                work.output = Some(output.control);
                work.speech = Some(Speech::start(
                    shared,
                    &work.tasks,
                    &work.cancel,
                    turn,
                    output.writer,
                    watched,
                ));
            }
            Action::Synthesise { turn, index, text } => {
                if let Some(speech) = &mut self.work(turn).speech {
                    speech.say(index, text);
                }
            }
            Action::FinishOutput { turn } => {
                if let Some(output) = &self.work(turn).output {
                    output.finish();
                }
                self.watch.synthesised(&self.shared, turn);
            }
            Action::Hold { turn } => {
                if let Some(output) = &self.work(turn).output {
                    output.hold();
                }
            }
            Action::Release { turn } => {
                if let Some(output) = &self.work(turn).output {
                    output.release();
                }
                self.watch.resumed(&self.shared, turn);
            }
            Action::Abandon { turn } => {
                self.work.take_if(|work| work.turn == turn);
            }
        }
    }

    fn start_transcription(
        &mut self,
        job: SttJob,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.transcriptions.retain(|_, task| !task.is_finished());
        let shared = Arc::clone(&self.shared);
        let guarded = async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(job = name, "a job panicked");
                let message = "the adapter panicked";
                let error =
                    ProviderError::new(ErrorKind::Other, shared.providers.stt.name(), message);
                let result = Err(error);
                shared.report(Input::Transcribed { job, result }).await;
            }
        };
        self.transcriptions
            .insert(job, self.tasks.spawn(name, |_| guarded));
    }

    /// The running work of `turn`; that of an earlier turn is stopped.
    fn work(&mut self, turn: TurnId) -> &mut Work {
        if self.work.as_ref().is_some_and(|work| work.turn != turn) {
            self.work = None;
        }
        let tasks = &self.tasks;
        self.work.get_or_insert_with(|| {
            let tasks = tasks.child("turn");
            Work {
                turn,
                cancel: tasks.token().clone(),
                tasks,
                rounds: 0,
                speech: None,
                output: None,
            }
        })
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("session_id", &self.shared.session_id)
            .field("answering", &self.is_answering())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn call(&self, turn_id: TurnId, cancel: CancellationToken) -> CallContext {
        CallContext {
            cancel,
            deadline: Some(self.clock.now() + self.config.timeouts.turn),
            session_id: self.session_id,
            turn_id,
        }
    }

    async fn report(&self, input: Input) {
        // A closed queue: the conversation is gone, and so will this job be.
        let _ = self.jobs.send(input).await;
    }
}

/// Starts a job of a turn; a panic inside fails the turn and not the session (CC3).
fn spawn(
    tasks: &Tasks,
    name: &'static str,
    turn: TurnId,
    jobs: mpsc::Sender<Input>,
    job: impl Future<Output = ()> + Send + 'static,
) {
    tasks
        .spawn(name, |_| async move {
            if AssertUnwindSafe(job).catch_unwind().await.is_err() {
                tracing::error!(job = name, %turn, "a job panicked");
                let message = format!("{name} panicked");
                let _ = jobs.send(Input::Crashed { turn, message }).await;
            }
        })
        .detach();
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
