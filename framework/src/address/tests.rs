//! What is an address, what is not, and what the errors advise.

use super::*;

fn parse(url: &str) -> Address {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn advice(url: &str) -> String {
    match url.parse::<Address>() {
        Ok(address) => panic!("{url} was read as {address:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn addresses_survive_a_round_trip() {
    for url in [
        "udp://127.0.0.1:4433",
        "dtls://0.0.0.0:0",
        "dtls://[::1]:65535",
        "udp://[::ffff:192.0.2.1]:7",
        "dtls://[fe80::1%eth0]:4433",
        "dtls://[fe80::1%2]:4433",
        "dtls://[fe80::1%eth0.100]:4433",
        "udp://[ff02::fb%wlan0]:5353",
        "dtls://localhost:4433",
        "dtls://a-b_c.example.org.:1",
        "sctp://10.0.0.1,10.0.1.1:38412",
        "sctp+dtls://10.0.0.1,[fd00::1],[fe80::1%a,b]:1",
        "sctp+tls://a.example.org,b.example.org:1",
    ] {
        assert_eq!(parse(url).to_string(), url);
    }
}

#[test]
fn every_zone_is_written_so_that_it_is_read_back() {
    for zone in ["eth0", "2", "25", "251", "25gbit0", "250", "2x"] {
        let host = Host::V6("fe80::1".parse().unwrap(), Some(zone.to_owned()));
        let address = Address { scheme: Scheme::Dtls, host, alternates: Vec::new(), port: 1 };
        assert_eq!(parse(&address.to_string()), address);
    }
}

#[test]
fn both_zone_forms_mean_the_same() {
    assert_eq!(parse("dtls://[fe80::1%25eth0]:5"), parse("dtls://[fe80::1%eth0]:5"));
    assert_eq!(parse("dtls://[fe80::1%252]:5"), parse("dtls://[fe80::1%2]:5"));
}

#[test]
fn a_star_is_every_local_address() {
    assert_eq!(parse("udp://*:9").host, Host::V6(Ipv6Addr::UNSPECIFIED, None));
    assert_eq!(parse("udp://*:9").to_string(), "udp://[::]:9");
}

#[test]
fn the_case_of_a_scheme_does_not_matter() {
    assert_eq!(parse("DTLS://127.0.0.1:1").to_string(), "dtls://127.0.0.1:1");
}

#[test]
fn each_mistake_gets_its_own_advice() {
    for (url, expected) in [
        ("", "has no scheme: write it as a URL"),
        (
            "127.0.0.1:4433",
            "\"127.0.0.1:4433\" has no scheme: write it as a URL, such as dtls://127.0.0.1:4433",
        ),
        ("quic://127.0.0.1:1", "\"quic\" is not a known scheme: use one of udp://, dtls://, tcp://"),
        ("sctp+udp://127.0.0.1:1", "\"sctp+udp\" is not a known scheme"),
        ("://127.0.0.1:1", "\"\" is not a known scheme"),
        (
            "dtls://127.0.0.1",
            "dtls://127.0.0.1 has no port: write dtls://127.0.0.1:4433 (or port 0 to let the kernel pick one)",
        ),
        ("dtls://127.0.0.1:", "has no port: write dtls://127.0.0.1:4433"),
        ("udp://[::1]", "has no port: write udp://[::1]:4433"),
        ("udp://[::1]:", "has no port: write udp://[::1]:4433"),
        ("dtls://", "has no host"),
        ("dtls://:4433", "has no host"),
        (
            "dtls://127.0.0.1:65536",
            "\"65536\" in dtls://127.0.0.1:65536 is not a port: use a number from 0 to 65535",
        ),
        ("dtls://127.0.0.1:+80", "is not a port"),
        ("dtls://127.0.0.1:-1", "is not a port"),
        ("dtls://127.0.0.1:http", "is not a port"),
        ("dtls://::1:4433", "without brackets: write dtls://[::1]:4433"),
        ("dtls://::1", "without brackets: write dtls://[::1]:4433"),
        ("dtls://[::1:4433", "unbalanced brackets"),
        ("dtls://[::1]4433", "unbalanced brackets"),
        ("dtls://[127.0.0.1]:1", "\"127.0.0.1\" in dtls://[127.0.0.1]:1 is not an IPv6 address"),
        ("dtls://[]:1", "is not an IPv6 address"),
        ("dtls://127.0.0.256:1", "is not an IPv4 address"),
        ("dtls://127.1:1", "is not an IPv4 address"),
        ("dtls://2130706433:1", "is not an IPv4 address"),
        ("dtls://bücher.example:1", "is not a host name"),
        ("dtls://two words:1", "is not a host name"),
        ("dtls://a..b:1", "is not a host name"),
        ("dtls://user@127.0.0.1:1", "has a user name"),
        ("dtls://127.0.0.1:1/", "has a path, which has no meaning here: remove \"/\""),
        ("dtls://127.0.0.1:1/a?b", "remove \"/a?b\""),
        ("dtls://127.0.0.1:1?b", "has a query or fragment, which has no meaning here: remove \"?b\""),
        ("dtls://127.0.0.1:1#b", "remove \"#b\""),
        ("dtls://[fe80::1%]:1", "has a bad zone"),
        ("dtls://[fe80::1%0]:1", "has a bad zone"),
        ("dtls://[fe80::1%4294967296]:1", "has a bad zone"),
        ("dtls://[fe80::1%averyveryverylongname]:1", "has a bad zone"),
        ("dtls://[2001:db8::1%eth0]:1", "2001:db8::1 is not link-local: remove %eth0"),
    ] {
        let advice = advice(url);
        assert!(advice.contains(expected), "{url}: {advice}");
        assert!(!advice.contains('\n'), "{url}: {advice}");
    }
}

#[test]
fn literals_resolve_to_themselves() {
    for literal in ["127.0.0.1:7", "[::1]:0", "[::ffff:192.0.2.1]:9", "[fe80::1%7]:9"] {
        let expected: SocketAddr = literal.parse().unwrap();
        assert_eq!(parse(&format!("udp://{literal}")).resolve().unwrap(), [expected]);
    }
}

#[test]
fn an_interface_name_resolves_to_its_index() {
    let index = if_nametoindex("lo").unwrap();
    let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, index).into();
    assert_eq!(parse("udp://[fe80::1%lo]:5").resolve().unwrap(), [expected]);
}

#[test]
fn an_unknown_interface_is_named() {
    let error = parse("udp://[fe80::1%nowhere0]:5").resolve().unwrap_err();
    assert!(error.to_string().starts_with("the zone \"nowhere0\" is not a network interface"), "{error}");
}

#[test]
fn a_link_local_address_needs_its_zone() {
    let error = parse("udp://[fe80::1]:5").resolve().unwrap_err();
    assert!(error.to_string().ends_with("write it as in udp://[fe80::1%eth0]:5"), "{error}");
}

#[test]
fn a_name_resolves_to_each_address_once() {
    let found = parse("udp://localhost:5").resolve().unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 5), "{found:?}");
    for (at, address) in found.iter().enumerate() {
        assert!(!found[..at].contains(address), "{found:?}");
    }
}

#[test]
fn a_name_that_is_too_long_is_refused_before_anyone_is_asked() {
    let url = format!("udp://{}:1", ["abcdefgh"; 30].join("."));
    assert!(advice(&url).contains("is not a host name"));
}

#[test]
fn socket_addresses_keep_their_meaning() {
    for (socket, expected) in [
        ("192.0.2.1:5", "dtls://192.0.2.1:5"),
        ("[::ffff:192.0.2.1]:5", "dtls://[::ffff:192.0.2.1]:5"),
        ("[fe80::1%3]:5", "dtls://[fe80::1%3]:5"),
        ("[2001:db8::1%3]:5", "dtls://[2001:db8::1]:5"),
    ] {
        let address = Address::from_socket(Scheme::Dtls, socket.parse().unwrap());
        assert_eq!(address.to_string(), expected);
        assert_eq!(parse(expected), address);
    }
}

#[test]
fn a_list_of_addresses_has_one_port_and_needs_sctp() {
    let address = parse("sctp://127.0.0.1,[::1]:9");
    assert_eq!(address.host, Host::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(address.alternates, [Host::V6(Ipv6Addr::LOCALHOST, None)]);
    let resolved = address.resolve().unwrap();
    assert_eq!(resolved, ["127.0.0.1:9".parse().unwrap(), "[::1]:9".parse().unwrap()]);
    assert_eq!(Address::from_sockets(Scheme::Sctp, &resolved), Some(address));
    assert!(advice("udp://127.0.0.1,127.0.0.2:9").contains("only SCTP has"));
    assert!(advice("sctp://127.0.0.1:8,127.0.0.2:9").contains("one port, after its last address"));
    assert!(advice("sctp://127.0.0.1,::1:9").contains("brackets"));
    assert!(advice("sctp://127.0.0.1,,127.0.0.2:9").contains("has no host"));
    assert!(advice("sctp://127.0.0.1,:9").contains("has no host"));
    assert!(advice("sctp://,127.0.0.1:9").contains("has no host"));
    assert!(advice("sctp://127.0.0.1,127.0.0.2").contains("has no port"));
}

#[test]
fn the_addresses_of_a_list_must_go_together() {
    let wrong = |url: &str| match parse(url).resolve() {
        Ok(found) => panic!("{url} was resolved to {found:?}"),
        Err(error) => error.to_string(),
    };
    assert!(wrong("sctp://127.0.0.1,127.0.0.1:9").contains("twice"));
    assert!(wrong("sctp://127.0.0.1,10.0.0.1:9").contains("different scope"));
    assert!(wrong("sctp://[fd00::1],[fe80::1%1]:9").contains("different scope"));
    assert!(wrong("sctp://10.0.0.1,*:9").contains("wildcard"));
    assert!(wrong("sctp://0.0.0.0,10.0.0.1:9").contains("wildcard"));
    assert!(wrong("sctp://10.0.0.1,224.0.0.1:9").contains("unicast"));
    assert!(wrong("sctp://10.0.0.1,255.255.255.255:9").contains("unicast"));
}

#[test]
fn start_and_connect_fail_for_a_text_that_is_no_address() {
    let echo = |_: &mut crate::Peer| Ok::<(), crate::Error>(());
    let builder = crate::Server::builder().listen("udp://127.0.0.1:0");
    // The first of several.
    let builder = builder.listen(String::from("127.0.0.1:1")).listen_proxied("tcp://no port");
    let error = builder.start(echo).unwrap_err();
    assert!(matches!(error, crate::StartError::Address(AddressError::MissingScheme(_))), "{error}");
    assert!(error.to_string().contains("\"127.0.0.1:1\" has no scheme"), "{error}");

    let error = crate::Client::builder().connect("dtls://localhost").unwrap_err();
    assert!(matches!(error, crate::ConnectError::Address(AddressError::MissingPort { .. })), "{error}");
    assert!(error.to_string().contains("dtls://localhost has no port"), "{error}");

    let error = crate::Client::builder().connect("dtls://localhost:0").unwrap_err();
    assert!(
        error.to_string().contains("dtls://localhost:0 has port 0, which only a listener may have"),
        "{error}"
    );
}

#[test]
fn an_address_is_taken_as_text_and_as_a_value() {
    let address: Address = "udp://127.0.0.1:0".parse().unwrap();
    let echo = |_: &mut crate::Peer| Ok::<(), crate::Error>(());
    let text = "udp://[::1]:0".to_owned();
    let builder = crate::Server::builder().listen(&address).listen(address).listen(&text).listen(text);
    let server = builder.start(echo).unwrap();
    assert_eq!(server.addresses().len(), 4);
    server.handle().shutdown(std::time::Duration::ZERO);
}
