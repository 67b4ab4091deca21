//! A STUN responder: tells a client which address it comes from, so that no third party has to be asked.
//!
//! Browsers gather candidates before every offer and wait for the STUN servers they were given, up to three seconds
//! for one that does not answer. This one answers in one round trip. It serves Binding requests without
//! authentication and nothing else; an answer is hardly larger than its question, so it amplifies nothing.
//!
//! # Source
//! RFC 8489 §5 (message structure), §14.2 (XOR-MAPPED-ADDRESS).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::UdpSocket;

const HEADER_BYTES: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// Larger than any Binding request that a client sends.
const MAX_REQUEST_BYTES: usize = 1_500;

/// Answers Binding requests on `socket` until the future is dropped.
///
/// # Errors
/// When the socket fails for good; errors of single datagrams are skipped.
///
/// # Cancel safety
/// Dropping the future stops the responder.
pub async fn respond(socket: &UdpSocket) -> io::Result<()> {
    let mut request = [0u8; MAX_REQUEST_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut request).await {
            Ok(received) => received,
            // An earlier answer could not be delivered; that is that client's business.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = answer(&request[..length], from) {
            // A full send buffer loses the answer, and the client asks again.
            let _ = socket.try_send_to(&answer, from);
        }
    }
}

/// The answer to one datagram; `None` for everything but a well-formed Binding request.
fn answer(request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let (header, body) = request.split_at_checked(HEADER_BYTES)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if kind != BINDING_REQUEST
        || header[4..8] != MAGIC_COOKIE
        || length != body.len()
        || length % 4 != 0
    {
        return None;
    }
    let transaction = &header[4..20];
    let (family, address) = match from.ip().to_canonical() {
        IpAddr::V4(address) => (0x01, address.octets().to_vec()),
        IpAddr::V6(address) => (0x02, address.octets().to_vec()),
    };
    let port = from.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
    let value_bytes = 4 + address.len() as u16;

    let mut answer = Vec::with_capacity(HEADER_BYTES + 4 + usize::from(value_bytes));
    answer.extend(BINDING_SUCCESS.to_be_bytes());
    answer.extend((4 + value_bytes).to_be_bytes());
    answer.extend(transaction);
    answer.extend(XOR_MAPPED_ADDRESS.to_be_bytes());
    answer.extend(value_bytes.to_be_bytes());
    answer.extend([0, family]);
    answer.extend(port.to_be_bytes());
    // The cookie covers an IPv4 address; cookie and transaction id together cover an IPv6 one.
    answer.extend(
        address
            .iter()
            .zip(transaction)
            .map(|(byte, mask)| byte ^ mask),
    );
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A Binding request with the transaction id of RFC 5769 §2.1.
    fn request() -> Vec<u8> {
        let mut request = vec![0x00, 0x01, 0x00, 0x00];
        request.extend(MAGIC_COOKIE);
        request.extend([
            0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
        ]);
        request
    }

    #[test]
    fn mapped_addresses_match_the_test_vectors() {
        // RFC 5769 §2.2 and §2.3: the XOR-MAPPED-ADDRESS attributes.
        let v4 = answer(&request(), "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(v4[..4], [0x01, 0x01, 0x00, 0x0c]);
        assert_eq!(
            v4[20..],
            [
                0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43
            ]
        );
        let v6 = answer(
            &request(),
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
                .parse()
                .unwrap(),
        );
        assert_eq!(
            v6.unwrap()[20..],
            [
                0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3,
                0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
    }

    #[test]
    fn nothing_but_a_binding_request_is_answered() {
        let from = "192.0.2.1:1".parse().unwrap();
        let mut wrong_cookie = request();
        wrong_cookie[4] = 0;
        let mut response = request();
        response[0] = 1;
        let mut wrong_length = request();
        wrong_length[3] = 4;
        for garbage in [
            vec![],
            vec![0; 19],
            vec![0xff; 1_500],
            wrong_cookie,
            response,
            wrong_length,
        ] {
            assert_eq!(answer(&garbage, from), None);
        }
    }

    #[tokio::test]
    async fn a_client_learns_its_own_address() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&request(), address).await.unwrap();
        let mut reply = [0; 64];
        let exchange = async {
            tokio::select! {
                result = respond(&server) => panic!("{result:?}"),
                received = client.recv(&mut reply) => received.unwrap(),
            }
        };
        let length = tokio::time::timeout(Duration::from_secs(5), exchange)
            .await
            .unwrap();
        assert_eq!(
            answer(&request(), client.local_addr().unwrap()).unwrap(),
            reply[..length]
        );
    }
}
