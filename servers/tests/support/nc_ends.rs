//! A `peeloff-nc` that listens, and its clients.

use crate::support::{NC, Program};

/// Starts a listening `peeloff-nc`, and returns its address.
pub fn listen(arguments: &[&str]) -> (Program, String) {
    let mut program = Program::start(NC, &[&["-l"], arguments].concat());
    let line = program.stderr_line("listening ");
    (program, line.strip_prefix("listening ").unwrap().to_owned())
}

/// Checks that a listener and its client hear each other. SIGINT then ends the client; the listener is returned.
pub fn hear_each_other(listener: &[&str], client: &[&str]) -> Program {
    let (mut server, address) = listen(listener);
    let mut client = Program::start(NC, &[&["--wait", "off", &address], client].concat());
    client.write("from the client\n");
    assert_eq!(server.line(), "from the client");
    server.write("from the server\n");
    assert_eq!(client.line(), "from the server");
    client.signal("INT");
    assert_eq!(client.wait().code, Some(130));
    server
}

/// Checks that a listener that is kept open serves two clients at the same time.
pub fn all_are_served(url: &str, client: &[&str]) {
    let (mut server, address) = listen(&["-k", url]);
    let mut clients = [(); 2].map(|()| Program::start(NC, &[client, &[&address]].concat()));
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(&format!("client {number}\n"));
        assert_eq!(server.line(), format!("client {number}"));
    }
    server.write("to everyone\n");
    for client in &mut clients {
        assert_eq!(client.line(), "to everyone");
    }
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(143));
    for client in clients {
        assert_eq!(client.wait().code, Some(0));
    }
}
