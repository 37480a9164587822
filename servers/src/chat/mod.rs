//! The program `peeloff-chat`: rooms that peers of every transport share.
//!
//! | file | content |
//! |---|---|
//! | `text`, `name`, `command`, `flood` | the peers' input: lines, names, and how fast they may write. Pure |
//! | `line` | the server's output |
//! | `room` | the members and their rooms. Pure |
//! | `hub`, `conversation` | broadcasts; one member's side |
//! | `bulletin`, `instance`, `hearing`, `roster` | the messages between processes, which process sent them, which of two processes delivers them during a hand-over, and what is known of other processes' members. Pure |
//! | `remote`, `others`, `bridge` | the other processes' rooms; what happens with their news; the two threads that talk to Redis |
//! | `proof` | proves the address of a peer on plain UDP |
//! | `peers` | the chat as callbacks: the only file that uses the framework's peers |

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use peeloff::{Callbacks, Framing, OutboxLimits, TcpSettings};

use crate::chat::bridge::{Bridge, RedisUrl};
use crate::chat::command::LONGEST_ORIGIN;
use crate::chat::flood::FloodLimitOrOff;
use crate::chat::hub::{Hub, Rules};
use crate::chat::instance::Instance;
use crate::chat::name::Name;
use crate::chat::peers::Chat;
use crate::chat::remote::Remote;
use crate::chat::room::Crowds;
use crate::chat::text::{Lengths, clean};
use crate::cli::ServerArgs;
use crate::config::{Config, ServerOptions};
use crate::failure::Failure;
use crate::handover;
use crate::outbox::OverflowPolicy;
use crate::serve::serve;
use crate::serving::Serve;
use crate::values::{Size, Span};

pub mod bridge;
pub mod bulletin;
pub mod command;
pub mod conversation;
pub mod flood;
mod hearing;
pub mod hub;
pub mod instance;
pub mod line;
pub mod name;
mod others;
pub mod peers;
pub mod proof;
pub mod remote;
pub mod room;
pub mod roster;
pub mod text;

/// Bytes that the server may add to a member's line: names, or a list of them.
const ADDED: usize = 2048;

/// The environment variable with the origin and the instance of the previous process, for a process that takes
/// over.
const VARIABLE: &str = "PEELOFF_TAKE_OVER_CHAT";

/// The options of `peeloff-chat`.
#[derive(Args, Clone, Debug)]
// Members may just listen. A member that sends nothing at all ends by the idle timeout.
#[command(mut_arg("first_message_timeout", |option| option.default_value("off")))]
// The chat consists of callbacks, none of which blocks.
#[command(mut_arg("serve", |option| option.default_value("loops")))]
pub struct ChatArgs {
    /// The options of every server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Limits of members and rooms.
    #[command(flatten)]
    pub rooms: RoomArgs,

    /// Options for the other processes.
    #[command(flatten)]
    pub redis: RedisArgs,
}

/// Limits of members and rooms.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Chat")]
pub struct RoomArgs {
    /// Accept lines of at most this size from members.
    #[arg(long, value_name = "BYTES", default_value_t = Size(Lengths::default().line))]
    pub max_line: Size,

    /// Accept nicknames and rooms of at most this many characters.
    #[arg(long, value_name = "N", default_value_t = Lengths::default().name)]
    pub max_name: usize,

    /// Allow at most this many rooms.
    #[arg(long, value_name = "N", default_value_t = Rules::default().crowds.rooms)]
    pub max_rooms: usize,

    /// Allow at most this many members in one room.
    #[arg(long, value_name = "N", default_value_t = Rules::default().crowds.room_members)]
    pub max_room_members: usize,

    /// Let a member write RATE lines a second and BURST at once, or `off`.
    ///
    /// Lines beyond the limit are not delivered.
    #[arg(long, value_name = "RATE/BURST", default_value_t = FloodLimitOrOff::default())]
    pub flood: FloodLimitOrOff,

    /// Announce members that come and go in rooms of at most this many members.
    #[arg(long, value_name = "N", default_value_t = Rules::default().announce_up_to)]
    pub announce_up_to: usize,

    /// Queue up to this many lines for a member that does not read.
    ///
    /// The limit counts the lines that do not fit into the kernel's send buffer.
    #[arg(long, value_name = "N", default_value_t = OutboxLimits::default().max_messages)]
    pub outbox: usize,

    /// Choose what happens when a member's queue has --outbox lines.
    ///
    /// `by-transport` drops the oldest line over UDP and DTLS. Over SCTP, TCP and TLS, which guarantee delivery,
    /// it disconnects the member.
    #[arg(long, value_name = "POLICY", default_value = "by-transport")]
    pub overflow: OverflowPolicy,

    /// Send the lines of each room on an SCTP stream of its own.
    ///
    /// The rooms of a member get the streams from 1 on. Stream 0 is for the current room and for all other lines.
    #[arg(long)]
    pub sctp_room_streams: bool,
}

/// Options for the other processes that share the rooms.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Chat: other processes")]
pub struct RedisArgs {
    /// Share the rooms with all processes that use this Redis.
    ///
    /// Write the address as redis://HOST:6379 or redis+unix:///PATH.
    #[arg(long, value_name = "URL")]
    pub redis: Option<RedisUrl>,

    /// Start the names of the channels in Redis with this prefix.
    #[arg(long, value_name = "NAME", default_value = "peeloff", requires = "redis")]
    pub redis_prefix: String,

    /// Name this process for the other processes.
    ///
    /// Its members appear there as alice@NAME. The default is the host's name and the process ID.
    #[arg(long, value_name = "NAME", requires = "redis")]
    pub origin: Option<String>,

    /// Drop the members of a process that is silent for this long.
    #[arg(long, value_name = "TIME", default_value_t = Span(Duration::from_secs(15)), requires = "redis")]
    pub presence_timeout: Span,
}

/// Serves the rooms until SIGINT or SIGTERM. Returns the exit code.
///
/// # Errors
///
/// Returns an error if the value of an option is not usable, or if the server cannot start.
pub fn run<T: ServerOptions>(args: &ChatArgs, config: Config<T>) -> Result<u8, Failure> {
    // The bridge may log before the server does.
    args.server.log.start(2).map_err(|failure| config.locate(failure))?;
    args.check().map_err(|failure| config.locate(failure))?;
    let rules = args.rooms.to_rules()?;
    let (remote, bridging) = match &args.redis.redis {
        Some(url) => {
            let (origin, prefix) = args.redis.names()?;
            let presence = args.redis.presence()?;
            let (origin, instance) = identity(origin)?;
            let (remote, errands) = Remote::new(origin, instance, presence);
            (Some(remote), Some((url.clone(), prefix, errands)))
        }
        None => (None, None),
    };
    let hub = Arc::new(Hub::new(rules, remote));
    if handover::is_successor() {
        hub.await_hand_over();
    }
    let holding = Arc::clone(&hub);
    handover::after_each(move || holding.release_news());
    let bridge = match bridging {
        Some((url, prefix, errands)) => Some(Bridge::start(&hub, errands, url, &prefix)?),
        None => None,
    };
    let chat = Chat {
        hub: Arc::clone(&hub),
        room_streams: args.rooms.sctp_room_streams,
        tls_streams: args.server.sctp.sctp_tls_streams.unwrap_or(1),
    };
    let (stream, outbox) = (args.to_stream()?, args.rooms.to_outbox()?);
    let code = serve(config, |builder, serve| {
        let builder = builder.tcp(stream).outbox(outbox);
        let server = match serve {
            Serve::Threads => builder.start(Callbacks::new(chat)),
            Serve::Loops => builder.start_events(chat),
        }?;
        hub.serve();
        Ok(server)
    })?;
    if let Some(bridge) = bridge {
        bridge.close();
    }
    Ok(code)
}

impl ChatArgs {
    /// Checks the values that the options' parsers cannot check.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable.
    pub fn check(&self) -> Result<(), Failure> {
        self.rooms.to_rules()?;
        self.rooms.to_outbox()?;
        self.redis.names()?;
        self.redis.presence()?;
        self.to_stream()?;
        Ok(())
    }

    /// Returns how streams are split into lines. A longer line is discarded while it arrives.
    fn to_stream(&self) -> Result<TcpSettings, Failure> {
        let args = &self.server.stream;
        for (option, given) in
            [("--framing", args.framing.is_some()), ("--max-message", args.max_message.is_some())]
        {
            if given {
                return Err(Failure::input(format_args!(
                    "{option} has no use here, where a message is a line: drop it, or see --max-line"
                )));
            }
        }
        let mut settings = args.to_settings(self.server.schemes())?;
        settings.framing = Framing::Lines;
        settings.max_message = self.rooms.max_line.0 + ADDED;
        // Data that a member does not accept waits in its outbox, as lines that members share.
        if args.max_pending.is_none() {
            settings.max_pending = settings.max_message;
        }
        Ok(settings)
    }
}

impl RoomArgs {
    /// Returns the limits on what waits for a member.
    fn to_outbox(&self) -> Result<OutboxLimits, Failure> {
        if !(1..=65_536).contains(&self.outbox) {
            let given = self.outbox;
            return Err(Failure::input(format_args!("--outbox {given} is not usable: give 1 to 65536")));
        }
        let mut outbox = OutboxLimits::default();
        outbox.max_messages = self.outbox;
        outbox.max_bytes = self.outbox * (self.max_line.0 + ADDED);
        outbox.overflow = self.overflow.into();
        Ok(outbox)
    }

    /// Returns the rules in the hub's type.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable.
    pub fn to_rules(&self) -> Result<Rules, Failure> {
        let refuse = |option: &str, given: &dyn std::fmt::Display, range: &str| {
            Err(Failure::input(format_args!("{option} {given} is not usable: give {range}")))
        };
        // With two names and their origins, a line still fits into one record of TLS and DTLS.
        if !(16..=8192).contains(&self.max_line.0) {
            return refuse("--max-line", &self.max_line, "16 to 8K");
        }
        if !(8..=64).contains(&self.max_name) {
            return refuse("--max-name", &self.max_name, "8 to 64 characters");
        }
        if self.max_rooms == 0 {
            return refuse("--max-rooms", &0, "1 or more");
        }
        if self.max_room_members == 0 {
            return refuse("--max-room-members", &0, "1 or more");
        }
        Ok(Rules {
            lengths: Lengths { line: self.max_line.0, name: self.max_name },
            crowds: Crowds { rooms: self.max_rooms, room_members: self.max_room_members },
            flood: self.flood,
            announce_up_to: self.announce_up_to,
        })
    }
}

impl RedisArgs {
    /// Returns the name of this process, if it is given, and the prefix.
    fn names(&self) -> Result<(Option<Name>, Name), Failure> {
        let parse = |option: &str, text: &str| {
            Name::parse(text, LONGEST_ORIGIN).map_err(|bad| {
                Failure::input(format_args!("{option} \"{}\" is not a name: {bad}", clean(text)))
            })
        };
        let prefix = parse("--redis-prefix", &self.redis_prefix)?;
        let origin = self.origin.as_ref().map(|origin| parse("--origin", origin)).transpose()?;
        Ok((origin, prefix))
    }

    fn presence(&self) -> Result<Duration, Failure> {
        let Span(presence) = self.presence_timeout;
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&presence) {
            let given = self.presence_timeout;
            return Err(Failure::input(format_args!(
                "--presence-timeout {given} is not usable: give 1s to 1h"
            )));
        }
        Ok(presence)
    }
}

/// Returns the name and the number of this process. A process that takes over keeps the name of the previous one,
/// unless it is given another, so that its members stay the same for other processes.
fn identity(given: Option<Name>) -> Result<(Name, Instance), Failure> {
    let inherited = handover::inherited_text(VARIABLE);
    let before = inherited.as_ref().and_then(|text| text.split_once(' '));
    let before = before.and_then(|(origin, instance)| {
        Some((Name::parse(origin, LONGEST_ORIGIN).ok()?, instance.parse::<Instance>().ok()?))
    });
    let (origin, instance) = match before {
        Some((origin, instance)) => (given.unwrap_or(origin), instance.successor()),
        None => (given.unwrap_or_else(default_origin), Instance::draw()?),
    };
    handover::pass_text(VARIABLE, format!("{origin} {instance}"));
    Ok((origin, instance))
}

/// Returns the first label of the host's name, as far as a name can contain it, and the process ID.
fn default_origin() -> Name {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = host.split('.').next().unwrap_or_default();
    let label: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(20).collect();
    let process = std::process::id();
    let name = if label.is_empty() { format!("host-{process}") } else { format!("{label}-{process}") };
    Name::parse(&name, LONGEST_ORIGIN).expect("letters, digits and -, and short")
}

#[cfg(test)]
mod tests;
