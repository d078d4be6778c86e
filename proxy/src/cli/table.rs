//! Answers of the admin port, laid out for people.

use serde_json::Value;
use std::fmt::Write;

/// The status, as a page.
pub(super) fn status(status: &Value) -> String {
    let mut page = String::new();
    let mirroring = if status["mirroring"] == true { "on" } else { "off" };
    let mut line = |name: &str, text: String| {
        let _ = writeln!(page, "{name:<10}{text}");
    };
    line("stage", word(&status["stage"]));
    line(
        "primary",
        format!("{}   epoch {}   mirroring {mirroring}   flip {}", word(&status["primary"]), status["epoch"], word(&status["flip"])),
    );
    for name in ["old", "new"] {
        line(name, side(&status[name]));
    }
    line("mirror", mirror(&status["mirror"]));
    line("scripts", scripts(&status["scripts"]));
    line("expiry", expiry(&status["expiry"]));
    line("clients", status["clients"].to_string());
    line("flip gate", list(&status["gate"], "open"));
    line("alarms", list(&status["alarms"], "none"));
    page
}

/// The findings of readiness, a paragraph each.
pub(super) fn readiness(body: &Value) -> String {
    let findings = body["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    if findings.is_empty() {
        return "nothing was found against a cutover\n".into();
    }
    let mut page = String::new();
    for finding in findings {
        let [level, code, text, remedy] = ["level", "code", "text", "remedy"].map(|name| word(&finding[name]));
        let _ = writeln!(page, "{level:<6}{code:<22}{text}\n{:<28}{remedy}", "");
    }
    page
}

/// What is in doubt, a line each.
pub(super) fn dirty(body: &Value) -> String {
    let mut page = format!("{} keys in doubt", body["total"]);
    if body["spilled"].as_u64() > Some(0) {
        let _ = write!(page, ", {} of them on the disk", body["spilled"]);
    }
    let causes: Vec<String> = body["by_cause"].as_object().into_iter().flatten().map(|(cause, keys)| format!("{cause} {keys}")).collect();
    let _ = writeln!(page, "{}{}", if causes.is_empty() { "" } else { ": " }, causes.join(", "));
    for database in body["databases"].as_array().into_iter().flatten() {
        let name = if database["db"].is_null() { "every database".to_owned() } else { format!("database {}", database["db"]) };
        let _ = writeln!(page, "{name} is in doubt as a whole: {}", word(&database["cause"]));
    }
    for item in body["items"].as_array().into_iter().flatten() {
        let [key, cause, state] = ["key", "cause", "state"].map(|name| word(&item[name]));
        let failed = item["attempts"].as_u64().filter(|attempts| *attempts > 0).map(|attempts| format!("  {attempts} images failed"));
        let _ = writeln!(page, "  db {:<3} {key:<40} {cause:<18} {state}{}", item["db"], failed.unwrap_or_default());
    }
    page
}

/// Everything that is known of a key.
pub(super) fn explained(body: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(page, "{name:<12}{text}");
    };
    line("key", format!("{}   database {}", word(&body["key"]), body["db"]));
    for name in ["old", "new"] {
        let side = &body[name];
        let role = if body["primary"] == name { "primary" } else { "mirror" };
        let told = match side["unread"].as_str() {
            Some(why) => why.to_owned(),
            None => format!("digest {}", word(&side["digest"])),
        };
        line(name, format!("{role:<8} type {:<8} ttl {:<10} {told}", word(&side["type"]), side["ttl_ms"]));
    }
    let doubt = match body["dirty"].as_object() {
        Some(entry) => format!("{}, {}, {} images failed", word(&entry["cause"]), word(&entry["state"]), entry["attempts"]),
        None if body["spilled"] == true => "it may be among the keys in doubt on the disk".into(),
        None => "none".into(),
    };
    line("doubt", doubt);
    line("known equal", if body["synced"] == true { "yes".into() } else { "no".into() });
    if let Some(excuse) = body["excuse"].as_str() {
        line("now", excuse.to_owned());
    }
    for found in body["divergences"].as_array().into_iter().flatten() {
        line("differed", format!("{} ({}), seen at {}", word(&found["kind"]), word(&found["cause"]), moment(&found["first_seen"])));
    }
    for write in body["writes"].as_array().into_iter().flatten() {
        let client = &write["client"];
        let by = if client.is_null() {
            String::new()
        } else {
            format!("  client {} {} {}", client["id"], word(&client["address"]), word(&client["name"]))
        };
        line("written", format!("{} by {:<12} {}{by}", moment(&write["at"]), word(&write["command"]), word(&write["effect"])));
    }
    page
}

/// Operations, a line each.
pub(super) fn audit(body: &Value) -> String {
    let mut page = String::new();
    for entry in body["items"].as_array().into_iter().flatten() {
        let [who, what] = ["who", "what"].map(|name| word(&entry[name]));
        let [options, outcome] = ["options", "outcome"].map(|name| on_one_line(&word(&entry[name])));
        let options = if options.is_empty() { options } else { format!(" {options}") };
        let _ = writeln!(page, "{}  {who:<21} {what}{options}: {outcome}", moment(&entry["at"]));
    }
    page
}

/// JSON without blanks; of any other text, line breaks become blanks.
fn on_one_line(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(json) => json.to_string(),
        Err(_) => text.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Unix milliseconds as RFC 3339, UTC.
fn moment(at: &Value) -> String {
    let Some(ms) = at.as_i64() else { return word(at) };
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// The date of a day since 1970-01-01, in the Gregorian calendar. Years are counted from March on, so that a leap day ends one; four hundred
/// of them have 146,097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year + next, month, day)
}

fn scripts(scripts: &Value) -> String {
    let undeclared = match scripts["undeclared"].as_str() {
        Some("unknown") => format!("undeclared keys are UNKNOWN: {}", word(&scripts["cause"])),
        Some("tracked") => "undeclared keys are reported by the primary".into(),
        _ => "none ran lately".into(),
    };
    format!("{undeclared}; {} seen, {} keys reported", scripts["seen"], scripts["reported_keys"])
}

fn expiry(expiry: &Value) -> String {
    let mut text = word(&expiry["mode"]);
    if let Some(cause) = expiry["cause"].as_str() {
        let _ = write!(text, ": {cause}");
    }
    if let Some(command) = expiry["command"].as_str() {
        let _ = write!(text, "; `{command}` would turn them on");
    }
    text
}

/// An operation that was done.
pub(super) fn done(answer: &Value) -> String {
    if answer["dry_run"] == true {
        return "dry run: the gate is open; nothing was changed".into();
    }
    if answer["count"].is_u64() {
        return to_confirm(answer);
    }
    if answer["primary"].is_null() {
        return "done".into();
    }
    format!(
        "done: {} is primary, epoch {}; requests were held for {} ms at most ({} of them)",
        word(&answer["primary"]),
        answer["epoch"],
        answer["pause_ms"],
        answer["held_requests"]
    )
}

fn to_confirm(answer: &Value) -> String {
    if answer["count"] == 0 {
        return format!(
            "nothing to delete: no key is known that only `{}` has; `twinlane verify` looks for them",
            word(&answer["endpoint"])
        );
    }
    let samples: Vec<String> = answer["samples"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|sample| format!("  db {} {}\n", sample["db"], word(&sample["key"])))
        .collect();
    let count = &answer["count"];
    format!(
        "{count} keys that only `{}` has would be deleted there, for example:\n{}nothing was done; say --confirm {count} to do it",
        word(&answer["endpoint"]),
        samples.concat()
    )
}

/// How a backfill stands, in a line.
pub(super) fn backfill_progress(now: &Value) -> String {
    let (done, all) = (now["keys_done"].as_u64().unwrap_or(0), now["keys_estimate"].as_u64().unwrap_or(0));
    let share = if all == 0 { 0.0 } else { done.min(all) as f64 / all as f64 };
    let full = (share * 30.0) as usize;
    let left = now["eta_s"].as_u64().map(|seconds| format!("  {} left", time(seconds))).unwrap_or_default();
    let waits = now["waits_for"].as_str().map(|what| format!("  waits: {what}")).unwrap_or_default();
    let paused = if now["state"] == "paused" { "  paused" } else { "" };
    format!(
        "[{}{}] {:>3.0} %  {done} of {all} keys  {} keys/s  {}/s{left}{waits}{paused}",
        "=".repeat(full),
        " ".repeat(30 - full),
        share * 100.0,
        now["rate"],
        bytes(now["bytes_per_second"].as_u64().unwrap_or(0)),
    )
}

/// How a backfill stands, as a page.
pub(super) fn backfill(now: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(page, "{name:<14}{text}");
    };
    let reason = now["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    line("backfill", format!("{}{reason}", word(&now["state"])));
    if let Some(what) = now["waits_for"].as_str() {
        line("waits for", what.to_owned());
    }
    let done = bytes(now["bytes_done"].as_u64().unwrap_or(0));
    line("keys", format!("{} of {}, {} on their way   {done} sent", now["keys_done"], now["keys_estimate"], now["waiting"]));
    if matches!(now["state"].as_str(), Some("running" | "paused")) {
        let left = now["eta_s"].as_u64().map_or_else(|| "unknown".into(), time);
        line("speed", format!("{} keys/s, {}/s   left {left}", now["rate"], bytes(now["bytes_per_second"].as_u64().unwrap_or(0))));
    }
    let bound = |name: &str, text: String| if now[name] == 0 { "none".to_owned() } else { text };
    let limits = [
        bound("rate_limit", format!("{} keys/s", now["rate_limit"])),
        bound("bytes_limit", format!("{}/s", bytes(now["bytes_limit"].as_u64().unwrap_or(0)))),
    ];
    line("bounds", limits.join(", "));
    for walk in now["databases"].as_array().into_iter().flatten() {
        line(
            "database",
            format!("{}   walks {}   {} of {} keys", walk["db"], word(&walk["walks"]), walk["keys_done"], walk["keys_estimate"]),
        );
    }
    if now["realigning"].as_array().is_some_and(|databases| !databases.is_empty()) {
        line("realigning", format!("times to live of databases {}", now["realigning"]));
    }
    page
}

/// Bytes for people.
fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let at = (0..units.len()).rev().find(|at| bytes >> (10 * at) > 0).unwrap_or(0);
    if at == 0 { format!("{bytes} B") } else { format!("{:.1} {}", bytes as f64 / f64::from(1u32 << (10 * at)), units[at]) }
}

/// Seconds for people.
fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How a verify stands, in a line.
pub(super) fn verify_progress(now: &Value) -> String {
    let share = now["coverage"].as_f64().unwrap_or(0.0);
    let full = (share * 30.0) as usize;
    let waits = now["waits_for"].as_str().map(|what| format!("  waits: {what}")).unwrap_or_default();
    format!(
        "[{}{}] {:>3.0} %  {} keys  {}/s  {} differ{waits}",
        "=".repeat(full),
        " ".repeat(30 - full.min(30)),
        share * 100.0,
        now["keys_compared"],
        now["keys_per_second"],
        differing(now)
    )
}

fn differing(result: &Value) -> u64 {
    result["differing"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

/// What a verify found, as a page.
pub(super) fn verify(state: &Value, result: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(page, "{name:<14}{text}");
    };
    let yes = |name: &str| if result[name] == true { "yes" } else { "no" };
    line("verify", word(state));
    line("keys", format!("{} compared, {:.1} % of all", result["keys_compared"], result["coverage"].as_f64().unwrap_or(0.0) * 100.0));
    let kinds: Vec<String> =
        ["missing", "extra", "type", "value", "ttl"].map(|kind| format!("{} {kind}", result["differing"][kind])).into();
    line("differing", format!("{}: {}", differing(result), kinds.join(", ")));
    line("unverifiable", result["unverifiable"].to_string());
    for (reason, count) in result["unverifiable_by_reason"].as_object().into_iter().flatten() {
        line("", format!("{count}: {reason}"));
    }
    line("clean", format!("{}   alive {}   fresh {}", yes("clean"), yes("alive"), yes("fresh")));
    if !result["primary_only_until"].is_null() {
        line("primary only", format!("until {}", moment(&result["primary_only_until"])));
    }
    page
}

/// An operation that was not.
pub(super) fn refused(answer: &Value) -> String {
    let what = if answer["aborted"] == true { "aborted, and undone" } else { "refused; nothing was changed" };
    format!("{what}: {}", list(&answer["reasons"], "no reason given"))
}

fn side(side: &Value) -> String {
    let health = match (side["healthy"] == true, side["error"].as_str()) {
        (true, _) => "healthy".to_owned(),
        (false, error) => format!("NOT HEALTHY: {}", error.unwrap_or("no reason given")),
    };
    format!("{:<8}{:<24}{:<14}{health}", word(&side["role"]), word(&side["address"]), word(&side["version"]))
}

fn mirror(mirror: &Value) -> String {
    let mut text = format!(
        "{}   {} effects ({} bytes) behind   lag {} ms   {} keys in doubt",
        word(&mirror["state"]),
        mirror["queued_effects"],
        mirror["queued_bytes"],
        mirror["lag_ms"],
        mirror["dirty_keys"]
    );
    if let Some(cause) = mirror["cause"].as_str() {
        let _ = write!(text, "\n{:<10}cause: {cause}", "");
    }
    if mirror["unsynced_databases"].as_array().is_some_and(|databases| !databases.is_empty()) {
        let _ = write!(text, "\n{:<10}unsynced databases {}, {} keys scanned", "", mirror["unsynced_databases"], mirror["scanned_keys"]);
    }
    if mirror["unmirrorable_keys"].as_u64().is_some_and(|keys| keys > 0) {
        let _ = write!(text, "\n{:<10}{} keys that no image can carry", "", mirror["unmirrorable_keys"]);
    }
    text
}

/// One sentence, or one a line.
fn list(values: &Value, none: &str) -> String {
    let words: Vec<&str> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match words.as_slice() {
        [] => none.to_owned(),
        [only] => (*only).to_owned(),
        many => many.iter().map(|word| format!("\n  - {word}")).collect(),
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_page() {
        let (found, _) = crate::telemetry::metrics::tests::snapshot();
        let page = status(&serde_json::to_value(found).unwrap());
        let expect = "\
stage     SOAK (way back closed: mirror down)
primary   new   epoch 4   mirroring on   flip idle
old       mirror  h:1                     7.0.15        healthy
new       primary h:1                     7.0.15        healthy
mirror    following   3 effects (120 bytes) behind   lag 40 ms   1 keys in doubt
          unsynced databases [0], 0 keys scanned
scripts   none ran lately; 0 seen, 0 keys reported
expiry    compared
clients   7
flip gate dirty keys: 1
alarms    none
";
        assert_eq!(page, expect, "\n{page}");
    }

    #[test]
    fn the_backfill_as_a_line_and_as_a_page() {
        let (found, _) = crate::telemetry::metrics::tests::snapshot();
        let now = serde_json::to_value(found.backfill).unwrap();
        let expect = "[=====================         ]  70 %  700 of 1000 keys  150 keys/s  488.3 KiB/s  2 s left";
        assert_eq!(backfill_progress(&now), expect);
        let expect = "\
backfill      running
keys          700 of 1000, 0 on their way   2.4 MiB sent
speed         150 keys/s, 488.3 KiB/s   left 2 s
bounds        none, none
";
        assert_eq!(backfill(&now), expect);
        assert_eq!(
            (time(61), time(7_260), bytes(0), bytes(5 << 30)),
            ("1 min 1 s".into(), "2 h 1 min".into(), "0 B".into(), "5.0 GiB".into())
        );
        let paused = backfill_progress(&json!({"state": "paused", "keys_done": 5, "keys_estimate": 4, "rate": 0}));
        assert!(paused.starts_with("[==============================] 100 %") && paused.ends_with("  paused"), "{paused}");
    }

    #[test]
    fn an_operation_is_a_line() {
        let entry = |options: &str, outcome: &str| json!({"at": 1_795_249_287_042_i64, "who": "127.0.0.1:50112", "what": "/v1/cutover", "options": options, "outcome": outcome});
        let body = json!({"items": [entry("{\n  \"dry_run\": false\n}", "200 {\"done\":true}"), entry("{\n x", "400"), entry("", "200")]});
        let expect = "\
2026-11-21T08:21:27.042Z  127.0.0.1:50112       /v1/cutover {\"dry_run\":false}: 200 {\"done\":true}
2026-11-21T08:21:27.042Z  127.0.0.1:50112       /v1/cutover { x: 400
2026-11-21T08:21:27.042Z  127.0.0.1:50112       /v1/cutover: 200
";
        assert_eq!(audit(&body), expect);
    }

    #[test]
    fn moments_of_all_centuries() {
        for (ms, expect) in [
            (0_i64, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(moment(&json!(ms)), expect);
        }
        assert_eq!(moment(&json!("never")), "never");
    }

    #[test]
    fn the_sentences() {
        assert_eq!(done(&json!({"done": true})), "done");
        assert_eq!(done(&json!({"done": false, "dry_run": true})), "dry run: the gate is open; nothing was changed");
        let flip = json!({"done": true, "primary": "new", "epoch": 2, "pause_ms": 1.5, "held_requests": 3});
        assert_eq!(done(&flip), "done: new is primary, epoch 2; requests were held for 1.5 ms at most (3 of them)");
        let none = done(&json!({"done": false, "count": 0, "samples": [], "endpoint": "new"}));
        assert_eq!(none, "nothing to delete: no key is known that only `new` has; `twinlane verify` looks for them");
        assert_eq!(refused(&json!({"reasons": ["a"]})), "refused; nothing was changed: a");
        assert_eq!(refused(&json!({"aborted": true, "reasons": ["a", "b"]})), "aborted, and undone: \n  - a\n  - b");
    }
}
