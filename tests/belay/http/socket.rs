//! The Unix socket: its mode, who may do what over it, and what becomes of its file.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

use super::client::{ask, bearer, request};
use super::site::Site;
use crate::daemon::service::Service;

const ORDER: &str = "{\"database\":\"app\"}";
const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn the_daemons_user_is_an_operator_over_the_socket() {
    let site = Site::start("");
    let about = std::fs::symlink_metadata(&site.socket).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o660);
    let local = || UnixStream::connect(&site.socket).unwrap();
    assert_eq!(ask(local(), &request("GET", "/v1/status", "", "")).status, 200);
    let viewer = site.token(&["screen", "--role", "viewer"]);
    let fields = format!("{}{JSON}", bearer(&viewer));
    let refused = ask(local(), &request("POST", "/v1/snapshots", &fields, ORDER));
    assert_eq!(refused.status, 403, "a token counts before the user: {refused:?}");
    let begun = ask(local(), &request("POST", "/v1/snapshots", JSON, ORDER));
    assert_eq!(begun.status, 202, "{begun:?}");
    site.service.wait_until("the snapshot is there", || site.snapshots().len() == 1);
    let uid = Uid::effective().as_raw();
    let noted =
        |event: &serde_json::Value| event["action"] == "snapshot" && event["actor"]["peer_uid"] == uid;
    site.service.wait_until("it is noted", || site.events().iter().any(noted));
    let Site { service, socket, .. } = site;
    assert_eq!(service.stop().code, 0);
    assert!(!socket.exists(), "it goes with the daemon");
}

/// Asks as another user who is of the group of the socket.
fn ask_as_a_member(site: &Site, sent: &str) -> String {
    let script = "import socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\n\
                  s.sendall(sys.argv[2].encode())\n\
                  print(s.makefile().read())\n";
    let group: Gid = User::from_name("postgres").unwrap().unwrap().gid;
    let mut python = Command::new("setpriv");
    python.args(["--reuid", "65534", "--regid", &group.to_string(), "--clear-groups", "--"]);
    let output =
        python.args(["/usr/bin/python3", "-c", script]).arg(&site.socket).arg(sent).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn who_else_may_connect_is_a_viewer() {
    let site = Site::start("");
    if !Uid::effective().is_root() {
        // Nobody but root can become somebody else.
        return;
    }
    let shown = ask_as_a_member(&site, &request("GET", "/v1/status", "", ""));
    assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
    let refused = ask_as_a_member(&site, &request("POST", "/v1/snapshots", JSON, ORDER));
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    let noted =
        |event: &serde_json::Value| event["action"] == "ask_snapshot" && event["actor"]["peer_uid"] == 65534;
    assert!(site.events().iter().any(noted));
    assert_eq!(site.snapshots().len(), 0);
}

#[test]
fn a_socket_that_was_left_is_replaced_and_nothing_else_is() {
    let Site { service, belay, cluster: _cluster, socket, .. } = Site::start("");
    service.kill();
    assert!(socket.exists(), "a killed daemon leaves it");
    let service = Service::start(&belay);
    service.wait_for("READY=1");
    let answer = ask(UnixStream::connect(&socket).unwrap(), &request("GET", "/healthz", "", ""));
    assert_eq!(answer.status, 200);
    assert_eq!(service.stop().code, 0);

    let _other = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let refused = belay.run(["serve"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("another process listens"), "{}", refused.stderr);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "mine").unwrap();
    let refused = belay.run(["serve"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
}
