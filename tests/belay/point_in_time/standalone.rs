use super::site::{a_site, text_of};
use crate::world::finish;

#[test]
fn a_bare_machine_recovers_with_the_recovery_kit() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    let at = text_of(site.now());
    site.write("two");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let kit = std::fs::read_to_string(site.belay.state().join("recovery-kit.txt")).unwrap();
    let signer = kit.lines().find_map(|line| line.strip_prefix("signing public key")).unwrap().trim();
    let identity = site.belay.home().join("carried-away.txt");
    std::fs::copy(site.belay.state().join("keys/identity.txt"), &identity).unwrap();
    std::fs::remove_file(site.belay.settings()).unwrap();
    std::fs::rename(site.belay.state(), site.belay.home().join("lost")).unwrap();
    let data = site.cluster.room("recovered").join("data");
    let told = kit.split_once("    belay recover").unwrap().1.replace("\\\n", " ");
    let told: Vec<&str> = told.lines().next().unwrap().split_whitespace().collect();
    let recover = |trusted: &str| {
        let word = |word: &&str| match *word {
            "offline.txt" => identity.display().to_string(),
            "DIRECTORY" => data.display().to_string(),
            "latest" => at.clone(),
            word if word == signer => trusted.to_owned(),
            word => word.to_owned(),
        };
        let words = ["recover".to_owned()].into_iter().chain(told.iter().map(word));
        finish(site.belay.command(words).env("TMPDIR", site.cluster.host()))
    };
    let stranger = recover(&"0".repeat(64));
    assert_eq!(stranger.code, 4, "{}", stranger.stderr);
    let recovered = recover(signer);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let left = std::fs::read_dir(site.cluster.host()).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("belay-standalone-"));
    assert_eq!(left.count(), 0);
    site.cluster.go_on_with(&data);
    assert_eq!(site.cluster.psql("app", "SELECT string_agg(body, ' ') FROM moments"), "one");

    // The repository has no snapshot: its base backups say which one it is.
    std::fs::remove_file(site.belay.repository().join("belay.json")).unwrap();
    let recovered = recover(signer);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let told = format!("{}{}", recovered.stdout, recovered.stderr);
    assert!(told.contains("belay.json is missing"), "{told}");
}
