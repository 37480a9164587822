//! Certificates and revocation lists that expire: the log warns about them in time.

mod support;
#[path = "../../framework/tests/support/wall_clock.rs"]
mod wall_clock;

use std::path::PathBuf;

use peeloff_certificates::{Authority, p256};
use support::{Directory, ECHO, Program, start_echo};

#[test]
fn a_certificate_that_expires_soon_is_warned_of_at_the_start_and_at_a_reload() {
    let files = Directory::new("expiry");
    let (soon, late) = (Authority::valid_for("soon", 3), Authority::named("late"));
    let (cert, key) = (files.file("cert.pem", soon.pem()), files.file("key.pem", soon.key_pem()));
    let (mut server, _) = start_echo(&["--listen", "dtls://127.0.0.1:0", "--cert", &cert, "--key", &key]);
    let line = server.stderr_line("expires soon");
    let expected =
        format!("the certificate CN=soon in {cert} expires soon: replace the file and send SIGHUP");
    assert!(line.contains(&expected) && line.contains("hours=71"), "{line}");
    server.signal("HUP");
    server.stderr_line(&expected);
    server.stderr_line("reloaded");

    files.file("cert.pem", late.pem());
    files.file("key.pem", late.key_pem());
    server.signal("HUP");
    server.stderr_line("reloaded");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.stderr.matches("expires soon").count(), 2, "{ended:?}");
}

#[test]
fn an_expired_revocation_list_is_warned_of_by_its_file_at_the_start_and_at_a_reload() {
    let files = Directory::new("expiry-list");
    let authority = Authority::valid_for("authority", 2);
    let (pem, key_pem) = authority.issue_pem("server", &p256());
    let (cert, key) = (files.file("cert.pem", pem), files.file("key.pem", key_pem));
    let (ca, crl) = (files.file("ca.pem", authority.pem()), files.file("list.pem", authority.old_list()));
    let listen =
        ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--ca", &ca, "--crl", &crl];
    let (mut server, _) = start_echo(&listen);
    server.stderr_line(&format!("the certificate CN=server in {cert} expires soon"));
    server.stderr_line(&format!("the authority CN=authority in {ca} expires soon"));
    let expected =
        format!("the revocation list of CN=authority in {crl} has expired: replace the file and send SIGHUP");
    server.stderr_line(&expected);
    server.signal("HUP");
    server.stderr_line(&expected);
    server.stderr_line("reloaded");

    files.file("list.pem", authority.revoke(&[]));
    server.signal("HUP");
    server.stderr_line(&format!("the revocation list of CN=authority in {crl} expires soon"));
}

#[test]
fn a_certificate_that_expires_while_the_server_runs_is_warned_of_once_a_day() {
    let files = Directory::new("expiry-clock");
    let clock = PathBuf::from(files.path("clock"));
    wall_clock::set(&clock, "+0");
    let own = Authority::valid_for("own", 20);
    let (cert, key) = (files.file("cert.pem", own.pem()), files.file("key.pem", own.key_pem()));
    // The server checks the clock whenever it wakes up.
    let arguments =
        ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--stats-interval", "50ms"];
    let mut server = Program::start_in(wall_clock::environment(&clock), ECHO, &arguments);
    server.address();
    server.stderr_line("stats ");
    let mut days = |offset: &str, expected: &str| {
        wall_clock::set(&clock, offset);
        let line = server.stderr_line(&format!("the certificate CN=own in {cert} "));
        assert!(line.contains(expected), "{offset}: {line}");
        // By then it has checked the clock twice more.
        server.stderr_line("stats ");
        server.stderr_line("stats ");
    };
    days("+10d", "expires soon");
    days("+11d", "expires soon");
    days("+21d", "has expired");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.stderr.matches("the certificate").count(), 3, "{ended:?}");
}
