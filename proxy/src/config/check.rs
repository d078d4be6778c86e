//! Mistakes that only show when values are seen together or the machine is asked.

use super::{Config, Side, given};
use crate::secret::Secret;
use std::path::Path;
use twinlane_core::endpoint::Endpoint;

/// Reads the password files into the password fields, so that nobody else has to know of files.
pub(super) fn read_password_files(config: &mut Config, mistakes: &mut Vec<String>) {
    let listen = &mut config.listen;
    read_one("listen.client_password_file", &listen.client_password_file, &mut listen.client_password, mistakes);
    for (name, side) in [("old", &mut config.old), ("new", &mut config.new)] {
        let key = format!("{name}.password_file");
        if given(&side.password_file).is_some() && !side.url.password.is_empty() {
            mistakes.push(format!("{key}: the URL has a password too; keep one of them"));
            continue;
        }
        read_one(&key, &side.password_file, &mut side.password, mistakes);
    }
}

fn read_one(key: &str, path: &Path, password: &mut Secret, mistakes: &mut Vec<String>) {
    let Some(path) = given(path) else { return };
    if !password.is_empty() {
        return mistakes.push(format!("{key}: a password is given too; keep one of them"));
    }
    match std::fs::read_to_string(path) {
        Ok(text) => *password = Secret::new(text.trim_end_matches(['\r', '\n'])),
        Err(error) => return mistakes.push(format!("{key}: {} cannot be read: {error}", path.display())),
    }
    if password.is_empty() {
        mistakes.push(format!("{key}: {} is empty", path.display()));
    }
}

/// Everything else.
pub(super) fn check(config: &Config, mistakes: &mut Vec<String>) {
    let mut wrong = |condition: bool, text: &str| {
        if condition {
            mistakes.push(text.to_owned());
        }
    };
    wrong(config.state_dir.as_os_str().is_empty(), "state_dir: name a directory; the record of who is primary lives there");
    let listen = &config.listen;
    wrong(listen.max_clients == 0, "listen.max_clients: must be at least 1");
    wrong(
        listen.client_password.is_empty() && !listen.client_username.is_empty(),
        "listen.client_username: needs a client_password (or client_password_file) beside it",
    );
    let admin = config.admin.address;
    wrong(
        !admin.ip().is_loopback(),
        "admin.address: only a loopback address (127.0.0.1 or [::1]) is accepted, because the admin port has no credentials yet; \
         reach it from elsewhere through ssh -L",
    );
    wrong(admin == listen.address && admin.port() != 0, "admin.address: is the same as listen.address; give each its own port");
    for (key, bound) in positive(config) {
        wrong(bound == 0, &format!("{key}: must be at least 1"));
    }
    for (key, age) in [("mirror.queue_age_max_ms", config.mirror.queue_age_max_ms), ("cutover.lag_max_ms", config.cutover.lag_max_ms)] {
        wrong((1..AGE_MIN_MS).contains(&age), &format!("{key}: must be at least {AGE_MIN_MS}, because effects gather for a moment"));
    }
    wrong(
        config.limits.lane_frame_max as u64 > 512 << 20,
        "limits.lane_frame_max: at most 536870912 (512 MB), the largest string Redis takes",
    );
    let ring = config.journal.bytes;
    wrong(
        ring != 0 && (!ring.is_power_of_two() || !(64 << 10..=64 << 30).contains(&ring)),
        "journal.bytes: must be a power of two between 65536 and 68719476736, or 0 for none",
    );
    if let Err(name) = config.allowed_commands() {
        mistakes.push(format!("commands.allow: `{name}` is not an administrative command that can be carried"));
    }
    if let Err(mistake) = config.shadow_wish() {
        mistakes.push(mistake);
    }
    if let Some(name) = config.scripts.twice() {
        mistakes.push(format!("scripts.replay: `{name}` stands in scripts.declared too; a script is one or the other"));
    }
    for endpoint in Endpoint::BOTH {
        check_side(endpoint, config.side(endpoint), mistakes);
    }
    if config.old.url.is_set() && config.old.url.address() == config.new.url.address() {
        mistakes.push(format!("new.url: names the same server as old.url ({})", config.new.url.address()));
    }
}

fn check_side(endpoint: Endpoint, side: &Side, mistakes: &mut Vec<String>) {
    // What was given and cannot be used has been told.
    let told = mistakes.iter().any(|mistake| mistake.starts_with(&format!("{endpoint}.url")));
    let mut wrong = |condition: bool, text: &str| {
        if condition {
            mistakes.push(format!("{endpoint}.{text}"));
        }
    };
    let url = &side.url;
    if !url.is_set() {
        return wrong(
            !told,
            &format!("url: is needed; set it in the file, by TWINLANE__{}__URL or by --{endpoint}", endpoint.name().to_uppercase()),
        );
    }
    wrong(!side.password.is_empty() && !url.password.is_empty(), "password: the URL has a password too; keep one of them");
    wrong(!url.username.is_empty() && url.password.is_empty() && side.password.is_empty(), "url: names a user; give a password too");
    wrong(!url.tls && given(&side.ca_file).is_some(), "ca_file: has no meaning without TLS; write rediss:// in url");
    wrong(!url.tls && !side.server_name.is_empty(), "server_name: has no meaning without TLS; write rediss:// in url");
}

/// Least age at which effects may count as late: the last ones of a burst may linger until the next tick, 10 milliseconds.
const AGE_MIN_MS: u64 = 50;

/// Bounds that stop everything when they are zero. (`expiry_margin_ms` may be: it only brings doubt sooner.)
fn positive(config: &Config) -> [(&'static str, u64); 11] {
    let (mirror, limits) = (&config.mirror, &config.limits);
    [
        ("mirror.ack_timeout_ms", mirror.ack_timeout_ms),
        ("mirror.queue_bytes_max", mirror.queue_bytes_max as u64),
        ("mirror.queue_age_max_ms", mirror.queue_age_max_ms),
        ("mirror.dirty_keys_max", mirror.dirty_keys_max as u64),
        ("cutover.pause_budget_ms", config.cutover.pause_budget_ms),
        ("verify.large_bytes", config.verify.large_bytes as u64),
        ("cutover.lag_max_ms", config.cutover.lag_max_ms),
        ("limits.client_output_bytes_max", limits.client_output_bytes_max as u64),
        ("limits.subscriber_output_bytes_max", limits.subscriber_output_bytes_max as u64),
        ("limits.request_bytes_total_max", limits.request_bytes_total_max as u64),
        ("limits.lane_frame_max", limits.lane_frame_max as u64),
    ]
}
