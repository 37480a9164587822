//! Commands in the guide do what it says.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::{NC, Program, start_echo};

#[test]
fn the_clients_in_the_first_chapter_of_the_guide_have_their_echo() {
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/first_server.md");
    let chapter = std::fs::read_to_string(chapter).unwrap();
    let section = chapter.split("## Other clients\n").nth(1).unwrap();
    let commands = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let (_server, url) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
    let port = url.rsplit(':').next().unwrap();
    assert_eq!(commands.lines().count(), 3, "{commands}");
    for line in commands.lines() {
        // The package is built already.
        let line = line.replace("cargo run -p peeloff-servers --bin peeloff-nc --", NC).replace("PORT", port);
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let mut client = Program::spawn(command, [Stdio::piped(), Stdio::piped(), Stdio::piped()]);
        client.write("a line for the echo\n");
        // Some clients also say much about the session.
        client.line_with("a line for the echo");
        client.kill();
    }
}
