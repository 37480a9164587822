//! A process that takes over from a server that a test has started.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::process::Command;

use crate::support::{Program, shell};

/// A process that took a server over; killed when dropped.
pub struct Successor(pub u32);

impl Successor {
    /// Has a server handed over, and waits until the new process serves.
    pub fn of(server: &mut Program) -> Self {
        server.signal("USR2");
        Self::read(server)
    }

    /// Waits until the new process serves, of a hand-over that has begun.
    pub fn read(server: &mut Program) -> Self {
        let line = server.stderr_line("a new process serves");
        let pid = line.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next());
        Self(pid.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap())
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        shell(&format!("kill -{name} {}", self.0));
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It fails where the process has ended.
        let _ = Command::new("kill").args(["-KILL", &self.0.to_string()]).output();
    }
}
