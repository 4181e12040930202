//! A daemon under a service manager of the test's own, which hears what systemd would hear.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::Belay;

/// A running `belay serve`; it ends with the test.
pub struct Service {
    child: Child,
    log: PathBuf,
    told: Arc<Mutex<String>>,
}

/// How a daemon ended.
pub struct Ended {
    /// Its exit status; 1000 and the signal's number if one ended it.
    pub code: i32,
    /// What it wrote.
    pub log: String,
    /// What it told the service manager.
    pub told: String,
}

impl Service {
    pub fn start(belay: &Belay) -> Self {
        Self::start_logging(belay, "info,sqlx=warn")
    }

    /// Starts one that logs what `filter` lets through.
    pub fn start_logging(belay: &Belay, filter: &str) -> Self {
        let room =
            (0..).map(|n| belay.home().join(format!("service-{n}"))).find(|room| !room.exists()).unwrap();
        std::fs::create_dir(&room).unwrap();
        open_to_all(&room);
        let (socket, log) = (room.join("notify"), room.join("log"));
        let listener = UnixDatagram::bind(&socket).unwrap();
        open_to_all(&socket);
        let told = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = listener.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                heard.lock().unwrap().push_str(&format!("{text}\n"));
            }
        });
        let serve = belay.command(["serve"]);
        // It ends with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(serve.get_program()).args(serve.get_args());
        command.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = command
            .env("NOTIFY_SOCKET", &socket)
            .env("BELAY_LOG", filter)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log, told }
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }

    pub fn wait_for(&self, line: &str) {
        self.wait_until(line, || self.told().lines().any(|told| told == line));
    }

    /// Waits until `line` was told as often again.
    pub fn wait_for_more(&self, line: &str, times: usize) {
        let count = || self.told().lines().filter(|told| *told == line).count();
        let before = count();
        self.wait_until(line, || count() >= before + times);
    }

    pub fn wait_until(&self, what: &str, is_so: impl FnMut() -> bool) {
        let found = is_so_within(Duration::from_secs(120), is_so);
        assert!(found, "{what}: {}\n{}", self.log(), self.told());
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Tells it to stop, and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as systemd does.
    pub fn stop(self) -> Ended {
        self.terminate();
        self.ended()
    }

    /// Waits until it has ended by itself.
    pub fn ended(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        let mut status = None;
        let ended = is_so_within(Duration::from_secs(60), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it does not stop: {}", self.log());
        let status = status.unwrap();
        let code = status.code().or(status.signal().map(|signal| 1000 + signal)).unwrap();
        Ended { code, log: self.log(), told: self.told() }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn wait_until(limit: Duration, what: &str, is_so: impl FnMut() -> bool) {
    assert!(is_so_within(limit, is_so), "{what}");
}

fn is_so_within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    is_so()
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}
