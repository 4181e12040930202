//! Places where a run stops until the test lets it go on, so that it is known where it stands.

use std::path::{Path, PathBuf};

use super::wait_until;

/// A directory by which tests and the shell scripts of a run tell each other where they are.
pub struct Pauses {
    directory: PathBuf,
}

impl Pauses {
    /// Uses `directory`, which both sides can write.
    pub fn new(directory: PathBuf) -> Pauses {
        Pauses { directory }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The lines of a shell script that stop at `place`, if the test wants it, for a minute at most.
    pub fn shell(&self, place: &str) -> String {
        let at = self.directory.join(place);
        format!(
            "n=0; while [ -e '{at}.stop' ] && [ $n -lt 3000 ]; do touch '{at}.here'; sleep 0.02; n=$((n + 1)); done\n",
            at = at.display()
        )
    }

    /// Has whoever comes to `place` stop there.
    pub fn stop_at(&self, place: &str) {
        std::fs::write(self.directory.join(format!("{place}.stop")), "").unwrap();
    }

    /// Waits until somebody stands at `place`.
    pub fn wait_at(&self, place: &str) {
        wait_until(&format!("somebody stands at {place}"), || self.is_at(place));
    }

    /// Whether somebody stands at `place`, or stood there.
    pub fn is_at(&self, place: &str) -> bool {
        self.directory.join(format!("{place}.here")).exists()
    }

    /// Lets whoever stands at `place` go on.
    pub fn pass(&self, place: &str) {
        std::fs::remove_file(self.directory.join(format!("{place}.stop"))).unwrap();
    }

    /// Lets everybody go on, wherever they stand.
    pub fn go_on(&self) {
        for entry in self.directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "stop") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}
