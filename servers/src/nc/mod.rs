//! The program `peeloff-nc`, which exchanges messages between a peer and standard input and output.
//!
//! `args` has the options. `messages` splits the input, and `talk` exchanges messages with one peer. `call`
//! connects, and `listen` accepts peers. `association` has what only SCTP needs, `chat` is the terminal of a
//! chat, and `server_view` keeps its state.

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
mod listen;
mod messages;
mod server_view;
mod talk;

/// Examples and exit codes for the end of the help text.
pub const AFTER_HELP: &str = "\
Examples:
  echo hello | peeloff-nc --insecure dtls://127.0.0.1:4433
      Sends a line and prints the answer; accepts any certificate.
  peeloff-nc --ca ca.pem tls://example.org:4433 < request > answer
      Verifies the server's certificate with an authority of your own.
  peeloff-nc -l -k --psk alice:c0ffee 'dtls://*:4433'
      Serves every client that has the key.
  peeloff-nc --chat --ca ca.pem tls://example.org:4433
      Chats on a server of peeloff-chat.

Exit codes:
  0  success
  1  an I/O error, or the association ended with an error
  2  bad usage or input, an address that cannot be resolved or bound, or a
     kernel without SCTP
  3  the handshake failed, the certificate could not be verified, or a TCP
     connection or SCTP association was refused or not answered
  4  --timeout has expired
  130, 143  ended by SIGINT, SIGTERM";

/// Connects or listens, and exchanges messages until either side has finished. Returns the exit code.
pub fn run(args: &NcArgs) -> Result<u8, Failure> {
    // Standard error is reserved for the sentence of a failure, unless -v asks for more.
    args.log.start(if args.log.verbose > 0 { 1 } else { 0 })?;
    if args.block == Some(Size(0)) {
        return Err(Failure::input("--block 0 would send nothing: give a number of bytes, such as 1200"));
    }
    args.algorithms.warn();
    let settings = args.association.to_settings(args.address.scheme)?;
    let stream = args.stream.to_settings([args.address.scheme])?;
    // Read the key before signals are caught, because the program may ask the user for a passphrase.
    let mut keyring = Keyring::default();
    let given = keyring.read(&args.passphrase, false)?;
    let identity = identity(args.cert.as_deref(), args.key.as_deref(), &mut keyring, &given)?;
    match args.listen {
        true => listen::run(args, identity, settings, stream),
        false => call::run(args, identity, settings, stream),
    }
}
