//! Errors of a start, of a connect and of a post that the user's own input causes.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use peeloff::{
    ConnectError, Identity, IdentityError, PostOutcome, PublicKey, Server, ServerBuilder, StartError,
};
use peeloff_certificates::Authority;
use support::{Running, echo, exchange};

/// An address for documentation (RFC 5737), which no host has.
const ELSEWHERE: &str = "192.0.2.1";

fn refused(builder: ServerBuilder) -> StartError {
    builder.start(echo).expect_err("it does not start")
}

#[test]
fn a_server_without_an_address_or_an_identity_does_not_start() {
    assert!(matches!(refused(Server::builder()), StartError::NoListener));
    for scheme in ["dtls", "tls"] {
        let error = refused(Server::builder().listen(format!("{scheme}://127.0.0.1:0").as_str()));
        assert!(matches!(error, StartError::NoIdentity), "{scheme}: {error}");
    }
}

#[test]
fn a_server_on_an_address_of_another_host_does_not_start() {
    for scheme in ["udp", "tcp"] {
        let error = refused(Server::builder().listen(format!("{scheme}://{ELSEWHERE}:4000").as_str()));
        let StartError::AddressNotAvailable { address } = error else { panic!("{scheme}: {error}") };
        assert_eq!(address.to_string(), "192.0.2.1:4000");
    }
}

#[test]
fn a_server_on_a_port_that_its_user_may_not_use_does_not_start() {
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", "setpriv"])
        .args(["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_on_a_privileged_port", "--ignored", "--nocapture"])
        .env("PEELOFF_TEST_WITHOUT_CAPABILITY", "1")
        .status()
        .expect("unshare");
    assert!(status.success());
}

#[test]
#[ignore = "run by the test before this one, without a capability"]
fn a_server_on_a_privileged_port() {
    if std::env::var_os("PEELOFF_TEST_WITHOUT_CAPABILITY").is_none() {
        return;
    }
    for scheme in ["udp", "tcp"] {
        let error = refused(Server::builder().listen(format!("{scheme}://127.0.0.1:9").as_str()));
        let StartError::PermissionDenied { address } = error else { panic!("{scheme}: {error}") };
        assert_eq!(address.port(), 9);
    }
}

#[test]
fn a_client_is_told_of_a_local_address_of_another_host() {
    let running = Running::echo("udp://127.0.0.1:0");
    for scheme in ["udp", "tcp"] {
        let local = SocketAddr::new(ELSEWHERE.parse().unwrap(), 0);
        let url = format!("{scheme}://{}", running.address());
        let error = running.client().bind(local).connect(url.as_str()).unwrap_err();
        let ConnectError::Bind { local: told, .. } = error else { panic!("{scheme}: {error}") };
        assert_eq!(told, local);
    }
}

#[test]
fn a_client_is_told_that_nothing_listens_on_a_port_of_tcp() {
    // Nothing listens on a port that is bound for another purpose.
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = bound.local_addr().unwrap().as_socket().unwrap();
    for scheme in ["tcp", "tls"] {
        let client = Running::echo("udp://127.0.0.1:0").client();
        let error = client.connect(format!("{scheme}://{address}").as_str()).unwrap_err();
        let ConnectError::Refused { peer, .. } = error else { panic!("{scheme}: {error}") };
        assert_eq!(peer, address);
    }
}

#[test]
fn a_message_that_the_transport_cannot_carry_is_not_posted_and_the_association_goes_on() {
    for (scheme, message) in [("udp", &[0; 65_508][..]), ("dtls", &[0; 16_385]), ("dtls", &[]), ("tcp", &[])]
    {
        let running = Running::echo(&format!("{scheme}://127.0.0.1:0"));
        let mut peer = running.connect();
        exchange(&mut peer, b"before");
        for sender in running.handle().peers().into_iter().chain([peer.sender()]) {
            let posted = sender.post(&Arc::from(message));
            assert_eq!(posted, PostOutcome::Unsendable, "{scheme}, {} bytes", message.len());
        }
        exchange(&mut peer, b"after");
        assert_eq!(running.stats().messages_dropped, 0);
    }
}

#[test]
fn a_file_that_is_no_ocsp_response_or_no_public_key_is_refused_by_its_name() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("errors-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("input");
    let place = path.display().to_string();
    // An OCSP response with the status malformedRequest (RFC 6960 §4.2.1) is a response, but not a successful one.
    for content in [&b""[..], b"no DER", b"\x30\x03\x0a\x01\x01"] {
        std::fs::write(&path, content).unwrap();
        let identity = Identity::self_signed().unwrap();
        let error = identity.clone().with_ocsp_file(&path).map(drop).unwrap_err();
        assert!(matches!(&error, IdentityError::NoOcspResponse { place: file } if *file == place), "{error}");
        let error = identity.with_ocsp_response(content).map(drop).unwrap_err();
        assert!(matches!(error, IdentityError::NoOcspResponse { .. }), "{error}");
    }
    let certificate = Authority::new().pem();
    for content in [&b""[..], b"no PEM", &certificate] {
        std::fs::write(&path, content).unwrap();
        let error = PublicKey::from_file(&path).map(drop).unwrap_err();
        assert!(matches!(&error, IdentityError::NoPublicKey { place: file } if *file == place), "{error}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
