//! Which channel a payload message takes.
//!
//! The client drops what arrives on the WebSocket once it is connected, has no other way to recognise duplicates, and
//! sees its data channel open half a round trip before we do. So:
//!
//! | Data channel | Payload goes to |
//! | --- | --- |
//! | no answer sent yet | WebSocket |
//! | answered, not open | held, for at most 5 s |
//! | open | data channel, and a copy to the WebSocket if mirroring |
//! | held for 5 s, overflowed, failed or closed | WebSocket |

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Action, ConnectionEvent};
use crate::protocol::ServerMessage;

/// How long messages wait for the data channel.
const HOLD_FOR: Duration = Duration::from_secs(5);
/// Held messages. Full: everything held goes to the WebSocket, since a client this far behind is hardly connected.
const HOLD_MESSAGES: usize = 256;
/// Bytes of held messages, with the same policy.
const HOLD_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Routing {
    mirror: bool,
    route: Route,
}

#[derive(Debug)]
enum Route {
    WebSocket,
    Hold {
        until: Instant,
        queue: VecDeque<Payload>,
        bytes: usize,
    },
    Data,
}

/// A message written out, and whether it may be copied.
struct Payload {
    text: String,
    bulky: bool,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.text.len())
    }
}

impl Routing {
    pub(super) fn new(mirror: bool) -> Self {
        Self {
            mirror,
            route: Route::WebSocket,
        }
    }

    pub(super) fn is_data_open(&self) -> bool {
        matches!(self.route, Route::Data)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.route {
            Route::Hold { until, .. } => Some(until),
            Route::WebSocket | Route::Data => None,
        }
    }

    pub(super) fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.deadline().is_some_and(|until| now >= until) {
            self.use_websocket(actions);
        }
    }

    pub(super) fn send(&mut self, message: &ServerMessage, actions: &mut Vec<Action>) {
        let payload = Payload {
            text: message.to_json(),
            bulky: message.is_bulky(),
        };
        match &mut self.route {
            Route::WebSocket => actions.push(Action::Send(payload.text)),
            Route::Data => send_data(payload, self.mirror, actions),
            Route::Hold { queue, bytes, .. } => {
                *bytes += payload.text.len();
                queue.push_back(payload);
                if queue.len() > HOLD_MESSAGES || *bytes > HOLD_BYTES {
                    self.use_websocket(actions);
                }
            }
        }
    }

    /// An answer was sent: the client may see its data channel open any time now.
    pub(super) fn answered(&mut self, now: Instant) {
        if matches!(self.route, Route::WebSocket) {
            self.route = Route::Hold {
                until: now + HOLD_FOR,
                queue: VecDeque::new(),
                bytes: 0,
            };
        }
    }

    pub(super) fn data_opened(&mut self, actions: &mut Vec<Action>) {
        if let Route::Hold { queue, .. } = std::mem::replace(&mut self.route, Route::Data) {
            for payload in queue {
                send_data(payload, self.mirror, actions);
            }
        }
    }

    /// The data channel failed, closed, or took too long.
    pub(super) fn use_websocket(&mut self, actions: &mut Vec<Action>) {
        if let Route::Hold { queue, .. } = std::mem::replace(&mut self.route, Route::WebSocket) {
            actions.extend(queue.into_iter().map(|payload| Action::Send(payload.text)));
        }
    }
}

fn send_data(payload: Payload, mirror: bool, actions: &mut Vec<Action>) {
    if mirror && !payload.bulky {
        actions.push(Action::Send(payload.text.clone()));
    }
    actions.push(Action::Event(ConnectionEvent::SendData(payload.text)));
}
