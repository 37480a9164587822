use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::{Args, CommandFactory};

use super::key::{Kind, keys};
use super::*;
use crate::values::{Size, Span, SpanOrOff};

/// A program with a section of its own.
#[derive(Parser, Debug)]
#[command(name = "test")]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    weather: WeatherArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Weather: in general")]
struct WeatherArgs {
    /// Where it is measured.
    #[arg(long, default_value = "roof")]
    station: String,

    /// How often.
    #[arg(long, default_value = "daily", requires = "reader")]
    rhythm: String,

    /// Who wants to know.
    #[arg(long, value_name = "NAME")]
    reader: Vec<String>,
}

impl ServerOptions for Cli {
    fn server(&self) -> &ServerArgs {
        &self.server
    }
}

/// A folder with `test.toml` in it.
struct Folder(PathBuf);

impl Folder {
    fn with(test: &str, text: &str) -> Self {
        let folder = env::temp_dir().join(format!("peeloff-config-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("test.toml"), text).unwrap();
        Self(folder)
    }

    fn file(&self) -> String {
        self.0.join("test.toml").to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn parse(arguments: &[&str]) -> Result<Config<Cli>, String> {
    parse_in(&[], arguments)
}

/// Parses with these environment variables.
fn parse_in(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Config<Cli>, String> {
    let arguments = ["test"].iter().chain(arguments).map(OsString::from).collect();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
    Config::from_arguments(arguments, Environment::of(variables), None).map_err(|refusal| match refusal {
        Refusal::Usage(error) => format!("usage: {}", sentence(&error)),
        Refusal::Elsewhere(failure) => failure.to_string(),
    })
}

fn parse_file(test: &str, text: &str, more: &[&str]) -> Result<Config<Cli>, String> {
    let folder = Folder::with(test, text);
    let file = folder.file();
    let result = parse(&[&["--config", &file], more].concat());
    result.map_err(|message| message.replace(&file, "test.toml"))
}

/// Prints without the origins of the values.
fn printed(config: &Config<Cli>) -> String {
    config.values.to_file(&Cli::command(), &[]).unwrap()
}

fn printed_with_origins(config: &Config<Cli>) -> String {
    config.values.to_file(&Cli::command(), &config.origins).unwrap()
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    let config = parse_file("empty", "# nothing\n", &[]).unwrap();
    assert_eq!(config.values, parse(&[]).unwrap().values);
    assert_eq!(config.options.server.listen, ["dtls://127.0.0.1:4433".parse().unwrap()]);
    assert_eq!(config.options.weather.station, "roof");
}

#[test]
fn every_section_reaches_its_options() {
    let text = r#"
        listen = ["udp://127.0.0.1:1", "dtls://[::1]:2"]
        v6only = true
        freebind = false
        limits.max-peers = 0x10

        [limits]
        stack-size = "64K"

        [timeouts]
        idle-timeout = "off"
        drain-timeout = '1s'

        [sctp]
        sctp-streams = 8

        [logging]
        verbose = 2

        [weather]
        reader = "me"
    "#;
    // TOML does not allow a second [limits] table.
    assert!(parse_file("twice", text, &[]).unwrap_err().starts_with("test.toml:7: "));
    let text = text.replace("limits.max-peers = 0x10", "").replace("[limits]", "[limits]\nmax-peers = 0x10");
    let Cli { server, weather } = parse_file("sections", &text, &[]).unwrap().options;
    assert_eq!(
        server.listen,
        ["udp://127.0.0.1:1", "dtls://[::1]:2"].map(|address| address.parse().unwrap())
    );
    assert!(server.v6only && !server.freebind);
    assert_eq!((server.limits.max_peers, server.stack_size), (16, Some(Size(65_536))));
    assert_eq!(server.timeouts.idle_timeout, SpanOrOff(None));
    assert_eq!(server.timeouts.drain_timeout, Span(Duration::from_secs(1)));
    assert_eq!((server.sctp.sctp_streams, server.log.verbose), (Some(8), 2));
    assert_eq!(weather.reader, ["me"]);
}

#[test]
fn the_command_line_wins() {
    let text = "listen = ['udp://127.0.0.1:1', 'udp://127.0.0.1:2']\n\
                [limits]\nmax-peers = 1\nmax-half-open = 2\n[logging]\nquiet = 2\n[weather]\nreader = ['a', 'b']\n";
    let flags = ["--listen", "udp://127.0.0.1:3", "--max-peers", "4", "-vv", "--reader", "c"];
    let Cli { server, weather } = parse_file("wins", text, &flags).unwrap().options;
    // A list replaces the whole list.
    assert_eq!(server.listen, ["udp://127.0.0.1:3".parse().unwrap()]);
    assert_eq!(weather.reader, ["c"]);
    assert_eq!((server.limits.max_peers, server.limits.max_half_open), (4, 2));
    // A setting that conflicts with a flag of the command line is dropped too.
    assert_eq!((server.log.verbose, server.log.quiet), (2, 0));
}

#[test]
fn the_environment_wins_over_the_file_and_gives_way_to_the_command_line() {
    let text = "listen = 'udp://127.0.0.1:1'\nv6only = true\n\
                [limits]\nmax-peers = 1\nmax-half-open = 2\nnew-peers-burst = 3\n[logging]\nquiet = 2\n";
    let folder = Folder::with("environment", text);
    let file = folder.file();
    let variables = [
        ("PEELOFF_CONFIG", file.as_str()),
        ("PEELOFF_LISTEN", "udp://127.0.0.1:2; dtls://127.0.0.1:3;"),
        ("PEELOFF_V6ONLY", "false"),
        ("PEELOFF_FREEBIND", "Yes"),
        ("PEELOFF_MAX_PEERS", "4"),
        ("PEELOFF_MAX_HALF_OPEN", "5"),
        ("PEELOFF_NEW_PEERS_BURST", ""),
        ("PEELOFF_VERBOSE", "1"),
        ("PEELOFF_READER", "Zoë"),
    ];
    let config = parse_in(&variables, &["--max-peers", "6"]).unwrap();
    let Cli { server, weather } = &config.options;
    let listen: Vec<String> = server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["udp://127.0.0.1:2", "dtls://127.0.0.1:3"]);
    assert_eq!((server.v6only, server.freebind), (false, true));
    let limits = &server.limits;
    // An empty variable counts as absent.
    assert_eq!((limits.max_peers, limits.max_half_open, limits.new_peers_burst), (6, 5, 3));
    // A setting that conflicts with a variable is dropped too.
    assert_eq!((server.log.verbose, server.log.quiet), (1, 0));
    assert_eq!(weather.reader, ["Zoë"]);

    let text = printed_with_origins(&config);
    for line in [
        "v6only = false  # from PEELOFF_V6ONLY".to_owned(),
        "max-peers = 6  # from the command line".to_owned(),
        "max-half-open = 5  # from PEELOFF_MAX_HALF_OPEN".to_owned(),
        format!("new-peers-burst = 3  # from {file}:6"),
        "max-awaiting-header = 512".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    // The file with its comments can be read again.
    assert_eq!(parse_file("origins", &text, &[]).unwrap().values, config.values);

    // SIGHUP reads the file again in the same way. A file on the command line takes precedence over the one that
    // the environment names.
    fs::write(&file, "[limits]\nnew-peers-burst = 9\n").unwrap();
    assert_eq!(config.reread().unwrap().options.server.limits.new_peers_burst, 9);
    let other = Folder::with("environment-other", "[limits]\nnew-peers-burst = 8\n");
    let config = parse_in(&variables, &["--config", &other.file()]).unwrap();
    assert_eq!(config.options.server.limits.new_peers_burst, 8);
}

#[test]
fn a_mistake_in_the_environment_is_one_sentence_with_the_variable() {
    for (name, value, expected) in [
        ("PEELOFF_MAX_PEERS", "many", "PEELOFF_MAX_PEERS: \"many\" is not a whole number"),
        ("PEELOFF_V6ONLY", "2", "PEELOFF_V6ONLY: \"2\" is neither true nor false: write one of the two"),
        ("PEELOFF_VERBOSE", "true", "PEELOFF_VERBOSE: \"true\" is no such number: write one from 0 to 9"),
        ("PEELOFF_LISTEN", "udp://127.0.0.1:1;nonsense", "PEELOFF_LISTEN: "),
        ("PEELOFF_CONFIG", "/nowhere", "cannot read the configuration in /nowhere: "),
        ("PEELOFF_RHYTHM", "weekly", "PEELOFF_RHYTHM: reader <NAME> is required"),
    ] {
        let message = parse_in(&[(name, value)], &[]).unwrap_err();
        assert!(message.starts_with(expected) && message.lines().count() == 1, "{message}");
    }
    let message = parse_in(&[("PEELOFF_QUIET", "1"), ("PEELOFF_VERBOSE", "1")], &[]).unwrap_err();
    assert!(message.ends_with("cannot stand beside verbose: drop one of the two"), "{message}");
    let config = parse_in(&[("PEELOFF_STACK_SIZE", "1K")], &[]).unwrap();
    let failure = Failure::input("--stack-size 1K is not usable");
    assert_eq!(config.locate(failure).to_string(), "PEELOFF_STACK_SIZE: stack-size 1K is not usable");
}

#[test]
fn only_a_variable_that_resembles_an_option_is_warned_of() {
    let names = [
        "PEELOFF_MAX_PEER",
        "PEELOFF_PORT",
        "PEELOFF_SERVICE_HOST",
        "PEELOFF_KEY_PASSPHRASE",
        "PEELOFF_CONFIG",
    ];
    let folder = Folder::with("slips", "");
    let file = folder.file();
    let variables = names.map(|name| (name, if name == "PEELOFF_CONFIG" { file.as_str() } else { "1" }));
    let config = parse_in(&variables, &[]).unwrap();
    let expected =
        "the environment variable PEELOFF_MAX_PEER sets no option: the nearest is PEELOFF_MAX_PEERS";
    assert_eq!(config.near_misses(), [expected]);
}

#[test]
fn every_switch_is_turned_off_again_by_its_opposite() {
    let command = Cli::command();
    let mut switches = 0;
    for key in keys(&command) {
        let Some(opposite) = key.opposite() else { continue };
        let (on, off) = (format!("--{}", key.name), format!("--{opposite}"));
        let beside: &[&str] = match key.name {
            "follow-unchecked-addresses" => &["--connection-ids", "9"],
            _ => &[],
        };
        let defaults = parse(beside).unwrap();
        let changes = |arguments: &[&str]| {
            let config = parse(&[beside, arguments].concat()).unwrap_or_else(|message| panic!("{message}"));
            config.changes(&defaults).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(changes(&[&on]), [key.name]);
        assert!(changes(&[&on, &off]).is_empty(), "{off}");
        // The last one takes effect.
        assert_eq!(changes(&[&off, &on]), [key.name]);

        let section = if key.section.is_empty() { String::new() } else { format!("[{}]\n", key.section) };
        let value = if key.kind() == Kind::Count { "1" } else { "true" };
        let text = format!("{section}{} = {value}\n", key.name);
        let read = |more: &[&str]| parse_file("opposite", &text, &[beside, more].concat()).unwrap();
        assert_eq!(read(&[]).changes(&defaults), [key.name]);
        assert!(read(&[&off]).changes(&defaults).is_empty(), "{off}");
        switches += 1;
    }
    assert!(switches > 10, "{switches}");
    assert!(parse(&["--udp-proof", "--sctp-partial-reliability", "--no-v6only"]).is_ok());
}

#[test]
fn paths_are_taken_from_the_folder_of_the_file() {
    let text = "[identity]\ncert = 'tls/cert.pem'\nkey = '/etc/key.pem'\n";
    let folder = Folder::with("paths", text);
    let config = parse(&["--config", &folder.file(), "--ca", "ca.pem"]).unwrap();
    let credentials = &config.options.server.credentials;
    assert_eq!(credentials.cert, [folder.0.join("tls/cert.pem")]);
    assert_eq!(credentials.key, [Path::new("/etc/key.pem")]);
    assert_eq!(credentials.ca.as_deref(), Some(Path::new("ca.pem")));
    // Paths are printed as absolute paths, because the printed file may be moved.
    let text = printed(&config);
    let here = env::current_dir().unwrap();
    for path in [folder.0.join("tls/cert.pem"), here.join("ca.pem")] {
        assert!(text.contains(&format!("\"{}\"", path.display())), "{text}");
    }
}

#[test]
fn the_error_for_an_unknown_key_has_the_nearest_one() {
    for (text, expected) in [
        ("lisen = 'udp://127.0.0.1:1'", "1: there is no key lisen here: the nearest is listen"),
        ("\n\n[limits]\nmax_peers = 1", "4: there is no key max_peers here: the nearest is max-peers"),
        ("[limits]\npeers = 1", "2: there is no key peers here: the nearest is max-peers"),
        ("[sctp]\nstreams = 1", "2: there is no key streams here: the nearest is sctp-streams"),
        ("[timeouts]\nidle = '1s'", "2: there is no key idle here: the nearest is idle-timeout"),
        ("[weather]\nstations = ''", "2: there is no key stations here: the nearest is station"),
        ("[weather]\nmax-peer = 1", "2: there is no key max-peer here: the nearest is max-peers in [limits]"),
        ("max-peers = 1", "1: there is no key max-peers here: it belongs in [limits]"),
        ("[limits]\nlisten = 1", "2: there is no key listen here: it belongs before the first section"),
        ("[limits.max-peer]\na = 1", "1: there is no key max-peer here: the nearest is max-peers"),
        ("[limit]\nmax-peers = 1", "1: there is no section [limit]: the nearest is [limits]"),
        ("limits = 3", "1: there is no key limits here: write [limits] and its keys below"),
        ("config = 'more.toml'", "1: there is no key config here: --print-config shows which there are"),
        ("print-config = true", "1: there is no key print-config here: --print-config shows which there are"),
        ("colour = 'blue'", "1: there is no key colour here: --print-config shows which there are"),
        (
            "[database]\nhost = 'x'",
            "1: there is no section [database]: there are [serving], [sockets], [identity], [limits], [timeouts], [stream], [sctp], \
             [monitoring], [logging], [weather]",
        ),
    ] {
        let message = parse_file("unknown", text, &[]).unwrap_err();
        let expected = format!("test.toml:{expected}");
        assert_eq!(message, expected, "{text}");
    }
}

#[test]
fn the_error_for_a_wrong_value_has_its_place_and_a_remedy() {
    for (text, expected) in [
        ("v6only = 'yes'", "1: v6only: write v6only = true"),
        ("v6only = 'No'", "1: v6only: write v6only = false"),
        ("v6only = 0", "1: v6only: write v6only = false"),
        ("v6only = [true]", "1: v6only: write v6only = true or v6only = false"),
        ("v6only = 'maybe'", "1: v6only: write v6only = true or v6only = false"),
        ("listen = true", "1: listen: write listen = [\"URL\"]"),
        ("listen = []", "1: listen: the list is empty: leave the key out, or add to it"),
        ("[listen]\na = 1", "1: listen: write listen = [\"URL\"]"),
        ("[identity]\nca = 1", "2: ca: write ca = \"FILE\""),
        ("[identity]\nca = ['a']", "2: ca: write ca = \"FILE\""),
        ("[identity]\ncert = [1]", "2: cert: write cert = [\"FILE\"]"),
        ("[identity]\ncert = ''", "2: cert: there is no value: write one"),
        (
            "[identity]\nclient-auth = 'maybe'",
            "2: client-auth: \"maybe\" is not known: write one of none, optional, required",
        ),
        ("[limits]\nmax-peers = 1.5", "2: max-peers: write max-peers = N"),
        ("[limits]\nmax-peers = 2000-01-01", "2: max-peers: write max-peers = N"),
        (
            "[limits]\nmax-peers = -1",
            "2: max-peers: \"-1\" is not a whole number that fits: write one in digits, such as 100",
        ),
        (
            "[limits]\nstack-size = '64G'",
            "2: stack-size: \"64G\" is not a size: write bytes, or a number with K or M such as 64K",
        ),
        ("[sctp]\nsctp-streams = 0", "2: sctp-streams: 0 is not usable: give 1 to 65535"),
        ("[logging]\nverbose = true", "2: verbose: write verbose = 1"),
        ("[logging]\nverbose = 10", "2: verbose: write a number from 0 to 9"),
        ("[logging]\nverbose = 1\nquiet = 1", "3: quiet cannot stand beside verbose: drop one of the two"),
    ] {
        let message = parse_file("wrong", text, &[]).unwrap_err();
        assert_eq!(message, format!("test.toml:{expected}"), "{text}");
    }
    let text = "listen = [\n  'udp://127.0.0.1:1',\n  'udp://127.0.0.1',\n]\n[timeouts]\nidle-timeout = 10";
    let message = parse_file("wrong", text, &[]).unwrap_err();
    assert!(message.starts_with("test.toml:3: listen: ") && message.contains("has no port"), "{message}");
    let message = parse_file("wrong", "[timeouts]\nidle-timeout = 10", &[]).unwrap_err();
    assert!(message.ends_with("such as 500ms, 10s or 5m, or off"), "{message}");
}

#[test]
fn a_value_is_checked_even_where_the_command_line_wins() {
    let message = parse_file("checked", "[limits]\nmax-peers = 'many'", &["--max-peers", "1"]).unwrap_err();
    assert!(message.starts_with("test.toml:2: max-peers: \"many\""), "{message}");
}

#[test]
fn a_file_that_is_no_toml_or_no_file_is_named() {
    assert!(parse_file("syntax", "listen = \n[limits\n", &[]).unwrap_err().starts_with("test.toml:1: "));
    assert!(
        parse_file("syntax", "v6only = true\nv6only = true", &[]).unwrap_err().starts_with("test.toml:2: ")
    );
    for (path, expected) in
        [("/nowhere/test.toml", "No such file"), ("/", "directory"), ("/dev/zero", "longer than 1 MiB")]
    {
        let message = parse(&["--config", path]).unwrap_err();
        assert!(message.starts_with(&format!("cannot read the configuration in {path}: ")), "{message}");
        assert!(message.contains(expected) && message.ends_with("with --config"), "{message}");
    }
}

#[test]
fn a_mistake_on_the_command_line_is_no_mistake_of_the_file() {
    let message = parse_file("mistake", "v6only = true", &["--max-peers", "many"]).unwrap_err();
    assert!(message.starts_with("usage: --max-peers: \"many\" is not a whole number"), "{message}");
    assert!(parse_file("mistake", "", &["--nonsense"]).unwrap_err().starts_with("usage: "));
}

#[test]
fn a_failure_of_an_option_in_the_file_has_its_place() {
    let folder = Folder::with("locate", "[limits]\nstack-size = '1K'\n");
    let file = folder.file();
    let failure = || Failure::input("--stack-size 1K is not usable");
    let config = parse(&["--config", &file]).unwrap();
    assert_eq!(config.locate(failure()).to_string(), format!("{file}:2: stack-size 1K is not usable"));
    let config = parse(&["--config", &file, "--stack-size", "1K"]).unwrap();
    assert_eq!(config.locate(failure()).to_string(), "--stack-size 1K is not usable");
}

#[test]
fn a_default_in_the_file_needs_nothing_beside_it() {
    assert!(parse_file("beside", "[weather]\nrhythm = 'daily'", &[]).is_ok());
    let message = parse_file("beside", "[weather]\nrhythm = 'weekly'", &[]).unwrap_err();
    assert_eq!(message, "test.toml: reader <NAME> is required by the other options: add it");
}

#[test]
fn changes_are_named() {
    let one = parse(&["--max-peers", "1", "--v6only"]).unwrap();
    let other = parse(&["--max-peers", "2", "--v6only", "--reader", "me"]).unwrap();
    assert_eq!(one.changes(&other), ["max-peers", "reader"]);
    assert!(one.changes(&one).is_empty());
}

/// A value for each option, other than its default. A new option needs a line here, and nothing else.
const SAMPLES: &[(&str, &[&str])] = &[
    ("listen", &["udp://127.0.0.1:1", "dtls://[::1]:2"]),
    ("listen-proxied", &["tcp://127.0.0.1:3"]),
    ("serve", &["loops"]),
    ("sockets", &["shared"]),
    ("event-loops", &["3"]),
    ("spare-threads", &["0"]),
    ("receive-buffer", &["1M"]),
    ("send-buffer", &["64K"]),
    ("dscp", &["46"]),
    ("admin", &["127.0.0.1:9464"]),
    ("log-format", &["json"]),
    ("access-log", &["/var/log/peeloff/access.log"]),
    ("cert", &["cert \"one\".pem", "two.pem"]),
    ("key", &["key\\one\u{7f}.pem"]),
    ("key-passphrase-file", &["passphrase"]),
    ("key-passphrase-fd", &["3"]),
    ("ocsp", &["ocsp.der"]),
    ("crl", &["crl.pem"]),
    ("max-cert-chain", &["100K"]),
    ("ciphers", &["constrained"]),
    ("groups", &["P-384:X25519"]),
    ("allow-subject", &["CN=alice*,O=Example"]),
    ("allow-san", &["dns:*.example"]),
    ("alpn", &["h2", "telemetry/1"]),
    ("srtp-profile", &["SRTP_AEAD_AES_256_GCM", "SRTP_AES128_CM_SHA1_80"]),
    ("key-file", &["keys"]),
    ("key-log", &["/log"]),
    ("ca", &["ca.pem"]),
    ("client-auth", &["optional"]),
    ("psk-file", &["/psk"]),
    ("max-peers", &["18446744073709551615"]),
    ("max-peers-per-local-address", &["2"]),
    ("max-peers-per-source", &["3"]),
    ("max-peers-per-prefix", &["4"]),
    ("max-half-open", &["5"]),
    ("max-awaiting-header", &["9"]),
    ("new-peers-per-second", &["6"]),
    ("new-peers-burst", &["7"]),
    ("stack-size", &["128K"]),
    ("connection-ids", &["8"]),
    ("server-id", &["7"]),
    ("handshake-timeout", &["1m 1s"]),
    ("proxy-header-timeout", &["2s"]),
    ("idle-timeout", &["off"]),
    ("first-message-timeout", &["5s"]),
    ("frame-timeout", &["6s"]),
    ("lifetime", &["1h"]),
    ("send-timeout", &["1s"]),
    ("worker-idle-timeout", &["2s"]),
    ("cookie-period", &["3s"]),
    ("drain-timeout", &["0s"]),
    ("framing", &["lines"]),
    ("max-message", &["4095"]),
    ("max-pending", &["1M"]),
    ("sctp-streams", &["8"]),
    ("sctp-dead-after", &["off"]),
    ("sctp-max-message", &["4096"]),
    ("sctp-tls-streams", &["8"]),
    ("sctp-udp-port", &["9899"]),
    ("sctp-inbound-streams", &["9"]),
    ("sctp-init-attempts", &["3"]),
    ("sctp-init-timeout", &["4s"]),
    ("sctp-rto-initial", &["2s"]),
    ("sctp-rto-min", &["1s"]),
    ("sctp-rto-max", &["3s"]),
    ("sctp-cookie-life", &["20s"]),
    ("sctp-dscp", &["46"]),
    ("sctp-scheduler", &["fair-capacity"]),
    ("sctp-hmac", &["sha256", "sha1"]),
    ("sctp-adaptation", &["7"]),
    ("stats-interval", &["1m"]),
    ("log", &["warn,peeloff=trace"]),
    ("station", &["5"]),
    ("rhythm", &["yearly"]),
    ("reader", &["Zoë", "007"]),
];

#[test]
fn every_option_survives_being_printed_and_read() {
    let command = Cli::command();
    for key in keys(&command) {
        let sample = SAMPLES.iter().find(|(name, _)| *name == key.name).map(|(_, values)| *values);
        let arguments: Vec<String> = match (key.kind(), sample) {
            (Kind::Switch, None) => vec![format!("--{}", key.name)],
            (Kind::Count, None) => vec![format!("--{}", key.name); 2],
            (Kind::Value | Kind::List, Some(values)) => {
                values.iter().map(|value| format!("--{}={value}", key.name)).collect()
            }
            _ => panic!("{} needs a line in SAMPLES", key.name),
        };
        let beside = match key.name {
            "rhythm" => &["--reader", "me"][..],
            "server-id" | "follow-unchecked-addresses" => &["--connection-ids", "9"],
            _ => &[],
        };
        let given: Vec<&str> = beside.iter().copied().chain(arguments.iter().map(String::as_str)).collect();
        let given = parse(&given).unwrap();
        let text = printed(&given);
        assert!(given.changes(&parse(&[]).unwrap()).contains(&key.name), "{text}");
        let read = parse_file("survives", &text, &[]).unwrap_or_else(|message| panic!("{message}\n{text}"));
        // Paths become absolute when they are printed, so the printed texts are compared.
        assert_eq!(printed(&read), text, "{}", key.name);
        match key.is_path() {
            // The default of `listen` depends on `listen-proxied`.
            _ if key.name == "listen-proxied" => assert!(read.options.server.listen.is_empty(), "{text}"),
            true => assert!(
                text.contains(&format!(
                    "\n{} = {}\"/",
                    key.name,
                    if key.kind() == Kind::List { "[" } else { "" }
                )),
                "{text}"
            ),
            false => assert_eq!(read.values, given.values, "{text}"),
        }
    }
}

#[test]
fn a_password_in_an_address_is_not_printed() {
    for (station, hidden) in [
        ("redis://:s3cret@localhost:6379/0", true),
        ("redis://user:s3cret/@s3cret@localhost", true),
        ("redis+unix:///run/redis.sock?pass=s3cret&db=1", true),
        ("redis://localhost:6379/s3cret", false),
        ("user:s3cret@localhost", false),
    ] {
        let text = printed(&parse(&["--station", station]).unwrap());
        assert_eq!(text.contains("s3cret"), !hidden, "{station}");
        assert_eq!(text.contains("# station has a password in it: not printed\n"), hidden, "{station}");
        assert_eq!(parse_file("password", &text, &[]).unwrap().options.weather.station == station, !hidden);
    }
}

#[test]
fn no_mistake_in_a_file_is_more_than_one_sentence_with_its_place() {
    let text = printed(&parse(&["--cert", "a", "--reader", "Zoë", "--stack-size", "1M"]).unwrap());
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let cuts = text.char_indices().map(|(at, c)| at..at + c.len_utf8());
    let mutations = cuts.flat_map(|cut| {
        let (before, after) = (&text[..cut.start], &text[cut.end..]);
        ["", "\"", "é"].map(|with| format!("{before}{with}{after}"))
    });
    let command = Cli::command();
    let mut refused = 0;
    for text in mutations {
        let Err(failure) = file::settings(Path::new("test.toml"), &text, &command) else { continue };
        let message = failure.to_string();
        refused += 1;
        assert!(message.starts_with("test.toml:") && message.lines().count() == 1, "{message}\n{text}");
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn the_printed_file_says_what_each_key_is_for() {
    let text = printed(&parse(&[]).unwrap());
    for line in [
        "listen = [\"dtls://127.0.0.1:4433\"]",
        "[identity]",
        "# cert = [\"FILE\"]",
        "# ca = \"FILE\"",
        "[limits]",
        "# Serve at most this many peers in all. Each peer needs a thread and a descriptor unless --serve and",
        "max-peers = 8192",
        "[timeouts]",
        "handshake-timeout = \"10s\"",
        "[sctp]",
        "# sctp-streams = N",
        "[logging]",
        "verbose = 0",
        "[weather]",
        "station = \"roof\"",
        "# reader = [\"NAME\"]",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    assert!(!text.contains("\n\n\n") && text.starts_with("# Listen at this URL"), "{text}");
}
