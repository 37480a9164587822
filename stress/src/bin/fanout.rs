//! Connects one peer that sends to N others through the server. Reports the cost of each receiver, compared with
//! encrypting and sending alone.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use peeloff::{Address, Scheme};
use peeloff_stress::client::load::{self, Load};
use peeloff_stress::client::talk::{Pace, Talk};
use peeloff_stress::client::{Clients, Dialer, fan};
use peeloff_stress::figures;
use peeloff_stress::floor::{self, Question};
use peeloff_stress::options::{self, Bench, Common, Scenario};
use peeloff_stress::target::{Role, Target};

/// Measures a server that forwards one peer's messages to all others.
#[derive(Parser)]
#[command(name = "fanout", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Number of peers that receive the messages.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    receivers: u32,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=1400))]
    payload: u16,
    /// Messages per second (open loop); without it, the next message leaves when all receivers have the last one.
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Duration of the measurement.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Largest number of messages.
    #[arg(long)]
    messages: Option<u64>,
}

/// Number of messages within which all connected peers must have received one.
const ROUNDS: usize = 20;

fn main() -> ExitCode {
    options::main::<Cli>()
}

impl Scenario for Cli {
    const NAME: &'static str = "fanout";

    fn common(&self) -> &Common {
        &self.common
    }

    fn role(&self) -> Role {
        Role::FanOut
    }

    fn run(&self, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
        if bench.scheme() == Scheme::Udp {
            return Err(
                "on plain UDP the server learns of a peer only by its first message; give a target on dtls, tcp or tls".into()
            );
        }
        let (receivers, payload) = (self.receivers as usize, usize::from(self.payload));
        bench.report.option("receivers", self.receivers);
        bench.report.option("bytes", self.payload);
        bench.report.option("pace", self.rate.map_or("one under way".to_owned(), |rate| format!("{rate}/s")));
        let mut clients = self.gather(bench, &bench.dialer()?, &bench.target.address)?;
        let mut talk = Talk {
            pace: Pace::Window(1),
            payload,
            duration: Duration::from_secs(5),
            count: Some(1),
            answer: Duration::from_millis(500).min(bench.common.answer),
            ..self.talk(bench)
        };
        // A client may be connected before the server has a thread for it. Send until all receive the message.
        let hidden = indicatif::ProgressBar::hidden();
        let mut heard = 0;
        for _ in 0..ROUNDS {
            heard = fan::run(&mut clients, &talk, &bench.stop, &hidden)?.tally.echoes;
            if heard == receivers as u64 || bench.stop.wanted() {
                break;
            }
        }
        if heard < receivers as u64 && !bench.stop.wanted() {
            let address = &bench.target.address;
            return Err(format!(
                "{address} forwarded a message to {heard} of {receivers} peers; the server must send each message to all other peers"
            )
            .into());
        }
        talk = self.talk(bench);
        let before = bench.target.usage()?;
        let bar = bench.progress("messages", self.messages.unwrap_or(0));
        let talked = fan::run(&mut clients, &talk, &bench.stop, &bar)?;
        bar.finish_and_clear();
        let after = bench.target.usage()?;
        let floor = self.floor(bench, payload)?;
        let report = &mut bench.report;
        if let (Some(before), Some(after)) = (before, after) {
            let used = after.since(&before);
            let row = figures::cpu(report, "server CPU per receiver and message", &used, talked.tally.echoes);
            if let (Some(row), Some((floor, of))) = (row, floor) {
                row.over(floor, of);
            }
            let each = used.wake_ups as f64 / talked.tally.echoes.max(1) as f64;
            report.lower("server wake-ups per receiver and message", each, "");
        }
        figures::talked(report, &talked, "delivery");
        figures::tally(report, &talked.tally);
        report.plots.push(figures::percentiles(
            "From the sending to each receiver",
            vec![talked.latency.series("delivery")],
        ));
        Ok(())
    }
}

impl Cli {
    fn talk(&self, bench: &Bench) -> Talk {
        Talk {
            pace: self.rate.map_or(Pace::Window(1), |rate| Pace::Rate(f64::from(rate))),
            payload: usize::from(self.payload),
            duration: self.duration,
            count: self.messages,
            answer: bench.common.answer,
            together: 1,
            apart: None,
        }
    }

    /// Connects the receivers and then the sender, which is the last client.
    fn gather(&self, bench: &Bench, dialer: &Dialer, address: &Address) -> Result<Clients, Box<dyn Error>> {
        let bar = bench.progress("receivers", u64::from(self.receivers) + 1);
        // On plain UDP the server learns of a peer only by its first message.
        let messages = u32::from(address.scheme == Scheme::Udp);
        let load = Load { messages, ..bench.load(self.receivers as usize + 1) };
        let mut clients = dialer.clients(1)?;
        let results = load::run(&mut clients, &load, &bench.stop, &bar)?;
        bar.finish_and_clear();
        if results.failed > 0 || clients.is_empty() {
            let why = results.why.unwrap_or_else(|| "the run was ended".to_owned());
            return Err(format!("{address} cannot be measured: {why}; check --target").into());
        }
        Ok(clients)
    }

    /// Returns the floor in microseconds: the time that one thread takes to send to the same receivers in clear,
    /// plus the time that encrypting takes.
    fn floor(&self, bench: &Bench, payload: usize) -> Result<Option<(f64, &'static str)>, Box<dyn Error>> {
        let common = &bench.common;
        let Some(suite) = bench.suite().filter(|_| common.floor && !bench.scheme().is_stream()) else {
            return Ok(None);
        };
        let bare = Target::start(Role::BareFanOut, "udp", common)?;
        let dialer = Dialer::new(Scheme::Udp, bare.socket, None)?;
        let mut clients = self.gather(bench, &dialer, &bare.address)?;
        let before = bare.usage()?;
        let hidden = indicatif::ProgressBar::hidden();
        let talked = fan::run(&mut clients, &self.talk(bench), &bench.stop, &hidden)?;
        let Some((before, after)) = before.zip(bare.usage()?) else { return Ok(None) };
        let send = after.since(&before).cpu.as_secs_f64() / talked.tally.echoes.max(1) as f64;
        let question = Question::Encrypt { suite, payload, sessions: self.receivers as usize };
        let encrypt = floor::ask(&question, common.pin)?;
        Ok(Some(((send + encrypt) * 1e6, "encrypting in memory + bare loop of sends in clear")))
    }
}
