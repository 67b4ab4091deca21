//! The rules of a connection, without I/O and without a clock.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use llmrtc_core::redact::Secret;

use super::{
    CloseReason, ConnectionConfig, ConnectionEvent, NegotiateError, Ready, ResumeReply,
    check_offer, heartbeat::Heartbeat, limits::Limits, routing::Routing,
};
use crate::protocol::{
    Channel, ClientMessage, ErrorCode, PROTOCOL_VERSION, ParseError, ServerMessage,
};

/// Offers that wait for the one being negotiated. Full: `CONNECTION_FAILED`. The stock client has one at a time.
const MAX_QUEUED_OFFERS: usize = 4;
/// `reconnect` attempts of one connection; later ones fail unasked.
const MAX_RESUME_ATTEMPTS: u32 = 5;
/// How long a client admitted on a spent ticket may take to resume.
const RESUME_ONLY_WITHIN: Duration = Duration::from_secs(5);
/// How long the data channel may take to drain before a close.
const FLUSH_FOR: Duration = Duration::from_millis(250);

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A message arrived that [`admit`](Machine::admit) let through.
    Message(Result<Option<ClientMessage>, ParseError>),
    /// A WebSocket protocol ping or pong arrived.
    Control,
    /// The session has something to say.
    Send(ServerMessage),
    /// The outcome of the offer being negotiated.
    Answer(Result<String, NegotiateError>),
    /// The outcome of the resume being looked up.
    Resumed(ResumeReply),
    /// The data channel opened.
    DataOpened,
    /// The data channel closed, or the peer failed.
    DataClosed,
    /// The data channel has nothing left to send.
    DataFlushed,
    /// End the connection.
    Close(CloseReason),
    /// Nothing but time passed.
    Tick,
}

/// Something to do.
#[non_exhaustive]
pub enum Action {
    /// Send this text on the WebSocket.
    Send(String),
    /// Send a WebSocket protocol ping.
    Ping,
    /// Tell the session.
    Event(ConnectionEvent),
    /// Send what is queued, then a close frame, then stop. Always the last action.
    Close(CloseReason),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(text) => write!(f, "Send({} bytes)", text.len()),
            Self::Ping => f.write_str("Ping"),
            Self::Event(event) => fmt::Debug::fmt(event, f),
            Self::Close(reason) => write!(f, "Close({reason:?})"),
        }
    }
}

/// One connection.
///
/// | Phase | Input | Does | Next |
/// | --- | --- | --- | --- |
/// | open | `ping` | `pong` with the same timestamp | open |
/// | open | `offer` | checks, queues, negotiates one at a time | open |
/// | open | `reconnect` | asks, if before first use and not too often; otherwise `success: false` | open |
/// | open | `audio`, `attachments`, `auth` | hands over | open |
/// | open | malformed, too often | one `error`; after 20 of them a close | open or flushing |
/// | open | deadline passed | idle, unresponsive, unused, maximum duration | flushing or closed |
/// | open | close | asks to flush if a data channel is open and worth it | flushing or closed |
/// | flushing | data flushed, 250 ms | closes | closed |
/// | any other | anything | nothing | same |
///
/// The caller feeds [`handle`](Self::handle) and wakes it at [`deadline`](Self::deadline).
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    opened: Instant,
    max_duration: Duration,
    /// How long a client may take to its first offer or audio.
    first_use: Duration,
    /// When its time for that, or for the resume it was admitted for, is over.
    use_by: Instant,
    /// An offer or audio was accepted: the session exists, so it can no longer be exchanged for another.
    used: bool,
    /// The handle that the client should remember.
    session_id: Secret,
    /// Only a successful `reconnect` is acceptable.
    resume_only: bool,
    resume_attempts: u32,
    /// A resume is being looked up; offers wait for its outcome.
    resuming: bool,
    offers: VecDeque<String>,
    /// An offer is being negotiated.
    negotiating: bool,
    heartbeat: Heartbeat,
    limits: Limits,
    routing: Routing,
}

#[derive(Debug)]
enum Phase {
    Open,
    Flushing { reason: CloseReason, until: Instant },
    Closed,
}

impl Machine {
    /// Opens a connection: `ready` is the first action, at once.
    pub fn new(
        config: &ConnectionConfig,
        ready: Ready,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Self {
        let greeting = ServerMessage::Ready {
            id: ready.id.clone(),
            protocol_version: PROTOCOL_VERSION,
            ice_servers: ready.ice_servers,
            mode: ready.mode,
            resume_token: ready.resume_token,
        };
        actions.push(Action::Send(greeting.to_json()));
        Self {
            phase: Phase::Open,
            opened: now,
            max_duration: config.max_duration,
            first_use: config.first_use,
            use_by: now
                + if ready.resume_only {
                    RESUME_ONLY_WITHIN
                } else {
                    config.first_use
                },
            used: false,
            session_id: ready.id,
            resume_only: ready.resume_only,
            resume_attempts: 0,
            resuming: false,
            offers: VecDeque::new(),
            negotiating: false,
            heartbeat: Heartbeat::new(config, now),
            limits: Limits::new(config),
            routing: Routing::new(config.mirror),
        }
    }

    /// Counts an arriving message. `false`: drop it unread, so that parsing is never the cheap way to tire the server.
    #[must_use]
    pub fn admit(&mut self, channel: Channel, now: Instant, actions: &mut Vec<Action>) -> bool {
        if channel == Channel::WebSocket {
            self.heartbeat.message(now);
        }
        self.advance(now, actions);
        matches!(self.phase, Phase::Open) && self.within_message_rate(now, actions)
    }

    /// Takes one input. Actions are appended in the order in which they must be done.
    pub fn handle(&mut self, input: Input, now: Instant, actions: &mut Vec<Action>) {
        self.advance(now, actions);
        match (&self.phase, input) {
            (Phase::Open, input) => self.handle_open(input, now, actions),
            (Phase::Flushing { reason, .. }, Input::DataFlushed) => self.finish(*reason, actions),
            (Phase::Flushing { .. }, Input::Close(reason)) if !reason.flushes() => {
                self.finish(reason, actions);
            }
            // Late news about a connection that is ending.
            (Phase::Flushing { .. } | Phase::Closed, _) => {}
        }
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] at the latest; `None` once closed.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => {
                let mut deadline = self
                    .heartbeat
                    .deadline()
                    .min(self.opened + self.max_duration);
                if !self.used {
                    deadline = deadline.min(self.use_by);
                }
                Some(
                    self.routing
                        .deadline()
                        .map_or(deadline, |until| until.min(deadline)),
                )
            }
            Phase::Flushing { until, .. } => Some(until),
            Phase::Closed => None,
        }
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Open => {
                self.routing.advance(now, actions);
                if now >= self.opened + self.max_duration {
                    return self.close(CloseReason::MaxDuration, now, actions);
                }
                if !self.used && now >= self.use_by {
                    let reason = if self.resume_only {
                        CloseReason::ResumeRequired
                    } else {
                        CloseReason::Unused
                    };
                    return self.close(reason, now, actions);
                }
                match self.heartbeat.advance(now) {
                    Ok(true) => actions.push(Action::Ping),
                    Ok(false) => {}
                    Err(reason) => self.close(reason, now, actions),
                }
            }
            Phase::Flushing { reason, until } if now >= until => self.finish(reason, actions),
            Phase::Flushing { .. } | Phase::Closed => {}
        }
    }

    fn handle_open(&mut self, input: Input, now: Instant, actions: &mut Vec<Action>) {
        match input {
            Input::Message(message) => self.message(message, now, actions),
            Input::Control => {
                self.heartbeat.control();
                let _ = self.within_message_rate(now, actions);
            }
            Input::Send(message) if message.is_control() => {
                actions.push(Action::Send(message.to_json()));
            }
            Input::Send(message) => self.routing.send(&message, actions),
            Input::Answer(outcome) => self.answered(outcome, now, actions),
            Input::Resumed(reply) => self.resumed(reply, now, actions),
            Input::DataOpened => self.routing.data_opened(actions),
            Input::DataClosed => self.routing.use_websocket(actions),
            Input::Close(reason) => self.close(reason, now, actions),
            Input::DataFlushed | Input::Tick => {}
        }
    }

    fn message(
        &mut self,
        message: Result<Option<ClientMessage>, ParseError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.resume_only && !matches!(message, Ok(Some(ClientMessage::Reconnect { .. }))) {
            return self.close(CloseReason::ResumeRequired, now, actions);
        }
        match message {
            Err(ParseError::TooLarge { .. }) => self.close(CloseReason::TooLarge, now, actions),
            Err(error) => self.refuse(error.code(), now, actions),
            Ok(None) => {}
            Ok(Some(ClientMessage::Ping { timestamp })) => {
                self.heartbeat.ping();
                actions.push(Action::Send(ServerMessage::Pong { timestamp }.to_json()));
            }
            Ok(Some(ClientMessage::Offer { sdp })) => self.offer(sdp, now, actions),
            Ok(Some(ClientMessage::Reconnect {
                session_id,
                resume_token,
            })) => {
                self.reconnect(session_id, resume_token, now, actions);
            }
            Ok(Some(ClientMessage::Audio { data, attachments })) => {
                self.question(ConnectionEvent::Audio { data, attachments }, now, actions);
            }
            Ok(Some(ClientMessage::Text { text })) => {
                self.question(ConnectionEvent::Text(text), now, actions);
            }
            Ok(Some(ClientMessage::Attachments { attachments })) => {
                actions.push(Action::Event(ConnectionEvent::Attachments(attachments)));
            }
            Ok(Some(ClientMessage::Auth(presented))) => {
                if self.limits.auth.take(now) {
                    actions.push(Action::Event(ConnectionEvent::Auth(presented)));
                } else {
                    self.refuse(ErrorCode::RateLimited, now, actions);
                }
            }
            Ok(Some(ClientMessage::Interrupt)) => {
                actions.push(Action::Event(ConnectionEvent::Interrupt));
            }
        }
    }

    /// A question in one message, which costs an answer.
    fn question(&mut self, question: ConnectionEvent, now: Instant, actions: &mut Vec<Action>) {
        if self.limits.take_question(now) {
            self.used = true;
            actions.push(Action::Event(question));
        } else {
            self.refuse(ErrorCode::RateLimited, now, actions);
        }
    }

    fn offer(&mut self, sdp: String, now: Instant, actions: &mut Vec<Action>) {
        if !self.limits.offers.take(now) {
            return self.refuse(ErrorCode::RateLimited, now, actions);
        }
        if check_offer(&sdp).is_err() || self.offers.len() >= MAX_QUEUED_OFFERS {
            self.signalling_error(ErrorCode::ConnectionFailed, actions);
            return self.count_violation(now, actions);
        }
        self.used = true;
        self.offers.push_back(sdp);
        self.negotiate_next(actions);
    }

    fn negotiate_next(&mut self, actions: &mut Vec<Action>) {
        if self.negotiating || self.resuming {
            return;
        }
        if let Some(sdp) = self.offers.pop_front() {
            self.negotiating = true;
            actions.push(Action::Event(ConnectionEvent::Offer { sdp }));
        }
    }

    fn answered(
        &mut self,
        outcome: Result<String, NegotiateError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if !std::mem::take(&mut self.negotiating) {
            return;
        }
        match outcome {
            Ok(sdp) => {
                actions.push(Action::Send(ServerMessage::Signal { sdp }.to_json()));
                self.routing.answered(now);
            }
            Err(NegotiateError::Unavailable) => {
                self.signalling_error(ErrorCode::WebrtcUnavailable, actions);
            }
            Err(NegotiateError::Failed) => {
                self.signalling_error(ErrorCode::ConnectionFailed, actions);
            }
        }
        self.negotiate_next(actions);
    }

    fn reconnect(
        &mut self,
        session_id: Option<Secret>,
        resume_token: Option<Secret>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.resume_attempts = self.resume_attempts.saturating_add(1);
        let allowed = !self.used && !self.resuming && self.resume_attempts <= MAX_RESUME_ATTEMPTS;
        match session_id.filter(|_| allowed) {
            Some(session_id) => {
                self.resuming = true;
                actions.push(Action::Event(ConnectionEvent::Resume {
                    session_id,
                    resume_token,
                }));
            }
            None => self.refuse_resume(now, actions),
        }
    }

    fn resumed(&mut self, reply: ResumeReply, now: Instant, actions: &mut Vec<Action>) {
        if !std::mem::take(&mut self.resuming) {
            return;
        }
        match reply {
            ResumeReply::Resumed {
                session_id,
                resume_token,
            } => {
                self.session_id = session_id.clone();
                self.resume_only = false;
                self.use_by = now + self.first_use;
                let ack = ServerMessage::ReconnectAck {
                    success: true,
                    session_id,
                    history_recovered: true,
                    resume_token,
                };
                actions.push(Action::Send(ack.to_json()));
            }
            ResumeReply::Refused => self.refuse_resume(now, actions),
        }
        self.negotiate_next(actions);
    }

    fn refuse_resume(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let ack = ServerMessage::ReconnectAck {
            success: false,
            session_id: self.session_id.clone(),
            history_recovered: false,
            resume_token: None,
        };
        actions.push(Action::Send(ack.to_json()));
        if self.resume_only {
            self.close(CloseReason::ResumeRequired, now, actions);
        }
    }

    /// Errors about signalling always take the WebSocket, where the client that waits for an answer listens; a
    /// connected client hears them on its data channel.
    fn signalling_error(&mut self, code: ErrorCode, actions: &mut Vec<Action>) {
        let error = ServerMessage::error(code);
        if self.routing.is_data_open() {
            let text = error.to_json();
            actions.push(Action::Send(text.clone()));
            actions.push(Action::Event(ConnectionEvent::SendData(text)));
        } else {
            self.routing.use_websocket(actions);
            actions.push(Action::Send(error.to_json()));
        }
    }

    fn within_message_rate(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let within = self.limits.messages.take(now);
        if !within {
            self.refuse(ErrorCode::RateLimited, now, actions);
        }
        within
    }

    fn refuse(&mut self, code: ErrorCode, now: Instant, actions: &mut Vec<Action>) {
        self.routing.send(&ServerMessage::error(code), actions);
        self.count_violation(now, actions);
    }

    fn count_violation(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.limits.violations.take(now) {
            self.close(CloseReason::Abuse, now, actions);
        }
    }

    fn close(&mut self, reason: CloseReason, now: Instant, actions: &mut Vec<Action>) {
        if reason.flushes() && self.routing.is_data_open() {
            actions.push(Action::Event(ConnectionEvent::FlushData));
            self.phase = Phase::Flushing {
                reason,
                until: now + FLUSH_FOR,
            };
        } else {
            self.finish(reason, actions);
        }
    }

    fn finish(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        self.phase = Phase::Closed;
        // What is still held has no other way to the client.
        self.routing.use_websocket(actions);
        actions.push(Action::Close(reason));
    }
}

#[cfg(test)]
mod tests;
