//! The recovery kit: a text to keep away from the host, with all but the secrets that a restore
//! on a bare machine needs.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::rules::signature::SignerKey;

/// What a recovery kit tells; nothing in it is secret.
#[derive(Debug, Clone)]
pub struct KitFacts {
    /// The store's address, without secrets.
    pub repository_url: String,
    /// How S3 clients are told where a bucket is (`AWS_ENDPOINT_URL`, …); empty for a directory.
    pub repository_environment: Vec<(&'static str, String)>,
    /// Id of the repository.
    pub repository_id: String,
    /// Name of the host that takes the snapshots.
    pub host: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// When the kit was written.
    pub created_at: DateTime<Utc>,
    /// The public key that signs the manifests.
    pub signer: SignerKey,
    /// The recipient whose identity lies on the host, when there is one.
    pub host_recipient: Option<String>,
    /// The recipients whose identities were carried away.
    pub offline_recipients: Vec<String>,
}

/// Writes the recovery kit as a text file.
pub fn recovery_kit(facts: &KitFacts) -> String {
    let mut kit = String::new();
    // Writing to a string cannot fail.
    let _ = write_facts(&mut kit, facts);
    let _ = write_stock_commands(&mut kit, facts);
    let _ = write_belay_commands(&mut kit, facts);
    let _ = write_recovery(&mut kit, facts);
    kit
}

fn write_facts(kit: &mut String, facts: &KitFacts) -> std::fmt::Result {
    let created = facts.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    writeln!(kit, "BELAY RECOVERY KIT\n")?;
    writeln!(kit, "Keep this text away from the host. It holds no secret; with one of the identities")?;
    writeln!(kit, "named below it is all that a restore on a bare machine needs.\n")?;
    writeln!(kit, "written              {created}")?;
    writeln!(kit, "host                 {}", one_line(&facts.host))?;
    writeln!(kit, "repository           {}", one_line(&facts.repository_url))?;
    writeln!(kit, "repository id        {}", one_line(&facts.repository_id))?;
    writeln!(kit, "cluster              {}", one_line(&facts.cluster))?;
    writeln!(kit, "signing public key   {}", facts.signer.as_str())?;
    match &facts.host_recipient {
        Some(recipient) => writeln!(kit, "host recipient       {recipient}")?,
        None => writeln!(kit, "host recipient       none: this host cannot open its snapshots")?,
    }
    for recipient in &facts.offline_recipients {
        writeln!(kit, "offline recipient    {recipient}")?;
    }
    if facts.offline_recipients.is_empty() {
        writeln!(kit, "offline recipient    NONE")?;
        writeln!(
            kit,
            "\nWARNING: only the identity on the host opens these snapshots. When the host is lost"
        )?;
        writeln!(kit, "without a copy of its identity file, every snapshot is lost with it.")?;
    }
    writeln!(kit, "\nIn the commands below, offline.txt is the identity file (AGE-SECRET-KEY-1…) of one of")?;
    writeln!(kit, "the recipients.\n")
}

fn write_stock_commands(kit: &mut String, facts: &KitFacts) -> std::fmt::Result {
    let folder = format!("{}/snapshots/DATABASE/ID", facts.cluster);
    writeln!(kit, "RESTORE WITH STOCK TOOLS (age, gunzip, jq, psql, pg_restore)\n")?;
    if facts.repository_url.starts_with("s3://") {
        let from = format!("{}/{}", facts.repository_url, facts.cluster);
        let to = shell_word(&facts.cluster);
        writeln!(kit, "Fetch the objects first, with any S3 client, for example (or only the folder of the")?;
        writeln!(kit, "snapshot and the folder chunks):\n")?;
        write_environment(kit, facts)?;
        writeln!(kit, "    aws s3 cp --recursive {} {to}\n", shell_word(&from))?;
    }
    writeln!(kit, "Each snapshot is a folder of the repository; the ID begins with its time in UTC:\n")?;
    writeln!(kit, "    {}\n", one_line(&folder))?;
    writeln!(kit, "RESTORE.txt in that folder has the exact commands, step by step. Every object opens")?;
    writeln!(kit, "the same way, for example:\n")?;
    writeln!(kit, "    age -d -i offline.txt inventory.json.gz.age | gunzip | jq .")?;
    writeln!(kit, "    age -d -i offline.txt schema.dump.gz.age | gunzip > schema.dump")?;
    writeln!(kit, "    age -d -i offline.txt data.dump.gz.age | gunzip | pg_restore -d NAME\n")?;
    writeln!(kit, "Stock tools do not check who wrote a snapshot; Belay does, by the signing public key.\n")
}

fn write_belay_commands(kit: &mut String, facts: &KitFacts) -> std::fmt::Result {
    writeln!(kit, "RESTORE WITH BELAY (no settings file is needed)\n")?;
    write_environment(kit, facts)?;
    writeln!(kit, "    belay restore DATABASE --standalone \\")?;
    writeln!(kit, "        --repository {} \\", shell_word(&facts.repository_url))?;
    writeln!(kit, "        --identity offline.txt \\")?;
    writeln!(kit, "        --trust-signer {} \\", facts.signer.as_str())?;
    writeln!(kit, "        --into NAME")
}

fn write_recovery(kit: &mut String, facts: &KitFacts) -> std::fmt::Result {
    writeln!(kit, "\nRECOVER THE WHOLE CLUSTER WITH BELAY, AS IT WAS AT ANY MOMENT\n")?;
    writeln!(
        kit,
        "Where points in time are kept, the repository has base backups and the write-ahead log:\n"
    )?;
    writeln!(kit, "    {}/base and {}/wal\n", one_line(&facts.cluster), one_line(&facts.cluster))?;
    writeln!(
        kit,
        "PostgreSQL of the cluster's major version must be installed, and the command be run as the"
    )?;
    writeln!(kit, "user that is to own the cluster. DIRECTORY becomes the data directory:\n")?;
    write_environment(kit, facts)?;
    writeln!(kit, "    belay recover --standalone \\")?;
    writeln!(kit, "        --repository {} \\", shell_word(&facts.repository_url))?;
    writeln!(kit, "        --cluster {} \\", shell_word(&facts.cluster))?;
    writeln!(kit, "        --identity offline.txt \\")?;
    writeln!(kit, "        --trust-signer {} \\", facts.signer.as_str())?;
    writeln!(kit, "        --at latest --into DIRECTORY\n")?;
    writeln!(
        kit,
        "--at takes a time with its zone too ('2026-11-20 14:03:07+01'), and --plan in addition says"
    )?;
    writeln!(kit, "what would be read. The cluster is left shut down, to be started with pg_ctl.")
}

/// What an S3 client has to know beside the address; its keys are a secret, and not here.
fn write_environment(kit: &mut String, facts: &KitFacts) -> std::fmt::Result {
    for (name, value) in &facts.repository_environment {
        writeln!(kit, "    export {name}={}", shell_word(value))?;
    }
    if facts.repository_url.starts_with("s3://") {
        writeln!(kit, "    export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…")?;
    }
    Ok(())
}

/// A name with a line break must not be able to write lines of its own into the kit.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+=@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn facts(offline: &[&str]) -> KitFacts {
        KitFacts {
            repository_url: "file:///srv/the backups/o'hara".into(),
            repository_environment: Vec::new(),
            repository_id: "r-7".into(),
            host: "db1\nsigning public key   forged".into(),
            cluster: "prod".into(),
            created_at: DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
            signer: SignerKey::of(&SigningKey::from_bytes(&[7; 32])),
            host_recipient: Some("age1host".into()),
            offline_recipients: offline.iter().map(|r| (*r).into()).collect(),
        }
    }

    #[test]
    fn kit_names_everything_a_bare_machine_needs() {
        let facts = facts(&["age1first", "age1second"]);
        let kit = recovery_kit(&facts);
        let signer = facts.signer.as_str();
        for needed in [
            "repository id        r-7",
            "host recipient       age1host",
            "offline recipient    age1first",
            "offline recipient    age1second",
            "prod/snapshots/DATABASE/ID",
            "RESTORE.txt",
            "age -d -i offline.txt",
            "belay restore DATABASE --standalone",
            r"--repository 'file:///srv/the backups/o'\''hara' \",
            &format!("signing public key   {signer}"),
            &format!("--trust-signer {signer} \\"),
            "--into NAME",
            "prod/base and prod/wal",
            "    belay recover --standalone \\\n",
            "        --cluster prod \\\n",
            "        --at latest --into DIRECTORY\n",
        ] {
            assert!(kit.contains(needed), "{needed} is not in:\n{kit}");
        }
        assert!(!kit.contains("WARNING"), "{kit}");
    }

    #[test]
    fn kit_of_a_bucket_tells_how_its_objects_are_fetched() {
        let environment = vec![("AWS_ENDPOINT_URL", "https://s3.example.com".to_owned())];
        let url = "s3://backups/belay".to_owned();
        let kit = recovery_kit(&KitFacts {
            repository_url: url,
            repository_environment: environment,
            ..facts(&[])
        });
        assert_eq!(kit.matches("    export AWS_ENDPOINT_URL=").count(), 3, "{kit}");
        for needed in [
            "    export AWS_ENDPOINT_URL=https://s3.example.com\n",
            "    aws s3 cp --recursive s3://backups/belay/prod prod\n",
            "--repository s3://backups/belay \\",
        ] {
            assert!(kit.contains(needed), "{needed} is not in:\n{kit}");
        }
    }

    #[test]
    fn kit_without_an_offline_recipient_warns() {
        let kit = recovery_kit(&facts(&[]));
        assert!(kit.contains("WARNING: only the identity on the host"), "{kit}");
    }

    #[test]
    fn a_name_with_a_line_break_writes_no_line_of_its_own() {
        let kit = recovery_kit(&facts(&[]));
        assert!(!kit.lines().any(|line| line == "signing public key   forged"), "{kit}");
    }
}
