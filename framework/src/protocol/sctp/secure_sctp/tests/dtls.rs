use std::collections::BTreeSet;

use super::*;
use crate::sys::ossl;
use crate::tls::engine::{Engine, Framing};

fn accept(context: &SslContext, label_with_nul: bool) -> DtlsSctp {
    DtlsSctp::accept(context, label_with_nul, Arc::default()).unwrap()
}

fn pair_with(contexts: &(SslContext, SslContext), labels_with_nul: [bool; 2], seed: u64) -> Pair {
    let [client, server] = labels_with_nul;
    let client = DtlsSctp::connect(&contexts.0, Some("localhost"), client, Arc::default()).unwrap();
    let server = accept(&contexts.1, server);
    Pair::new(SecureSctp::Dtls(Box::new(client)), SecureSctp::Dtls(Box::new(server)), seed)
}

fn pair(credentials: &(ClientCredentials, Credentials), seed: u64) -> Pair {
    pair_with(&contexts(credentials, Protocol::Dtls), [false; 2], seed)
}

fn dtls(end: &mut End) -> &mut DtlsSctp {
    match &mut end.session {
        SecureSctp::Dtls(session) => session,
        SecureSctp::Tls(_) => unreachable!(),
    }
}

/// The messages that this end sends now; what it waits for happens at once.
fn sent(end: &mut End) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    while let Some(action) = end.session.next_action() {
        match action {
            Action::Send { payload, .. } => sent.push(payload),
            Action::AwaitDry => end.session.dry(),
            other => panic!("{other:?}"),
        }
    }
    sent
}

#[test]
fn both_sides_come_to_one_key_numbered_1_and_the_old_one_goes() {
    let pair = pair(&credentials(false), 1).opened();
    for end in [&pair.client, &pair.server] {
        assert_eq!(end.keys.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(end.active, 1);
    }
    assert_eq!(pair.client.keys[&1], pair.server.keys[&1]);
    assert_ne!(pair.client.keys[&1], [0; 64]);
}

#[test]
fn the_label_with_its_nul_makes_another_key() {
    let contexts = contexts(&credentials(false), Protocol::Dtls);
    let mixed = pair_with(&contexts, [true, false], 3).opened();
    assert_ne!(mixed.client.keys[&1], mixed.server.keys[&1]);
    let both = pair_with(&contexts, [true; 2], 3).opened();
    assert_eq!(both.client.keys[&1], both.server.keys[&1]);
}

#[test]
fn thousands_of_messages_overtake_each_other_and_none_is_lost_or_comes_after_the_close() {
    for seed in 0..4 {
        let mut pair = pair(&credentials(false), seed).opened();
        for number in 0..5000_u32 {
            let info = SendInfo {
                stream: pair.rng.below(STREAMS.into()) as u16,
                ppid: number,
                unordered: pair.rng.below(4) == 0,
                ..SendInfo::default()
            };
            pair.client.session.write(&number.to_be_bytes(), info).unwrap();
        }
        pair.client.session.close();
        assert_eq!(pair.client.session.write(b"x", SendInfo::default()), Err(Refused::Closed));
        pair.run();
        assert!(pair.server.closed);
        let mut ordered = HashMap::new();
        let mut all = BTreeSet::new();
        for (message, info) in &pair.server.messages {
            let number = u32::from_be_bytes(message.as_slice().try_into().unwrap());
            assert_eq!(info.ppid, number, "a message with another's information");
            assert!(all.insert(number));
            if !info.unordered {
                assert!(ordered.insert(info.stream, number).is_none_or(|before| before < number));
            }
        }
        assert_eq!(all.len(), 5000);
    }
}

#[test]
fn data_that_overtakes_the_finished_waits_for_it() {
    for seed in 0..50 {
        let mut pair = pair(&credentials(false), seed);
        let mut sent = false;
        while pair.step() {
            if pair.server.session.is_complete() && !sent {
                sent = true;
                for stream in 1..STREAMS {
                    pair.server.send(b"early", stream);
                }
            }
        }
        assert_eq!(pair.client.messages.len(), usize::from(STREAMS) - 1);
    }
}

#[test]
fn a_close_awaits_the_data_even_where_the_alert_is_faster() {
    let mut pair = pair(&credentials(false), 5).opened();
    pair.server.send(b"late", 9);
    pair.server.session.close();
    let out = sent(&mut pair.server);
    assert_eq!(out.len(), 2);
    for payload in out.iter().rev() {
        assert!(!pair.client.closed);
        pair.client.take(payload, MessageInfo::default());
    }
    assert_eq!(pair.client.messages.len(), 1);
    assert!(pair.client.closed);
}

#[test]
fn mutual_authentication_tells_who_the_client_is() {
    let pair = pair(&credentials(true), 6).opened();
    assert!(matches!(pair.server.session.summary().identity, PeerIdentity::Certificate(_)));
}

#[test]
fn an_unknown_authority_ends_the_handshake() {
    let (mut client, server) = credentials(false);
    client.authorities = credentials(false).0.authorities;
    let mut pair = pair(&(client, server), 7);
    pair.run();
    assert!(matches!(pair.client.failure, Some(Failure::Unverified(_))));
    // The alert told the server.
    assert!(matches!(pair.server.failure, Some(Failure::Ended(EndReason::HandshakeFailed(_)))));
}

#[test]
fn pre_shared_keys_do() {
    let pair = pair(&psk_credentials(None), 8).opened();
    assert_eq!(pair.server.session.summary().identity, PeerIdentity::Psk(b"alice".to_vec()));
    assert_eq!(pair.client.keys[&1], pair.server.keys[&1]);
}

#[test]
fn junk_instead_of_a_handshake_is_a_clean_failure() {
    let context = contexts(&credentials(false), Protocol::Dtls).1;
    let handshake = [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20][..], &[99; 20]].concat();
    let data = [&[23, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20][..], &[99; 20]].concat();
    for junk in [b"GET / HTTP/1.1".to_vec(), vec![22; 3], handshake, data] {
        let mut server = accept(&context, false);
        let received = server.receive(&mut junk.clone(), MessageInfo::default());
        assert!(matches!(received, Err(Failure::Ended(EndReason::HandshakeFailed(_)))), "{junk:?}");
    }
}

#[test]
fn junk_after_the_handshake_is_dropped() {
    let mut pair = pair(&credentials(false), 9).opened();
    let forged = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 40][..], &[99; 40]].concat();
    let undersized = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 8][..], &[99; 8]].concat();
    for junk in [b"hello".to_vec(), forged, undersized] {
        pair.server.take(&junk, MessageInfo::default());
    }
    pair.client.send(b"fine", 3);
    pair.run();
    assert_eq!(pair.server.broken, None);
    assert_eq!(pair.server.messages.len(), 1);
}

#[test]
fn messages_are_one_record_long_at_most() {
    let mut pair = pair(&credentials(false), 10).opened();
    pair.client.send(&[7; 16_384], 1);
    pair.client.send(&[8; 1], 2);
    let too_long = pair.client.session.write(&[0; 16_385], SendInfo::default());
    assert_eq!(too_long, Err(Refused::TooLong { limit: 16_384 }));
    assert_eq!(pair.client.session.write(&[], SendInfo::default()), Err(Refused::Empty));
    pair.run();
    let mut lengths: Vec<_> = pair.server.messages.iter().map(|(message, _)| message.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 16_384]);
}

#[test]
fn a_chain_longer_than_openssls_buffer_arrives_in_whole_records() {
    let (client, mut server) = credentials(false);
    if let Some(identity) = server.identities.first_mut() {
        for _ in 0..20 {
            identity.chain.push(Identity::self_signed().unwrap().chain.remove(0));
        }
    }
    let pair = pair(&(client, server), 11).opened();
    // ServerHello, Certificate, ServerKeyExchange, ServerHelloDone, ticket, ChangeCipherSpec, Finished.
    assert_eq!(pair.server.sent, 7);
}

#[test]
fn several_records_in_one_message_are_taken_apart() {
    let mut pair = pair(&credentials(false), 12).opened();
    pair.client.send(b"one", 1);
    pair.client.send(b"two", 1);
    let joined = sent(&mut pair.client).concat();
    pair.server.take(&joined, MessageInfo::default());
    assert_eq!(pair.server.messages.len(), 2);
}

/// OpenSSL would drop all but the last 64 of them.
#[test]
fn records_may_come_in_the_reverse_order() {
    let mut pair = pair(&credentials(false), 13).opened();
    for number in 0..1000_u32 {
        pair.client.session.write(&number.to_be_bytes(), SendInfo::default()).unwrap();
    }
    for record in sent(&mut pair.client).iter().rev() {
        pair.server.take(record, MessageInfo::default());
    }
    let messages: Vec<_> = pair.server.messages.iter().map(|(message, _)| message.clone()).collect();
    let expected: Vec<_> = (0..1000_u32).rev().map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(messages, expected);
}

/// Nothing fills a gap that partial reliability left, so the association's end has to tell.
#[test]
fn a_close_over_a_gap_is_answered_and_ends_nothing_by_itself() {
    let mut pair = pair(&credentials(false), 14).opened();
    for message in [b"one", b"two"] {
        pair.client.session.write(message, SendInfo::default()).unwrap();
    }
    pair.client.session.close();
    let [_abandoned, late, close] = sent(&mut pair.client).try_into().unwrap();
    pair.server.take(&close, MessageInfo::default());
    assert!(!pair.server.closed && pair.server.session.is_closed_by_peer());
    assert_eq!(pair.server.session.write(b"x", SendInfo::default()), Err(Refused::Closed));
    assert_eq!(pair.server.session.next_action(), Some(Action::AwaitDry));
    pair.server.session.dry();
    let [answer] = sent(&mut pair.server).try_into().unwrap();
    pair.client.take(&answer, MessageInfo::default());
    assert!(pair.client.closed);
    pair.server.take(&late, MessageInfo::default());
    assert_eq!(pair.server.messages.len(), 1);
    assert!(!pair.server.closed);
}

#[test]
fn messages_go_both_ways_with_every_suite() {
    const SUITES: [&str; 7] = [
        "PSK-AES128-GCM-SHA256",
        "PSK-AES256-GCM-SHA384",
        "PSK-CHACHA20-POLY1305",
        "PSK-AES128-CCM",
        "PSK-AES256-CCM",
        "PSK-AES128-CCM8",
        "PSK-AES256-CCM8",
    ];
    let (mut client, mut server) = psk_credentials(None);
    (client.exporters, server.exporters) = (true, true);
    server.algorithms.suites = SUITES.join(":").parse().unwrap();
    for suite in SUITES {
        let mut client = client.clone();
        client.algorithms.suites = suite.parse().unwrap();
        let mut pair = pair(&(client, server.clone()), 15).opened();
        assert_eq!(pair.server.session.summary().cipher.as_deref(), Some(suite));
        let mut exported = [[0; 20]; 2];
        for (end, exported) in [&mut pair.client, &mut pair.server].into_iter().zip(&mut exported) {
            for stream in 0..STREAMS {
                end.send(&stream.to_be_bytes(), stream);
            }
            end.session.exporter().unwrap().export("EXPERIMENTAL", None, exported).unwrap();
        }
        assert_eq!(exported[0], exported[1]);
        pair.client.session.close();
        pair.run();
        assert_eq!(pair.server.messages.len(), usize::from(STREAMS), "{suite}");
        assert_eq!(pair.client.messages.len(), usize::from(STREAMS), "{suite}");
        assert!(pair.server.closed, "{suite}");
    }
}

/// A client of OpenSSL's own, which keeps its session.
fn openssl(server: &mut End, context: &SslContext) -> Engine {
    let mut client = Engine::connect(context, Some("localhost"), Framing::Datagrams).unwrap();
    while !(client.step().unwrap() && server.session.is_complete()) {
        for record in client.take_outgoing() {
            server.take(&record, MessageInfo::default());
        }
        while let Some(action) = server.session.next_action() {
            match action {
                Action::Send { payload, .. } => client.feed(&payload),
                Action::AwaitDry => server.session.dry(),
                _ => {}
            }
        }
    }
    server.execute(&mut Wire::new(1));
    client
}

#[test]
fn renegotiation_is_refused_a_few_times_and_then_not_answered() {
    let contexts = contexts(&credentials(false), Protocol::Dtls);
    let mut server = End::new(SecureSctp::Dtls(Box::new(accept(&contexts.1, false))));
    let mut client = openssl(&mut server, &contexts.0);
    assert!(ossl::renegotiate(client.ssl()));
    assert!(!client.step().unwrap());
    let [hello] = client.take_outgoing().into_iter().collect::<Vec<_>>().try_into().unwrap();
    // Nothing detects that it comes again.
    for refused in 0..20 {
        server.take(&hello, MessageInfo::default());
        assert_eq!(sent(&mut server).len(), usize::from(refused < 8));
    }
    server.send(b"still here", 0);
    client.feed(&sent(&mut server)[0]);
    let mut buffer = [0; 64];
    assert!(matches!(client.read(&mut buffer), Read::Message(10)));
    assert_eq!(server.broken, None);
}

#[test]
fn a_key_that_is_used_up_ends_the_session_and_still_says_goodbye() {
    let mut pair = pair(&credentials(false), 16).opened();
    dtls(&mut pair.client).exhaust();
    pair.client.send(b"the last", 1);
    let refused = pair.client.session.write(b"one more", SendInfo::default());
    assert!(matches!(refused, Err(Refused::Broken(_))), "{refused:?}");
    pair.client.session.close();
    pair.run();
    assert_eq!(pair.server.messages.len(), 1);
    assert!(pair.server.session.is_closed_by_peer());
    let forged = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 40][..], &[99; 40]].concat();
    pair.client.take(&forged, MessageInfo::default());
    assert_eq!(pair.client.broken, None);
    pair.client.take(&forged, MessageInfo::default());
    assert!(pair.client.broken.is_some());
}

#[test]
fn messages_that_wait_for_a_finished_are_bounded() {
    let contexts = contexts(&credentials(false), Protocol::Dtls);
    for (size, most) in [(1, 4096), (16_000, 260)] {
        let mut server = accept(&contexts.1, false);
        let length = (size as u16).to_be_bytes();
        let early = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1][..], &length, &vec![0; size]].concat();
        let info = MessageInfo { stream: 3, ..MessageInfo::default() };
        let taken = (0..5000).take_while(|_| server.receive(&mut early.clone(), info).is_ok()).count();
        assert!((most - 10..=most + 10).contains(&taken), "{taken}");
    }
}
