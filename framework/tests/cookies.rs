//! Cookies on the wire: which ones are refused, and which clients are admitted while the secret changes.

#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::time::{Duration, Instant};

use peeloff::Timeouts;
use raw_client::RawClient;
use support::{Running, exchange, until};

const HOME: [u8; 4] = [127, 0, 0, 1];

#[test]
fn forged_and_foreign_cookies_are_refused() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let server = running.address();
    let owner = RawClient::new(HOME, server);
    let cookie = owner.challenge();

    let changed = |at: usize| {
        let mut changed = cookie;
        changed[at] ^= 1;
        changed.to_vec()
    };
    let longer = [&cookie[..], &[0]].concat();
    let forged = [vec![0; 32], vec![7; 32], vec![0; 1], vec![0; 255], cookie[..31].to_vec(), longer];
    let forged: Vec<_> = forged.into_iter().chain([0, 15, 31].map(changed)).collect();
    for forged in &forged {
        // A second hello with it gets no answer. A first hello with it is treated as one without a cookie.
        owner.send(&owner.hello_as(1, forged));
        owner.assert_silence();
        let hello = owner.hello_as(0, forged);
        owner.send(&hello);
        assert_eq!(owner.challenged(&hello), cookie);
    }
    // The same hello comes from another port and from another address, and another hello comes from there.
    let foreign = [
        RawClient::new(HOME, server).with_random_of(&owner),
        RawClient::new([127, 0, 0, 2], server).with_random_of(&owner),
        RawClient::new(HOME, server),
    ];
    for foreign in &foreign {
        foreign.send(&foreign.hello(&cookie));
        foreign.assert_silence();
    }
    let stats = running.stats();
    assert_eq!(stats.cookies_refused, (2 * forged.len() + foreign.len()) as u64);
    assert_eq!((stats.peers, stats.half_open, stats.opened, stats.workers), (0, 0, 0, 0));

    owner.send(&owner.hello(&cookie));
    owner.assert_served();
    running.until("it is counted", |stats| (stats.opened, stats.peers) == (1, 1));
}

#[test]
fn the_previous_secrets_cookie_is_accepted_and_an_older_one_is_refused() {
    let mut timeouts = Timeouts::default();
    timeouts.cookie_period = Duration::from_secs(1);
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.timeouts(timeouts));
    let server = running.address();
    // Its cookie changes when the secret does.
    let watch = RawClient::new(HOME, server);
    let next = |cookie| until("a new secret", || Some(watch.challenge()).filter(|new| *new != cookie));

    // If the machine stops for a whole period, the secret may have changed twice. Then try again.
    until("a cookie is used under the next secret", || {
        let (peer, now) = (RawClient::new(HOME, server), watch.challenge());
        let cookie = peer.challenge();
        if watch.challenge() != now {
            return None;
        }
        let current = next(now);
        let opened = running.stats().opened;
        peer.send(&peer.hello(&cookie));
        if watch.challenge() != current {
            return None;
        }
        peer.assert_served();
        running.until("it is counted", |stats| stats.opened == opened + 1);
        Some(())
    });

    let peer = RawClient::new(HOME, server);
    let (cookie, first) = (peer.challenge(), watch.challenge());
    next(next(first));
    let before = running.stats();
    peer.send(&peer.hello(&cookie));
    peer.assert_silence();
    let stats = running.stats();
    assert_eq!((stats.cookies_refused, stats.opened), (before.cookies_refused + 1, before.opened));
    // A new cookie exchange is enough.
    peer.stall();
    running.until("it is counted", |stats| stats.opened == before.opened + 1);
}

#[test]
fn honest_clients_get_in_while_the_secret_changes() {
    let mut timeouts = Timeouts::default();
    timeouts.cookie_period = Duration::from_secs(1);
    let running = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.timeouts(timeouts.clone()));
    let watch = RawClient::new(HOME, running.address());
    let client = running.client();
    let (mut cookie, mut secrets, mut connected, mut longest) = (watch.challenge(), 1, 0, Duration::ZERO);
    until("a few new secrets", || {
        let began = Instant::now();
        let mut peer = client.connect(running.url()).unwrap();
        longest = longest.max(began.elapsed());
        exchange(&mut peer, b"x");
        connected += 1;
        let now = watch.challenge();
        secrets += u32::from(now != cookie);
        cookie = now;
        (secrets > 3).then_some(())
    });
    let stats = running.stats();
    // If the machine stops for a period, a cookie may rightly be too old.
    let too_old = if longest < timeouts.cookie_period { 0 } else { stats.cookies_refused };
    assert_eq!((stats.handshakes, stats.cookies_refused), (connected, too_old));
}
