//! Connects the chat to Redis with two threads that carry bulletins between this process and the others.
//!
//! The thread `chat-pub` publishes queued bulletins, and from time to time the lists of members; `chat-sub`
//! receives. Each has a connection of its own. A thread that loses its connection makes a new one, with longer
//! and longer pauses between the attempts. The other processes count as reachable while both connections work. A
//! process receives its own bulletins too, so silence means that the connection is dead, whatever the reason.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::{Condvar, Mutex};
use redis::{Client, Connection, ConnectionInfo, IntoConnectionInfo, RedisResult};

use crate::chat::bulletin::News;
use crate::chat::hub::{Hub, Outlet};
use crate::chat::name::Name;
use crate::chat::remote::{PublisherTask, Remote};
use crate::failure::Failure;

/// The largest number of bulletins in one round trip.
const BATCH: usize = 256;
/// How long Redis may take to accept a connection, or to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first and the longest pause before a lost connection is made again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The address of a Redis: `redis://HOST:PORT/DB`, or `redis+unix:///PATH`.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "write redis://HOST:6379, redis://:PASSWORD@HOST:6379/0 or redis+unix:///PATH";
        // The address may contain a password, so the error does not repeat it.
        match text.into_connection_info() {
            Ok(info) => Ok(Self(info)),
            Err(_) if text.starts_with("rediss:") => {
                Err(format!("TLS to Redis is not built in: {advice}, through a tunnel if need be"))
            }
            Err(error) => Err(format!("no address of a Redis ({error}): {advice}")),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.0.addr())
    }
}

/// The two threads. The one that receives runs until the process ends.
pub struct Bridge {
    ending: Arc<Ending>,
    end: Box<dyn Fn() + Send>,
    publisher: JoinHandle<()>,
}

impl Bridge {
    /// Starts both threads. They try to reach Redis until the bridge is closed; nothing waits for that.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started.
    pub fn start<O: Outlet>(
        hub: &Arc<Hub<O>>,
        errands: Receiver<PublisherTask>,
        redis: RedisUrl,
        prefix: &Name,
    ) -> Result<Self, Failure> {
        let client = Client::open(redis.0)
            .map_err(|error| Failure::input(format_args!("--redis cannot be used: {error}")))?;
        let ending = Arc::new(Ending::default());
        let line = Arc::new(BridgeShared {
            hub: Arc::clone(hub),
            client,
            prefix: prefix.to_string(),
            state: Mutex::default(),
            ending: Arc::clone(&ending),
        });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| {
                Failure::new(1, format_args!("cannot start a thread ({error}): check the limit on threads"))
            })
        };
        let (subscriber, publisher) = (Arc::clone(&line), line);
        spawn("chat-sub", Box::new(move || subscriber.subscribe()))?;
        let publisher = spawn("chat-pub", Box::new(move || publisher.publish(&errands)))?;
        let hub = Arc::clone(hub);
        let end = move || {
            if let Some(remote) = &hub.remote {
                remote.end(PATIENCE);
            }
        };
        Ok(Self { ending, end: Box::new(end), publisher })
    }

    /// Publishes what is queued, and a goodbye. Blocks for as long as Redis may take to answer.
    pub fn close(self) {
        (self.end)();
        self.ending.begin();
        // The thread panics only if the hub did, and then there is nothing to save.
        let _ = self.publisher.join();
    }
}

/// One of the two connections.
#[derive(Clone, Copy)]
enum Half {
    Publishing,
    Listening,
}

/// The state that both threads share.
struct BridgeShared<O> {
    hub: Arc<Hub<O>>,
    client: Client,
    prefix: String,
    state: Mutex<State>,
    ending: Arc<Ending>,
}

impl<O: Outlet> BridgeShared<O> {
    /// Runs on the thread `chat-sub`.
    fn subscribe(&self) {
        let Some(remote) = &self.hub.remote else { return };
        self.keep_trying(Half::Listening, || {
            let mut connection = self.connect(remote.presence())?;
            let mut channels = connection.as_pubsub();
            channels.psubscribe(format!("{}:room:*", self.prefix))?;
            channels.subscribe(&[
                format!("{}:to:{}", self.prefix, remote.origin()),
                format!("{}:presence", self.prefix),
            ])?;
            self.tell(Outcome::Listens);
            remote.check_connection();
            while !self.ending.has_begun() {
                let message = channels.get_message()?;
                self.hub.hear(message.get_payload_bytes(), Instant::now());
            }
            Ok(())
        });
    }

    /// Runs on the thread `chat-pub`.
    fn publish(&self, errands: &Receiver<PublisherTask>) {
        let Some(remote) = &self.hub.remote else { return };
        self.keep_trying(Half::Publishing, || {
            let mut connection = self.connect(PATIENCE)?;
            let outcome = self.run_publisher(&mut connection, remote, errands);
            if let Err(error) = &outcome {
                // No other process is reachable from here on, so nothing is queued any more.
                self.tell(Outcome::Failed(Half::Publishing, &error.to_string()));
                remote.count_dropped(errands.try_iter().count() as u64);
            }
            outcome
        });
    }

    fn run_publisher(
        &self,
        connection: &mut Connection,
        remote: &Remote,
        errands: &Receiver<PublisherTask>,
    ) -> RedisResult<()> {
        let beat = remote.presence() / 3;
        let mut next_beat = Instant::now();
        loop {
            let mut ends = false;
            let mut news = Vec::new();
            let unnumbered = |news: Vec<News>| news.into_iter().map(|item| (item, 0));
            let mut add = |errand| match errand {
                PublisherTask::Publish(item, number) => news.push((item, number)),
                PublisherTask::Rosters => news.extend(unnumbered(self.hub.rosters())),
                PublisherTask::End => ends = true,
            };
            match errands.recv_deadline(next_beat) {
                Ok(errand) => {
                    add(errand);
                    errands.try_iter().take(BATCH - 1).for_each(add);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    next_beat = now + beat;
                    self.hub.expire(now);
                    news.push((News::Alive, 0));
                    news.extend(unnumbered(self.hub.rosters()));
                }
                Err(RecvTimeoutError::Disconnected) => ends = true,
            }
            if ends {
                news.extend(unnumbered(self.hub.farewell()));
            }
            // A process without members has no lists to publish.
            if news.is_empty() && !ends {
                continue;
            }
            let attempt = self.state.lock().attempt();
            let mut pipeline = redis::pipe();
            for (item, number) in news {
                let channel = format!("{}:{}", self.prefix, item.channel());
                pipeline.cmd("PUBLISH").arg(channel).arg(remote.bulletin(item, number).write()).ignore();
            }
            pipeline.query::<()>(connection)?;
            self.tell(Outcome::Published(attempt));
            if ends {
                return Ok(());
            }
        }
    }

    fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// Calls `work` until the bridge is closed, with a pause after each failure.
    fn keep_trying(&self, half: Half, work: impl Fn() -> RedisResult<()>) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            if let Err(error) = work() {
                self.tell(Outcome::Failed(half, &error.to_string()));
            }
            // The connection worked for a while, so start with the first pause again.
            if began.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            if self.ending.wait(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Records whether a connection works, and informs the hub of a change.
    fn tell(&self, outcome: Outcome<'_>) {
        let mut state = self.state.lock();
        let before = state.is_reached();
        state.note(outcome);
        let after = state.is_reached();
        // The lock keeps the hub's notifications in order. The hub sends without blocking, and does not call
        // back.
        match (before, after) {
            (false, true) => self.hub.reached(),
            (true, false) => self.hub.lost(),
            _ => {}
        }
        // Do not log a line for every attempt.
        let said = match outcome {
            Outcome::Failed(..) => state.said == Some(false),
            _ => state.said == Some(after) || !after,
        };
        if said {
            return;
        }
        state.said = Some(after);
        drop(state);
        match outcome {
            Outcome::Failed(_, error) => {
                let redis = self.client.get_connection_info().addr();
                tracing::warn!(%redis, %error, "Redis is out of reach: rooms are local until it is back");
            }
            _ => {
                let (dropped, refused) = self.hub.remote.as_ref().map(Remote::losses).unwrap_or_default();
                tracing::info!(dropped, refused, "other hosts are in reach through Redis");
            }
        }
    }
}

/// The result of using a connection.
#[derive(Clone, Copy)]
enum Outcome<'a> {
    Listens,
    Published(Attempt),
    Failed(Half, &'a str),
}

/// The value of [`State::changes`] when something was published.
type Attempt = u64;

/// What is known about the two connections.
#[derive(Default)]
struct State {
    listens: bool,
    publishes: bool,
    /// How often the reception has begun or ended.
    changes: Attempt,
    /// What the log said last: whether the others are reachable.
    said: Option<bool>,
}

impl State {
    /// Returns the value to record before a publication.
    fn attempt(&self) -> Attempt {
        self.changes
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Listens => self.listening(true),
            Outcome::Failed(Half::Listening, _) => self.listening(false),
            // A bulletin that was published without reception may have reached no process, and its success may be
            // reported after the end of the connection.
            Outcome::Published(attempt) => self.publishes |= attempt == self.changes,
            Outcome::Failed(Half::Publishing, _) => self.publishes = false,
        }
    }

    /// Records that the reception has begun or ended. A publication must succeed again after that.
    fn listening(&mut self, listens: bool) {
        self.changes += 1;
        (self.listens, self.publishes) = (listens, false);
    }

    fn is_reached(&self) -> bool {
        self.listens && self.publishes
    }
}

/// Ends the pauses of both threads.
#[derive(Default)]
struct Ending {
    begun: Mutex<bool>,
    told: Condvar,
}

impl Ending {
    fn begin(&self) {
        *self.begun.lock() = true;
        self.told.notify_all();
    }

    fn has_begun(&self) -> bool {
        *self.begun.lock()
    }

    /// Waits for this long, or until the end has begun. Returns true in the second case.
    fn wait(&self, pause: Duration) -> bool {
        let mut begun = self.begun.lock();
        if !*begun {
            self.told.wait_for(&mut begun, pause);
        }
        *begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_success_of_the_connection_that_died_does_not_count() {
        let mut state = State::default();
        let works = |state: &mut State| {
            let attempt = state.attempt();
            state.note(Outcome::Published(attempt));
            state.is_reached()
        };
        assert!(!works(&mut state), "nobody listens");
        state.note(Outcome::Listens);
        assert!(!state.is_reached(), "it was published before anybody listened");
        assert!(works(&mut state));

        let attempt = state.attempt();
        state.note(Outcome::Failed(Half::Listening, "Redis died"));
        state.note(Outcome::Published(attempt));
        assert!(!state.is_reached());
        state.note(Outcome::Listens);
        assert!(!state.is_reached(), "the connection for publishing may be the old one");
        state.note(Outcome::Failed(Half::Publishing, "it was"));
        assert!(!state.is_reached());
        assert!(works(&mut state));
    }

    #[test]
    fn addresses_of_redis_are_those_that_can_be_used() {
        for good in ["redis://127.0.0.1:6379", "redis://:secret@redis.example/2", "redis+unix:///run/r.sock"]
        {
            assert!(good.parse::<RedisUrl>().is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:6379", "http://127.0.0.1", "redis://", "rediss://127.0.0.1:6379"] {
            let error = bad.parse::<RedisUrl>().unwrap_err();
            assert!(error.contains("write redis://HOST:6379"), "{bad}: {error}");
        }
        let url: RedisUrl = "redis://:secret@127.0.0.1".parse().unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
