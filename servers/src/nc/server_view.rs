//! The state of a chat's terminal: the user's name and rooms, whether the server answers, and which lines it has
//! confirmed. Pure: the caller passes the time.
//!
//! A server of `peeloff-chat` answers `/ping TEXT` with `= pong TEXT`. The program sends a ping with a number
//! after each line, so the pong confirms that the line has arrived. It does not ping other servers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::chat::proof;

/// How long an answer may take until the server counts as silent.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// After this long without a line from the server, the program asks it for one, so that neither the server nor a
/// translator (NAT) on the path drops the association.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After this long without an answer, the program connects again.
const HOPE: Duration = Duration::from_secs(15);
/// The largest number of lines that wait for a confirmation.
const PENDING: usize = 256;

const SILENT: &str = "the server does not answer; still trying";
const BACK: &str = "the server is back";

/// What this side knows about the server.
pub(super) struct ServerView {
    name: Option<String>,
    /// The rooms; the last one is the current room.
    rooms: Vec<String>,
    confirms: Confirms,
    /// Whether the server will greet this side after the first datagram. Until then nothing shows that the server
    /// exists.
    awaits_greeting: bool,
    pending: VecDeque<Pending>,
    next: u64,
    silent_since: Option<Instant>,
    heard: Instant,
    asked: Instant,
    leaving: bool,
}

/// Whether the server answers pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirms {
    Unknown,
    Yes,
    No,
}

/// A line, or a ping without a line, that is not confirmed yet.
struct Pending {
    number: u64,
    line: Option<String>,
    since: Instant,
    told: bool,
}

/// The consequences of a line from the server, or of the passing of time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether to show the line to the user.
    pub(super) show: bool,
    /// More lines to show to the user.
    pub(super) notices: Vec<String>,
    /// Text to send to the server.
    pub(super) send: Option<String>,
}

impl ServerView {
    /// Starts with a new association.
    pub(super) fn new(awaits_greeting: bool, now: Instant) -> Self {
        Self {
            name: None,
            rooms: Vec::new(),
            confirms: Confirms::Unknown,
            awaits_greeting,
            pending: VecDeque::new(),
            next: 0,
            silent_since: None,
            heard: now,
            asked: now,
            leaving: false,
        }
    }

    /// Returns the prompt, which shows the room that a line goes to and the user's name.
    pub(super) fn prompt(&self) -> String {
        match (&self.name, self.rooms.last()) {
            (Some(name), Some(room)) => format!("[{room}] {name}> "),
            (Some(name), None) => format!("{name}> "),
            (None, _) => "> ".to_owned(),
        }
    }

    /// Returns whether no answer from the server is expected at this moment.
    pub(super) fn is_settled(&self) -> bool {
        let greeted = self.confirms != Confirms::Unknown || !self.awaits_greeting;
        self.silent_since.is_some() || (greeted && self.pending.is_empty())
    }

    /// Returns whether the server runs `peeloff-chat`, which says goodbye before it ends.
    pub(super) fn is_known(&self) -> bool {
        self.confirms == Confirms::Yes
    }

    /// Returns whether the server has said goodbye.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Returns whether the server has been silent for so long that the program should connect again.
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now.saturating_duration_since(since) >= HOPE)
    }

    /// Records a line that the user typed. Returns the text to send, and the number for [`fail`](Self::fail).
    pub(super) fn write(&mut self, line: &str, now: Instant) -> (String, u64) {
        let number = self.next;
        self.next += 1;
        self.asked = now;
        if self.confirms == Confirms::Yes {
            self.remember(number, Some(line.to_owned()).filter(|line| !line.trim().is_empty()), now);
            return (format!("{line}\n/ping {number}\n"), number);
        }
        if self.confirms == Confirms::Unknown && self.awaits_greeting {
            // The server's greeting will confirm that it exists.
            self.remember(number, Some(line.to_owned()).filter(|line| !line.trim().is_empty()), now);
        }
        (format!("{line}\n"), number)
    }

    /// Records that a line could not be sent.
    pub(super) fn fail(&mut self, number: u64) {
        self.pending.retain(|pending| pending.number != number);
    }

    /// Handles a line from the server.
    pub(super) fn handle_line(&mut self, line: &str, now: Instant) -> Outcome {
        self.heard = now;
        let mut outcome = Outcome { show: true, ..Outcome::default() };
        if self.silent_since.take().is_some() {
            outcome.notices.push(BACK.to_owned());
        }
        if let Some(answer) = proof::answer(line) {
            outcome.show = false;
            outcome.send = Some(answer);
        } else if let Some(number) = line.strip_prefix("= pong ").and_then(|number| number.parse().ok()) {
            outcome.show = false;
            outcome.notices.extend(self.confirm(number));
        } else if self.confirms == Confirms::Yes && line.starts_with("! there is no command /ping") {
            outcome.show = false;
            self.confirms = Confirms::No;
            self.pending.clear();
        } else if let Some(name) =
            line.strip_prefix("* you are ").and_then(|rest| rest.strip_suffix(GREETING))
        {
            outcome.send = self.handle_greeting(name);
        } else if let Some(notice) = line.strip_prefix("* ") {
            self.handle_notice(notice);
        }
        outcome
    }

    /// Handles the passing of time. `unreachable` means that an ICMP error says that no program listens at the
    /// server's port.
    pub(super) fn handle_timeout(&mut self, unreachable: bool, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let late = |since: Instant| now.saturating_duration_since(since) >= ANSWER;
        let ungreeted = self.awaits_greeting && self.confirms == Confirms::Unknown && late(self.heard);
        let overdue = ungreeted || self.pending.iter().any(|pending| late(pending.since) && !pending.told);
        if (overdue || unreachable) && self.silent_since.is_none() {
            self.silent_since = Some(now);
            outcome.notices.push(SILENT.to_owned());
        }
        for pending in self.pending.iter_mut().filter(|pending| late(pending.since) && !pending.told) {
            pending.told = true;
            outcome.notices.extend(pending.line.as_deref().map(perhaps_lost));
        }
        let quiet = self.heard.max(self.asked);
        let pause = if self.silent_since.is_some() { ANSWER } else { KEEP_ALIVE };
        if now.saturating_duration_since(quiet) >= pause {
            outcome.send = Some(self.ask(now));
        }
        outcome
    }

    /// Handles the end of the association. Returns notices about the lines that the server has not confirmed.
    pub(super) fn handle_end(&mut self, now: Instant) -> Vec<String> {
        self.silent_since.get_or_insert(now);
        let pending = std::mem::take(&mut self.pending);
        pending
            .iter()
            .filter(|pending| !pending.told)
            .filter_map(|pending| pending.line.as_deref().map(perhaps_lost))
            .collect()
    }

    /// Makes a question for the server.
    fn ask(&mut self, now: Instant) -> String {
        self.asked = now;
        if self.confirms != Confirms::Yes {
            return "\n".to_owned();
        }
        let number = self.next;
        self.next += 1;
        // An earlier question without an answer is no longer needed.
        self.pending.retain(|pending| pending.line.is_some());
        self.remember(number, None, now);
        format!("/ping {number}\n")
    }

    fn remember(&mut self, number: u64, line: Option<String>, now: Instant) {
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending { number, line, since: now, told: false });
    }

    /// Confirms a line. Returns a notice if the user was told that the line may be lost.
    fn confirm(&mut self, number: u64) -> Option<String> {
        let place = self.pending.iter().position(|pending| pending.number == number)?;
        let Pending { line, told, .. } = self.pending.remove(place)?;
        line.filter(|_| told).map(|line| format!("delivered after all: {line}"))
    }

    /// Handles a greeting, in which the server gives this side a guest's name: at the start, and after the server
    /// or the association has been restarted. Returns the lines that restore the previous name and rooms.
    fn handle_greeting(&mut self, guest: &str) -> Option<String> {
        if self.confirms != Confirms::Yes {
            self.confirms = Confirms::Yes;
            // These lines were sent before the greeting, without a ping.
            self.pending.clear();
        }
        let name = self.name.replace(guest.to_owned());
        let rooms = std::mem::take(&mut self.rooms);
        let name = name?;
        let mut lines = String::new();
        if !is_guest(&name) {
            lines.push_str(&format!("/nick {name}\n"));
        }
        // The server puts every new member into the lobby.
        if rooms.iter().all(|room| room != "lobby") {
            lines.push_str("/leave lobby\n");
        }
        if rooms != ["lobby"] {
            rooms.iter().for_each(|room| lines.push_str(&format!("/join {room}\n")));
        }
        (!lines.is_empty()).then_some(lines)
    }

    /// Handles a notice of the server about this user. No member can have the name `you`.
    fn handle_notice(&mut self, notice: &str) {
        let words: Vec<&str> = notice.split(' ').collect();
        match words.as_slice() {
            ["you", "are", name, "now"] => self.name = Some((*name).to_owned()),
            ["you", "joined", room, ..] => self.enter(room),
            ["you", "left", room] => self.rooms.retain(|known| known != room),
            [room, "is", "your", "current", ..] => self.enter(room),
            ["goodbye"] | ["the", "server", "shuts", "down"] => {
                self.leaving = true;
                self.pending.clear();
            }
            _ => {}
        }
    }

    fn enter(&mut self, room: &str) {
        let room = room.trim_end_matches(';');
        self.rooms.retain(|known| known != room);
        self.rooms.push(room.to_owned());
    }
}

/// The end of a server's first line.
const GREETING: &str = "; /help lists the commands";

fn perhaps_lost(line: &str) -> String {
    format!("perhaps not delivered: {line}")
}

fn is_guest(name: &str) -> bool {
    name.strip_prefix("guest").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "* you are guest1; /help lists the commands";
    const LOBBY: &str = "* you joined lobby; nobody else is here";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Makes a view that has been greeted in the lobby.
    fn greeted(now: Instant) -> ServerView {
        let mut view = ServerView::new(true, now);
        assert_eq!(view.handle_line(HELLO, now), Outcome { show: true, ..Outcome::default() });
        view.handle_line(LOBBY, now);
        view
    }

    #[test]
    fn the_prompt_follows_the_name_and_the_rooms() {
        let now = Instant::now();
        let mut view = ServerView::new(true, now);
        assert_eq!(view.prompt(), "> ");
        for (line, expected) in [
            (HELLO, "guest1> "),
            (LOBBY, "[lobby] guest1> "),
            ("* you are alice now", "[lobby] alice> "),
            ("* bob is carol now", "[lobby] alice> "),
            ("* bob joined lobby", "[lobby] alice> "),
            ("* you joined kitchen on stream 2; here already: bob", "[kitchen] alice> "),
            ("* lobby is your current room; here already: bob", "[lobby] alice> "),
            ("* you left lobby", "[kitchen] alice> "),
            ("* kitchen is your current room", "[kitchen] alice> "),
            ("[kitchen] bob: * you left kitchen", "[kitchen] alice> "),
            ("* you left kitchen", "alice> "),
        ] {
            assert!(view.handle_line(line, now).show, "{line}");
            assert_eq!(view.prompt(), expected, "{line}");
        }
    }

    #[test]
    fn a_confirmed_line_counts_as_delivered_and_an_unconfirmed_one_is_reported() {
        let now = Instant::now();
        let mut view = greeted(now);
        assert_eq!(view.write("one", now), ("one\n/ping 0\n".to_owned(), 0));
        assert_eq!(view.write("two", now).0, "two\n/ping 1\n");
        assert!(!view.is_settled());
        assert_eq!(view.handle_line("= pong 0", now), Outcome::default());
        let later = now + ANSWER;
        assert_eq!(view.handle_timeout(false, later - Duration::from_millis(1)), Outcome::default());
        let outcome = view.handle_timeout(false, later);
        assert_eq!(outcome.notices, [SILENT, "perhaps not delivered: two"]);
        assert!(view.is_settled());
        // The notice comes once, and the question is repeated.
        assert_eq!(outcome.send.as_deref(), Some("/ping 2\n"));
        assert_eq!(view.handle_timeout(false, later), Outcome::default());
        assert_eq!(view.handle_timeout(false, later + ANSWER).send.as_deref(), Some("/ping 3\n"));
        assert_eq!(view.handle_line("= pong 3", later + ANSWER).notices, [BACK]);
        assert_eq!(view.handle_line("= pong 1", later + ANSWER).notices, ["delivered after all: two"]);
    }

    #[test]
    fn a_silent_server_is_pinged_and_an_icmp_error_counts_as_silence() {
        let now = Instant::now();
        let mut view = greeted(now);
        assert_eq!(view.handle_timeout(false, now + seconds(29)), Outcome::default());
        assert_eq!(view.handle_timeout(false, now + seconds(30)).send.as_deref(), Some("/ping 0\n"));
        assert_eq!(view.handle_timeout(false, now + seconds(33)).notices, [SILENT]);
        assert!(!view.is_hopeless(now + seconds(47)) && view.is_hopeless(now + seconds(48)));
        view.handle_line("[lobby] bob: hello", now + seconds(49));
        assert!(!view.is_hopeless(now + seconds(49)));
        assert_eq!(view.handle_timeout(true, now + seconds(50)).notices, [SILENT]);
    }

    #[test]
    fn a_server_that_starts_anew_gets_the_name_and_the_rooms_again() {
        let now = Instant::now();
        let mut view = greeted(now);
        for line in [
            "* you are alice now",
            "* you joined kitchen; nobody else is here",
            "* lobby is your current room",
        ] {
            view.handle_line(line, now);
        }
        view.write("lost", now);
        assert_eq!(view.handle_end(now), ["perhaps not delivered: lost"]);
        let outcome = view.handle_line(HELLO, now);
        assert_eq!(outcome.notices, [BACK]);
        assert_eq!(outcome.send.as_deref(), Some("/nick alice\n/join kitchen\n/join lobby\n"));
        // Every new member is a guest in the lobby, so nothing needs to be restored.
        let mut view = greeted(now);
        assert_eq!(view.handle_line("* you are guest7; /help lists the commands", now).send, None);
    }

    #[test]
    fn another_server_is_neither_pinged_nor_told_to_be_silent() {
        let now = Instant::now();
        let mut view = ServerView::new(false, now);
        assert!(view.is_settled());
        assert_eq!(view.write("hello", now).0, "hello\n");
        assert_eq!(view.handle_timeout(false, now + seconds(29)), Outcome::default());
        let outcome = view.handle_timeout(false, now + seconds(30));
        assert_eq!((outcome.notices.len(), outcome.send.as_deref()), (0, Some("\n")));
        // This server greets in the same way but does not know pings.
        let mut view = greeted(now);
        view.write("hello", now);
        assert!(!view.handle_line("! there is no command /ping: /help lists them", now).show);
        assert_eq!(view.handle_timeout(false, now + seconds(9)), Outcome::default());
    }

    #[test]
    fn a_server_on_udp_that_never_greets_is_silent_from_the_start() {
        let now = Instant::now();
        let mut view = ServerView::new(true, now);
        view.write("hello", now);
        let outcome = view.handle_timeout(false, now + ANSWER);
        assert_eq!(outcome.notices, [SILENT, "perhaps not delivered: hello"]);
        assert_eq!(outcome.send.as_deref(), Some("\n"));
    }

    #[test]
    fn pending_lines_are_bounded() {
        let now = Instant::now();
        let mut view = greeted(now);
        for _ in 0..10 * PENDING {
            view.write("line", now);
        }
        assert_eq!(view.pending.len(), PENDING);
    }
}
