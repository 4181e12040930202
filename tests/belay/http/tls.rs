//! TLS: of sane versions, by the newest certificate, and never without off loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::client::{Answer, ask, bearer, connect, exchange, request};
use super::site::{Site, a_free_address};
use crate::daemon::service::Service;
use crate::world::Belay;

/// Puts a certificate and its key where the daemon can read them.
fn certify(belay: &Belay) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |path: PathBuf, text: String| {
        use std::os::unix::fs::PermissionsExt as _;
        let about = std::fs::metadata(belay.home()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        std::os::unix::fs::chown(&path, Some(about.uid()), Some(about.gid())).unwrap();
    };
    write(belay.home().join("cert.pem"), cert.pem());
    write(belay.home().join("key.pem"), signing_key.serialize_pem());
    cert.der().clone()
}

fn with_tls(address: SocketAddr, home: &Path) -> String {
    format!(
        "listen = \"{address}\"\ntls_cert = \"{0}/cert.pem\"\ntls_key = \"{0}/key.pem\"\nheader_timeout = \"2s\"\n",
        home.display()
    )
}

/// A site whose TCP is behind TLS, on every address of the host.
fn a_site() -> (Site, CertificateDer<'static>) {
    let Site { service, belay, cluster, address, socket } = Site::start("");
    assert_eq!(service.stop().code, 0);
    let certificate = certify(&belay);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    let plain = format!("listen = \"{address}\"\n");
    belay.write_settings(&settings.replace(&plain, &with_tls(everywhere, belay.home())));
    let service = Service::start(&belay);
    service.wait_for("READY=1");
    (Site { service, belay, cluster, address, socket }, certificate)
}

fn client(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(address))
}

fn status(site: &Site, root: &CertificateDer<'static>, token: &str) -> Answer {
    let stream = client(site.address, root, &rustls::version::TLS13);
    ask(stream, &request("GET", "/v1/status", &bearer(token), ""))
}

/// The first message of a client that knows nothing newer than this version.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session; two ciphers of that time; no compression.
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    let mut record = vec![0x16, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (site, certificate) = a_site();
    let token = site.operator();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let answer = ask(
            client(site.address, &certificate, version),
            &request("GET", "/v1/status", &bearer(&token), ""),
        );
        assert_eq!(answer.status, 200, "{version:?}: {answer:?}");
    }
    for minor in [0, 1, 2] {
        let answer = exchange(connect(site.address), &old_hello(minor));
        // A fatal alert: the version, or no cipher in common.
        assert!(matches!(answer.as_slice(), [0x15, 3, _, 0, 2, 2, 70 | 40]), "{answer:?}");
    }
    let plain = exchange(connect(site.address), request("GET", "/healthz", "", "").as_bytes());
    assert!(!plain.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&plain));
    // Whoever connects and says nothing is cut.
    assert_eq!(exchange(connect(site.address), b""), b"");
    assert_eq!(status(&site, &certificate, &token).status, 200);
}

#[test]
fn a_hangup_takes_the_new_certificate_and_keeps_the_old_one_if_it_is_none() {
    let (site, old) = a_site();
    let token = site.operator();
    std::fs::write(site.belay.home().join("cert.pem"), "no certificate").unwrap();
    site.service.hang_up();
    site.service.wait_until("the mistake is told", || site.service.log().contains("the old one stays"));
    assert_eq!(status(&site, &old, &token).status, 200);
    let new = certify(&site.belay);
    site.service.hang_up();
    let trusts_new = || {
        let mut stream = client(site.address, &new, &rustls::version::TLS13);
        stream.conn.complete_io(&mut stream.sock).is_ok()
    };
    site.service.wait_until("the new one is shown", trusts_new);
    assert_eq!(status(&site, &new, &token).status, 200);
}

#[test]
fn tcp_without_tls_stays_on_loopback() {
    let (_cluster, belay) = Belay::with_an_app("schedule = \"never\"\n");
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    let listen = |text: &str| belay.write_settings(&format!("{settings}[http]\n{text}"));
    let port = a_free_address().port();
    for address in [format!("0.0.0.0:{port}"), format!("[::]:{port}"), format!("192.0.2.1:{port}")] {
        listen(&format!("listen = \"{address}\"\n"));
        let refused = belay.run(["serve"]);
        assert_eq!(refused.code, 2, "{address}: {}", refused.stderr);
        assert!(refused.stderr.contains("is not loopback"), "{}", refused.stderr);
    }
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    listen(&with_tls(everywhere, belay.home()));
    let refused = belay.run(["serve"]);
    assert_eq!(refused.code, 2, "there is no certificate: {}", refused.stderr);
    assert!(refused.stderr.contains("cert.pem for TLS"), "{}", refused.stderr);
    certify(&belay);
    let key = belay.home().join("key.pem");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = belay.run(["serve"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("open to every user"), "{}", refused.stderr);
}
