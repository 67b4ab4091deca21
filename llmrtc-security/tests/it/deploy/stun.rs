//! As much of a TURN client as it takes to ask for things that should be refused.
//!
//! # Source
//! RFC 8489 (STUN) and RFC 8656 (TURN).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aws_lc_rs::{hmac, rand};
use md5::{Digest, Md5};
use tokio::net::UdpSocket;

use super::LONG;

const COOKIE: u32 = 0x2112_A442;
/// As section 6.2.1 of RFC 8489 wants it.
const RETRANSMIT: Duration = Duration::from_millis(500);

const BINDING: u16 = 0x0001;
const ALLOCATE: u16 = 0x0003;
const REFRESH: u16 = 0x0004;
const CREATE_PERMISSION: u16 = 0x0008;
const CHANNEL_BIND: u16 = 0x0009;
const ERROR: u16 = 0x0110;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000C;
pub(super) const LIFETIME: u16 = 0x000D;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const UDP: u8 = 17;

type Attribute = (u16, Vec<u8>);
type Id = [u8; 12];

fn new_id() -> Id {
    let mut id = Id::default();
    rand::fill(&mut id).unwrap();
    id
}

/// What a relay answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 0 for success.
    pub(super) error: u16,
    pub(super) attributes: Vec<Attribute>,
}

impl Answer {
    pub(super) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(found, _)| *found == kind);
        found.map(|(_, value)| value.as_slice())
    }
}

pub(super) struct Client {
    socket: UdpSocket,
    username: String,
    password: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

impl Client {
    pub(super) async fn new(relay: SocketAddr, username: &str, password: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(relay).await.unwrap();
        let (username, password) = (username.to_owned(), password.to_owned());
        Self {
            socket,
            username,
            password,
            realm: Vec::new(),
            nonce: Vec::new(),
        }
    }

    /// Asks for an allocation, for IPv6 peers if so wanted. The first answer brings realm and nonce.
    pub(super) async fn allocate(&mut self, v6: bool) -> Answer {
        let mut attributes = vec![(REQUESTED_TRANSPORT, vec![UDP, 0, 0, 0])];
        if v6 {
            attributes.push((REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]));
        }
        let challenge = self.request(ALLOCATE, new_id(), &attributes, false).await;
        assert_eq!(
            challenge.error, 401,
            "nobody gets anything without a credential"
        );
        self.realm = challenge.attribute(REALM).unwrap().to_vec();
        self.nonce = challenge.attribute(NONCE).unwrap().to_vec();
        self.request(ALLOCATE, new_id(), &attributes, true).await
    }

    pub(super) async fn create_permission(&self, peer: IpAddr) -> Answer {
        let id = new_id();
        let peer = xor_address(peer, id);
        self.request(CREATE_PERMISSION, id, &[(XOR_PEER_ADDRESS, peer)], true)
            .await
    }

    pub(super) async fn bind_channel(&self, number: u16, peer: IpAddr) -> Answer {
        let id = new_id();
        let number = [&number.to_be_bytes()[..], &[0, 0]].concat();
        let attributes = [
            (CHANNEL_NUMBER, number),
            (XOR_PEER_ADDRESS, xor_address(peer, id)),
        ];
        self.request(CHANNEL_BIND, id, &attributes, true).await
    }

    /// Whether the relay answers at all.
    pub(super) async fn binding(&self) -> Answer {
        self.request(BINDING, new_id(), &[], false).await
    }

    /// Asks for the allocation to live on.
    pub(super) async fn refresh(&self) -> Answer {
        self.request(REFRESH, new_id(), &[], true).await
    }

    /// One request, repeated until there is an answer.
    async fn request(&self, method: u16, id: Id, attributes: &[Attribute], signed: bool) -> Answer {
        let message = self.message(method, id, attributes, signed);
        let answer = async {
            let mut buffer = [0; 1_500];
            loop {
                self.socket.send(&message).await.unwrap();
                let received =
                    tokio::time::timeout(RETRANSMIT, self.socket.recv(&mut buffer)).await;
                // While the relay is starting, its port is closed.
                if let Ok(Ok(length)) = received
                    && buffer[8..20] == id
                {
                    return parse(method, &buffer[..length]);
                }
            }
        };
        tokio::time::timeout(LONG, answer)
            .await
            .expect("the relay answers")
    }

    fn message(&self, method: u16, id: Id, attributes: &[Attribute], signed: bool) -> Vec<u8> {
        let mut body = Vec::new();
        let mut add = |kind: u16, value: &[u8]| {
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        for (kind, value) in attributes {
            add(*kind, value);
        }
        if signed {
            add(USERNAME, self.username.as_bytes());
            add(REALM, &self.realm);
            add(NONCE, &self.nonce);
        }
        // The length counts the MAC that is computed over it.
        let length = body.len() + if signed { 24 } else { 0 };
        let mut message = method.to_be_bytes().to_vec();
        message.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        message.extend_from_slice(&COOKIE.to_be_bytes());
        message.extend_from_slice(&id);
        message.extend_from_slice(&body);
        if signed {
            let key = [
                self.username.as_bytes(),
                &self.realm,
                self.password.as_bytes(),
            ]
            .join(&b':');
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &Md5::digest(&key));
            let mac = hmac::sign(&key, &message);
            message.extend_from_slice(&MESSAGE_INTEGRITY.to_be_bytes());
            message.extend_from_slice(&20_u16.to_be_bytes());
            message.extend_from_slice(mac.as_ref());
        }
        message
    }
}

fn parse(method: u16, message: &[u8]) -> Answer {
    let short = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let mut attributes = Vec::new();
    let mut at = 20;
    while at + 4 <= message.len() {
        let (kind, length) = (short(at), usize::from(short(at + 2)));
        attributes.push((kind, message[at + 4..at + 4 + length].to_vec()));
        at += 4 + length.next_multiple_of(4);
    }
    let mut answer = Answer {
        error: 0,
        attributes,
    };
    if short(0) == method | ERROR {
        let code = answer.attribute(ERROR_CODE).unwrap();
        answer.error = u16::from(code[2]) * 100 + u16::from(code[3]);
    }
    answer
}

/// RFC 8489, section 14.2. The port is of no interest: permissions are for addresses.
fn xor_address(address: IpAddr, id: Id) -> Vec<u8> {
    let mask = [&COOKIE.to_be_bytes()[..], &id].concat();
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let port = 9 ^ u16::from_be_bytes([mask[0], mask[1]]);
    let bytes: Vec<u8> = bytes
        .iter()
        .zip(&mask)
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    [&[0, family], &port.to_be_bytes()[..], &bytes].concat()
}
