//! What can be typed, and what it comes to.

use super::*;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn clap_agrees_with_itself() {
    Cli::command().debug_assert();
}

#[test]
fn the_line_of_the_readme_is_enough_to_serve() {
    let line = "twinlane serve --listen 127.0.0.1:6400 --admin 127.0.0.1:6401 --old redis://a:1 --new rediss://u:p@b:2 --state-dir /s \
                --new-data keep --on-primary-loss follow --ack both --set mirror.queue_age_max_ms=90";
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let Verb::Serve(args) = parse(&line).unwrap().verb else { panic!() };
    let config = args.config().unwrap();
    assert_eq!((config.old.url.host.as_str(), config.new.url.port, config.new.url.tls), ("a", 2, true));
    assert_eq!(config.primary.on_loss, crate::config::OnLoss::Follow);
    assert_eq!((config.mirror.ack, config.mirror.queue_age_max_ms), (crate::config::Ack::Both, 90));
    assert_eq!(config.state_dir.to_str(), Some("/s"));
}

#[test]
fn every_verb_and_every_wrong_use() {
    for line in [
        "twinlane status",
        "twinlane status --json --admin 127.0.0.1:9",
        "twinlane mirror start",
        "twinlane mirror --admin 127.0.0.1:9 stop --lose-rollback",
        "twinlane mirror stop --lose-rollback --admin 127.0.0.1:9",
        "twinlane cutover --dry-run --force primary-lost",
        "twinlane rollback",
        "twinlane accept-loss",
        "twinlane backfill",
        "twinlane backfill --rate 1000 --bytes-rate 5000000 --wait --admin 127.0.0.1:9",
        "twinlane backfill status --json --admin 127.0.0.1:9",
        "twinlane repair user:1 --db 3",
        "twinlane repair --pattern user:* --db 3",
        "twinlane repair --all",
        "twinlane repair --delete-extra --confirm 7",
        "twinlane backfill pause",
        "twinlane backfill resume",
        "twinlane backfill rate --rate 0",
        "twinlane adopt --state-dir /s --old redis://a --new redis://b --primary new --new-data keep --yes",
        "twinlane check-config --config f.toml",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for line in [
        "twinlane",
        "twinlane fly",
        "twinlane mirror",
        "twinlane cutover --force everything",
        "twinlane repair",
        "twinlane repair --db 1",
        "twinlane repair k --all",
        "twinlane repair k --pattern x",
        "twinlane repair --all --db 1",
        "twinlane repair --delete-extra k",
        "twinlane repair k --confirm 3",
        "twinlane backfill --wait pause",
        "twinlane backfill --rate fast",
        "twinlane serve --ack maybe",
        "twinlane serve --set x",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{line}");
    }
}

#[test]
fn mistakes_of_flags_are_told_by_their_key() {
    let Verb::Serve(args) = parse("twinlane serve --old redis://a/9 --set mirror.typo=1 --admin 0.0.0.0:1").unwrap().verb else { panic!() };
    let text = args.config().unwrap_err().to_string();
    for part in ["old.url: names a database", "mirror.typo: unknown key", "admin.address: only a loopback", "new.url: is needed"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_repair_of_nothing_is_told_what_there_is() {
    let text = parse("twinlane repair").unwrap_err().to_string();
    for part in ["KEY", "--pattern <PATTERN>", "--all", "--delete-extra"] {
        assert!(text.contains(part), "{text}");
    }
}
