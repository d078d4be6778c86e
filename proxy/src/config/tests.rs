//! The reference file and the code say the same; mistakes are told together and without secrets; layers win in order.

use super::*;
use std::collections::BTreeSet;

const REFERENCE: &str = include_str!("../../../config/twinlane.toml");

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("twinlane.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

/// Loads a file, environment and flags on top of two valid URLs.
fn load_with(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let (_directory, path) = file(text);
    let mut layers = Layers { file: Some(path), ..Layers::default() };
    layers.environment.insert("TWINLANE__OLD__URL".into(), "redis://a:1".into());
    layers.environment.insert("TWINLANE__NEW__URL".into(), "redis://b:2".into());
    layers.environment.extend(environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    layers.flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load(&layers)
}

fn mistakes(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load_with(text, environment, &[]).unwrap_err().0
}

fn paths(value: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(table) => table.iter().for_each(|(key, value)| paths(value, &format!("{path}.{key}"), into)),
        None => assert!(into.insert(path.to_owned())),
    }
}

#[test]
fn the_reference_file_is_the_defaults_and_has_every_field() {
    let source = ::config::File::from_str(REFERENCE, ::config::FileFormat::Toml);
    let parsed = ::config::Config::builder().add_source(source).build().unwrap();
    let tree: serde_json::Value = parsed.clone().try_deserialize().unwrap();
    assert_eq!(parsed.try_deserialize::<Config>().unwrap(), Config::default());
    let (mut in_file, mut in_code) = (BTreeSet::new(), BTreeSet::new());
    paths(&tree, "", &mut in_file);
    paths(&serde_json::to_value(Config::default()).unwrap(), "", &mut in_code);
    assert_eq!(in_file, in_code);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let text = "[mirror]\nack_timeout_ms = 1\nqueue_age_max_ms = 100\nexpiry_margin_ms = 1\n";
    let environment = [("TWINLANE__MIRROR__QUEUE_AGE_MAX_MS", "200"), ("TWINLANE__MIRROR__EXPIRY_MARGIN_MS", "2")];
    let config = load_with(text, &environment, &[("mirror.expiry_margin_ms", "3")]).unwrap();
    let mirror = config.mirror;
    assert_eq!((mirror.ack_timeout_ms, mirror.queue_age_max_ms, mirror.expiry_margin_ms), (1, 200, 3));
    assert_eq!(mirror.dirty_keys_max, 1_000_000);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "typo = 1\n[mirror]\nakc = \"both\"\nack = \"none\"\nqueue_bytes_max = -1\n[cutover]\npause_budget_ms = 0\n[admin]\naddress = \"0.0.0.0:1\"\n";
    let found = mistakes(text, &[("TWINLANE__LIMITS__LANE_FRAME_MAX", "many"), ("TWINLANE__NEW__URL", "redis://a:1")]);
    for expected in [
        "typo: unknown key",
        "mirror.akc: unknown key; known here are ack",
        "mirror.ack: unknown variant `none`, expected `primary` or `both`",
        "mirror.queue_bytes_max: ",
        "cutover.pause_budget_ms: must be",
        "admin.address: only a loopback",
        "limits.lane_frame_max (environment): ",
        "new.url: names the same server",
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(expected)), "{expected:?} in {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn single_mistakes() {
    fn check(text: &str, expected: &str) {
        let found = mistakes(text, &[]);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:#?}");
    }
    check("listen = 3", "listen: is a section");
    check("state_dir = \"\"", "state_dir: name a directory");
    check("[mirror.ack]\nx = 1", "mirror.ack: is a single value");
    check("[listen]\nclient_username = \"app\"", "needs a client_password");
    check("[listen]\naddress = \"localhost\"", "listen.address: ");
    check("[old]\nca_file = \"/ca.pem\"", "old.ca_file: has no meaning without TLS");
    check("[new]\npassword_file = \"/nowhere/at/all\"", "new.password_file: /nowhere/at/all cannot be read");
    check("[listen]\naddress = \"127.0.0.1:6401\"", "give each its own port");
    check("[commands]\nallow = \"config set, SHUTDOWN\"", "`SHUTDOWN` is not an administrative command");
}

#[test]
fn a_number_beyond_all_bounds_is_told_with_its_place() {
    let found = mistakes("[old]\npassword = \"x\"\n\n[mirror]\nqueue_bytes_max = 99_999_999_999_999_999_999 # much\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("line 5: mirror.queue_bytes_max: the number is larger than 9223372036854775807"), "{found:?}");
}

#[test]
fn a_url_that_cannot_be_used_is_told_once() {
    let found = mistakes("", &[("TWINLANE__OLD__URL", "http://a:1"), ("TWINLANE__JOURNAL__SYNC", "sometimes")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("old.url (environment): ") || found[0].contains("old.url (environment): "), "{found:?}");
    assert!(found.iter().any(|mistake| mistake.contains("expected one of `none`, `interval`, `always`")), "{found:?}");
}

#[test]
fn urls_are_required() {
    let found = load(&Layers::default()).unwrap_err().0;
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("old.url: is needed") && found[1].contains("TWINLANE__NEW__URL"), "{found:#?}");
}

#[test]
fn secrets_arrive_as_they_are_and_are_never_printed() {
    let (_directory, path) = file("00123\n");
    let text = format!("[new]\npassword_file = {path:?}\n");
    let environment = [("TWINLANE__LISTEN__CLIENT_PASSWORD", "1e5"), ("TWINLANE__OLD__URL", "redis://:hunter2@a:1")];
    let config = load_with(&text, &environment, &[]).unwrap();
    assert_eq!(config.new.password.expose(), "00123");
    assert_eq!(config.listen.client_password.expose(), "1e5");
    assert_eq!(config.old.url.password.expose(), "hunter2");
    let printed = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    for secret in ["00123", "1e5", "hunter2"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[test]
fn no_mistake_repeats_a_secret() {
    for text in [
        "[old]\npassword = \"hunter2\nurl = \"x\"\n",
        "[old]\npassword = hunter2\n",
        "[old]\npassword = [\"hunter2\"]\n",
        "[old.password]\nhunter = \"hunter2\"\n",
    ] {
        let printed = Mistakes(mistakes(text, &[])).to_string();
        assert!(!printed.contains("hunter2"), "{printed}");
    }
    let (_directory, path) = file("[old]\nurl = [\"redis://:hunter2@h\"]\n");
    let printed = load(&Layers { file: Some(path), ..Layers::default() }).unwrap_err().to_string();
    assert!(printed.contains("old.url: is a single value") && !printed.contains("hunter2"), "{printed}");
    let printed = Mistakes(mistakes("", &[("TWINLANE__OLD__URL", "redis://:hunter2@h:1/9")])).to_string();
    assert!(printed.contains("old.url (environment)") && !printed.contains("hunter2"), "{printed}");
}
