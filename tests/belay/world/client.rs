//! A program that runs beside a test.

use std::process::{Child, Command, Stdio};

/// A client in the background; one that reads waits for input, and all are ended when dropped.
pub struct Client(Child);

impl Client {
    /// Starts `command`; nobody hears what it says.
    pub fn start(command: &mut Command) -> Client {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Client(piped.spawn().expect("start a client"))
    }

    /// Closes its input, and waits for its end.
    pub fn leave(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("wait for a client");
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("look at a client").is_some()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
