//! `twinlane shadow`: which share of the reads is compared, and what came of it.

use super::{ShadowArgs, client};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Changes what is given; without anything, shows how it stands.
pub(super) fn run(args: &ShadowArgs) -> ExitCode {
    let body = change(args);
    if body.is_empty() {
        return client::shadow(&args.admin.admin, args.json);
    }
    client::post(&args.admin.admin, "/v1/shadow", &Value::Object(body))
}

fn change(args: &ShadowArgs) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("share", args.share.map(|share| json!(share)));
    put("commands", args.commands.as_deref().map(list));
    put("prefixes", args.prefixes.as_deref().map(list));
    body
}

/// Names with commas between them; an empty text is an empty list.
fn list(text: &str) -> Value {
    json!(text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect::<Vec<_>>())
}

/// `0.1`, or `10%`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().map_err(|error| error.to_string())? / unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share lies between 0 and 1 (or 0% and 100%)".into()) }
}

/// How it stands, as a page.
pub(super) fn page(now: &Value) -> String {
    let names = |name: &str| {
        let names: Vec<&str> = now[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() { "all".to_owned() } else { names.join(", ") }
    };
    let mut page = format!(
        "{:<14}{:.4} %   commands: {}   prefixes: {}\n",
        "share",
        now["share"].as_f64().unwrap_or(0.0) * 100.0,
        names("commands"),
        names("prefixes")
    );
    page += &line("reads", now);
    for (name, counts) in ["by_command", "by_prefix"].iter().flat_map(|part| now[*part].as_object().into_iter().flatten()) {
        page += &line(name, counts);
    }
    page
}

fn line(name: &str, counts: &Value) -> String {
    let skipped: Vec<String> = counts["skipped"].as_object().into_iter().flatten().map(|(why, count)| format!("{count} {why}")).collect();
    format!(
        "{name:<14}{} compared: {} equal, {} explained, {} differing, {} unexplained, {} being examined   skipped: {}\n",
        counts["compared"],
        counts["equal"],
        counts["explained"],
        counts["differing"],
        counts["unexplained"],
        counts["examining"],
        if skipped.is_empty() { "none".to_owned() } else { skipped.join(", ") }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_per_cent() {
        assert_eq!(share("0.1"), Ok(0.1));
        assert_eq!(share("10%"), Ok(0.1));
        assert_eq!(share("0"), Ok(0.0));
        assert!(share("1.1").is_err() && share("120%").is_err() && share("x").is_err() && share("nan").is_err());
    }

    #[test]
    fn the_page_says_what_came_of_it() {
        let counts =
            json!({"compared": 9, "equal": 8, "explained": 0, "differing": 1, "unexplained": 0, "examining": 0, "skipped": {"doubt": 2}});
        let now = json!({"share": 0.01, "commands": [], "prefixes": ["user:"], "compared": 9, "equal": 8, "explained": 0, "differing": 1,
            "unexplained": 0, "examining": 0, "skipped": {}, "by_command": {"GET": counts}, "by_prefix": {}});
        let page = page(&now);
        assert!(page.contains("1.0000 %   commands: all   prefixes: user:"), "{page}");
        assert!(page.contains("GET           9 compared: 8 equal") && page.contains("skipped: 2 doubt"), "{page}");
    }
}
