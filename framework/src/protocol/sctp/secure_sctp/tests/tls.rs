use openssl::ssl::SslVersion;

use super::*;
use crate::sys::ossl;

fn pair_with(contexts: &(SslContext, SslContext), seed: u64) -> Pair {
    let client = TlsStreams::connect(&contexts.0, Some("localhost"), STREAMS).unwrap();
    let server = TlsStreams::accept(&contexts.1, STREAMS).unwrap();
    Pair::new(SecureSctp::Tls(Box::new(client)), SecureSctp::Tls(Box::new(server)), seed)
}

fn pair(credentials: &(ClientCredentials, Credentials), seed: u64) -> Pair {
    pair_with(&contexts(credentials, Protocol::Tls), seed)
}

fn old_pair(credentials: &(ClientCredentials, Credentials), seed: u64) -> Pair {
    let server = context::server(&credentials.1, Protocol::Tls).unwrap();
    pair_with(&(context::old_client(&credentials.0), server), seed)
}

fn tls(end: &mut End) -> &mut TlsStreams {
    match &mut end.session {
        SecureSctp::Tls(session) => session,
        SecureSctp::Dtls(_) => unreachable!(),
    }
}

#[test]
fn messages_go_both_ways_on_many_streams_in_tls_1_2_and_1_3() {
    let credentials = credentials(true);
    for (made, version) in
        [(old_pair(&credentials, 1), SslVersion::TLS1_2), (pair(&credentials, 2), SslVersion::TLS1_3)]
    {
        let mut pair = made.opened();
        assert_eq!(tls(&mut pair.server).engine(0).version(), Some(version));
        for stream in 1..8 {
            pair.open_stream(stream);
            assert!(pair.server.session.is_open(stream) && pair.client.session.is_open(stream));
        }
        for number in 0..1000_u32 {
            let stream = pair.rng.below(8) as u16;
            let info = SendInfo { stream, ppid: number, ..SendInfo::default() };
            pair.client.session.write(&number.to_be_bytes(), info).unwrap();
            pair.server.session.write(&number.to_be_bytes(), info).unwrap();
        }
        pair.client.session.close();
        pair.server.session.close();
        pair.run();
        for end in [&pair.client, &pair.server] {
            assert!(end.closed, "{:?}", end.broken);
            let mut last = HashMap::new();
            assert_eq!(end.messages.len(), 1000);
            for (message, info) in &end.messages {
                let number = u32::from_be_bytes(message.as_slice().try_into().unwrap());
                assert_eq!(info.ppid, number);
                assert!(last.insert(info.stream, number).is_none_or(|before| before < number));
            }
        }
    }
}

#[test]
fn streams_begun_while_stream_0_ends_its_handshake_wait() {
    let credentials = credentials(true);
    for seed in 0..40 {
        let mut pair = pair(&credentials, seed);
        let mut begun = false;
        while pair.step() {
            if pair.client.session.is_complete() && !begun {
                begun = true;
                for stream in 1..4 {
                    let info = SendInfo { stream, ..SendInfo::default() };
                    assert_eq!(pair.client.session.write(b"x", info), Err(Refused::NotOpen));
                }
            }
        }
        assert_eq!(pair.server.broken, None);
        assert!((0..4).all(|stream| pair.server.session.is_open(stream)));
    }
}

#[test]
fn another_identity_on_a_further_stream_breaks_the_session() {
    let (client, mut server) = credentials(true);
    let ClientAuth::Required(bundle) = server.client_auth else { unreachable!() };
    server.client_auth = ClientAuth::Optional(bundle);
    // A peer without an identity differs from one that has an identity, too.
    let other = ClientCredentials { identity: None, ..client.clone() };
    let credentials = (client, server);
    let new_context = context::client(&other, Protocol::Tls).unwrap();
    for (made, context) in
        [(pair(&credentials, 3), new_context), (old_pair(&credentials, 3), context::old_client(&other))]
    {
        let mut pair = made.opened();
        pair.open_stream(1);
        assert!(pair.server.session.is_open(1));
        tls(&mut pair.client).change_context(&context);
        pair.open_stream(2);
        let broken = pair.server.broken.as_deref();
        assert_eq!(broken, Some("the peer's identity on stream 2 differs from that on stream 0"));
        let refused = pair.server.session.write(b"x", SendInfo::default());
        assert!(matches!(refused, Err(Refused::Broken(_))));
    }
}

#[test]
fn a_stream_that_is_not_secured_breaks_the_session_and_is_refused_to_us() {
    let mut pair = pair(&credentials(false), 4).opened();
    let info = SendInfo { stream: STREAMS, ..SendInfo::default() };
    assert_eq!(pair.client.session.write(b"x", info), Err(Refused::NoSuchStream { streams: STREAMS }));
    pair.server.take(b"x", MessageInfo { stream: STREAMS, ..MessageInfo::default() });
    assert_eq!(
        pair.server.broken.as_deref(),
        Some("the peer used stream 32, but only 32 streams are secured")
    );
}

#[test]
fn unordered_and_unreliable_messages_are_refused() {
    let mut pair = pair(&credentials(false), 5).opened();
    let unordered = SendInfo { unordered: true, ..SendInfo::default() };
    assert_eq!(pair.client.session.write(b"x", unordered), Err(Refused::Unordered));
    let reliability = crate::sctp::Reliability::Retransmissions(1);
    let unreliable = SendInfo { reliability, ..SendInfo::default() };
    assert_eq!(pair.client.session.write(b"x", unreliable), Err(Refused::Unreliable));
    pair.server.take(b"x", MessageInfo { unordered: true, ..MessageInfo::default() });
    assert!(pair.server.broken.as_ref().is_some_and(|why| why.contains("unordered")));
}

#[test]
fn a_message_of_16384_bytes_is_one_record_and_one_message() {
    let credentials = credentials(false);
    for made in [pair(&credentials, 6), old_pair(&credentials, 6)] {
        let mut pair = made.opened();
        let before = pair.client.sent;
        for _ in 0..3 {
            pair.client.send(&[7; 16_384], 0);
        }
        let too_long = pair.client.session.write(&[0; 16_385], SendInfo::default());
        assert_eq!(too_long, Err(Refused::TooLong { limit: 16_384 }));
        pair.run();
        assert_eq!(pair.client.sent, before + 3);
        assert!(pair.server.messages.iter().all(|(message, _)| message.len() == 16_384));
        assert_eq!(pair.server.messages.len(), 3);
    }
}

#[test]
fn a_key_update_of_the_peers_is_answered() {
    let mut pair = pair(&credentials(false), 7).opened();
    for _ in 0..5 {
        assert!(ossl::key_update(tls(&mut pair.client).engine(0).ssl()));
        pair.client.send(b"ping", 0);
        pair.run();
        pair.server.send(b"pong", 0);
        pair.run();
    }
    assert_eq!(pair.server.messages.len(), 5);
    assert_eq!(pair.client.messages.len(), 5);
    assert!(pair.server.messages.iter().all(|(_, info)| info.ppid == 46));
}

#[test]
fn renegotiation_is_refused() {
    let mut pair = old_pair(&credentials(false), 8).opened();
    let engine = tls(&mut pair.client).engine(0);
    assert!(ossl::renegotiate(engine.ssl()));
    assert!(!engine.step().unwrap());
    let [hello] = engine.take_outgoing().into_iter().collect::<Vec<_>>().try_into().unwrap();
    pair.server.take(&hello, MessageInfo::default());
    assert_eq!(pair.server.broken, None);
    pair.server.send(b"still here", 0);
    let answer = pair.server.session.next_action();
    assert!(matches!(answer, Some(Action::Send { payload, .. }) if payload[0] == 21));
}

#[test]
fn pre_shared_keys_do_in_both_versions_and_beside_a_certificate() {
    for identity in [None, Some(Identity::self_signed().unwrap())] {
        let credentials = psk_credentials(identity);
        for made in [pair(&credentials, 9), old_pair(&credentials, 9)] {
            let mut pair = made.opened();
            assert_eq!(pair.server.session.summary().identity, PeerIdentity::Psk(b"alice".to_vec()));
            pair.open_stream(1);
            assert!(pair.server.session.is_open(1), "{:?}", pair.server.broken);
        }
    }
}

#[test]
fn a_pre_shared_key_that_was_looked_up_and_not_used_is_not_the_identity() {
    // No key goes with the suite, so OpenSSL passes over it and shows its certificate.
    let (mut client, server) = psk_credentials(Some(Identity::self_signed().unwrap()));
    client.accept_any = true;
    let server = context::server(&server, Protocol::Tls).unwrap();
    let pair = pair_with(&(context::sha384_client(&client), server.clone()), 10).opened();
    assert_eq!(pair.server.session.summary().identity, PeerIdentity::Anonymous);
    // And a client that wants the key does not trust that certificate.
    client.accept_any = false;
    let mut pair = pair_with(&(context::sha384_client(&client), server), 10);
    pair.run();
    assert!(matches!(pair.client.failure, Some(Failure::Unverified(_))));
}

#[test]
fn a_client_with_a_wrong_or_unknown_key_is_refused() {
    let (client, server) = psk_credentials(None);
    for psk in [(b"alice".to_vec(), vec![8; 32]), (b"bob".to_vec(), vec![7; 32])] {
        let client = ClientCredentials { psk: Some((psk.0, psk.1.into())), ..client.clone() };
        let mut pair = pair(&(client, server.clone()), 11);
        pair.run();
        assert!(!pair.server.session.is_complete());
        assert!(pair.client.failure.is_some() && pair.server.failure.is_some());
    }
}

#[test]
fn junk_instead_of_a_handshake_is_a_clean_failure() {
    let context = contexts(&credentials(false), Protocol::Tls).1;
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22; 30], &[0; 100]] {
        let mut server = TlsStreams::accept(&context, STREAMS).unwrap();
        let received = server.receive(junk, MessageInfo::default());
        assert!(matches!(received, Err(Failure::Ended(EndReason::HandshakeFailed(_)))), "{received:?}");
    }
}

#[test]
fn an_unverified_server_has_its_own_error() {
    let (mut client, server) = credentials(false);
    client.authorities = credentials(false).0.authorities;
    let mut pair = pair(&(client, server), 12);
    pair.run();
    assert!(matches!(pair.client.failure, Some(Failure::Unverified(_))));
}

#[test]
fn an_ed25519_key_serves_tls_1_2_and_1_3_and_not_dtls() {
    use openssl::pkey::PKey;
    use openssl::x509::X509;
    let template = Identity::self_signed().unwrap().chain.remove(0);
    let key = PKey::generate_ed25519().unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(template.subject_name()).unwrap();
    builder.set_issuer_name(template.subject_name()).unwrap();
    builder.set_not_before(template.not_before()).unwrap();
    builder.set_not_after(template.not_after()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, openssl::hash::MessageDigest::null()).unwrap();
    let identity = Identity::new(vec![builder.build()], key);
    let trust = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let client = ClientCredentials { authorities: Some(trust), ..ClientCredentials::default() };
    let server = Credentials { identities: vec![identity], ..Credentials::default() };
    assert!(context::server(&server, Protocol::Dtls).is_err());
    let credentials = (client, server);
    pair(&credentials, 13).opened();
    old_pair(&credentials, 13).opened();
}
