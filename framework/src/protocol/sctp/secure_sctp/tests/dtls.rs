use std::collections::BTreeSet;

use super::*;

fn pair_with(contexts: &(SslContext, SslContext), knobs: [Knobs; 2], seed: u64) -> Pair {
    let client = DtlsSctp::connect(&contexts.0, Some("localhost"), knobs[0]).unwrap();
    let server = DtlsSctp::accept(&contexts.1, knobs[1]).unwrap();
    Pair::new(SecureSctp::Dtls(Box::new(client)), SecureSctp::Dtls(Box::new(server)), seed)
}

fn pair(credentials: &(ClientCredentials, Credentials), seed: u64) -> Pair {
    pair_with(&contexts(credentials, Protocol::Dtls), [Knobs::default(); 2], seed)
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
    let nul = Knobs { label_with_nul: true, ..Knobs::default() };
    let mixed = pair_with(&contexts, [nul, Knobs::default()], 3).opened();
    assert_ne!(mixed.client.keys[&1], mixed.server.keys[&1]);
    let both = pair_with(&contexts, [nul; 2], 3).opened();
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
    let mut out = Vec::new();
    while let Some(action) = pair.server.session.next_action() {
        match action {
            Action::Send { payload, .. } => out.push(payload),
            Action::AwaitDry => pair.server.session.dry(),
            other => panic!("{other:?}"),
        }
    }
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
    assert!(matches!(pair.server.session.facts().identity, PeerIdentity::Certificate(_)));
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
    assert_eq!(pair.server.session.facts().identity, PeerIdentity::Psk(b"alice".to_vec()));
    assert_eq!(pair.client.keys[&1], pair.server.keys[&1]);
}

#[test]
fn junk_instead_of_a_handshake_is_a_clean_failure() {
    let context = contexts(&credentials(false), Protocol::Dtls).1;
    let handshake = [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20][..], &[99; 20]].concat();
    let data = [&[23, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20][..], &[99; 20]].concat();
    for junk in [b"GET / HTTP/1.1".to_vec(), vec![22; 3], handshake, data] {
        let mut server = DtlsSctp::accept(&context, Knobs::default()).unwrap();
        let received = server.receive(&junk, MessageInfo::default(), Instant::now());
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
    let mut joined = Vec::new();
    while let Some(Action::Send { payload, .. }) = pair.client.session.next_action() {
        joined.extend(payload);
    }
    pair.server.take(&joined, MessageInfo::default());
    assert_eq!(pair.server.messages.len(), 2);
}

#[test]
fn a_gap_is_given_up_at_the_deadline() {
    let mut pair = pair(&credentials(false), 13).opened();
    assert_eq!(pair.server.session.deadline(), None);
    for _ in 0..70 {
        pair.client.send(b"x", 1);
    }
    // The first is abandoned.
    pair.client.session.next_action();
    pair.run();
    assert_eq!(pair.server.messages.len(), 63);
    let deadline = pair.server.session.deadline().unwrap();
    pair.server.session.tick(deadline);
    let mut buffer = [0; 8];
    let mut late = 0;
    while let (Read::Message(1), _) = pair.server.session.read(&mut buffer) {
        late += 1;
    }
    assert_eq!(late, 6);
}
