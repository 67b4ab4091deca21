//! Nothing is reachable from a network without a decision.

use std::net::IpAddr;

/// What a listener exposes, given that [`check`] allowed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Only this machine reaches it.
    Loopback,
    /// The network reaches it, and callers have to show who they are.
    Authenticated,
    /// Everybody on the network may talk, at the operator's cost. Worth a warning and an audit event at start.
    OpenToNetwork,
}

/// A listener that must not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to listen on {address} without authentication: everybody who reaches it could talk at your cost; \
     bind to 127.0.0.1, configure authentication, or pass --insecure-no-auth if the network is trusted"
)]
pub struct BindError {
    address: IpAddr,
}

/// Whether a listener on `address` may be opened.
///
/// `open` is [`Authenticator::is_open`](super::Authenticator::is_open); `insecure_no_auth` is the operator's explicit
/// consent. The unspecified address (`0.0.0.0`, `::`) is every network.
///
/// # Errors
/// When anybody on a network could talk and nobody said that this is wanted.
pub fn check(address: IpAddr, open: bool, insecure_no_auth: bool) -> Result<Exposure, BindError> {
    match (address.to_canonical().is_loopback(), open, insecure_no_auth) {
        (true, _, _) => Ok(Exposure::Loopback),
        (false, false, _) => Ok(Exposure::Authenticated),
        (false, true, true) => Ok(Exposure::OpenToNetwork),
        (false, true, false) => Err(BindError { address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_servers_stay_on_this_machine_unless_the_operator_insists() {
        let local = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"];
        let network = [
            "0.0.0.0",
            "::",
            "192.168.1.5",
            "10.0.0.1",
            "203.0.113.9",
            "fe80::1",
            "::ffff:10.0.0.1",
        ];
        for address in local.map(|text| text.parse::<IpAddr>().unwrap()) {
            for (open, insecure) in [(true, true), (true, false), (false, true), (false, false)] {
                assert_eq!(
                    check(address, open, insecure),
                    Ok(Exposure::Loopback),
                    "{address}"
                );
            }
        }
        for address in network.map(|text| text.parse::<IpAddr>().unwrap()) {
            assert_eq!(check(address, true, false), Err(BindError { address }));
            assert_eq!(check(address, true, true), Ok(Exposure::OpenToNetwork));
            assert_eq!(check(address, false, false), Ok(Exposure::Authenticated));
            assert_eq!(check(address, false, true), Ok(Exposure::Authenticated));
        }
    }

    #[test]
    fn the_refusal_names_every_way_out() {
        let message = check("0.0.0.0".parse().unwrap(), true, false)
            .unwrap_err()
            .to_string();
        for part in [
            "0.0.0.0",
            "127.0.0.1",
            "authentication",
            "--insecure-no-auth",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
