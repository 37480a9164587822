//! Revocation lists are checked for whole chains: what servers and clients refuse, what they report, and what
//! they resume.

mod support;

use peeloff::{
    Client, ClientAuth, ConnectError, Credentials, EndKind, EndReason, Identity, IdentityError, Peer,
    RevocationList, Server, StartError,
};
use peeloff_certificates::{Authority, p256};
use support::{DEADLINE, echo, exchange, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

/// A root, an authority below it, and another one below that.
struct Tree {
    root: Authority,
    sub: Authority,
    subsub: Authority,
}

impl Tree {
    fn new() -> Self {
        let root = Authority::named("root");
        let sub = root.below("sub");
        let subsub = sub.below("subsub");
        Self { root, sub, subsub }
    }

    /// Returns a list of each authority that revokes nothing.
    fn clean(&self) -> Vec<u8> {
        [&self.root, &self.sub, &self.subsub].map(|authority| authority.revoke(&[])).concat()
    }

    /// Returns the credentials of a server with these lists, which requests certificates.
    fn asking(&self, lists: &[u8]) -> Credentials {
        Credentials::new()
            .identity(Identity::self_signed().unwrap())
            .client_auth(ClientAuth::Required(self.root.bundle()))
            .revoked(RevocationList::from_bytes(lists).unwrap())
    }
}

/// A server; dropping it shuts it down.
struct Running(Server);

impl Running {
    fn start(url: &str, credentials: Credentials) -> Self {
        let builder = Server::builder().listen(url).credentials(credentials);
        Self(builder.start(echo).unwrap())
    }

    fn connect(&self, client: &Client) -> Result<Peer, ConnectError> {
        client.connect(&self.0.addresses()[0])
    }

    /// Exchanges a message with the client. Returns whether it resumed.
    fn visit(&self, client: &Client) -> bool {
        let mut peer = self.connect(client).unwrap();
        exchange(&mut peer, b"hello");
        peer.is_resumed()
    }

    /// Returns whether the client's handshake fails, and checks that the server counts the failure.
    fn refuses(&self, client: &Client) -> bool {
        let failed = || self.0.handle().stats().ended(EndKind::HandshakeFailed);
        let before = failed();
        let refused = match self.connect(client) {
            Err(ConnectError::Handshake { .. }) => true,
            Err(error) => panic!("{error}"),
            // With TLS 1.3, the client's handshake is complete before the server has read its certificate.
            Ok(mut peer) => {
                let mut buffer = [0; 8];
                let sent = peer.send(b"hello");
                let answer = sent.and_then(|()| peer.recv_timeout(&mut buffer, DEADLINE));
                !matches!(answer, Ok(Some(_))) && peer.end_reason() != Some(&EndReason::ClosedByPeer)
            }
        };
        if refused {
            until("the server counts the refusal", || (failed() > before).then_some(()));
        }
        refused
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.handle().shutdown(DEADLINE);
    }
}

/// Makes a client that presents this certificate.
fn showing(identity: &Identity) -> Client {
    Client::builder().danger_accept_any_certificate().identity(identity.clone()).timeout(DEADLINE)
}

#[test]
fn whole_chains_are_checked_against_revocation_lists_as_openssl_does() {
    hold_whole_chains_against_lists(BOTH);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn whole_chains_are_checked_against_revocation_lists_over_sctp() {
    hold_whole_chains_against_lists(["sctp+dtls://127.0.0.1:0", "sctp+tls://127.0.0.1:0"]);
}

fn hold_whole_chains_against_lists(urls: [&str; 2]) {
    let tree = Tree::new();
    let Tree { root, sub, subsub } = &tree;
    let (pem, key) = subsub.issue_pem("leaf", &p256());
    let leaf = Identity::from_pem(&pem, &key).unwrap();
    let [of_root, of_sub, of_subsub] = [root, sub, subsub].map(|authority| authority.revoke(&[]));
    let cases: [(&str, Vec<u8>, Option<&str>); 8] = [
        ("no certificate is revoked", tree.clean(), None),
        (
            "the leaf is revoked",
            [&of_root[..], &of_sub, &subsub.revoke(&[&leaf])].concat(),
            Some("certificate revoked: CN=leaf is revoked by CN=subsub"),
        ),
        (
            "the authority above the leaf is revoked",
            [&of_root[..], &sub.revoke_authority(subsub), &of_subsub].concat(),
            Some("certificate revoked: CN=subsub is revoked by CN=sub"),
        ),
        (
            "the authority below the root is revoked",
            [&root.revoke_authority(sub)[..], &of_sub, &of_subsub].concat(),
            Some("certificate revoked: CN=sub is revoked by CN=root"),
        ),
        (
            "an authority in the middle has no list",
            [&of_root[..], &of_subsub].concat(),
            Some("unable to get certificate CRL: there is no revocation list of CN=sub"),
        ),
        (
            "an authority in the middle has an old list",
            [&of_root[..], &sub.old_list(), &of_subsub].concat(),
            Some(
                "CRL has expired: the revocation list of CN=sub is valid only from Jan  1 00:00:00 2025 GMT until Jan  2 00:00:00 2025 GMT",
            ),
        ),
        (
            "an authority below the root is revoked, and the one below that has an old list",
            [&root.revoke_authority(sub)[..], &sub.old_list(), &of_subsub].concat(),
            Some(
                "CRL has expired: the revocation list of CN=sub is valid only from Jan  1 00:00:00 2025 GMT until Jan  2 00:00:00 2025 GMT",
            ),
        ),
        (
            "the root has an old list",
            [&root.old_list()[..], &of_sub, &of_subsub].concat(),
            Some(
                "CRL has expired: the revocation list of CN=root is valid only from Jan  1 00:00:00 2025 GMT until Jan  2 00:00:00 2025 GMT",
            ),
        ),
    ];
    for (what, lists, expected) in &cases {
        let oracle = root.openssl_objects(&pem, lists);
        let said = |oracle: &str| expected.is_some_and(|why| why.starts_with(&format!("{oracle}: ")));
        match &oracle {
            Some(oracle) => assert!(said(oracle), "{what}: openssl says {oracle}"),
            None => assert_eq!(*expected, None, "{what}"),
        }
        for url in urls {
            // The server checks its client.
            let running = Running::start(url, tree.asking(lists));
            match expected {
                None => assert!(!running.visit(&showing(&leaf)), "{url}: {what}"),
                Some(_) => assert!(running.refuses(&showing(&leaf)), "{url}: {what}"),
            }
            // The client checks its server.
            let running = Running::start(url, Credentials::new().identity(leaf.clone()));
            let client = Client::builder().ca(root.bundle()).timeout(DEADLINE);
            let client = client.revoked(RevocationList::from_bytes(lists).unwrap());
            match (running.connect(&client), expected) {
                (Ok(mut peer), None) => exchange(&mut peer, b"hello"),
                (Err(ConnectError::Unverified { why, .. }), Some(expected)) => {
                    assert_eq!(why, *expected, "{url}: {what}");
                }
                (other, _) => panic!("{url}: {what}: {:?}", other.map(|_| "connected")),
            }
        }
    }
}

#[test]
fn an_authority_without_a_list_is_named_at_the_start() {
    let tree = Tree::new();
    let lists = RevocationList::from_bytes(&tree.sub.revoke(&[])).unwrap();
    let missing = "there is no revocation list of the authority CN=root; add it to the lists, or take the authority \
                   out of the CA file";
    for url in BOTH {
        let credentials = tree.asking(&tree.sub.revoke(&[]));
        let started = Server::builder().listen(url).credentials(credentials).start(echo);
        match started {
            Err(StartError::Identity(error @ IdentityError::NoListOf { .. })) => {
                assert_eq!(error.to_string(), missing)
            }
            other => panic!("{url}: {:?}", other.map(|_| "started")),
        }
        // A reload with it fails, and nothing changes.
        let running = Running::start(url, tree.asking(&tree.clean()));
        let failed = running.0.handle().reload(tree.asking(&tree.sub.revoke(&[]))).unwrap_err();
        assert_eq!(failed.to_string(), missing);
        let leaf = tree.sub.issue("leaf", &p256());
        running.visit(&showing(&leaf));
        // So does a client.
        let client = Client::builder().ca(tree.root.bundle()).revoked(lists.clone());
        let failed = running.connect(&client).unwrap_err();
        assert!(
            matches!(&failed, ConnectError::Identity(IdentityError::NoListOf { authority }) if authority == "CN=root")
        );
    }
}

#[test]
fn a_session_is_resumed_only_while_its_whole_chain_passes() {
    let tree = Tree::new();
    let Tree { root, sub, subsub } = &tree;
    let (near, far) = (root.issue("near", &p256()), subsub.issue("far", &p256()));
    let [of_root, of_sub, of_subsub] = [root, sub, subsub].map(|authority| authority.revoke(&[]));
    for url in BOTH {
        let running = Running::start(url, tree.asking(&tree.clean()));
        let (near, far) = (showing(&near), showing(&far));
        for client in [&near, &far] {
            assert!(!running.visit(client), "{url}");
            assert!(running.visit(client), "{url}");
        }
        // New lists that do not affect a chain leave its sessions valid.
        let reload = |lists: &[u8]| running.0.handle().reload(tree.asking(lists)).unwrap();
        reload(&tree.clean());
        assert!(running.visit(&near) && running.visit(&far), "{url}");
        for (what, lists) in [
            ("sub is revoked", [&root.revoke_authority(sub)[..], &of_sub, &of_subsub].concat()),
            ("subsub is revoked", [&of_root[..], &sub.revoke_authority(subsub), &of_subsub].concat()),
            ("sub has no list", [&of_root[..], &of_subsub].concat()),
            ("sub's list is old", [&of_root[..], &sub.old_list(), &of_subsub].concat()),
        ] {
            reload(&tree.clean());
            running.visit(&far);
            assert!(running.visit(&far), "{url}");
            reload(&lists);
            assert!(running.refuses(&far), "{url}: {what}");
            assert!(running.visit(&near), "{url}: {what}");
        }
    }
}

#[test]
fn a_session_from_before_there_were_lists_is_checked_in_a_full_handshake() {
    let tree = Tree::new();
    for url in BOTH {
        let plain = Credentials::new()
            .identity(Identity::self_signed().unwrap())
            .client_auth(ClientAuth::Required(tree.root.bundle()));
        let running = Running::start(url, plain);
        let (good, bad) = (tree.sub.issue("good", &p256()), tree.subsub.issue("bad", &p256()));
        let (good, bad) = (showing(&good), showing(&bad));
        for client in [&good, &bad] {
            running.visit(client);
            assert!(running.visit(client), "{url}");
        }
        let lists = [tree.root.revoke(&[]), tree.sub.revoke_authority(&tree.subsub), tree.subsub.revoke(&[])];
        running.0.handle().reload(tree.asking(&lists.concat())).unwrap();
        assert!(!running.visit(&good), "{url}");
        assert!(running.visit(&good), "{url}");
        assert!(running.refuses(&bad), "{url}");
    }
}

#[test]
fn a_client_with_lists_resumes() {
    let tree = Tree::new();
    for url in BOTH {
        let running = Running::start(url, Credentials::new().identity(tree.subsub.issue("server", &p256())));
        let lists = RevocationList::from_bytes(&tree.clean()).unwrap();
        let client = Client::builder().ca(tree.root.bundle()).revoked(lists).timeout(DEADLINE);
        for round in 0..4 {
            assert_eq!(running.visit(&client), round > 0, "{url}");
        }
    }
}
