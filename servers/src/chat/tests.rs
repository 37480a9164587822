//! Conversations without sockets: an outlet is a list of lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::bulletin::{Bulletin, News};
use super::conversation::{Conversation, Flow};
use super::hub::{Hub, Outlet, Rules};
use super::instance::Instance;
use super::line::Line;
use super::name::{Name, RoomName};
use super::remote::{PublisherTask, Remote};
use super::text::Lengths;

const SOUTH: Instance = Instance(1);
const NORTH: Instance = Instance(1 << 32);
const PRESENCE: Duration = Duration::from_secs(15);

/// The lines that one member received, with their streams.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<(u16, String)>>>);

impl Outlet for Screen {
    fn deliver(&self, line: &Line, stream: u16) {
        self.0.lock().push((stream, line.text().to_owned()));
    }
}

impl Screen {
    /// Returns the lines received since the last call.
    fn lines(&self) -> Vec<String> {
        self.0.lock().drain(..).map(|(_, line)| line).collect()
    }

    fn lines_and_streams(&self) -> Vec<(u16, String)> {
        self.0.lock().drain(..).collect()
    }
}

type TestHub = Arc<Hub<Screen>>;

fn rules() -> Rules {
    Rules { flood: "off".parse().unwrap(), ..Rules::default() }
}

fn hub(rules: Rules) -> TestHub {
    Arc::new(Hub::new(rules, None))
}

fn come(hub: &TestHub) -> (Conversation<Screen>, Screen) {
    come_with_streams(hub, 0)
}

fn come_with_streams(hub: &TestHub, streams: u16) -> (Conversation<Screen>, Screen) {
    let screen = Screen::default();
    let conversation = Conversation::begin(hub, screen.clone(), streams);
    screen.lines();
    (conversation, screen)
}

fn type_in(member: &mut Conversation<Screen>, line: &str) {
    assert_eq!(member.take(line.as_bytes(), 0, Instant::now()), Flow::GoesOn, "{line}");
}

#[test]
fn a_new_member_is_a_guest_in_the_lobby_and_can_write_at_once() {
    let hub = hub(rules());
    let screen = Screen::default();
    let mut alice = Conversation::begin(&hub, screen.clone(), 0);
    assert_eq!(
        screen.lines(),
        ["* you are guest1; /help lists the commands", "* you joined lobby; nobody else is here"]
    );
    let (_bob, to_bob) = come(&hub);
    assert_eq!(screen.lines(), ["* guest2 joined lobby"]);
    type_in(&mut alice, "hello\n");
    assert_eq!(to_bob.lines(), ["[lobby] guest1: hello"]);
    // The line is not sent back to its writer, who can see it already.
    assert!(screen.lines().is_empty());
    type_in(&mut alice, "/me waves");
    assert_eq!(to_bob.lines(), ["[lobby] * guest1 waves"]);
    drop(alice);
    assert_eq!(to_bob.lines(), ["* guest1 left lobby"]);
}

#[test]
fn a_name_is_taken_and_everybody_who_shares_a_room_is_told_once() {
    let hub = hub(rules());
    let ((mut alice, to_alice), (mut bob, to_bob)) = (come(&hub), come(&hub));
    type_in(&mut alice, "/join kitchen");
    type_in(&mut bob, "/join kitchen");
    to_alice.lines();
    to_bob.lines();
    type_in(&mut alice, "/nick Alice");
    assert_eq!(to_alice.lines(), ["* you are Alice now"]);
    assert_eq!(to_bob.lines(), ["* guest1 is Alice now"]);
    type_in(&mut bob, "/nick alice");
    assert_eq!(to_bob.lines(), ["! somebody is called alice already: take another name"]);
}

#[test]
fn the_room_joined_last_is_current() {
    let hub = hub(rules());
    let ((mut alice, to_alice), (mut bob, to_bob)) = (come(&hub), come(&hub));
    to_alice.lines();
    type_in(&mut alice, "/join kitchen");
    assert_eq!(to_alice.lines(), ["* you joined kitchen; nobody else is here"]);
    type_in(&mut alice, "unheard");
    assert_eq!(to_alice.lines(), ["* nobody else is in kitchen to hear that"]);
    assert!(to_bob.lines().is_empty());
    type_in(&mut alice, "/join #Lobby");
    assert_eq!(to_alice.lines(), ["* lobby is your current room; here already: guest2"]);
    type_in(&mut alice, "heard");
    assert_eq!(to_bob.lines(), ["[lobby] guest1: heard"]);
    type_in(&mut alice, "/leave");
    assert_eq!(to_alice.lines(), ["* you left lobby", "* kitchen is your current room"]);
    assert_eq!(to_bob.lines(), ["* guest1 left lobby"]);
    type_in(&mut alice, "/leave lobby");
    assert_eq!(to_alice.lines(), ["! you are not in lobby: leave a room that you joined"]);
    type_in(&mut alice, "/leave kitchen");
    assert_eq!(to_alice.lines(), ["* you left kitchen", "* you are in no room: /join one"]);
    type_in(&mut alice, "anyone?");
    assert_eq!(to_alice.lines(), ["! you are in no room: /join one, such as /join lobby"]);
    type_in(&mut bob, "/rooms");
    assert_eq!(to_bob.lines(), ["= rooms: lobby(1)"]);
}

#[test]
fn rooms_and_members_are_listed() {
    let hub = hub(rules());
    let ((mut alice, to_alice), _bob) = (come(&hub), come(&hub));
    to_alice.lines();
    type_in(&mut alice, "/who");
    type_in(&mut alice, "/join kitchen");
    type_in(&mut alice, "/rooms");
    type_in(&mut alice, "/who lobby");
    type_in(&mut alice, "/who cellar");
    assert_eq!(
        to_alice.lines(),
        [
            "= lobby: guest1 guest2",
            "* you joined kitchen; nobody else is here",
            "= rooms: kitchen(1) lobby(2)",
            "= lobby: guest1 guest2",
            "! there is no room cellar: /rooms lists them",
        ]
    );
}

#[test]
fn a_crowd_is_listed_in_part() {
    let hub = hub(rules());
    let mut crowd: Vec<_> = (0..250).map(|_| come(&hub)).collect();
    let (member, screen) = &mut crowd[249];
    type_in(member, "/who");
    let lines = screen.lines();
    assert!(lines.len() > 2 && lines.iter().all(|line| line.len() < 1100));
    assert_eq!(lines.last().unwrap(), "= 50 more in lobby");
}

#[test]
fn a_private_message_is_for_one_only() {
    let hub = hub(rules());
    let ((mut alice, to_alice), (_bob, to_bob), (_carol, to_carol)) = (come(&hub), come(&hub), come(&hub));
    to_alice.lines();
    to_bob.lines();
    type_in(&mut alice, "/msg GUEST2 psst");
    assert_eq!(to_bob.lines(), ["(guest1) psst"]);
    assert_eq!(to_alice.lines(), ["(to guest2) psst"]);
    assert!(to_carol.lines().is_empty());
    type_in(&mut alice, "/msg dave psst");
    assert_eq!(to_alice.lines(), ["! nobody is called dave: /who lists who is in your room"]);
}

#[test]
fn a_message_of_several_lines_is_several_messages() {
    let hub = hub(rules());
    let ((mut alice, _), (_bob, to_bob)) = (come(&hub), come(&hub));
    type_in(&mut alice, "one\r\ntwo\n\nthree\n");
    assert_eq!(to_bob.lines(), ["[lobby] guest1: one", "[lobby] guest1: two", "[lobby] guest1: three"]);
    assert_eq!(alice.take(b"four\n/quit\nfive", 0, Instant::now()), Flow::Ends);
    assert_eq!(to_bob.lines(), ["[lobby] guest1: four"]);
}

#[test]
fn a_member_that_writes_too_fast_is_ignored_and_told_once() {
    let hub = hub(Rules { flood: "1/3".parse().unwrap(), ..rules() });
    let ((mut alice, to_alice), (_bob, to_bob)) = (come(&hub), come(&hub));
    to_alice.lines();
    let now = Instant::now();
    for _ in 0..100 {
        alice.take(b"spam", 0, now);
    }
    alice.take(b"spam\n".repeat(100).as_slice(), 0, now);
    assert_eq!(to_bob.lines().len(), 3);
    assert_eq!(to_alice.lines(), ["! too fast, and not heard: write at most 1 lines a second"]);
    alice.take(b"sorry", 0, now + Duration::from_secs(2));
    assert_eq!(to_bob.lines(), ["[lobby] guest1: sorry"]);
}

#[test]
fn a_large_room_is_not_told_who_comes_and_goes() {
    let hub = hub(Rules { announce_up_to: 2, ..rules() });
    let (_alice, to_alice) = come(&hub);
    let (_bob, _) = come(&hub);
    assert_eq!(to_alice.lines(), ["* guest2 joined lobby"]);
    let (mut carol, _) = come(&hub);
    type_in(&mut carol, "/nick carol");
    assert!(to_alice.lines().is_empty());
    type_in(&mut carol, "hello");
    assert_eq!(to_alice.lines(), ["[lobby] carol: hello"]);
    drop(carol);
    assert_eq!(to_alice.lines(), ["* carol left lobby"]);
}

#[test]
fn a_full_lobby_leaves_a_guest_in_no_room() {
    let mut rules = rules();
    rules.crowds.room_members = 1;
    let hub = hub(rules);
    let _alice = come(&hub);
    let screen = Screen::default();
    let mut bob = Conversation::begin(&hub, screen.clone(), 0);
    let lines = screen.lines();
    assert_eq!(lines[1], "! lobby is full with 1 members: join another room, or try later");
    type_in(&mut bob, "/join kitchen");
    assert_eq!(screen.lines(), ["* you joined kitchen; nobody else is here"]);
}

#[test]
fn a_member_cannot_join_more_rooms_than_allowed() {
    let hub = hub(rules());
    let (mut alice, to_alice) = come(&hub);
    for number in 1..32 {
        type_in(&mut alice, &format!("/join room{number}"));
    }
    to_alice.lines();
    type_in(&mut alice, "/join another");
    assert_eq!(to_alice.lines(), ["! you are in 32 rooms, and that is the most: /leave one first"]);
}

#[test]
fn rooms_have_streams_where_there_are_some() {
    let hub = hub(rules());
    let screen = Screen::default();
    let mut alice = Conversation::begin(&hub, screen.clone(), 2);
    assert_eq!(screen.lines()[1], "* you joined lobby on stream 1; nobody else is here");
    type_in(&mut alice, "/join kitchen");
    type_in(&mut alice, "/join cellar");
    assert_eq!(
        screen.lines(),
        ["* you joined kitchen on stream 2; nobody else is here", "* you joined cellar; nobody else is here"]
    );
    let ((mut bob, to_bob), (mut carol, to_carol)) = (come(&hub), come(&hub));
    type_in(&mut carol, "/join cellar");
    screen.lines();
    // What alice writes goes to the room of the stream, or to the current one.
    alice.take(b"in the lobby", 1, Instant::now());
    alice.take(b"in the cellar", 0, Instant::now());
    assert!(to_bob.lines().contains(&"[lobby] guest1: in the lobby".to_owned()));
    assert!(to_carol.lines().contains(&"[cellar] guest1: in the cellar".to_owned()));
    alice.take(b"nowhere", 7, Instant::now());
    assert!(screen.lines()[0].starts_with("! no room of yours is on stream 7"));
    // What others write comes on the stream of its room.
    type_in(&mut bob, "hi");
    type_in(&mut bob, "/join kitchen");
    type_in(&mut bob, "hi");
    let said: Vec<_> =
        screen.lines_and_streams().into_iter().filter(|(_, line)| line.starts_with('[')).collect();
    assert_eq!(said, [(1, "[lobby] guest2: hi".to_owned()), (2, "[kitchen] guest2: hi".to_owned())]);
    // A stream that is free again is reused.
    type_in(&mut alice, "/leave lobby");
    type_in(&mut alice, "/join attic");
    assert!(screen.lines().contains(&"* you joined attic on stream 1; nobody else is here".to_owned()));
}

/// Makes a hub with reachable processes. The receiver gets what the hub publishes.
fn shared_hub(origin: &str) -> (TestHub, Receiver<PublisherTask>) {
    let (remote, errands) = Remote::new(name(origin), SOUTH, PRESENCE);
    let hub = Arc::new(Hub::new(rules(), Some(remote)));
    hub.reached();
    (hub, errands)
}

fn name(text: &str) -> Name {
    Name::parse(text, 24).unwrap()
}

fn room(text: &str) -> RoomName {
    RoomName::parse(text, 24).unwrap()
}

fn hear(hub: &TestHub, news: News, now: Instant) {
    let bulletin = Bulletin { origin: name("north"), instance: NORTH, number: 0, news };
    hub.hear(bulletin.write().as_bytes(), now);
}

fn published(errands: &Receiver<PublisherTask>) -> Vec<News> {
    let news = |errand| match errand {
        PublisherTask::Publish(news, _) => Some(news),
        _ => None,
    };
    errands.try_iter().filter_map(news).collect()
}

#[test]
fn actions_of_members_are_published_to_other_processes() {
    let (hub, errands) = shared_hub("south");
    assert_eq!(published(&errands), [News::Hello]);
    let (mut alice, _) = come(&hub);
    type_in(&mut alice, "hello");
    type_in(&mut alice, "/me waves");
    type_in(&mut alice, "/nick alice");
    let rosters = hub.rosters();
    drop(alice);
    let (lobby, guest, alice) = (room("lobby"), name("guest1"), name("alice"));
    assert_eq!(rosters, [News::Roster { room: lobby.clone(), names: vec![alice.clone()] }]);
    assert_eq!(
        published(&errands),
        [
            News::Joined { room: lobby.clone(), name: guest.clone() },
            News::Said { room: lobby.clone(), name: guest.clone(), text: "hello".to_owned() },
            News::Done { room: lobby.clone(), name: guest.clone(), text: "waves".to_owned() },
            News::Renamed { old: guest, new: alice.clone() },
            News::Left { room: lobby, name: alice },
        ]
    );
}

#[test]
fn members_of_other_processes_are_seen_with_their_origin() {
    let (hub, errands) = shared_hub("south");
    let (mut bob, to_bob) = come(&hub);
    let (now, lobby, alice) = (Instant::now(), room("lobby"), name("alice"));
    hear(&hub, News::Joined { room: lobby.clone(), name: alice.clone() }, now);
    hear(&hub, News::Joined { room: lobby.clone(), name: alice.clone() }, now);
    hear(&hub, News::Said { room: lobby.clone(), name: alice.clone(), text: "hi".to_owned() }, now);
    hear(&hub, News::Said { room: room("attic"), name: alice.clone(), text: "hi".to_owned() }, now);
    hear(&hub, News::Renamed { old: alice.clone(), new: name("Al") }, now);
    type_in(&mut bob, "/who");
    type_in(&mut bob, "/rooms");
    assert_eq!(
        to_bob.lines(),
        [
            "* alice@north joined lobby",
            "[lobby] alice@north: hi",
            "* alice@north is Al@north now",
            "= lobby: guest1 Al@north",
            "= rooms: lobby(2) attic(1)",
        ]
    );
    errands.try_iter().for_each(drop);
    type_in(&mut bob, "/msg al psst");
    type_in(&mut bob, "/msg Al@north psst");
    type_in(&mut bob, "/msg Al@west psst");
    assert_eq!(
        to_bob.lines(),
        [
            "(to Al@north) psst",
            "(to Al@north) psst",
            "! nobody is called Al@west: /who lists who is in your room",
        ]
    );
    let told =
        News::Told { origin: name("north"), to: name("Al"), name: name("guest1"), text: "psst".to_owned() };
    assert_eq!(published(&errands), [told.clone(), told]);
    let answer = |whose: &str| News::Told {
        origin: name(whose),
        to: name("guest1"),
        name: name("Al"),
        text: "yes?".to_owned(),
    };
    hear(&hub, answer("west"), now);
    hear(&hub, answer("south"), now);
    assert_eq!(to_bob.lines(), ["(Al@north) yes?"]);
}

#[test]
fn ones_own_bulletins_and_bad_ones_do_nothing() {
    let (hub, _errands) = shared_hub("south");
    let (_bob, to_bob) = come(&hub);
    let news = News::Said { room: room("lobby"), name: name("alice"), text: "hi".to_owned() };
    let own = Bulletin { origin: name("south"), instance: SOUTH, number: 0, news };
    hub.hear(own.write().as_bytes(), Instant::now());
    hub.hear(b"1\tnorth\t2\tsaid\tlobby\tali ce\thi", Instant::now());
    hub.hear(b"1\tnorth\t2\tsaid\tlobby\talice\t\x1b[2J", Instant::now());
    assert!(to_bob.lines().is_empty());
}

#[test]
fn the_members_of_a_process_that_is_gone_leave() {
    let (hub, _errands) = shared_hub("south");
    let (_bob, to_bob) = come(&hub);
    let (now, lobby) = (Instant::now(), room("lobby"));
    hear(&hub, News::Roster { room: lobby.clone(), names: vec![name("alice"), name("carol")] }, now);
    hub.expire(now + PRESENCE / 2);
    assert!(to_bob.lines().is_empty());
    hear(&hub, News::Roster { room: lobby.clone(), names: vec![name("carol")] }, now + PRESENCE / 2);
    hub.expire(now + PRESENCE);
    assert_eq!(to_bob.lines(), ["* alice@north left lobby"]);
    hear(&hub, News::Bye, now + PRESENCE);
    assert_eq!(to_bob.lines(), ["* carol@north left lobby"]);
}

#[test]
fn without_redis_rooms_are_local_and_members_know() {
    let (remote, errands) = Remote::new(name("south"), SOUTH, PRESENCE);
    let hub = Arc::new(Hub::new(rules(), Some(remote)));
    let early = Screen::default();
    let _early = Conversation::begin(&hub, early.clone(), 0);
    assert_eq!(early.lines()[1], "* other hosts are out of reach");
    hub.reached();
    assert_eq!(early.lines(), ["* other hosts are back"]);

    let (mut bob, to_bob) = come(&hub);
    let now = Instant::now();
    hear(&hub, News::Joined { room: room("lobby"), name: name("alice") }, now);
    to_bob.lines();
    hub.lost();
    hub.lost();
    assert_eq!(to_bob.lines(), ["* other hosts are out of reach"]);
    errands.try_iter().for_each(drop);
    early.lines();
    type_in(&mut bob, "hello");
    type_in(&mut bob, "/who");
    assert_eq!(early.lines(), ["[lobby] guest2: hello"]);
    assert_eq!(to_bob.lines(), ["= lobby: guest1 guest2"]);
    assert!(published(&errands).is_empty());
    hub.reached();
    assert_eq!(to_bob.lines(), ["* other hosts are back"]);
    assert_eq!(published(&errands), [News::Hello]);
}

#[test]
fn an_overlong_line_is_refused_and_the_next_one_heard() {
    let hub = hub(Rules { lengths: Lengths { line: 20, name: 8 }, ..rules() });
    let ((mut alice, to_alice), (_bob, to_bob)) = (come(&hub), come(&hub));
    to_alice.lines();
    type_in(&mut alice, &"x".repeat(10_000_000));
    type_in(&mut alice, "short");
    assert_eq!(to_alice.lines(), ["! that line is longer than 20 bytes: send it in several"]);
    assert_eq!(to_bob.lines(), ["[lobby] guest1: short"]);
}

#[test]
fn a_name_or_room_that_looks_like_one_on_another_host_is_refused() {
    let (hub, _errands) = shared_hub("south");
    let (mut bob, to_bob) = come(&hub);
    let (now, alice) = (Instant::now(), name("alice"));
    hear(&hub, News::Joined { room: room("lounge"), name: alice.clone() }, now);
    type_in(&mut bob, "/nick a1ice");
    type_in(&mut bob, "/join 1ounge");
    assert_eq!(
        to_bob.lines(),
        [
            "! a1ice looks like alice@north, who is here: take another name",
            "! 1ounge looks like lounge, a room that exists: join that one, or choose another name",
        ]
    );
    // The same name on another host is told apart by the host, and the same room is shared.
    type_in(&mut bob, "/nick alice");
    type_in(&mut bob, "/join lounge");
    assert_eq!(to_bob.lines(), ["* you are alice now", "* you joined lounge; here already: alice@north"]);
    hear(&hub, News::Left { room: room("lounge"), name: alice }, now);
    to_bob.lines();
    type_in(&mut bob, "/nick a1ice");
    assert_eq!(to_bob.lines(), ["* you are a1ice now"]);
}

#[test]
fn a_member_that_joins_a_room_is_told_its_members() {
    let (hub, _errands) = shared_hub("south");
    let _crowd: Vec<_> = (0..7).map(|_| come(&hub)).collect();
    let (mut last, to_last) = come(&hub);
    type_in(&mut last, "/join lobby");
    assert_eq!(
        to_last.lines(),
        [
            "* lobby is your current room; here already: guest1, guest2, guest3, guest4, guest5, guest6, guest7"
        ]
    );
    let (now, lobby) = (Instant::now(), room("lobby"));
    hear(&hub, News::Joined { room: lobby.clone(), name: name("alice") }, now);
    hear(&hub, News::Joined { room: lobby, name: name("carol") }, now);
    to_last.lines();
    type_in(&mut last, "/join lobby");
    assert!(to_last.lines()[0].ends_with("guest7, alice@north and 1 more"));
}

#[test]
fn a_member_alone_in_a_room_is_told_so() {
    let (hub, _errands) = shared_hub("south");
    let (mut alone, screen) = come(&hub);
    type_in(&mut alone, "anyone?");
    type_in(&mut alone, "/me waits");
    assert_eq!(screen.lines(), ["* nobody else is in lobby to hear that"; 2]);
    hear(&hub, News::Joined { room: room("lobby"), name: name("alice") }, Instant::now());
    screen.lines();
    type_in(&mut alone, "alice?");
    assert!(screen.lines().is_empty());
}

#[test]
fn a_ping_is_answered_after_the_lines_before_it_if_they_were_heard() {
    let hub = hub(Rules { flood: "1/2".parse().unwrap(), ..rules() });
    let ((mut alice, to_alice), (_bob, to_bob)) = (come(&hub), come(&hub));
    to_alice.lines();
    let now = Instant::now();
    for number in 0..2 {
        alice.take(format!("hello\n/ping {number}\n").as_bytes(), 0, now);
    }
    assert_eq!(to_alice.lines(), ["= pong 0", "= pong 1"]);
    // A ping takes nothing out of the bucket, and gets no answer once the bucket is empty.
    alice.take(b"too much\n/ping 2\n", 0, now);
    alice.take(b"too much\n/ping 3\n/ping 4\n", 0, now);
    assert_eq!(to_alice.lines(), ["! too fast, and not heard: write at most 1 lines a second"]);
    assert_eq!(to_bob.lines().len(), 2);
    alice.take(b"again\n/ping 5\n", 0, now + Duration::from_secs(2));
    assert_eq!(to_alice.lines(), ["= pong 5"]);
}

#[test]
fn the_lines_of_the_help_fit_a_terminal() {
    for line in super::command::HELP {
        assert!(line.len() < 78, "{line}");
    }
}

#[test]
fn a_hand_over_tells_other_processes_only_of_members_that_leave() {
    let (old, errands) = shared_hub("south");
    let ((mut alice, _), (bob, _)) = (come(&old), come(&old));
    type_in(&mut alice, "/nick alice");
    let now = Instant::now();
    let saved = alice.save(now);
    errands.try_iter().for_each(drop);

    let (remote, later) = Remote::new(name("south"), SOUTH.successor(), PRESENCE);
    let new = Arc::new(Hub::new(rules(), Some(remote)));
    new.await_hand_over();
    new.reached();
    let roster = News::Roster { room: room("lobby"), names: vec![name("alice"), name("guest2")] };
    let of_old = |news| Bulletin { origin: name("south"), instance: SOUTH, number: 0, news }.write();
    new.hear(of_old(roster.clone()).as_bytes(), now);
    // The attempt fails, so the member still belongs to the old process.
    drop(Conversation::resume(&new, Screen::default(), &saved, now).unwrap());
    assert!(new.rosters().is_empty());
    assert_eq!(published(&later), [News::Hello]);

    let screen = Screen::default();
    let mut resumed = Conversation::resume(&new, screen.clone(), &saved, now).unwrap();
    new.serve();
    alice.end_here();
    drop(alice);
    new.hear(of_old(roster).as_bytes(), now);
    type_in(&mut resumed, "/who");
    assert_eq!(screen.lines(), ["= lobby: alice guest2@south"]);
    assert!(published(&errands).is_empty());
    let left = |who: &str| News::Left { room: room("lobby"), name: name(who) };
    assert_eq!(old.farewell(), [left("guest2")]);
    drop(bob);
    assert!(old.farewell().is_empty());
    drop(resumed);
    assert_eq!(published(&later), [left("alice")]);
    assert_eq!(new.farewell(), [News::Bye]);
}

/// A line of a member elsewhere, with its number.
fn hear_line(hub: &TestHub, number: u64) {
    let news = News::Said { room: room("lobby"), name: name("zoe"), text: number.to_string() };
    let bulletin = Bulletin { origin: name("north"), instance: NORTH, number, news };
    hub.hear(bulletin.write().as_bytes(), Instant::now());
}

fn lines_up_to(last: u64) -> Vec<String> {
    (1..=last).map(|number| format!("[lobby] zoe@north: {number}")).collect()
}

#[test]
fn each_member_gets_each_line_once_wherever_a_hand_over_cuts_the_news() {
    const LAST: u64 = 4;
    let cuts = (0..=LAST).flat_map(|saved| (0..=saved).map(move |subscribed| (saved, subscribed)));
    for (saved, subscribed) in cuts {
        for (kept, restored, served) in (0..=LAST).flat_map(|kept| {
            (0..=LAST).flat_map(move |restored| (restored..=LAST).map(move |served| (kept, restored, served)))
        }) {
            if kept < saved || restored < subscribed {
                continue;
            }
            let (old, _errands) = shared_hub("south");
            let ((mut alice, to_alice), (_bob, to_bob)) = (come(&old), come(&old));
            to_alice.lines();
            (1..=saved).for_each(|number| hear_line(&old, number));
            let (news, state) = (old.hold_news(), alice.save(Instant::now()));
            (saved + 1..=kept).for_each(|number| hear_line(&old, number));

            let (remote, _later) = Remote::new(name("south"), SOUTH.successor(), PRESENCE);
            let new = Arc::new(Hub::new(rules(), Some(remote)));
            new.await_hand_over();
            (subscribed + 1..=restored).for_each(|number| hear_line(&new, number));
            new.resume_news(&news);
            let moved = Screen::default();
            let _alice = Conversation::resume(&new, moved.clone(), &state, Instant::now()).unwrap();
            (restored + 1..=served).for_each(|number| hear_line(&new, number));
            alice.end_here();
            drop(alice);
            new.serve();
            old.release_news();
            (kept + 1..=LAST).for_each(|number| hear_line(&old, number));
            (served + 1..=LAST).for_each(|number| hear_line(&new, number));

            let cut = format!(
                "saved {saved}, kept {kept}, subscribed {subscribed}, restored {restored}, served {served}"
            );
            assert_eq!([to_alice.lines(), moved.lines()].concat(), lines_up_to(LAST), "{cut}");
            assert_eq!(to_bob.lines(), lines_up_to(LAST), "{cut}");
        }
    }
}

#[test]
fn lines_that_the_old_process_has_sent_to_its_own_members_are_not_repeated_by_the_new_one() {
    let (old, errands) = shared_hub("south");
    let ((mut alice, _), (mut bob, to_bob)) = (come(&old), come(&old));
    type_in(&mut alice, "before");
    assert_eq!(to_bob.lines(), ["[lobby] guest1: before"]);
    let (news, state) = (old.hold_news(), bob.save(Instant::now()));
    type_in(&mut alice, "after");

    let (remote, _later) = Remote::new(name("south"), SOUTH.successor(), PRESENCE);
    let new = Arc::new(Hub::new(rules(), Some(remote)));
    new.await_hand_over();
    // Redis forwards what the old process has published.
    for errand in errands.try_iter() {
        if let PublisherTask::Publish(news, number) = errand {
            let bulletin = Bulletin { origin: name("south"), instance: SOUTH, number, news };
            new.hear(bulletin.write().as_bytes(), Instant::now());
        }
    }
    new.resume_news(&news);
    let moved = Screen::default();
    let _bob = Conversation::resume(&new, moved.clone(), &state, Instant::now()).unwrap();
    bob.end_here();
    new.serve();
    assert_eq!(moved.lines(), ["[lobby] guest1@south: after"]);
}

#[test]
fn a_hand_over_that_fails_costs_no_line() {
    let (old, _errands) = shared_hub("south");
    let (_alice, to_alice) = come(&old);
    to_alice.lines();
    for attempt in 0..3 {
        hear_line(&old, 3 * attempt + 1);
        let first = old.hold_news();
        hear_line(&old, 3 * attempt + 2);
        assert_eq!(old.hold_news(), first);
        old.release_news();
        hear_line(&old, 3 * attempt + 3);
    }
    assert_eq!(to_alice.lines(), lines_up_to(9));
}
