use std::error::Error as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn fresh() -> (TempDir, PathBuf) {
    let root = TempDir::new().unwrap();
    let keys = root.path().join("state/keys");
    (root, keys)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    set_mode(path, 0o600);
}

/// An error with its causes, and its `Debug`.
fn all_text(error: &KeyError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(" {next}"));
        cause = next.source();
    }
    text
}

fn a_secret() -> String {
    age::x25519::Identity::generate().to_string().expose_secret().to_owned()
}

#[test]
fn created_keys_are_private_and_read_back() {
    let (_root, directory) = fresh();
    let made = HostKeys::create(&directory, now()).unwrap();
    assert_eq!(mode(&directory), 0o700);
    for name in ["identity.txt", "signing.key", "chunk.key"] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
    let read = HostKeys::load(&KeyPaths::in_directory(&directory)).unwrap();
    assert_eq!(read.recipients(), made.recipients());
    assert_eq!(read.signer(), made.signer());
    assert_eq!(read.trusted_signers, [made.signer().unwrap()]);
    let digest = Digest256::blake3(b"rows");
    assert_eq!(read.chunk_key.chunk_id(&digest), made.chunk_key.chunk_id(&digest));
}

#[test]
fn files_have_the_forms_of_age_keygen_and_hexadecimal() {
    let (_root, directory) = fresh();
    let keys = HostKeys::create(&directory, now()).unwrap();
    let identity = fs::read_to_string(directory.join("identity.txt")).unwrap();
    let lines: Vec<&str> = identity.lines().collect();
    assert_eq!(lines[0], "# created: 2026-11-18T11:06:40Z");
    assert_eq!(lines[1], format!("# public key: {}", keys.recipients()[0]));
    assert!(lines[2].starts_with("AGE-SECRET-KEY-1"));
    assert_eq!(lines.len(), 3);
    let signing = fs::read_to_string(directory.join("signing.key")).unwrap();
    assert_eq!(signing.len(), 65);
    assert!(signing.trim_end().chars().all(|c| c.is_ascii_hexdigit()));
}

#[test]
fn an_existing_key_is_named_and_nothing_changes() {
    for name in ["identity.txt", "signing.key", "chunk.key"] {
        let (_root, directory) = fresh();
        fs::create_dir_all(&directory).unwrap();
        put(&directory.join(name), "precious");
        let error = HostKeys::create(&directory, now()).unwrap_err();
        assert!(matches!(&error, KeyError::Exists { path } if *path == directory.join(name)), "{error}");
        assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), "precious");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn a_dangling_link_counts_as_existing() {
    let (root, directory) = fresh();
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(root.path().join("elsewhere"), directory.join("signing.key")).unwrap();
    assert!(matches!(HostKeys::create(&directory, now()), Err(KeyError::Exists { .. })));
    assert!(!root.path().join("elsewhere").exists());
}

#[test]
fn an_error_midway_removes_what_was_made() {
    let root = TempDir::new().unwrap();
    let first = root.path().join("first");
    let unreachable = root.path().join("no such directory/second");
    assert!(files::write_all_new(&[(&first, "1"), (&unreachable, "2")]).is_err());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_host_without_identity_loads() {
    let (_root, directory) = fresh();
    let keys = HostKeys::create_without_identity(&directory).unwrap();
    assert!(keys.identities.is_empty());
    assert!(keys.signing.is_some());
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let (_root, directory) = fresh();
    HostKeys::create(&directory, now()).unwrap();
    let absent = directory.join("absent.txt");
    for file in [KeyFile::Required(absent.clone()), KeyFile::Credential(absent.clone())] {
        let paths = KeyPaths { identity: file, ..KeyPaths::in_directory(&directory) };
        let error = HostKeys::load(&paths).unwrap_err();
        assert!(matches!(&error, KeyError::Missing { path } if *path == absent), "{error}");
    }
}

#[test]
fn a_host_without_chunk_key_is_not_set_up() {
    let (_root, directory) = fresh();
    let error = HostKeys::load(&KeyPaths::in_directory(&directory)).unwrap_err();
    assert!(matches!(&error, KeyError::Missing { path } if path.ends_with("chunk.key")), "{error}");
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    for name in ["identity.txt", "signing.key", "chunk.key"] {
        for open in [0o640, 0o604, 0o644, 0o620] {
            let (_root, directory) = fresh();
            HostKeys::create(&directory, now()).unwrap();
            set_mode(&directory.join(name), open);
            let error = HostKeys::load(&KeyPaths::in_directory(&directory)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(&format!("{open:04o}")), "{text}");
        }
    }
    let root = TempDir::new().unwrap();
    let file = root.path().join("offline.txt");
    write_offline_identity(&file, now()).unwrap();
    set_mode(&file, 0o640);
    assert!(matches!(read_identity_file(&file), Err(KeyError::Exposed { mode: 0o640, .. })));
}

#[test]
fn a_credential_may_show_the_mask_of_its_acl() {
    let (_root, directory) = fresh();
    let made = HostKeys::create(&directory, now()).unwrap();
    let file = directory.join("identity.txt");
    let paths =
        KeyPaths { identity: KeyFile::Credential(file.clone()), ..KeyPaths::in_directory(&directory) };
    set_mode(&file, 0o440);
    assert_eq!(HostKeys::load(&paths).unwrap().recipients(), made.recipients());
    for open in [0o444, 0o460] {
        set_mode(&file, open);
        assert!(matches!(HostKeys::load(&paths), Err(KeyError::Exposed { .. })), "{open:o}");
    }
}

#[test]
fn malformed_seeds_are_refused_without_repeating_them() {
    for (name, kind) in [("signing.key", "signing key"), ("chunk.key", "chunk key")] {
        for text in ["", "c0ffee", &"zz".repeat(32), &format!("{0}\n{0}", "ab".repeat(32))] {
            let (_root, directory) = fresh();
            HostKeys::create(&directory, now()).unwrap();
            put(&directory.join(name), text);
            let error = HostKeys::load(&KeyPaths::in_directory(&directory)).unwrap_err();
            let said = all_text(&error);
            assert!(said.contains(kind) && said.contains(name), "{said}");
            assert!(text.is_empty() || !said.contains(text), "{said}");
        }
    }
}

#[test]
fn an_endless_file_is_refused() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("identity.txt");
    put(&file, &"#\n".repeat(64 * 1024));
    assert!(matches!(read_identity_file(&file), Err(KeyError::TooLong { .. })));
}

#[test]
fn a_new_offline_identity_reads_back_and_is_never_overwritten() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("offline.txt");
    let recipient = write_offline_identity(&file, now()).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(read_identity_file(&file).unwrap()[0].to_public(), recipient);
    assert!(matches!(write_offline_identity(&file, now()), Err(KeyError::Exists { .. })));
    assert_eq!(read_identity_file(&file).unwrap()[0].to_public(), recipient);
}

#[test]
fn several_identities_comments_and_windows_lines_are_accepted() {
    let text = format!("\u{feff}# mine\r\n{}\r\n\r\n  {}\n# end", a_secret(), a_secret());
    assert_eq!(read_identity_bytes("stdin", text.as_bytes()).unwrap().len(), 2);
}

#[test]
fn every_other_kind_of_identity_is_named_and_not_repeated() {
    let damaged = a_secret().replace("AGE-SECRET-KEY-1Q", "AGE-SECRET-KEY-1P") + "Q";
    for (secret, found) in [
        ("age-encryption.org/v1", "encrypted"),
        ("-----BEGIN AGE ENCRYPTED FILE-----", "encrypted"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "SSH"),
        ("AGE-PLUGIN-YUBIKEY-1QQPSQGQ", "plugin"),
        ("AGE-SECRET-KEY-PQ-1QQPSQGQ", "post-quantum"),
        (damaged.as_str(), "damaged"),
        ("age1qyqszqgpqyqszqgpqyqszqgp", "public key"),
        ("hunter2", "no age identity"),
    ] {
        let text = format!("# a comment\n{secret}\n");
        let error = read_identity_bytes("my.txt", text.as_bytes()).err().unwrap();
        let said = all_text(&error);
        assert!(said.contains("my.txt") && said.contains("line 2") && said.contains(found), "{said}");
        assert!(said.contains("AGE-SECRET-KEY-1…"), "{said}");
        assert!(!said.contains(secret), "{said}");
    }
    assert!(matches!(read_identity_bytes("x", b"\xff\xfe"), Err(KeyError::NotAnIdentity { .. })));
    assert!(matches!(read_identity_bytes("x", b"# only\n"), Err(KeyError::NoIdentity { .. })));
}

#[test]
fn a_recipient_reads_back_from_its_text() {
    let recipient = age::x25519::Identity::generate().to_public();
    assert_eq!(parse_recipient(&format!(" {recipient}\n")).unwrap(), recipient);
}

#[test]
fn a_private_key_as_recipient_is_refused_and_not_repeated() {
    let secret = a_secret();
    for text in [secret.clone(), secret.to_lowercase(), format!("x {secret}")] {
        let error = parse_recipient(&text).unwrap_err();
        let said = all_text(&error).to_uppercase();
        assert!(said.contains("PRIVATE KEY"), "{said}");
        assert!(!said.contains(secret.get(16..40).unwrap()), "{said}");
    }
}

#[test]
fn every_other_kind_of_recipient_is_named_and_not_repeated() {
    for (text, found) in [
        ("", "empty"),
        ("ssh-ed25519 AAAAC3Nza", "SSH"),
        ("age1yubikey1q2w3e4r", "plugin"),
        ("age1pq1q2w3e4r", "post-quantum"),
        ("age1q2w3e4r", "damaged"),
        ("hunter2", "no age recipient"),
    ] {
        let said = all_text(&parse_recipient(text).unwrap_err());
        assert!(said.contains(found), "{said}");
        assert!(text.is_empty() || !said.contains(text), "{said}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let (_root, directory) = fresh();
    let keys = HostKeys::create(&directory, now()).unwrap();
    let shown = format!("{keys:?} {:#?} {:?}", keys, keys.chunk_key).to_lowercase();
    for name in ["identity.txt", "signing.key", "chunk.key"] {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        let secret = text.lines().last().unwrap().to_lowercase();
        assert!(!shown.contains(&secret), "{name}");
    }
    let chunk = HEXLOWER.decode(fs::read(directory.join("chunk.key")).unwrap().trim_ascii()).unwrap();
    assert!(!shown.contains(&format!("{chunk:?}")));
    assert!(shown.contains(&keys.recipients()[0].to_string()));
}

#[test]
fn trusted_signers_are_added_to_our_own() {
    let (_root, directory) = fresh();
    let own = HostKeys::create(&directory, now()).unwrap().signer().unwrap();
    let other = SignerKey::of(&SigningKey::from_bytes(&[9; 32]));
    let file = directory.join("trusted-signers.txt");
    put(&file, &format!("# the old host\n{} # db0\n\n{}\n", other.as_str(), own.as_str()));
    let paths = KeyPaths::in_directory(&directory);
    assert_eq!(HostKeys::load(&paths).unwrap().trusted_signers, [own, other]);
    set_mode(&file, 0o666);
    assert!(matches!(HostKeys::load(&paths), Err(KeyError::Exposed { mode: 0o666, .. })));
    put(&file, "# first\nnot a key\n");
    assert!(matches!(HostKeys::load(&paths), Err(KeyError::NotASigner { line: 2, .. })));
}

#[test]
fn chunk_ids_depend_on_the_key_and_on_the_digest() {
    let key = |byte| ChunkKey(Zeroizing::new([byte; 32]));
    let (a, b) = (Digest256::blake3(b"a"), Digest256::blake3(b"b"));
    let id = key(1).chunk_id(&a);
    assert_eq!(id.len(), 32);
    assert!(id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)), "{id}");
    assert_eq!(id, key(1).chunk_id(&a));
    assert_ne!(id, key(1).chunk_id(&b));
    assert_ne!(id, key(2).chunk_id(&a));
}
