//! A ticket has one spelling, and nothing else opens what it opens (B4).
#![no_main]

use std::{net::Ipv4Addr, sync::Arc, time::SystemTime};

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use llmrtc_security::auth::{
    origin::Origin,
    principal::Principal,
    ticket::{MemoryTickets, TicketId, TicketRequest, Tickets},
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if TicketId::of(text).is_some() {
        assert_eq!(text.len(), 43);
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }
    let (ticket, origin) = text.split_once('\n').unwrap_or((text, ""));
    let origin = Origin::from_config(origin).ok();
    let (tickets, now) = (
        Tickets::new(Arc::new(MemoryTickets::new(4))),
        SystemTime::now(),
    );
    let ann = Principal::user("ann", None);
    let minted = tickets.mint(TicketRequest::new(&ann), now).now_or_never();
    let minted = minted
        .expect("memory does not wait")
        .expect("there is room");
    let address = Ipv4Addr::LOCALHOST.into();
    let mut redeem = |ticket: &str, origin| {
        let redeemed = tickets.redeem(ticket, origin, address, now).now_or_never();
        redeemed.expect("memory does not wait").is_ok()
    };
    assert!(!redeem(ticket, origin.as_ref()));
    assert!(redeem(minted.expose(), None));
    assert!(!redeem(minted.expose(), None), "a second time");
});
