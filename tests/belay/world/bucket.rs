//! A throwaway S3 server, with an empty bucket in it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The bucket's name.
pub const BUCKET: &str = "backups";
/// The access key that the server knows.
pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
/// Its secret key.
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A running S3 server; it is stopped when dropped, and goes with its test.
///
/// Objects are files of its root; of what S3 has it knows neither versions nor locks, and it does
/// not list multipart uploads.
pub struct Bucket {
    root: TempDir,
    address: SocketAddr,
    watchdog: Child,
}

/// Ends the server when the test has ended, however it did.
const WATCHDOG: &str = r#"
output=$1
shift
"$@" </dev/null >"$output" 2>&1 &
server=$!
cat >/dev/null
kill -TERM "$server"
wait "$server"
"#;

impl Bucket {
    /// Starts one on a port of its own of the loopback address.
    ///
    /// # Panics
    ///
    /// When it does not start; scripts/test installs it.
    pub fn start() -> Bucket {
        use std::os::unix::process::CommandExt;
        let root = TempDir::new().expect("make a temporary directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("make the bucket");
        let output = root.path().join("output");
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog"]).arg(&output).arg(program());
        shell.args(["--host", "127.0.0.1", "--port", "0"]);
        shell.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(root.path());
        shell.env("RUST_LOG", "s3s_fs=info").process_group(0).current_dir("/").stdin(Stdio::piped());
        let watchdog = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut bucket =
            Bucket { root, address: ([127, 0, 0, 1], 0).into(), watchdog: watchdog.expect("start a shell") };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let told = std::fs::read_to_string(&output).unwrap_or_default();
            let address = told.lines().find_map(|line| line.split_once("running at http://"));
            if let Some(address) = address.and_then(|(_, address)| address.trim().parse().ok()) {
                bucket.address = address;
                return bucket;
            }
            assert!(Instant::now() < deadline, "the S3 server does not start: {told}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file that `key` is.
    pub fn file(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// Multipart uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        let names = self.root.path().read_dir().expect("read the server's root").flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".upload-") && name.ends_with(".json")).count()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/s3s-fs/bin/s3s-fs");
    assert!(built.exists(), "there is no S3 server in {}: run scripts/test", built.display());
    built
}
