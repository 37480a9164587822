//! Private keys with a passphrase that comes from a file, the environment, a descriptor or a terminal.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use peeloff_certificates::Authority;
use support::{CHAT, Directory, ECHO, NC, Program, run, start_echo};

const PASSPHRASE: &str = "correct horse";

/// A certificate whose key is encrypted.
struct Locked {
    files: Directory,
    cert: String,
    key: String,
}

impl Locked {
    fn new(test: &str) -> Self {
        let files = Directory::new(test);
        let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
        let locked = Self { files, cert, key };
        locked.renew(PASSPHRASE);
        locked
    }

    /// Writes another certificate and key, which only this passphrase decrypts.
    fn renew(&self, passphrase: &str) {
        let certificate = Authority::named("localhost");
        self.files.file("cert.pem", certificate.pem());
        let clear = self.files.file("clear.pem", certificate.key_pem());
        let passphrase = format!("pass:{passphrase}");
        let lock = ["pkcs8", "-topk8", "-in", &clear, "-out", &self.key, "-passout", &passphrase];
        let lock = Command::new("openssl").args(lock).output().unwrap();
        assert!(lock.status.success(), "{lock:?}");
    }

    /// Returns the options of a server, without a passphrase.
    fn options(&self) -> [&str; 6] {
        ["--listen", "tls://127.0.0.1:0", "--cert", &self.cert, "--key", &self.key]
    }

    /// Checks that the server presents the certificate.
    #[track_caller]
    fn is_served_at(&self, address: &str) {
        let ended = run(NC, &["--ca", &self.cert, "--server-name", "localhost", address], "hello\n");
        assert_eq!(ended.stdout, "hello\n", "{ended:?}");
    }

    /// Checks that the server presents the certificate and, after a reload, a new one whose key has the same
    /// passphrase.
    #[track_caller]
    fn is_served_before_and_after_a_reload(&self, mut server: Program) {
        let address = server.address();
        self.is_served_at(&address);
        self.renew(PASSPHRASE);
        server.signal("HUP");
        server.stderr_line("reloaded");
        self.is_served_at(&address);
    }
}

/// Returns a command line for sh(1).
fn shell(program: &str, arguments: &[&str]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    format!("{program} {}", quoted.join(" "))
}

#[test]
fn a_passphrase_comes_from_a_file_which_a_reload_reads_again() {
    let locked = Locked::new("passphrase-file");
    let passphrase = locked.files.file("passphrase", format!("of another key\n{PASSPHRASE}\n"));
    let options = [&locked.options()[..], &["--key-passphrase-file", &passphrase]].concat();
    let (mut server, address) = start_echo(&options);
    locked.is_served_at(&address);

    // The key is new, and the passphrase is the same.
    let old = fs::read(&locked.cert).unwrap();
    locked.renew("another one");
    server.signal("HUP");
    let line = server.stderr_line("not reloaded");
    assert!(line.contains("--key: none of the passphrases decrypts") && line.contains(&locked.key), "{line}");
    let new = fs::read(&locked.cert).unwrap();
    fs::write(&locked.cert, old).unwrap();
    locked.is_served_at(&address);

    fs::write(&locked.cert, new).unwrap();
    locked.files.file("passphrase", "another one");
    server.signal("HUP");
    server.stderr_line("reloaded");
    locked.is_served_at(&address);
}

#[test]
fn a_passphrase_comes_from_the_environment() {
    let locked = Locked::new("passphrase-environment");
    let environment = [("PEELOFF_KEY_PASSPHRASE", PASSPHRASE)];
    locked.is_served_before_and_after_a_reload(Program::start_in(environment, ECHO, &locked.options()));
}

#[test]
fn a_passphrase_from_a_descriptor_is_kept_for_reloads() {
    let locked = Locked::new("passphrase-descriptor");
    let options = [&locked.options()[..], &["--key-passphrase-fd", "0"]].concat();
    let mut server = Program::start(ECHO, &options);
    // The pipe stays open after the passphrase.
    server.write(&format!("{PASSPHRASE}\n"));
    locked.is_served_before_and_after_a_reload(server);
}

#[test]
fn a_client_opens_its_key_from_a_file_or_a_descriptor_and_sends_what_follows() {
    let locked = Locked::new("passphrase-client");
    let passphrase = locked.files.file("passphrase", PASSPHRASE);
    let from_file = ["--key-passphrase-file", passphrase.as_str()];
    let (_server, address) =
        start_echo(&[&locked.options()[..], &from_file, &["--ca", &locked.cert]].concat());
    let client =
        ["--ca", &locked.cert, "--server-name", "localhost", "--cert", &locked.cert, "--key", &locked.key];
    let ended = run(NC, &[&client[..], &from_file, &[&address]].concat(), "hello\n");
    assert_eq!(ended.stdout, "hello\n", "{ended:?}");
    let from_stdin = ["--key-passphrase-fd", "0", &address];
    let ended = run(NC, &[&client[..], &from_stdin].concat(), &format!("{PASSPHRASE}\nhello\n"));
    assert_eq!(ended.stdout, "hello\n", "{ended:?}");
}

#[test]
fn without_the_right_passphrase_nothing_starts_and_the_sentence_says_what_to_do() {
    let locked = Locked::new("passphrase-errors");
    let wrong = locked.files.file("wrong", "wrong\n");
    let empty = locked.files.file("empty", "\n");
    let absent = locked.files.path("absent");
    let cases: &[(&[&str], &str)] = &[
        (&[], "is encrypted: name a file with its passphrase in --key-passphrase-file"),
        (&["--key-passphrase-file", &wrong], "--key: none of the passphrases decrypts the private key in "),
        (&["--key-passphrase-file", &empty], "is empty: write a passphrase into it"),
        (&["--key-passphrase-file", &absent], "--key-passphrase-file: cannot read "),
        (&["--key-passphrase-fd", "99"], "--key-passphrase-fd: cannot read a passphrase from descriptor 99"),
        (&["--key-passphrase-fd", "0"], "--key-passphrase-fd: descriptor 0 has no passphrase"),
        (&["--key-passphrase-fd=-1"], "--key-passphrase-fd: -1 is not usable"),
    ];
    let nc = ["--cert", &locked.cert, "--key", &locked.key, "tls://127.0.0.1:9"];
    for (arguments, expected) in cases {
        for (name, program) in [("peeloff-echo", ECHO), ("peeloff-chat", CHAT)] {
            run(program, &[&locked.options()[..], arguments].concat(), "").failed_with(name, 2, expected);
        }
        run(NC, &[&nc[..], arguments].concat(), "").failed_with("peeloff-nc", 2, expected);
    }
    // A wrong passphrase from a descriptor fails too.
    let from_stdin = [&locked.options()[..], &["--key-passphrase-fd", "0"]].concat();
    run(ECHO, &from_stdin, "wrong\n").failed_with("peeloff-echo", 2, "none of the passphrases decrypts");
}

#[test]
fn a_passphrase_file_that_others_can_read_is_warned_of_or_refused() {
    let locked = Locked::new("passphrase-permissions");
    let passphrase = locked.files.file("passphrase", PASSPHRASE);
    for (file, mode) in [(&locked.key, 0o600), (&passphrase, 0o644)] {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let options = [&locked.options()[..], &["--key-passphrase-file", &passphrase]].concat();
    let (mut server, _) = start_echo(&options);
    let line = server.stderr_line("can access the secrets");
    assert!(line.contains(&format!("chmod 600 {passphrase}")), "{line}");
    let strict = [&options[..], &["--strict-permissions"]].concat();
    run(ECHO, &strict, "").failed_with("peeloff-echo", 2, "--key-passphrase-file: everybody on this host");
}

#[test]
fn a_terminal_is_asked_until_the_passphrase_is_right_and_no_reload_asks() {
    let locked = Locked::new("passphrase-terminal");
    // script(1) makes the terminal, and the shell prints the server's process ID first.
    let command = format!("echo $$; exec {}", shell(ECHO, &locked.options()));
    let mut terminal = Program::start("script", &["-qec", &command, "/dev/null"]);
    let pid = terminal.line().trim().to_owned();
    let typed = |terminal: &mut Program, passphrase: &str| {
        // This is the line before the prompt. The terminal has no echo from here on.
        let line = terminal.line_with("is encrypted");
        assert!(line.contains(&locked.key), "{line}");
        terminal.write(&format!("{passphrase}\r"));
    };
    typed(&mut terminal, "wrong");
    typed(&mut terminal, PASSPHRASE);
    let line = terminal.line_with("listening tls://");
    let address = line.trim().split("listening ").last().unwrap();
    locked.is_served_at(address);

    locked.renew(PASSPHRASE);
    let reload = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    assert!(reload.success());
    terminal.line_with("reloaded");
    locked.is_served_at(address);

    // The typed passphrase does not decrypt this key, and the server does not ask again.
    locked.renew("another one");
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    terminal.line_with("none of the passphrases decrypts");
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = terminal.wait();
    assert!(!ended.stdout.contains(PASSPHRASE), "{ended:?}");
    assert_eq!(ended.stdout.matches("Passphrase:").count(), 2, "{ended:?}");
}

#[test]
fn ctrl_c_at_the_prompt_ends_the_program_and_restores_the_terminal() {
    let locked = Locked::new("passphrase-give-up");
    let command = format!("{}; echo \"code=$?\"; stty -a", shell(ECHO, &locked.options()));
    let mut terminal = Program::start("script", &["-qec", &command, "/dev/null"]);
    terminal.line_with("is encrypted");
    terminal.write("secr\x03");
    terminal.line_with("the user did not enter the passphrase");
    terminal.line_with("code=130");
    let settings = terminal.line_with("icanon");
    assert!(!settings.contains("-icanon") && settings.contains("isig"), "{settings}");
    assert!(settings.split_whitespace().any(|word| word == "echo"), "{settings}");
}

#[test]
fn a_passphrase_can_be_a_credential_of_systemds() {
    let locked = Locked::new("passphrase-credential");
    // This is how LoadCredential=key-passphrase:FILE provides it.
    let folder = Directory::new("passphrase-credential-folder");
    folder.file("key-passphrase", format!("{PASSPHRASE}\n"));
    let server = Program::start_in([("CREDENTIALS_DIRECTORY", folder.path(""))], ECHO, &locked.options());
    locked.is_served_before_and_after_a_reload(server);
    // A directory without such a credential is ignored.
    let server = Program::start_in([("CREDENTIALS_DIRECTORY", "/nowhere")], ECHO, &locked.options());
    server.finish().failed_with("peeloff-echo", 2, "is encrypted");
}
