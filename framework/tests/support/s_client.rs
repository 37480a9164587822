//! OpenSSL's client, for one line that an echo server sends back.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use peeloff::{Address, Scheme};

/// Returns everything that `openssl s_client` prints on both outputs while it sends this line to an echo server
/// and waits for the line to come back, or for the end.
pub fn s_client(address: &Address, arguments: &[&str], line: &str) -> String {
    let program = std::env::var("PEELOFF_OPENSSL").unwrap_or_else(|_| "openssl".to_owned());
    let mut command = Command::new(program);
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", address.port)]);
    if address.scheme == Scheme::Dtls {
        command.arg("-dtls1_2");
    }
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // The program ends as soon as its input does.
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut seen) = (child.stdout.take().unwrap(), String::new());
    let _ = stdin.write_all(format!("{line}\n").as_bytes());
    let mut buffer = [0; 4096];
    while !seen.contains(&format!("\n{line}\n")) {
        match stdout.read(&mut buffer) {
            Ok(len @ 1..) => seen += &String::from_utf8_lossy(&buffer[..len]),
            _ => break,
        }
    }
    drop(stdin);
    let _ = stdout.read_to_string(&mut seen);
    let rest = child.wait_with_output().unwrap();
    seen + &String::from_utf8_lossy(&rest.stderr)
}
