//! D4 by simulation: nodes that crash, pause and lose the network, against the rules of the table. Everything follows
//! from a seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::table::{Caps, Claimed, LeaseTable, Owner, Renewed};

/// SplitMix64.
pub(in crate::limit) struct Random(pub(in crate::limit) u64);

impl Random {
    pub(in crate::limit) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

const MS: u64 = 1_000;
const S: u64 = 1_000 * MS;
const LIMIT: u32 = 3;
const NODES: usize = 3;
const USERS: u64 = 2;

/// The table's clock is not that of the nodes.
const SKEW: u64 = 77_777 * S;

const CAPS: Caps = Caps {
    per_user: LIMIT,
    per_tenant: None,
    total: None,
    reject: false,
    ttl: 30 * S,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Claim,
    Renew(u64),
    Release(Option<u64>),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Held(u64),
    Waiting,
    Evicted,
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Something happens to the world.
    Chance,
    /// A question reaches the table.
    Asked {
        node: usize,
        life: u32,
        session: u64,
        ask: Ask,
        at: u64,
    },
    /// An answer reaches the node that asked at `at`.
    Told {
        node: usize,
        life: u32,
        session: u64,
        told: Told,
        at: u64,
    },
    /// News of an eviction reaches a node.
    News { node: usize, session: u64 },
    /// A node looks after a session: renews it, asks again, or lets it go.
    Tick {
        node: usize,
        life: u32,
        session: u64,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting {
        until: u64,
    },
    Live {
        epoch: u64,
        deadline: u64,
    },
    /// Told to end; it stops and lets go by then. Still live until that time.
    Ending {
        epoch: u64,
        by: u64,
        deadline: u64,
    },
}

#[derive(Default)]
struct Node {
    /// Counts restarts, so that nothing of a former life is heard.
    life: u32,
    paused_until: u64,
    cut_until: u64,
    sessions: BTreeMap<u64, State>,
}

struct World {
    random: Random,
    now: u64,
    serial: u64,
    next_session: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    nodes: [Node; NODES],
    table: LeaseTable,
    /// Whether nodes end what they cannot renew.
    fence: bool,
    most_live: usize,
    granted: u64,
    replaced: u64,
}

fn user_of(session: u64) -> u64 {
    session % USERS
}

impl World {
    fn new(seed: u64, fence: bool) -> Self {
        let mut world = Self {
            random: Random(seed),
            now: 0,
            serial: 0,
            next_session: 0,
            events: BinaryHeap::new(),
            nodes: Default::default(),
            table: LeaseTable::default(),
            fence,
            most_live: 0,
            granted: 0,
            replaced: 0,
        };
        world.after(0, Event::Chance);
        world
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.serial += 1;
        self.events
            .push(Reverse((self.now + delay, self.serial, event)));
    }

    /// Sends unless the network is cut. Mostly quick, now and then very late.
    fn send(&mut self, node: usize, event: Event) {
        if self.nodes[node].cut_until > self.now {
            return;
        }
        let delay = match self.random.below(20) {
            0 => self.random.below(40 * S),
            1..4 => self.random.below(S),
            _ => self.random.below(5 * MS),
        };
        self.after(delay, event);
    }

    fn ask(&mut self, node: usize, session: u64, ask: Ask) {
        let (life, at) = (self.nodes[node].life, self.now);
        self.send(
            node,
            Event::Asked {
                node,
                life,
                session,
                ask,
                at,
            },
        );
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > until {
                break;
            }
            self.now = at;
            self.handle(event);
            self.observe();
        }
        self.now = until;
    }

    /// What callers see: sessions that run on a node that runs.
    fn live(&mut self, user: u64) -> usize {
        let now = self.now;
        for node in &mut self.nodes {
            // The first thing a node does when it wakes is to look at the clock.
            if self.fence && node.paused_until <= now {
                node.sessions.retain(|_, state| match *state {
                    State::Live { deadline, .. } | State::Ending { deadline, .. } => now < deadline,
                    State::Waiting { .. } => true,
                });
            }
        }
        let running = self.nodes.iter().filter(|node| node.paused_until <= now);
        let live = running
            .flat_map(|node| &node.sessions)
            .filter(|(session, state)| {
                user_of(**session) == user && !matches!(state, State::Waiting { .. })
            });
        let ids: std::collections::BTreeSet<_> = live.map(|(session, _)| *session).collect();
        ids.len()
    }

    fn observe(&mut self) {
        for user in 0..USERS {
            self.most_live = self.most_live.max(self.live(user));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Chance => self.chance(),
            Event::Asked {
                node,
                life,
                session,
                ask,
                at,
            } => {
                let told = self.answer(session, ask);
                if let Some(told) = told {
                    self.send(
                        node,
                        Event::Told {
                            node,
                            life,
                            session,
                            told,
                            at,
                        },
                    );
                }
            }
            // A paused node reads its messages when it wakes.
            Event::Told { node, .. } | Event::Tick { node, .. } | Event::News { node, .. }
                if self.nodes[node].paused_until > self.now =>
            {
                let delay = self.nodes[node].paused_until - self.now;
                self.after(delay, event);
            }
            Event::Told { node, life, .. } | Event::Tick { node, life, .. }
                if self.nodes[node].life != life => {}
            Event::Told {
                node,
                session,
                told,
                at,
                ..
            } => self.told(node, session, told, at),
            Event::News { node, session } => self.told(node, session, Told::Evicted, self.now),
            Event::Tick { node, session, .. } => self.tick(node, session),
        }
    }

    /// The table, as Redis would run it.
    fn answer(&mut self, session: u64, ask: Ask) -> Option<Told> {
        let id = format!("{session:06}");
        let owner = Owner {
            user: user_of(session).to_string(),
            tenant: None,
        };
        let now = self.now + SKEW;
        match ask {
            Ask::Claim => match self.table.claim(&id, &owner, &CAPS, 0, now) {
                Claimed::Held { epoch } => Some(Told::Held(epoch)),
                Claimed::Waiting { evicted } => {
                    for evicted in evicted {
                        for node in 0..NODES {
                            let session = evicted.parse().unwrap();
                            self.send(node, Event::News { node, session });
                        }
                    }
                    Some(Told::Waiting)
                }
                Claimed::Refused(_) => Some(Told::Lost),
            },
            Ask::Renew(epoch) => match self.table.renew(&id, epoch, &CAPS, now) {
                Renewed::Held => Some(Told::Held(epoch)),
                Renewed::Evicted => Some(Told::Evicted),
                Renewed::Superseded | Renewed::Unknown => Some(Told::Lost),
            },
            Ask::Release(epoch) => {
                self.table.release(&id, epoch, now);
                None
            }
        }
    }

    fn told(&mut self, node: usize, session: u64, told: Told, at: u64) {
        let now = self.now;
        let limit = at + CAPS.ttl;
        let Some(&state) = self.nodes[node].sessions.get(&session) else {
            // Given up meanwhile: nobody will use what was granted.
            if let Told::Held(epoch) = told {
                self.ask(node, session, Ask::Release(Some(epoch)));
            }
            return;
        };
        let next = match (state, told) {
            (State::Waiting { .. }, Told::Held(epoch)) if now < limit || !self.fence => {
                self.granted += 1;
                Some(State::Live {
                    epoch,
                    deadline: limit,
                })
            }
            (State::Live { epoch, deadline }, Told::Held(told)) if told == epoch => {
                Some(State::Live {
                    epoch,
                    deadline: deadline.max(limit),
                })
            }
            (State::Live { epoch, deadline }, Told::Evicted) => {
                self.replaced += 1;
                let by = now + self.random.below(500 * MS);
                let life = self.nodes[node].life;
                self.after(
                    by - now,
                    Event::Tick {
                        node,
                        life,
                        session,
                    },
                );
                Some(State::Ending {
                    epoch,
                    by,
                    deadline,
                })
            }
            (State::Live { .. } | State::Waiting { .. }, Told::Lost) => None,
            _ => Some(state),
        };
        match next {
            Some(next) => self.nodes[node].sessions.insert(session, next),
            None => self.nodes[node].sessions.remove(&session),
        };
    }

    fn tick(&mut self, node: usize, session: u64) {
        let Some(&state) = self.nodes[node].sessions.get(&session) else {
            return;
        };
        let life = self.nodes[node].life;
        match state {
            State::Waiting { until } if self.now >= until => {
                self.nodes[node].sessions.remove(&session);
                self.ask(node, session, Ask::Release(None));
            }
            State::Waiting { .. } => {
                self.ask(node, session, Ask::Claim);
                self.after(
                    250 * MS,
                    Event::Tick {
                        node,
                        life,
                        session,
                    },
                );
            }
            State::Live { epoch, .. } => {
                self.ask(node, session, Ask::Renew(epoch));
                self.after(
                    10 * S,
                    Event::Tick {
                        node,
                        life,
                        session,
                    },
                );
            }
            State::Ending { epoch, by, .. } if self.now >= by => {
                self.nodes[node].sessions.remove(&session);
                self.ask(node, session, Ask::Release(Some(epoch)));
            }
            State::Ending { .. } => {}
        }
    }

    fn open(&mut self, node: usize, session: u64) {
        let until = self.now + 40 * S;
        let life = self.nodes[node].life;
        self.nodes[node]
            .sessions
            .entry(session)
            .or_insert(State::Waiting { until });
        self.after(
            0,
            Event::Tick {
                node,
                life,
                session,
            },
        );
    }

    fn chance(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        let known: Vec<_> = self.nodes[node].sessions.keys().copied().collect();
        let some = known
            .get(self.random.below(known.len().max(1) as u64) as usize)
            .copied();
        match self.random.below(40) {
            0..18 => {
                let session = self.next_session;
                self.next_session += 1;
                self.open(node, session);
            }
            // Resumed on another node.
            18..22 => {
                if let Some(session) = some {
                    self.open((node + 1) % NODES, session);
                }
            }
            // Hung up.
            22..34 => {
                if let Some(session) = some
                    && let Some(State::Live { epoch, .. }) =
                        self.nodes[node].sessions.remove(&session)
                {
                    self.ask(node, session, Ask::Release(Some(epoch)));
                }
            }
            34..36 => {
                self.nodes[node].life += 1;
                self.nodes[node].sessions.clear();
            }
            36..38 => self.nodes[node].paused_until = self.now + self.random.below(60 * S),
            _ => self.nodes[node].cut_until = self.now + self.random.below(60 * S),
        }
        let delay = self.random.below(4 * S);
        self.after(delay, Event::Chance);
    }

    /// No more accidents, no more news.
    fn calm(&mut self) {
        self.events
            .retain(|Reverse((_, _, event))| *event != Event::Chance);
        for node in &mut self.nodes {
            node.paused_until = 0;
            node.cut_until = 0;
            node.life += 1;
            node.sessions.clear();
        }
    }
}

#[test]
fn d4_there_are_never_more_sessions_than_places_whatever_happens_to_nodes() {
    let (mut granted, mut replaced) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, true);
        world.run(3_600 * S);
        assert!(
            world.most_live <= LIMIT as usize,
            "seed {seed}: {} live",
            world.most_live
        );
        (granted, replaced) = (granted + world.granted, replaced + world.replaced);

        // All nodes died at once. After one lease every place is free again: none was lost, none counted twice.
        world.calm();
        world.run(world.now + 75 * S);
        world.table.renew("none", 0, &CAPS, world.now + SKEW);
        assert_eq!(world.table.holders(), 0, "seed {seed}");
        let first = world.next_session.next_multiple_of(USERS);
        for place in 0..u64::from(LIMIT) {
            let told = world.answer(first + USERS * place, Ask::Claim);
            assert!(
                matches!(told, Some(Told::Held(_))),
                "seed {seed}: place {place}"
            );
        }
    }
    assert!(
        granted > 10_000 && replaced > 1_000,
        "{granted} granted, {replaced} replaced"
    );
}

#[test]
fn d4_the_simulation_notices_nodes_that_do_not_fence() {
    let broken = (0..60).filter(|seed| {
        let mut world = World::new(*seed, false);
        world.run(3_600 * S);
        world.most_live > LIMIT as usize
    });
    assert!(broken.count() > 30);
}
