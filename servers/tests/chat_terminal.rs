//! `peeloff-nc --chat` on a terminal: what its user sees, also after the server has gone.

#[path = "support/member.rs"]
mod member;
mod support;

use member::{Member, client};
use support::{NC, Program, start_chat};

/// Starts a server of `peeloff-chat` at this URL, and returns its address.
fn start(listen: &str) -> (Program, String) {
    let (server, addresses) = start_chat(&["--listen", listen, "--idle-timeout", "1h"]);
    (server, addresses.into_iter().next().unwrap())
}

/// The chat client on a terminal with this many columns, which script(1) makes.
struct Terminal(Program);

impl Terminal {
    fn start(address: &str, columns: usize) -> Self {
        let command = format!("stty cols {columns} rows 24; exec {NC} --chat --insecure {address}");
        Self(Program::start("script", &["-qec", &command, "/dev/null"]))
    }

    /// Types a line and presses Enter.
    fn enter(&mut self, line: &str) {
        self.0.write(&format!("{line}\r"));
    }

    /// Reads until lines with both texts have arrived, in any order.
    fn expect_both(&mut self, one: &str, other: &str) {
        let mut seen = self.expect("");
        while ![one, other].iter().all(|text| seen.iter().any(|line| line.contains(text))) {
            seen.extend(self.expect(""));
        }
    }

    /// Reads up to the line that contains `text`, and returns all lines read.
    fn expect(&mut self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            seen.push(without_escapes(&self.0.line()));
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
    }
}

/// Returns what the screen shows of a line with control sequences (ECMA-48 §8.3). It follows sequences that move
/// the cursor to the right, and those that erase to the end of the line.
fn without_escapes(line: &str) -> String {
    let (mut left, mut column): (Vec<char>, usize) = (Vec::new(), 0);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                let mut parameter = String::new();
                while let Some(c) = chars.next_if(|c| !matches!(c, '@'..='~')) {
                    parameter.push(c);
                }
                match chars.next() {
                    Some('C') => column += parameter.parse::<usize>().unwrap_or(1),
                    Some('K') => left.truncate(column),
                    _ => {}
                }
            }
            c if c.is_control() => {}
            c => {
                left.resize(left.len().max(column + 1), ' ');
                left[column] = c;
                column += 1;
            }
        }
    }
    left.into_iter().collect()
}

#[test]
fn the_prompt_says_under_which_name_and_in_which_room_a_line_goes() {
    let (_server, address) = start("tls://127.0.0.1:0");
    let mut terminal = Terminal::start(&address, 80);
    terminal.expect("* you joined lobby; nobody else is here");
    // Text that is typed ahead is not lost.
    terminal.0.write("/nick alice\r/join kitchen\r");
    terminal.expect("* you joined kitchen; nobody else is here");
    terminal.enter("anyone?");
    let seen = terminal.expect("* nobody else is in kitchen to hear that");
    assert!(seen.iter().any(|line| line.contains("[kitchen] alice> anyone?")), "{seen:?}");
    terminal.enter("/quit");
    terminal.expect("* goodbye");
    assert_eq!(terminal.0.wait().code, Some(0));
}

#[test]
fn a_name_with_an_emoji_is_refused_in_a_plain_sentence() {
    let (_server, address) = start("tls://127.0.0.1:0");
    let mut terminal = Terminal::start(&address, 120);
    terminal.expect("* you joined lobby");
    terminal.enter("/nick \u{1f469}\u{200d}\u{1f4bb}");
    let seen = terminal.expect("is not a name");
    let sentence = seen.last().unwrap();
    assert!(sentence.contains("is not a name: use letters, digits, - _ and . only"), "{sentence}");
    assert!(!sentence.contains("u{") && sentence.contains('\u{1f469}'), "{sentence}");
}

#[test]
fn long_lines_break_between_words_at_the_width_of_the_terminal() {
    let (_server, address) = start("tls://127.0.0.1:0");
    let mut terminal = Terminal::start(&address, 40);
    terminal.expect("nobody else is here");
    let mut bob = Member::come_as("bob", &address);
    let words: Vec<String> = (1000..1030).map(|number| format!("word{number}")).collect();
    bob.write(&words.join(" "));
    let mut seen = terminal.expect("word1029");
    terminal.enter("/help");
    seen.extend(terminal.expect("/quit says goodbye"));
    for line in &seen {
        assert!(line.chars().count() <= 40, "{line:?}");
    }
    let seen = seen.join(" ");
    let whole: Vec<&str> = seen.split_whitespace().filter(|word| word.starts_with("word1")).collect();
    assert_eq!(whole, words);
    assert!(seen.contains("/msg NAME TEXT tells somebody"), "{seen}");
}

#[test]
fn the_loss_and_the_return_of_a_killed_server_are_reported() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let (server, address) = start(&format!("{scheme}://127.0.0.1:0"));
        let mut terminal = Terminal::start(&address, 100);
        terminal.expect("* you joined lobby");
        terminal.enter("/nick alice");
        terminal.expect("* you are alice now");
        terminal.enter("/join kitchen");
        terminal.expect("* you joined kitchen");
        server.kill();
        terminal.enter("into the void");
        // Datagrams have no end of a connection. The client finds out by itself, and cannot know which lines have
        // arrived.
        terminal.expect_both(
            if matches!(scheme, "udp" | "dtls") {
                "-- the server does not answer; still trying"
            } else {
                "-- the server is gone"
            },
            "delivered",
        );
        terminal.enter("another");
        terminal.expect("delivered");

        let (_server, same) = start(&address);
        assert_eq!(same, address);
        terminal.expect("-- the server is back");
        terminal.expect("* you are alice now");
        terminal.expect("* you joined kitchen");
        let mut bob = Member::come(&client(), &address);
        bob.write("/join kitchen");
        assert_eq!(bob.expect("* you joined"), "* you joined kitchen; here already: alice", "{scheme}");
        terminal.enter("here again");
        assert_eq!(bob.expect("[kitchen]"), "[kitchen] alice: here again", "{scheme}");
        terminal.0.write("\x04");
        assert_eq!(terminal.0.wait().code, Some(0), "{scheme}");
    }
}

#[test]
fn a_line_is_reported_as_delivered_after_all_when_the_server_only_slept() {
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        let (server, address) = start(&format!("{scheme}://127.0.0.1:0"));
        let mut bob = Member::come(&client(), &address);
        let mut terminal = Terminal::start(&address, 100);
        terminal.expect("* you joined lobby");
        server.signal("STOP");
        terminal.enter("wake up");
        terminal.expect("-- the server does not answer; still trying");
        terminal.expect("-- perhaps not delivered: wake up");
        server.signal("CONT");
        terminal.expect("-- the server is back");
        terminal.expect("-- delivered after all: wake up");
        assert_eq!(bob.expect("[lobby]"), "[lobby] guest2: wake up", "{scheme}");
    }
}

#[test]
fn an_unreachable_server_is_reported_and_the_user_can_end() {
    // No program listens at this port any more.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("udp://{}", socket.local_addr().unwrap());
    drop(socket);
    let mut terminal = Terminal::start(&address, 80);
    terminal.expect("-- the server does not answer; still trying");
    terminal.0.write("\x04");
    assert_eq!(terminal.0.wait().code, Some(0));
}
