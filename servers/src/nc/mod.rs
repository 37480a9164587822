//! Standard input and output as messages: the program `peeloff-nc`.
//!
//! `args` has the options, `messages` cuts the input, `talk` joins it and the output to one peer, `call` and `listen` bring
//! the peer, `association` is what only SCTP has, `chat` is the terminal of a chat, and `ledger` what it knows.

pub use self::args::NcArgs;
use crate::credentials::identity;
use crate::failure::Failure;
use crate::passphrase::Keyring;
use crate::values::Size;

mod args;
mod association;
mod call;
mod chat;
mod exit;
mod ledger;
mod listen;
mod messages;
mod talk;

/// Examples and the exit codes, for the end of the help text.
pub const AFTER_HELP: &str = "\
Examples:
  echo hello | peeloff-nc --insecure dtls://127.0.0.1:4433
      Sends a line and prints the answer; accepts any certificate.
  peeloff-nc --ca ca.pem tls://example.org:4433 < request > answer
      Verifies the server with an authority of your own.
  peeloff-nc -l -k --psk alice:c0ffee 'dtls://*:4433'
      Listens for everybody who has the key.
  peeloff-nc --chat --ca ca.pem tls://example.org:4433
      Chats on a server of peeloff-chat.

Exit codes:
  0  done
  1  an I/O error, or the association ended with an error
  2  bad usage or input, an address that cannot be resolved or bound, or a
     kernel without SCTP
  3  the handshake failed, the certificate could not be verified, or there was
     no TCP connection or SCTP association: refused, or nobody answered
  4  --timeout is over
  130, 143  ended by SIGINT, SIGTERM";

/// Calls or listens, and copies messages until either side is done; gives the exit code.
pub fn run(args: &NcArgs) -> Result<u8, Failure> {
    // Standard error is for the one sentence of a failure, unless -v asks for more.
    args.log.start(if args.log.verbose > 0 { 1 } else { 0 })?;
    if args.block == Some(Size(0)) {
        return Err(Failure::input("--block 0 would send nothing: give a number of bytes, such as 1200"));
    }
    args.algorithms.warn();
    let settings = args.association.to_settings(args.address.scheme)?;
    let stream = args.stream.to_settings([args.address.scheme])?;
    // Before signals are caught, because the user may be asked for a passphrase.
    let mut keyring = Keyring::default();
    let given = keyring.read(&args.passphrase, false)?;
    let identity = identity(args.cert.as_deref(), args.key.as_deref(), &mut keyring, &given)?;
    match args.listen {
        true => listen::run(args, identity, settings, stream),
        false => call::run(args, identity, settings, stream),
    }
}
