//! A program that takes itself for kubectl: its cluster is a directory of files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Deployments of the namespace `cronos`, and a `kubectl` that knows them.
///
/// Beside `replicas`, `pods` is how many of each are left, and `slow` how many more looks see them.
pub struct FakeKubectl(TempDir);

const SCRIPT: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
echo "$*" >>"$here/calls"
[ ! -e "$here/hang" ] || exec sleep 1000
namespace= selector= output= replicas=
words=
for word in "$@"; do
  case $word in
    --selector=app=*) selector=${word#--selector=app=} ;;
    --replicas=*) replicas=${word#--replicas=} ;;
    --*=*) ;;
    *) words="$words $word" ;;
  esac
done
set -- $words
[ "$1" != --context ] || { [ "$2" = prod ] || { echo "error: context \"$2\" does not exist" >&2; exit 1; }; shift 2; }
[ "$1 $2" = "--namespace cronos" ]
shift 2
if [ "$1 $2" = "get pods" ]; then
  cd "$here/$selector"
  slow=$(cat slow)
  if [ "$(cat replicas)" = 0 ] && [ "$slow" != 0 ]; then echo $((slow - 1)) >slow; fi
  if [ "$(cat replicas)" = 0 ] && [ "$slow" = 0 ]; then echo 0 >pods; fi
  n=$(cat pods)
  while [ "$n" -gt 0 ]; do echo "pod/$selector-$n"; n=$((n - 1)); done
  exit 0
fi
name=$3
[ -d "$here/$name" ] || { echo "Error from server (NotFound): deployments.apps \"$name\" not found" >&2; exit 1; }
cd "$here/$name"
case "$1 $2" in
  "get deployment")
    printf '{"metadata":{"generation":%s},"spec":{"replicas":%s,"selector":{"matchLabels":{"app":"%s"}}},' \
      "$(cat generation)" "$(cat replicas)" "$name"
    printf '"status":{"observedGeneration":%s,"replicas":%s}}\n' "$(cat generation)" "$(cat replicas)"
    ;;
  "scale deployment")
    [ ! -e refuse ] || { echo "Error from server (Forbidden): deployments.apps \"$name\" is forbidden" >&2; exit 1; }
    echo "$replicas" >replicas
    [ "$replicas" = 0 ] || echo "$replicas" >pods
    echo $(($(cat generation) + 1)) >generation
    ;;
  *) echo "error: unknown command" >&2; exit 1 ;;
esac
"#;

impl FakeKubectl {
    /// Makes one with a deployment of so many replicas for each name.
    pub fn with(deployments: &[(&str, u32)]) -> FakeKubectl {
        let fake = FakeKubectl(tempfile::tempdir().expect("make a directory"));
        fs::write(fake.program(), SCRIPT).expect("write the fake kubectl");
        fs::set_permissions(fake.program(), fs::Permissions::from_mode(0o755)).expect("set its mode");
        fs::write(fake.path("calls"), "").expect("write a file of the fake kubectl's");
        for (name, replicas) in deployments {
            fs::create_dir(fake.path(name)).expect("make a deployment");
            for (what, value) in
                [("replicas", *replicas), ("pods", *replicas), ("slow", 0), ("generation", 1)]
            {
                fake.set(name, what, value);
            }
        }
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The directory to put on a path, where it is called `kubectl`.
    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.path("kubectl")
    }

    /// Sets one number of a deployment.
    pub fn set(&self, deployment: &str, what: &str, value: u32) {
        let path = self.path(deployment).join(what);
        fs::write(path, format!("{value}\n")).expect("write a file of the fake kubectl's");
    }

    /// One number of a deployment.
    pub fn get(&self, deployment: &str, what: &str) -> u32 {
        let text = fs::read_to_string(self.path(deployment).join(what));
        text.expect("read a file of the fake kubectl's").trim().parse().expect("it is a number")
    }

    /// Has it refuse to scale a deployment, or not any more.
    pub fn refuse(&self, deployment: &str, is_refused: bool) {
        let path = self.path(deployment).join("refuse");
        let done = if is_refused { fs::write(path, "") } else { fs::remove_file(path) };
        done.expect("write a file of the fake kubectl's");
    }

    /// Has it hang at every call, or not any more.
    pub fn hang(&self, is_hanging: bool) {
        let path = self.path("hang");
        let done = if is_hanging { fs::write(path, "") } else { fs::remove_file(path) };
        done.expect("write a file of the fake kubectl's");
    }

    /// The calls so far that hold `words`.
    pub fn calls(&self, words: &str) -> usize {
        let calls = fs::read_to_string(self.path("calls")).expect("read a file of the fake kubectl's");
        calls.lines().filter(|call| call.contains(words)).count()
    }
}
