//! The options for cipher suites and groups, as a user sees them.

mod support;

use support::{CHAT, ECHO, NC, run, start_echo};

#[test]
fn constrained_devices_are_served_where_that_is_said() {
    let arguments = ["--listen", "dtls://127.0.0.1:0", "--ciphers", "constrained"];
    let (mut server, address) = start_echo(&arguments);
    let warning = server.stderr_line("CCM_8");
    assert!(warning.contains("WARN") && warning.contains("--ciphers"), "{warning}");
    let suite = ["--insecure", "--ciphers", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", &address];
    assert_eq!(run(NC, &suite, "hello\n").stdout, "hello\n");
    // A server without the profile refuses the same client.
    let (_usual, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
    let suite = ["--insecure", "--ciphers", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", &address];
    let refused = run(NC, &suite, "hello\n");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(3), ""), "{}", refused.stderr);
}

#[test]
fn groups_are_restricted_on_both_sides() {
    let (_server, address) = start_echo(&["--listen", "tls://127.0.0.1:0", "--groups", "P-384"]);
    let with = |groups| run(NC, &["--insecure", "--groups", groups, &address], "hello\n");
    assert_eq!(with("X25519:P-256:P-384").stdout, "hello\n");
    assert_eq!(with("X25519:P-256").code, Some(3));
}

#[test]
fn the_error_for_a_wrong_name_has_the_option_and_the_nearest_name() {
    let expected = [
        (["--ciphers", "TLS_PSK_WITH_AES_128_CCM8"], "the nearest is TLS_PSK_WITH_AES_128_CCM_8"),
        (["--ciphers", "ECDHE-RSA-AES128-SHA"], "its cipher is not an AEAD"),
        (["--groups", "P-257"], "the nearest is P-256"),
        (["--ciphers", "TLS_AES_128_GCM_SHA256"], "none of the cipher suites can be used with DTLS 1.2"),
    ];
    for (program, name) in [(ECHO, "peeloff-echo"), (CHAT, "peeloff-chat"), (NC, "peeloff-nc")] {
        for (option, why) in expected {
            let url = "dtls://127.0.0.1:0";
            let place = if program == NC { &["-l", url][..] } else { &["--listen", url][..] };
            let ended = run(program, &[&option[..], place].concat(), "");
            ended.failed_with(name, 2, option[0]);
            assert!(ended.stderr.contains(why), "{}", ended.stderr);
        }
    }
}
